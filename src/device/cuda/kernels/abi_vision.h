// The parameters of the kernels of vision towers (vision.cu, attention_spans.cu). abi.h says what
// holds for all of it.
#pragma once
#include "abi_ops.h"

constexpr u32 VISION_THREADS = 128;
// Rows of tiles of attention: of spans that are short, and of others.
constexpr u32 SHORT_SPAN_ROWS = 64;
constexpr u32 LONG_SPAN_ROWS = 128;
// Stages of keys in shared memory.
constexpr u32 SPAN_STAGES = 2;
// The largest head of the kernel without tensor cores.
constexpr u32 SPAN_MAX_HEAD_DIM = 256;

// Of a row that is no patch.
constexpr u32 NO_PATCH = 0xffffffff;

// out[r] = numbers of the bytes of patch[r]
struct PutPatches {
  DEVICE(const u8) bytes;  // [patches, 3, width / 3]
  DEVICE(const u32) patch;  // [rows]; NO_PATCH: a row of zeros
  DEVICE(const float) numbers;  // [3, 256], what a byte of each colour stands for
  DEVICE(act) out;  // [rows, width]
  u32 width;
  u32 unused;
};

// A row of a table of places, and how much it counts.
struct Corner {
  u32 row;
  float share;
};
static_assert(sizeof(Corner) == 2 * 4, "corners lie one behind the other");

// x[r] += the table's rows at four corners.
struct AddPlaces {
  DEVICE(const act) table;  // [table_rows, width]
  DEVICE(const Corner) corners;  // [rows, 4]
  DEVICE(act) x;  // [rows, width], in place
  u32 table_rows, width;
};

// Pairs i and i + dim / 2 of heads, behind a bias of all columns.
struct TurnRows {
  DEVICE(act) qkv;  // [rows, width], the first `heads` heads of which are turned in place
  DEVICE(const float) angles;  // [rows, dim / 2]
  DEVICE(const float) bias;  // [width], or null
  u32 heads, dim, width;
  u32 unused;
};

// A row of one tensor to one of another.
struct RowPair {
  u32 from, to;
};
static_assert(sizeof(RowPair) == 2 * 4, "pairs lie one behind the other");

struct CopyRows {
  DEVICE(const act) x;  // [_, width]
  DEVICE(const RowPair) pairs;
  DEVICE(act) out;  // [_, width]
  u32 width;
  u32 unused;
};

// A row that is made of others.
struct RowBlend {
  Corner of[4];
  u32 to;
  u32 unused;
};
static_assert(sizeof(RowBlend) == 10 * 4, "blends lie one behind the other");

// out[blend.to] = shares of rows of x and, behind these, of the table's.
struct BlendRows {
  DEVICE(const act) x;  // [x_rows, width]
  DEVICE(const act) table;  // [table_rows, width]
  DEVICE(const RowBlend) blends;
  DEVICE(act) out;  // [_, width]
  u32 x_rows, table_rows, width;
  u32 unused;
};

// out[r] = the mean of `count` rows of x.
struct MeanRows {
  DEVICE(const act) x;  // [count * rows, width]
  DEVICE(act) out;  // [rows, width]
  u32 count, width;
};

// x[r] = (x[r] * factor - bias) * scale
struct Standardise {
  DEVICE(act) x;  // [rows, width], in place
  DEVICE(const float) bias;  // [width]
  DEVICE(const float) scale;  // [width]
  float factor;
  u32 width;
};

// Rows against the keys of their span.
struct SpanTile {
  u32 first, count;  // Rows.
  u32 begin, end;  // Keys.
};
static_assert(sizeof(SpanTile) == 4 * 4, "tiles lie one behind the other");

struct AttendSpans {
  DEVICE(const act) qkv;  // [rows, 3, heads, dim]
  DEVICE(const SpanTile) tiles;
  DEVICE(act) out;  // [rows, heads, dim]
  u32 heads, dim;
  float scale;
  u32 unused;
};

// The parameters of norms (norm.cu, ranks_norm.cu, ranks_rows.cu), and how many columns a thread of
// theirs has. abi.h says what holds for all of it.
#pragma once
#include "abi_ops.h"

// Where rows are many: eights of columns that a thread of a norm has, and threads at most, for rows
// of up to NORM_MANY_COLUMNS, a multiple of eight.
constexpr u32 NORM_GROUPS = 2;
constexpr u32 NORM_MANY_THREADS = 512;
constexpr u32 NORM_MANY_COLUMNS = NORM_MANY_THREADS * NORM_GROUPS * 8;

struct NormRows {
  DEVICE(const act) x;  // [rows, width]
  DEVICE(const float) weight;  // [width]
  DEVICE(const float) bias;  // [width], or null
  DEVICE(act) out;  // [rows, width]
  // What products that round their inputs to E4M3 row by row make of `out`, or null: the codes as
  // activations, or as bytes in the order of a coded matrix (abi_codes.h); and each row's step.
  DEVICE(act) codes;  // [rows, width]
  DEVICE(u8) bytes;  // [rows, padded_width]
  DEVICE(float) steps;  // [rows]
  u32 width, padded_width;
  float eps;
  NormKind kind;
};

struct AddNorm {
  DEVICE(const act) delta;  // [rows, width]
  DEVICE(act) residual;  // [rows, width], becomes the sum
  DEVICE(const float) weight;  // [width]
  DEVICE(const float) bias;  // [width], or null
  // [rows, width]; null: codes or bytes are all that is wanted of rows that a block holds.
  DEVICE(act) out;
  // As in NormRows.
  DEVICE(act) codes;
  DEVICE(u8) bytes;
  DEVICE(float) steps;
  u32 width, padded_width;
  float eps;
  NormKind kind;
  DEVICE(const float) delta_bias;  // [width], added to delta by add_norm alone; or null
};

struct AddRows {
  DEVICE(const act) delta;  // [rows, width]
  DEVICE(act) residual;  // [rows, width], becomes the sum
  u32 width;
};

struct NormParts {
  DEVICE(act) x;  // Part p of row r lies at x + r * stride + first + p * width; in place.
  DEVICE(const float) weight;  // [width], part p's at weight + p * weight_step
  // Null, or of an RMS norm over the elements of all ranks: their sums of squares, [rows, 2], of
  // which the first counts.
  DEVICE(const float) squares;
  u32 stride, first, width;
  float eps;
  NormKind kind;
  float count;  // Elements of `squares`.
  u32 weight_step;
  u32 unused;
};

// Of each row of x the sum of squares of the first `q_width` elements, and of the `k_width` behind.
struct SquareParts {
  DEVICE(const act) x;
  DEVICE(float) squares;  // [rows, 2]
  u32 stride, q_width, k_width;
  u32 unused;
};

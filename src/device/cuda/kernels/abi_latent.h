// The parameters of kernels for attention over latent vectors (latent.cu, attention_latent.cu), and
// the sizes that the host counts with. abi.h says what holds for all of it.
#pragma once
#include "abi_ops.h"

// What attend_latent takes at most: a latent vector, and its rotated pairs.
constexpr u32 LATENT_MAX_WIDTH = 640;
constexpr u32 LATENT_MAX_PAIRS = 64;
// Heads of q of a block of store_latent.
constexpr u32 LATENT_STORE_HEADS = 16;
constexpr u32 LATENT_THREADS = 128;
// What tiles have code for: the front of a latent vector, and its end.
constexpr u32 LATENT_TILE_RANK = 512;
constexpr u32 LATENT_TILE_ROTARY = 64;
// Keys of a tile, tiles in flight, elements between the ends of rows in shared memory.
constexpr u32 LATENT_KEYS = 32;
constexpr u32 LATENT_STAGES = 2;
constexpr u32 LATENT_PADDING = 8;
// Packed rows of a tile: few and many, the warps that share them by rows and by columns.
constexpr u32 LATENT_FEW_ROWS = 16;
constexpr u32 LATENT_MANY_ROWS = 64;
constexpr u32 LATENT_FEW_THREADS = 128;
constexpr u32 LATENT_MANY_THREADS = 256;
// Tiles of multiply_heads: rows, few and many, outputs, inputs of a stage, warps' threads.
constexpr u32 HEADS_FEW_ROWS = 16;
constexpr u32 HEADS_MANY_ROWS = 64;
constexpr u32 HEADS_OUTPUTS = 64;
constexpr u32 HEADS_SLICE = 64;
constexpr u32 HEADS_THREADS = 128;

// out[r, h] = W_h x[r, h]
struct MultiplyHeads {
  DEVICE(const act) x;  // [rows, heads, x_dim], of which the first `inputs` are read
  DEVICE(const act) w;  // [heads, outputs, inputs]
  DEVICE(act) out;  // [rows, heads, out_dim], of which the first `outputs` are written
  u32 rows, heads, x_dim, out_dim, outputs, inputs;
};

// The pool of a layer: [pages, page_size, rank + 2 half].
struct StoreLatent {
  DEVICE(const act) q;  // [rows, heads, nope + 2 half]
  DEVICE(const act) latent;  // [rows, rank + 2 half]
  DEVICE(const float) weight;  // [rank]
  DEVICE(act) queries;  // [rows, heads, rank + 2 half], whose ends are written
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) slot_of;
  SlotRows slots;
  DEVICE(act) pool;
  u32 heads, rank, nope, page_size;
  u32 half;  // Pairs: the first `half` of the rotated dimensions and the `half` after them.
  float eps;
  NormKind kind;
  float magnitude;  // Of sines and cosines.
  float inverse_frequency[LATENT_MAX_PAIRS];  // [half]
};

// Weights by all of a latent vector, sums of its first `rank` elements.
struct AttendLatent {
  DEVICE(const act) queries;  // [rows, heads, width]
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) slot_of;
  SlotRows slots;
  DEVICE(const act) pool;  // As in StoreLatent.
  DEVICE(act) out;  // [rows, heads, rank]
  u32 heads, width, rank, page_size;
  float scale;
  u32 unused;
};

// The kernels of attention_latent.cu. Packed row r of a sequence is token r / heads, head r % heads.
struct PagedLatent {
  DEVICE(const WorkItem) items;  // As in PagedAttention.
  DEVICE(const act) queries;  // [rows, heads, LATENT_TILE_RANK + LATENT_TILE_ROTARY]
  DEVICE(const u32) position;  // [rows]
  SlotRows slots;
  DEVICE(const act) pool;
  DEVICE(act) out;  // [rows, heads, LATENT_TILE_RANK]
  DEVICE(float) parts;  // [parts, rows of a tile, LATENT_TILE_RANK], weighted sums
  DEVICE(float2) statistics;  // [parts, rows of a tile], maximum (base 2) and sum of weights
  DEVICE(u32) arrivals;  // [first part], parts that are done; 0 between launches
  u32 heads, page_size;
  float scale;
  u32 unused;
};

// The parameters of kernels over quantised weights (device/quant.rs says what codes, scales and
// offsets are), and how such weights lie. abi.h says what holds for all of it.
//
// A row of W is cut into blocks of 64 bytes: 128 codes of four bits or 64 of eight, the last one
// filled up with zeros. Within a block bytes 16 t .. 16 t + 15 belong to lane t of four, in the
// order in which mma takes its left operand: of each 16 inputs the 2 t-th, the next, and the two
// that are 8 further. Four bits: word w has those of steps 2 w and 2 w + 1, and nibbles 4 bits
// apart belong together: n-th pair in nibbles n and n + 4. So a lane's 16 bytes become operands by
// masks alone.
//
// 16 blocks are a chunk, the last one of a row may have fewer. Behind a chunk's codes lie its
// scales (`scales` of each block) and then, where there are some, its zeros, each padded to 16
// bytes. A scale is f32 where activations are, else f16 of what is left when the row's factor is
// taken out, a power of two. value = factor * scale * (number + zero).
#pragma once

#ifdef __CUDACC_RTC__
#include "abi_drafts.h"
#include "abi_experts.h"
#include "abi_latent.h"
#include "abi_layers.h"
#include "abi_norms.h"
#include "abi_ranks.h"
#include "abi_state.h"
#include "abi_vision.h"
#if ACT == 0
typedef float scale_t;
#else
typedef f16 scale_t;
#endif
#else
#include "abi_drafts.h"
#include "abi_experts.h"
#include "abi_latent.h"
#include "abi_layers.h"
#include "abi_norms.h"
#include "abi_ranks.h"
#include "abi_state.h"
#include "abi_vision.h"
#endif

enum CodeKind : u32 {
  CODE_KIND_E4M3,
  CODE_KIND_INT8,
  CODE_KIND_INT4,
  CODE_KIND_E2M1,
  CODE_KIND_TABLE,
};

constexpr u32 CODE_BLOCK_BYTES = 64;
constexpr u32 CODE_CHUNK_BLOCKS = 16;
// Scales of a block at most: one for each step of 16 inputs.
constexpr u32 CODE_MOST_SCALES = 8;

// A matrix [outputs, inputs] of codes.
struct CodedMatrix {
  DEVICE(u8) rows;  // [outputs, row_bytes]
  DEVICE(const float) factor;  // [outputs]
  u32 outputs, inputs;
  u32 row_bytes;
  u32 chunk_bytes;  // Of a whole chunk.
  u32 blocks;  // Of a row.
  u32 scales;  // Of a block: 0 (the row's factor is all), 1, 2, 4, 8.
  u32 zeros;  // 1: there are as many zeros.
  CodeKind kind;
  float table[16];  // Of CODE_KIND_TABLE.
};

// ---- Making and unmaking them (codes.cu) ----

// Codes of rows `first_row` .. as they lie in a checkpoint, [rows, from_row_bytes], to their
// places.
struct PlaceCodes {
  CodedMatrix to;
  DEVICE(const u8) from;
  u32 first_row, rows, from_row_bytes;
};

// Scales (zeros) of rows, [rows, blocks * scales], to their places.
struct PlaceScales {
  CodedMatrix to;
  DEVICE(const scale_t) from;
  u32 first_row, rows;
  u32 as_zeros;
};

// Any codes, and every scale 1.
struct DummyCodes {
  CodedMatrix to;
  u64 seed;
};

// What plain weights are quantised by.
enum ScaleOver : u32 { SCALE_OVER_MATRIX, SCALE_OVER_ROW, SCALE_OVER_BLOCK };
constexpr u32 SCALE_BLOCK = 128;

// The largest |w| of each row or of each block of 128 x 128, as the bits of an f32: the largest by
// atomics, 0 before.
struct LargestWeights {
  DEVICE(const act) w;  // [outputs, inputs]
  // [matrices], [outputs] or [matrices, blocks of rows, blocks of inputs]
  DEVICE(u32) largest;
  u32 outputs, inputs;
  u32 matrix_rows;  // Rows that share a scale, and among which blocks are counted.
  ScaleOver over;
};

// Plain weights to E4M3, their scales or factors with them.
struct EncodeWeights {
  CodedMatrix to;
  DEVICE(const act) w;
  DEVICE(const u32) largest;
  DEVICE(float) factor;  // [outputs]
  u32 matrix_rows;
  ScaleOver over;
};

// Blocks of codes that a block of four times as many threads unpacks.
constexpr u32 UNPACK_BLOCKS = 64;

// Rows of a coded matrix as plain ones, not aligned to more than an element where inputs are no
// multiple of 16 bytes.
struct UnpackCodes {
  CodedMatrix from;
  DEVICE(act) to;  // [rows, inputs]
  u32 first_row, rows;
};

// ---- Inputs of products (codes.cu) ----

// How inputs are rounded: device/quant.rs, InputQuant.
enum InputRounding : u32 {
  INPUT_ROUNDING_NONE,
  INPUT_ROUNDING_E4M3_TENSOR,
  INPUT_ROUNDING_E4M3_ROW,
  INPUT_ROUNDING_E4M3_BLOCK,
  INPUT_ROUNDING_INT8_TENSOR,
  INPUT_ROUNDING_INT8_TENSOR_WITH_ZERO,
  INPUT_ROUNDING_INT8_ROW,
  INPUT_ROUNDING_INT8_ROW_WITH_ZERO,
};

constexpr u32 ROUND_THREADS = 512;
// Blocks of 128 inputs whose steps are held at a time.
constexpr u32 ROUND_BLOCKS = 512;

// Codes of each row as activations, and the step that multiplies their products; with `bytes` they
// are E4M3 in the order of a coded matrix instead, filled up with zeros.
struct RoundInputs {
  DEVICE(const act) x;  // [rows, inputs]
  DEVICE(const u32) order;  // Column k of the result is input order[k]; null: k.
  DEVICE(act) codes;  // [rows, inputs], or null
  DEVICE(u8) bytes;  // [rows, padded_inputs], or null
  DEVICE(float) steps;  // [rows]
  u32 inputs, padded_inputs;
  float step;
  float zero;
  InputRounding kind;
  u32 values;  // 1: steps times codes instead of codes, for weights that are not held as codes.
};

// Times eight outputs that a thread of gated_round holds at most.
constexpr u32 GATED_EIGHTS = 4;

// Gates and ups as of GatedAct, rounded at once to what products take that round their inputs to
// E4M3 row by row: bytes in the order of a coded matrix, filled up with zeros, and the step of each
// row. Half a multiple of 8, of at most GATED_EIGHTS times eight a thread.
struct GatedRound {
  DEVICE(const act) x;  // [rows, 2 half]: gates, then ups
  DEVICE(const float) bias;  // [2 half], or null
  DEVICE(u8) bytes;  // [rows, padded_half]
  DEVICE(float) steps;  // [rows]
  u32 half, padded_half;
  Activation kind;
  u32 unused;
};

// y = y * steps[row] * factor[output] + bias, then the activation; in place. Bias or factor may be
// null.
struct ScaleAct {
  DEVICE(act) y;  // [rows, width]
  DEVICE(const float) steps;
  DEVICE(const float) factor;
  DEVICE(const float) bias;
  u32 width;
  Activation kind;
};

// logits *= steps[row], in place.
struct ScaleLogits {
  DEVICE(float) logits;  // [rows, vocab]
  DEVICE(const float) steps;
  u32 vocab;
};

// As ScaleAct, of gates and ups: [rows, 2 half] -> [rows, half].
struct ScaleGated {
  DEVICE(const act) x;
  DEVICE(const float) steps;
  DEVICE(const float) factor;
  DEVICE(const float) bias;
  DEVICE(act) out;
  u32 half;
  Activation kind;
};

// ---- Products (coded_small_m.cu, coded_wgmma.cu, coded_experts.cu) ----

// Rows that coded_small_m takes at most; shared memory of a block, and what of it x may take.
constexpr u32 CODED_SMALL_ROWS = 8;
constexpr u32 CODED_SMALL_SHARED_BYTES = 108 * 1024;
constexpr u32 CODED_SMALL_X_BYTES = 58 * 1024;
constexpr u32 CODED_SMALL_MOST_STAGES = 6;
// Stages of a block that are on their way at a time.
constexpr u32 CODED_SMALL_UNDER_WAY = 2;
// Inputs of a single row that coded_small_e4m3_row rounds, at most.
constexpr u32 CODED_SMALL_ROW_INPUTS = 16384;

// Threads, outputs and columns (rows of x) of a tile of coded_wgmma; a block at a time is on a
// multiprocessor.
constexpr u32 CODED_THREADS = 512;
constexpr u32 CODED_TILE = 256;
constexpr u32 CODED_FEW_ROWS = 16;
constexpr u32 CODED_MANY_ROWS = 64;
constexpr u32 CODED_FEW_STAGES = 10;
constexpr u32 CODED_MANY_STAGES = 6;
// Blocks that share the inputs of a tile, at most: as many as every card lets be a cluster.
constexpr u32 CODED_MOST_SHARES = 8;
// Shared memory: stages of up to 128 inputs of each row of x and a block of each output's codes,
// what lies behind them, and room to align them.
constexpr u32 CODED_REST_BYTES = 4096 + 1024;
constexpr u32 CODED_FEW_SHARED_BYTES =
    CODED_FEW_STAGES * (CODED_FEW_ROWS * 256 + CODED_TILE * CODE_BLOCK_BYTES) + CODED_REST_BYTES;
constexpr u32 CODED_MANY_SHARED_BYTES =
    CODED_MANY_STAGES * (CODED_MANY_ROWS * 256 + CODED_TILE * CODE_BLOCK_BYTES) + CODED_REST_BYTES;

enum CodedEnd : u32 { CODED_END_ACT, CODED_END_GATED, CODED_END_LOGITS };

// y = act(steps[row] * (x W^T) + bias)
struct CodedProduct {
  CodedMatrix w;
  DEVICE(const act) x;  // [rows, inputs]
  DEVICE(const float) steps;  // [rows], or null: 1
  DEVICE(const float) bias;  // [outputs], or null
  DEVICE(void) y;  // act [rows, outputs], gated [rows, outputs / 2]; logits f32 [rows, outputs]
  // Of experts alone: choices by expert, tiles of them and how many, as in MultiplyExperts. W are
  // all experts' matrices one below the other, x has a row for each row, or choice (top_k 1).
  DEVICE(const u32) order;
  DEVICE(const ExpertTile) expert_tiles;
  DEVICE(const u32) expert_tile_count;
  u32 rows;
  // Of coded_small_e4m3_bytes: where `steps` is null it rounds x itself, by the step of all rows or
  // with 0 by each row's own; else x are bytes, [rows, blocks of W * CODE_BLOCK_BYTES].
  float step;
  u32 outputs;  // Of W, or of one expert.
  u32 top_k;
  CodedEnd end;
  Activation kind;
};

// A product of coded_small_m, and what it does besides. A single row may be normed on its way, and y
// may be added to the residual, as SmallGemm has both.
struct CodedSmall {
  CodedProduct product;
  DEVICE(act) residual;  // [outputs], or null. Of CODED_END_ACT.
  // [inputs], or null. Not of x that are bytes.
  DEVICE(const float) norm_weight;
  DEVICE(act) normed;  // [inputs]
  float eps;
  NormKind norm_kind;
  RowPush push;  // of kernels that push, in place of y
  // Of experts (small_experts.cuh): `w` has all experts' matrices one below the other, of
  // `product.outputs` each; x has a row for each row of the step, or for each choice.
  DEVICE(const float) routes;  // As in RouteRows.
  u32 choices;  // Of a row.
  u32 unused;
};

// As FewExperts, of codes: sums are multiplied by the steps of rows (choices, where x has a row for
// each) and by factors.
struct CodedFewExperts {
  FewExperts few;
  CodedMatrix w;
  DEVICE(const float) steps;  // Null: 1
};

// A product by coded_wgmma or coded_experts: boxes of CODED_TILE / 2 rows of one block of codes,
// and (not of experts) of a tile's rows of x and 64 inputs, in swizzled panels (warpgroup.cuh).
struct CodedTiles {
  TensorMap codes, inputs;
  CodedProduct product;
};

// ---- Products of some rows, of codes or not (gemm_tiles.cu) ----

// Rows at most, of codes and of half types; bytes of each row of W and x in a stage.
constexpr u32 TILED_ROWS = 32;
constexpr u32 TILED_HALF_ROWS = 16;
constexpr u32 TILED_UNIT_BYTES = 128;
// Outputs of a tile and threads of a block (those that multiply and the warp that copies), two
// blocks on a multiprocessor.
constexpr u32 TILED_OUTPUTS = 128;
constexpr u32 TILED_THREADS = 2 * TILED_OUTPUTS + 32;
// Shared memory: stages, what lies behind them, and room to align them.
constexpr u32 TILED_RING_BYTES = 108 * 1024;
constexpr u32 TILED_REST_BYTES = 1024 + 512;
constexpr u32 TILED_SHARED_BYTES = TILED_RING_BYTES + TILED_REST_BYTES;

// y = act(steps[row] * factor[output] * (x W^T) + bias), W and x in swizzled boxes of
// TILED_UNIT_BYTES (warpgroup.cuh): of x of as many rows as the kernel has, of W of a tile's
// rows, and gated of eights, [eights, gate or up, 8].
struct TiledGemm {
  TensorMap w, x;
  DEVICE(const float) factor;  // [outputs], or null: 1
  DEVICE(const float) steps;  // [rows], or null: 1
  DEVICE(const float) bias;  // [outputs], or null
  DEVICE(void) y;  // act [rows, outputs], gated [rows, outputs / 2]; logits f32 [rows, outputs]
  u32 rows, outputs;
  u32 units;  // Of TILED_UNIT_BYTES, of a row.
  CodedEnd end;
  Activation kind;
};

// ---- Products of 5 to 64 rows, of codes or not (gemm_rows.cu) ----

// Rows at most; shared memory of the stages and of what lies behind them, with room to align them.
// Beside a block there is room for one of a norm, or of what rounds inputs.
constexpr u32 ROWS_MOST = 64;
constexpr u32 ROWS_STAGES_MOST = 32;
constexpr u32 ROWS_RING_BYTES = 192 * 1024;
constexpr u32 ROWS_REST_BYTES = 16 * 1024 + 512;
constexpr u32 ROWS_SHARED_BYTES = ROWS_RING_BYTES + ROWS_REST_BYTES;
// Two warpgroups that multiply and a warp that copies.
constexpr u32 ROWS_THREADS = 2 * 128 + 32;
// Blocks that leave sums of squares of their part of each row, at most.
constexpr u32 ROWS_PARTS_MOST = 144;
// Warps that add those up.
constexpr u32 ROWS_DIVIDING = 4;

// As TiledGemm; each tile's inputs are cut into so many shares, one for each block of a cluster.
// Of a half type the product may be added to a residual of as many outputs, of which y gets each
// element times its norm's weight; and x may be such a y, which is still to be divided by the root
// of the row's mean square.
struct RowsGemm {
  TensorMap w, x;
  DEVICE(const float) factor;  // [outputs], or null: 1
  DEVICE(const float) steps;  // [rows], or null: 1
  DEVICE(const float) bias;  // [outputs], or null
  DEVICE(void) y;  // act [rows, outputs], gated [rows, outputs / 2]; logits f32 [rows, outputs]
  u32 rows, outputs;
  u32 units;  // Of TILED_UNIT_BYTES, of a row.
  u32 shares;
  // A stage: a box of x, one of W.
  u32 stages;
  u32 stage_bytes, x_bytes;  // Multiples of 1024.
  CodedEnd end;
  Activation kind;
  DEVICE(act) residual;  // [rows, outputs], or null; outputs are even then
  DEVICE(const float) norm_weight;  // [outputs]
  DEVICE(float) squares;  // [blocks, ROWS_MOST], of the residual's elements that a block has
  DEVICE(const float) squares_of_x;  // [parts, ROWS_MOST], or null
  u32 parts, normed_inputs;
  float eps;
  NormKind norm_kind;
};

// ---- Products of 65 to 1024 rows (gemm_rows_more.cu) ----

// Rows of a block at most; shared memory of the stages and of what lies behind them, with room to
// align them.
constexpr u32 MORE_ROWS_OF_BLOCK = 128;
constexpr u32 MORE_ROWS_RING_BYTES = 220 * 1024;
constexpr u32 MORE_ROWS_REST_BYTES = 4 * 1024;
constexpr u32 MORE_ROWS_SHARED_BYTES = MORE_ROWS_RING_BYTES + MORE_ROWS_REST_BYTES;
// Two warpgroups that multiply and a warp that copies.
constexpr u32 MORE_ROWS_THREADS = 2 * 128 + 32;

// y = x W^T + bias, or gated silu(gates) * ups. W in boxes of a tile's outputs, gated of eights
// (TiledGemm), x in boxes of `block_rows`, a multiple of 8: each block has as many.
struct MoreRowsGemm {
  TensorMap w, x;
  DEVICE(const float) bias;  // [outputs], or null
  DEVICE(act) y;  // [rows, outputs], gated [rows, outputs / 2]; both even
  u32 rows, outputs;
  u32 units;  // Of TILED_UNIT_BYTES, of a row.
  u32 shares;  // Of each tile's inputs, one for each block of a cluster.
  u32 block_rows;
  u32 gated;
  u32 below;  // Blocks that have other rows of the same tiles.
  u32 pairs;  // Clusters of two blocks of the same tiles share W: its boxes are of half a tile.
  u32 unused;
};

// ---- Attention over prompts (attention_prefill_sm90.cu) ----

// Warpgroups of a block that multiply, each 64 packed rows of an item, up to head size 256 and at
// 64; one more feeds them.
constexpr u32 MAPPED_GROUPS = 2;
constexpr u32 MAPPED_GROUPS_OF_64 = 3;
constexpr u32 MAPPED_ROWS_OF_GROUP = 64;
constexpr u32 MAPPED_THREADS_OF_GROUP = 128;
// Keys of a tile, up to head size 128 and at 256.
constexpr u32 MAPPED_KEYS = 128;
constexpr u32 MAPPED_KEYS_OF_256 = 80;
// Stages of K, and of V; at head size 64.
constexpr u32 MAPPED_STAGES = 2;
constexpr u32 MAPPED_STAGES_OF_64 = 4;

// Items whose Q is there at once, up to head size 128 and at 256.
constexpr u32 MAPPED_QUERIES = 2;
constexpr u32 MAPPED_QUERIES_OF_256 = 1;

// Items of all KV heads, dealt to blocks, or to clusters of two blocks.
struct PromptAttention {
  TensorMap map;  // Of the pool: eights of rows of a head, boxes of `piece` rows, swizzled panels.
  PagedAttention pages;
  u32 items;
  u32 piece;  // Keys that lie one behind the other in a page and in a tile: divides both.
};

// The parameters of layers that keep a state of each sequence (state.cu, scan.cu, device/state.rs),
// and how states lie. abi.h says what holds for all of it.
//
// A state of a sequence is `entry_bytes` long and holds, layer behind layer, the matrices
// f32 [heads, rows, columns] and the convolution's last inputs act [taps - 1, width], oldest first.
// Those of slots come first, each with its spares behind it: the states behind the first rows of
// the slot's newest chunk, `spares` of them but none behind its last row. From one of those to the
// next it is `entry_bytes`, from slot to slot `slot_bytes`. Kernels get the address of a layer's
// part in slot 0's own entry.
#pragma once
#include "abi_ops.h"

constexpr u32 CONV_THREADS = 128;
// Taps at most: one more than the inputs that are kept.
constexpr u32 CONV_MAX_TAPS = 8;

struct ShortConvolution {
  DEVICE(const act) x;  // [rows, stride], of which the first `width` columns are channels
  DEVICE(const float) weight;  // [width, taps]
  DEVICE(const float) bias;  // [width], or null
  DEVICE(act) out;  // [rows, width]
  DEVICE(u8) tails;
  u64 slot_bytes, entry_bytes;
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) slot_of;
  u32 rows, stride, width, taps;
  u32 silu;  // Whether x * sigmoid(x) follows.
  u32 spares;
};

// Warps of a block, rows of a matrix that each holds in registers, columns at most; the same of a
// selective scan.
constexpr u32 DELTA_WARPS = 4;
constexpr u32 DELTA_WARP_ROWS = 8;
constexpr u32 DELTA_BLOCK_ROWS = DELTA_WARPS * DELTA_WARP_ROWS;
constexpr u32 DELTA_THREADS = 32 * DELTA_WARPS;
constexpr u32 DELTA_MAX_KEY_DIM = 256;

// Prompts (chunks.cu): tokens of a chunk, and so of the shortest sequence that is cut into some;
// rows of a matrix of a block, its threads and shared memory.
constexpr u32 RULE_TOKENS = 64;
constexpr u32 RULE_ROWS = 64;
constexpr u32 RULE_THREADS = 128;
constexpr u32 RULE_SHARED_BYTES = 98816;

struct DeltaRule {
  DEVICE(const act) mixed;  // [rows, q|k|v]
  DEVICE(const act) rates;  // [rows, 2 value_heads]: beta, then the rate, of each value head
  DEVICE(const float) log_decay;  // [value_heads]
  DEVICE(const float) rate_bias;  // [value_heads]
  DEVICE(act) out;  // [rows, value_heads, value_dim]
  DEVICE(u8) matrices;
  u64 slot_bytes, entry_bytes;
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) slot_of;
  // Of the step's sequences, a block for each; null: a block for each row, as a recorded step has
  // it, of which those that begin no sequence end at once.
  DEVICE(const StepRecord) records;
  u32 rows;
  u32 key_heads, value_heads, key_dim, value_dim;
  // 1: sequences of RULE_TOKENS tokens or more are left to chunks.cu.
  u32 without_chunks;
  u32 spares, unused;
};

struct SelectiveScan {
  DEVICE(const act) mixed;  // [rows, x|B|C]
  DEVICE(const act) rates;  // Of row r, one of each head, at rates + r * stride + first.
  DEVICE(const float) log_decay;  // [heads]
  DEVICE(const float) rate_bias;  // [heads]
  DEVICE(const float) skip;  // [heads]
  DEVICE(act) out;  // [rows, heads, head_dim]
  DEVICE(u8) matrices;
  u64 slot_bytes, entry_bytes;
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) slot_of;
  DEVICE(const StepRecord) records;  // As DeltaRule's.
  u32 rows;
  u32 heads, head_dim, groups, state;
  u32 stride, first;
  // 1: sequences of RULE_TOKENS tokens or more are left to chunks.cu.
  u32 without_chunks;
  u32 spares, unused;
};

// Columns of a channel's row at most: what its thread holds in registers.
constexpr u32 CHANNEL_SCAN_MAX_STATE = 64;
constexpr u32 CHANNEL_SCAN_THREADS = 128;

struct ChannelScan {
  DEVICE(const act) x;  // [rows, width]
  DEVICE(const act) rates;  // [rows, width]
  DEVICE(const act) bc;  // [rows, B|C], of `state` each
  DEVICE(const float) log_decay;  // [width, state]
  DEVICE(const float) rate_bias;  // [width]
  DEVICE(const float) skip;  // [width]
  DEVICE(act) out;  // [rows, width]
  DEVICE(u8) matrices;
  u64 slot_bytes, entry_bytes;
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) slot_of;
  DEVICE(const StepRecord) records;  // As DeltaRule's.
  u32 rows, width, state;
  u32 spares;
};

// What a gate multiplies by.
enum Gate : u32 {
  GATE_SILU,
  GATE_SIGMOID,
};

// Which of a norm and a gate comes first.
enum GateOrder : u32 {
  GATE_ORDER_NORM_FIRST,
  GATE_ORDER_GATE_FIRST,
};

struct NormGated {
  DEVICE(act) x;  // [rows, parts, width], in place
  DEVICE(const float) weight;  // Part p's at weight + p * weight_step; null: there is no norm.
  DEVICE(const act) z;  // Of x's row r at z + r * stride + first.
  u32 parts, width;
  u32 stride, first;
  float eps;
  NormKind norm;  // An RMS kind.
  Gate gate;
  GateOrder order;
  u32 weight_step;
  u32 unused;
};

// out = a b, of `width` columns of each.
struct Multiply {
  DEVICE(const act) a;  // [rows, a_stride]
  DEVICE(const act) b;  // [rows, b_stride]
  DEVICE(act) out;  // [rows, width]
  u32 a_stride, b_stride;
  u32 a_first, b_first;
  u32 width;
  u32 unused;
};

// x *= sigmoid(z)
struct GateRows {
  DEVICE(act) x;  // [rows, width], in place
  DEVICE(const act) z;  // [rows, width]
  u32 width;
  u32 unused;
};

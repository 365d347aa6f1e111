// The parameters of the kernels that ops launch, the kinds that they tell apart, and the sizes that
// host and kernels both count with. abi.h says what holds for all of it.
#pragma once

#ifdef __CUDACC_RTC__
#include "common.cuh"
#else
#include "abi.h"
#endif

// ---- Kinds ----

// The type of stored elements.
enum ElementType : u32 { ELEMENT_TYPE_F32, ELEMENT_TYPE_F16, ELEMENT_TYPE_BF16 };

enum NormKind : u32 {
  NORM_KIND_RMS,
  NORM_KIND_RMS_PLUS_ONE,  // RMS whose weights are stored less one.
  NORM_KIND_LAYER,
};

enum Activation : u32 {
  ACTIVATION_RELU,
  ACTIVATION_RELU_SQUARED,
  ACTIVATION_GELU,
  ACTIVATION_GELU_TANH,
  ACTIVATION_SILU,
  ACTIVATION_SILU_GATED,
  ACTIVATION_GELU_GATED,
  ACTIVATION_GELU_TANH_GATED,
  ACTIVATION_SWIGLU_OAI,
  ACTIVATION_QUICK_GELU,
  ACTIVATION_NONE,  // Only the bias.
};

// What K and V are in pages: the activations' type, or numbers of eight bits.
enum KvType : u32 { KV_TYPE_ACT, KV_TYPE_E4M3, KV_TYPE_E5M2 };

// What a router's products become.
enum RouteScore : u32 {
  ROUTE_SCORE_SOFTMAX,
  ROUTE_SCORE_SIGMOID,
  ROUTE_SCORE_SPARSE_MIXER,  // Of a choice, its share of a softmax over what comes near to it.
  ROUTE_SCORE_SIGMOID_OF_CHOSEN,
};

// Which rows of a sequence make its vector.
enum Pooling : u32 { POOLING_FIRST, POOLING_LAST, POOLING_MEAN };

// ---- Rows (gather.cu) ----

struct Embed {
  DEVICE(const u32) token;  // [rows]
  DEVICE(const act) table;  // [table_rows, width]
  DEVICE(act) out;  // [rows, width]
  u32 table_rows, width;
  u32 first;  // Token of the table's first row; others have rows of zeros.
  float scale;
};

struct AddPositions {
  DEVICE(const u32) position;  // [rows]
  DEVICE(const act) table;  // [table_rows, width]
  DEVICE(act) x;  // [rows, width], in place
  u32 table_rows, offset, width;
};

struct Gather {
  DEVICE(const u32) row;  // [samples], rows of x
  DEVICE(const act) x;  // [rows, width]
  DEVICE(act) out;  // [samples, width]
  u32 width;
};

struct Pool {
  DEVICE(const u32) row;  // [samples], the last token row of each sequence
  DEVICE(const u32) position;  // [rows]
  DEVICE(const act) x;  // [rows, width]
  DEVICE(float) out;  // [samples, width]
  Pooling kind;
  u32 width;
};

// ---- What follows a product (activation.cu) ----

struct BiasAct {
  DEVICE(act) x;  // [rows, width], in place
  DEVICE(const float) bias;  // [width], or null
  u32 width;
  Activation kind;
};

struct GatedAct {
  DEVICE(const act) x;  // [rows, 2 half]: gates, then ups
  DEVICE(const float) bias;  // [2 half], or null
  DEVICE(act) out;  // [rows, half]
  u32 half;
  Activation kind;
};

struct Clamp {
  DEVICE(act) x;  // [rows, width], in place
  u32 width;
  float limit;
};

// positive x^2 + linear x where x > 0, else negative (e^min(x, limit) - 1 - x) + linear x.
struct Xielu {
  DEVICE(act) x;  // [rows, width], in place
  u32 width;
  float positive, negative, linear, limit;
};

struct Softcap {
  DEVICE(float) logits;  // [count], in place
  u64 count;
  float cap;
};

struct BiasLogits {
  DEVICE(float) logits;  // [rows, vocab], in place
  DEVICE(const float) bias;  // [vocab]
  u32 vocab;
};

// ---- Products (gemm.cu, gemm_small_m.cu) ----

// Rows and outputs of a tile of the plain product.
constexpr u32 GEMM_TILE = 16;

// y = x W^T
struct PlainGemm {
  DEVICE(const act) x;  // [rows, inputs]
  DEVICE(const act) w;  // [outputs, inputs]
  DEVICE(void) y;  // [rows, outputs], act or f32
  u32 rows, outputs, inputs;
  u32 stride;  // Elements from row to row of y.
};

struct Flush {
  DEVICE(const u32) words;  // [count]
  u64 count;
  DEVICE(u32) never;  // One word, as good as never written
};

// Rows that gemm_small_m takes at most.
constexpr u32 SMALL_M_ROWS = 8;
// Rows of W of a tile, and the gates or ups among them where it is gated.
constexpr u32 SMALL_M_TILE = 16;
constexpr u32 SMALL_M_EIGHTS_TILE = 8;  // Where tiles of 16 would leave half of the blocks idle.
constexpr u32 SMALL_M_GATED_TILE = 8;
// Warps that multiply; one more copies.
constexpr u32 SMALL_M_WARPS = 8;
constexpr u32 SMALL_M_THREADS = 32 * (SMALL_M_WARPS + 1);
constexpr u32 SMALL_M_BLOCKS_PER_MULTIPROCESSOR = 2;
constexpr u32 SMALL_M_STAGES = 6;
// Times 8 inputs of x that a lane has under way.
constexpr u32 SMALL_M_AHEAD = 8;
// Inputs of a stage, and bytes from row to row of it.
constexpr u32 SMALL_M_INPUTS = 512;
constexpr u32 SMALL_M_PITCH = 2 * SMALL_M_INPUTS + 64;
constexpr u32 SMALL_M_STAGE_BYTES = SMALL_M_TILE * SMALL_M_PITCH;
// Of the warps' sums.
constexpr u32 SMALL_M_SUMS_BYTES = SMALL_M_WARPS * 4 * 32 * 4;
// Sums, the ring with two barriers a stage; a normed row takes a stage's place. What two blocks
// leave of a multiprocessor holds the small kernels between products.
constexpr u32 SMALL_M_SHARED_BYTES =
    SMALL_M_SUMS_BYTES + SMALL_M_STAGES * (SMALL_M_STAGE_BYTES + 2 * 8);
// Inputs of a row that is normed, at most.
constexpr u32 SMALL_M_NORMED_INPUTS = 8192;

// y = act(x W^T + bias)
struct SmallGemm {
  DEVICE(const act) x;  // [rows, inputs]
  DEVICE(const act) w;  // [outputs, inputs]
  DEVICE(const float) bias;  // [outputs], or null
  // act [rows, outputs], gated [rows, outputs / 2]; logits f32 [rows, outputs]. Of gemm_small_m null
  // where y is added to the residual in place of it.
  DEVICE(void) y;
  DEVICE(act) residual;  // [rows, outputs]
  // Not null: x, a single row, is first normed as NormRows says, by RMS without a bias; what comes
  // of it goes to `normed` too.
  DEVICE(const float) norm_weight;  // [inputs]
  DEVICE(act) normed;  // [inputs]
  // Of logits, or null: the largest of each block's share of a row, as DrawRows takes it.
  DEVICE(u64) best;  // [rows, blocks, 2]
  float eps;
  NormKind norm_kind;
  u32 rows, outputs, inputs;
  Activation kind;
  u32 stages;
  u32 choices;  // Of a row, of experts alone.
  RowPush push;  // of kernels that push, in place of y
  // Of experts (small_experts.cuh): w is [experts, outputs, inputs], x has a row for each row of the
  // step, or for each choice.
  DEVICE(const float) routes;  // As in RouteRows.
};

// ---- Attention ----

// Pairs of a head that rope_store rotates at most, and heads of a block.
constexpr u32 ROPE_MAX_PAIRS = 256;
constexpr u32 ROPE_HEADS = 16;
// Of rows that a block has alone: heads of which a thread has the same pairs at once, and threads at
// most.
constexpr u32 ROPE_UNITS = 3;
constexpr u32 ROPE_ROW_THREADS = 512;

// The pool of a layer: [pages, 2 (K, V), kv_heads, page_size, dim], of the activations' type, or
// bytes.
struct RopeStore {
  DEVICE(act) qkv;  // [rows, heads + 2 kv_heads, dim]: q and k are rotated in place
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) places;  // [rows, 3], of which each pair goes by one; null: by its position
  DEVICE(const u32) slot_of;
  SlotRows slots;
  DEVICE(void) pool;
  KvType kv;
  float k_scale, v_scale;  // Bytes are numbers divided by these.
  u32 heads, kv_heads, dim, page_size;
  u32 half;  // Pairs of a head: the first `half` dimensions and the `half` after them.
  float magnitude;  // Of sines and cosines.
  // q times 1 + growth ln(1 + (position + growth_ahead) / growth_length), whole steps; 0: it does not
  // grow.
  float growth;
  u32 growth_length;
  u32 growth_ahead;
  float inverse_frequency[ROPE_MAX_PAIRS];  // [half]
  u32 axes[ROPE_MAX_PAIRS / 16];  // Of each pair which of the places, two bits.
};

// Threads of a block of attend_rows and attend_all, the largest head, and that of *_wide.
constexpr u32 ATTEND_THREADS = 128;
constexpr u32 ATTEND_MAX_HEAD_DIM = 256;
constexpr u32 ATTEND_WIDE_HEAD_DIM = 512;

struct AttendRows {
  DEVICE(const act) qkv;  // [rows, row_width], of which the front is [heads, dim]
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) slot_of;
  SlotRows slots;
  DEVICE(const void) pool;  // As in RopeStore.
  DEVICE(const float) sinks;  // [heads], a score without a value; or null
  DEVICE(const float) slopes;  // [heads], by which scores fall with the distance of keys; or null
  // [rows, 3], of which 1 and 2 are the first and the last key that a row sees whatever the window;
  // or null: none but itself.
  DEVICE(const u32) seen;
  DEVICE(act) out;  // [rows, heads, dim]
  u32 heads, kv_heads, dim, page_size;
  float scale;  // Of scores, that of K included.
  u32 window;  // 0 = none
  float softcap;  // 0 = none
  KvType kv;
  float value_scale;  // Of V.
  u32 chunk;  // Positions of a run, all of whose keys are of it; 0 = none
  u32 row_width;
  u32 unused;
};

struct AttendAll {
  DEVICE(const act) qkv;  // [rows, heads + 2 kv_heads, dim]
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) slot_of;
  SlotRows slots;
  DEVICE(act) out;  // [rows, heads, dim]
  u32 heads, kv_heads, dim;
  u32 window;  // To both sides, the row itself counted; 0 = none
  float scale;
  float softcap;  // 0 = none
};

// Packed rows of a tile of prompts, and of single tokens. Packed row r of a sequence is token
// r / group, head r % group of a KV head's q heads.
constexpr u32 PROMPT_ROWS = 128;
constexpr u32 SPLIT_ROWS = 16;
// Of single tokens of several sequences whose first keys are the same (attention_shared_sm90.cu).
constexpr u32 SHARED_ROWS = 64;
// Keys of a tile by mma, and elements between the ends of its rows in shared memory.
constexpr u32 TILE_KEYS = 64;
constexpr u32 TILE_PADDING = 8;
constexpr u32 CHUNK_THREADS = 256;
constexpr u32 SPLIT_THREADS = 128;
// Over pages of eight bits by wgmma: keys of a tile, up to head size 128 and at 256; stages. And
// what tiles are aligned to, of all pages.
constexpr u32 PROMPT_KEYS = 128;
constexpr u32 PROMPT_KEYS_OF_256 = 64;
constexpr u32 PROMPT_STAGES = 2;
constexpr u32 PROMPT_ALIGNMENT = 1024;

// The part of an item that has all keys of its rows.
constexpr u32 NO_PART = ~0u;
// What the number of a block's next item is multiplied with in `count`.
constexpr u32 NEXT_ITEM = 256;

// A tile of packed rows against a range of keys.
struct WorkItem {
  u32 slot;
  // The first token row of its sequence, and the first packed row of the tile within that.
  u32 first_row;
  u32 begin;
  // Packed rows. In the split kernel also NEXT_ITEM times the block's next item, 0 = none.
  u32 count;
  u32 keys_from;  // Positions.
  u32 keys_to;
  u32 part;  // The first part of these rows, or NO_PART.
  // Which of the parts of these rows this is, and how many there are; 0 and 0 with NO_PART.
  u16 piece;
  u16 pieces;
  // Of a single token whose first keys are others' too: the first part that holds its rows'
  // weighted sums over those, which of that part's SHARED_ROWS is its first, and how many such
  // parts there are, 0 = none.
  u32 shared;
  u16 shared_row;
  u16 shared_pieces;
  // Of an item of several sequences, those of `slot` first: the first of as many entries of the
  // list, which say nothing but the token row of each.
  u32 members;
  u32 unused;
};
// Records, which hold pointers, lie behind them.
static_assert(sizeof(WorkItem) == 12 * 4, "items lie one behind the other");

// The kernels of attention_mma.cu, attention_prefill_sm90.cu, and of their twins for pages of eight
// bits.
struct PagedAttention {
  // Prompts: an item for each block. Single tokens: the first item of each block, empty (count 0)
  // where it has none, then the items that follow them; before those, where keys are shared, the
  // first item of each block of that kernel.
  DEVICE(const WorkItem) items;
  DEVICE(const act) qkv;  // As in AttendRows.
  DEVICE(const u32) position;  // [rows]
  SlotRows slots;
  DEVICE(const void) pool;  // As in RopeStore.
  DEVICE(const float) sinks;  // [heads], a score without a value; or null
  DEVICE(act) out;  // [rows, heads, dim]
  // [parts, kv_heads, SPLIT_ROWS, dim], weighted sums. A part of SHARED_ROWS takes the place of
  // several.
  DEVICE(float) parts;
  DEVICE(float2) statistics;  // [parts, kv_heads, SPLIT_ROWS], maximum (base 2) and sum of weights
  DEVICE(u32) arrivals;  // [first part, kv_heads], parts that are done; 0 between launches
  u32 heads, kv_heads, page_size;
  float scale;  // Of scores, that of K included.
  u32 window;  // 0 = none
  float softcap;  // 0 = none
  u32 stages;  // Of tiles in shared memory.
  KvType kv;
  float value_scale;  // Of V.
  u32 chunk;  // As in AttendRows.
  u32 row_width;
  u32 unused;
  DEVICE(const u32) seen;  // As in AttendRows.
};

// The kernels of attention_ring_sm90.cu and attention_shared_sm90.cu. Keys of a box; threads: those that multiply and the warp
// that copies. Slots of the ring, each a tile of K or V: of 64 elements, and of more.
constexpr u32 RING_BOX_KEYS = 16;
constexpr u32 RING_THREADS = SPLIT_THREADS + 32;
constexpr u32 RING_SLOTS_OF_64 = 12;
constexpr u32 RING_SLOTS = 6;
// Packed rows that warps merge at once, and bytes that align the ring.
constexpr u32 RING_MERGED_ROWS = 4;
constexpr u32 RING_ALIGNMENT = 1024;

// A matrix's boxes as the GPU copies them: the driver's CUtensorMap.
struct alignas(64) TensorMap {
  u64 opaque[16];
};

struct RingAttention {
  TensorMap pool;  // A row for each K or V of a head; boxes of RING_BOX_KEYS keys, 128 bytes each.
  PagedAttention attention;
};

// Sequences have one row each, of which the kernel does what rope_store would have done, but for
// q and k in qkv, which stay as they are. Head sizes and `rope.half` are multiples of 8.
struct RingTurn {
  TensorMap pool;
  PagedAttention attention;
  RopeStore rope;
};

// Packed rows of a tile for which half of a tensor core's columns suffice.
constexpr u32 RING_NARROW_ROWS = 8;

// ---- Low-rank adapters (adapters.cu) ----

// Rows among which those of one adapter slot are brought together, and of these so many at a time.
constexpr u32 ADAPTER_WINDOW = 32;
constexpr u32 ADAPTER_TILE_ROWS = 8;
// Parts of a weight at most: q, k and v.
constexpr u32 ADAPTER_PARTS = 3;
// Rows of A of a block, its warps, and blocks that share a sum at most.
constexpr u32 SHRINK_ROWS = 16;
constexpr u32 SHRINK_WARPS = 16;
constexpr u32 SHRINK_SPLITS = 4;
// Columns of y of a block, or groups of eight; a thread for each and for each half of a tile.
constexpr u32 EXPAND_COLUMNS = 128;
constexpr u32 EXPAND_THREADS = 2 * EXPAND_COLUMNS;

struct AdapterShrink {
  DEVICE(const act) x;  // [rows, inputs]
  DEVICE(const u32) adapter_slot_of;  // [token rows], 1 + the adapter slot, 0 = none
  DEVICE(const u32) row_of;  // [rows], the token row of each; null: they are the token rows
  DEVICE(const act) a;  // [adapter slots, parts, max_rank, inputs]
  DEVICE(const u32) ranks;  // [adapter slots, parts]
  DEVICE(float) low;  // [splits, rows, parts, max_rank]
  u32 rows;
  u32 tiles;  // Blocks that share the tiles of a window.
  u32 inputs, parts, max_rank, splits;
};

// adapter_expand, and adapter_expand_logits with y of f32.
struct AdapterExpand {
  DEVICE(void) y;  // [rows, outputs], in place
  DEVICE(const u32) adapter_slot_of;  // As in AdapterShrink, up to the ranks.
  DEVICE(const u32) row_of;
  DEVICE(const float) low;
  DEVICE(const act) b;  // [adapter slots, max_rank, outputs]
  DEVICE(const u32) ranks;
  u32 rows, tiles, outputs, parts, max_rank, splits;
  u32 end0;  // Where the first part ends, and the second.
  u32 end1;
};

struct EmbedAdapted {
  DEVICE(const u32) token;  // [rows]
  DEVICE(const u32) adapter_slot_of;  // [rows], 1 + the adapter slot, 0 = none
  DEVICE(const act) table;  // [table_rows, width]
  DEVICE(const act) a;  // [adapter slots, table_rows, rank], each slot with room for max_rank
  DEVICE(const act) b;  // [adapter slots, max_rank, width]
  DEVICE(const u32) ranks;  // [adapter slots]
  DEVICE(act) out;  // [rows, width]
  u32 table_rows, width, max_rank;
  u32 first;  // As in Embed.
  float scale;
  u32 unused;
};

// ---- Weights (weights.cu) ----

// `to` of all four is of the device's type for matrices, f32 for vectors.
struct ConvertWeight {
  DEVICE(const void) from;  // [count] of `kind`
  DEVICE(void) to;
  u64 count;
  ElementType kind;
};

struct TurnWeight {
  DEVICE(const void) from;  // [inputs of this part, outputs] of `kind`
  DEVICE(void) to;  // [outputs, all_inputs]
  u64 count;
  u64 outputs;
  u64 first_input;
  u64 all_inputs;
  ElementType kind;
};

struct DummyWeight {
  DEVICE(void) to;
  u64 seed;
  u64 count;
  float scale;
};

struct ConstantWeight {
  DEVICE(void) to;
  u64 count;
  float value;
};

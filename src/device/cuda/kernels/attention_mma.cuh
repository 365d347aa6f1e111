// What the two files of paged attention on tensor cores share: the work list, a call's arguments,
// the shape of a kernel's entry.
#pragma once
#include "common.cuh"
#include "mma.cuh"

// Words of an item, a tile of packed rows against a range of keys.
enum {
  ITEM_SLOT,
  ITEM_FIRST,
  ITEM_BEGIN,
  ITEM_COUNT,  // packed rows, and in the split kernel above them the block's next item
  ITEM_KEYS_FROM,
  ITEM_KEYS_TO,
  ITEM_PART,    // the first part of these rows, or NO_PART: this item has all their keys
  ITEM_PIECES,  // number of parts << 16 | which of them
  ITEM_WORDS
};

#define NO_PART ~0u
#define NEXT_ITEM 256  // what the next item's number is multiplied with
#define LOG2E 1.4426950408889634f
#define LOWEST -1e30f

// Everything that does not change from block to block.
struct Call {
  const act* qkv;
  const u32* position;
  const u32* rows;
  u64 stride;
  u32 pages_at, heads, kv_heads, page_size;
  float scale;
  u32 window;  // 0 = none
  float cap;   // 0 = none
  const act* pool;
  act* out;
  float* parts;        // [part][kv head][16][dim], weighted sums
  float2* statistics;  // [part][kv head][16], maximum (base 2) and row_sum
  u32* arrivals;       // [first part][kv head], parts that are done; 0 between launches
};

extern __shared__ __align__(16) u8 dynamic_shared[];

// BODY(D) has `call`, `items` and `stages`.
#define ENTRY(NAME, BODY, D, THREADS, BLOCKS)                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME##_##D(                     \
      const u32* items, const act* qkv, const u32* position, const u32* rows, u64 stride,       \
      u32 pages_at, u32 heads, u32 kv_heads, u32 page_size, float scale, u32 window, float cap, \
      const act* pool, act* out, float* parts, float2* statistics, u32* arrivals, u32 stages) { \
    begin();                                                                                    \
    const Call call = {qkv,       position, rows, stride, pages_at, heads, kv_heads,            \
                       page_size, scale,    window, cap,  pool,     out,   parts,               \
                       statistics, arrivals};                                                   \
    BODY(D);                                                                                    \
  }

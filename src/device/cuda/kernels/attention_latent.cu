// Paged causal attention over latent vectors on tensor cores, for half types and vectors of
// 512 + 64 elements: K is all of a vector, V its front, the same for all heads. Any page size, any
// mix of chunks and single rows, by the work list of attention_mma.cu; other widths, and f32, go to
// latent.cu.
//
// All heads of a token are packed rows that meet the same keys: packed row r of a sequence is token
// r / heads, head r % heads. A tile has 16 rows (four warps) or 64 (eight), and 32 keys, which come
// by cp.async into two stages of 36.5 KiB; q lies in shared memory beside them. Warps along columns
// (WN) share rows: each scores its part of the keys over all 576 elements, they exchange maxima and
// weights through shared memory, and each sums up its part of the 512 columns over all keys. So a
// vector is read once for K and V, and no warp holds more than 256 columns of a row.
//
//   latent_chunk_*  an item a block: prompts
//   latent_split_*  single tokens: blocks walk over items, the last to finish some rows joins their
//                   parts
//
// Shared memory: 16 + 64 or 64 + 64 rows of 1168 bytes, weights and statistics: 93 KiB, of which
// two fit a Hopper SM, so that tiles in flight cover the latency of HBM; or 152 KiB, one. FLOPs of
// a row and a key: 2 x (576 + 512). Bound: single tokens of up to 64 heads by HBM, 1152 bytes a
// key; prompts by shared memory, from which each warp reads its rows of q and its part of the keys.
#include "abi_latent.h"
#include "attention_tile.cuh"

#if ACT != 0
constexpr u32 RANK = LATENT_TILE_RANK, WIDTH = LATENT_TILE_RANK + LATENT_TILE_ROTARY;
constexpr u32 ROW_PITCH = (WIDTH + LATENT_PADDING) * 2;
constexpr u32 WEIGHT_PITCH = (LATENT_KEYS + LATENT_PADDING) * 2;
constexpr u32 ROW_PIECES = WIDTH / 8;

template <int WM, int WN>
struct LatentTile {
  static constexpr u32 ROWS = 16 * WM, THREADS = 32 * WM * WN;
  static constexpr u32 NT = LATENT_KEYS / WN / 8;  // Tiles of a warp's keys,
  static constexpr u32 DT = RANK / WN / 8;         // and of its columns.
  static constexpr u32 STAGE = LATENT_KEYS * ROW_PITCH;
  // Where in shared memory: q, stages, weights; then, for each warp along columns, statistics.
  static constexpr u32 KEYS_AT = ROWS * ROW_PITCH;
  static constexpr u32 WEIGHTS_AT = KEYS_AT + LATENT_STAGES * STAGE;
  static constexpr u32 MAXIMA_AT = WEIGHTS_AT + ROWS * WEIGHT_PITCH;
  static constexpr u32 SUMS_AT = MAXIMA_AT + WN * ROWS * 4;

  u32 lane, wm, wn, shared;
  float o[DT][4];
  float row_max[2], row_sum[2];
  u32 at[2];  // Positions of the two packed rows of this thread.

  // A thread's two packed rows, relative to the tile.
  __device__ u32 row(int half) const { return wm * 16 + lane / 4 + half * 8; }
  __device__ float* maxima(u32 w) const {
    return reinterpret_cast<float*>(dynamic_shared + MAXIMA_AT) + w * ROWS;
  }
  __device__ float* sums(u32 w) const {
    return reinterpret_cast<float*>(dynamic_shared + SUMS_AT) + w * ROWS;
  }

  __device__ void begin_item(const PagedLatent& c, const WorkItem* item, u32 count) {
    lane = threadIdx.x % 32;
    wm = threadIdx.x / 32 % WM;
    wn = threadIdx.x / 32 / WM;
    shared = shared_address(dynamic_shared);
#pragma unroll
    for (u32 t = 0; t < DT; t++) o[t][0] = o[t][1] = o[t][2] = o[t][3] = 0.f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      row_max[half] = LOWEST;
      row_sum[half] = 0.f;
      const u32 packed = item->begin + min(row(half), count - 1);
      at[half] = c.position[item->first_row + packed / c.heads];
    }
    // Heads of a token and tokens of a sequence follow each other: so do packed rows.
    const act* q = c.queries + ((u64)item->first_row * c.heads + item->begin) * WIDTH;
    for (u32 n = threadIdx.x; n < ROWS * ROW_PIECES; n += THREADS) {
      const u32 r = n / ROW_PIECES, piece = n % ROW_PIECES;
      const act* from = q + (u64)min(r, count - 1) * WIDTH + piece * 8;
      copy_async(shared + r * ROW_PITCH + piece * 16, from, r < count);
    }
  }

  // Start copying a tile; keys at `end` and beyond become zeros.
  __device__ void fetch(const PagedLatent& c, const u32* places, u32 first, u32 end, u32 stage) {
    const u8* pool = reinterpret_cast<const u8*>(c.pool);
    for (u32 n = threadIdx.x; n < LATENT_KEYS * ROW_PIECES; n += THREADS) {
      const u32 key = n / ROW_PIECES, piece = n % ROW_PIECES;
      copy_async(stage + key * ROW_PITCH + piece * 16, pool + ((u64)places[key] + piece) * 16,
                 first + key < end);
    }
  }

  // Scores of this warp's keys of the tile at `keys`.
  __device__ void scores(u32 keys, float (&s)[NT][4]) {
    const u32 matrix = lane / 8;
    const u32 q = shared + (wm * 16 + matrix % 2 * 8 + lane % 8) * ROW_PITCH + matrix / 2 * 16;
    const u32 own = keys + wn * NT * 8 * ROW_PITCH;
#pragma unroll
    for (u32 n = 0; n < NT; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.f;
    if constexpr (NT == 1) {
      // Two steps of eight keys at a time.
      const u32 start = own + lane % 8 * ROW_PITCH + matrix * 16;
#pragma unroll 6
      for (u32 k = 0; k < WIDTH / 32; k++) {
        u32 first[4], second[4], b[4];
        load_matrices(first, q + k * 64);
        load_matrices(second, q + k * 64 + 32);
        load_matrices(b, start + k * 64);
        multiply(s[0], first, b[0], b[1]);
        multiply(s[0], second, b[2], b[3]);
      }
    } else {
      const u32 start = own + (matrix / 2 * 8 + lane % 8) * ROW_PITCH + matrix % 2 * 16;
#pragma unroll 6
      for (u32 k = 0; k < WIDTH / 16; k++) {
        u32 a[4];
        load_matrices(a, q + k * 32);
#pragma unroll
        for (u32 n = 0; n < NT; n += 2) {
          u32 b[4];
          load_matrices(b, start + n * 8 * ROW_PITCH + k * 32);
          multiply(s[n], a, b[0], b[1]);
          multiply(s[n + 1], a, b[2], b[3]);
        }
      }
    }
  }

  // Base 2, masked; each row's maximum over this warp's keys goes to shared memory.
  __device__ void mask(const PagedLatent& c, u32 first, u32 end, float (&s)[NT][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float peak = LOWEST;
#pragma unroll
      for (u32 n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          const u32 key = first + (wn * NT + n) * 8 + lane % 4 * 2 + i % 2;
          const bool seen = key < end && key <= at[half];
          s[n][i] = seen ? s[n][i] * c.scale * LOG2E : -INFINITY;
          peak = fmaxf(peak, s[n][i]);
        }
      }
      peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
      peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
      if (lane % 4 == 0) maxima(wn)[row(half)] = peak;
    }
  }

  // One step of the online softmax: weights to shared memory.
  __device__ void weigh(float (&s)[NT][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = row(half);
      float peak = row_max[half];
#pragma unroll
      for (u32 w = 0; w < WN; w++) peak = fmaxf(peak, maxima(w)[r]);
      if (__any_sync(~0u, peak > row_max[half])) {
        const float shrink = exp2_fast(row_max[half] - peak);
        row_max[half] = peak;
        row_sum[half] *= shrink;
#pragma unroll
        for (u32 t = 0; t < DT; t++) {
          o[t][2 * half] *= shrink;
          o[t][2 * half + 1] *= shrink;
        }
      }
#pragma unroll
      for (u32 n = 0; n < NT; n++) {
        const float low = exp2_fast(s[n][2 * half] - peak);
        const float high = exp2_fast(s[n][2 * half + 1] - peak);
        row_sum[half] += low + high;
        const u32 to = WEIGHTS_AT + r * WEIGHT_PITCH + ((wn * NT + n) * 8 + lane % 4 * 2) * 2;
        *reinterpret_cast<u32*>(dynamic_shared + to) = pack(low, high);
      }
    }
  }

  // o += weights * V of all keys of the tile, this warp's columns.
  __device__ void gather_values(u32 keys) {
    const u32 matrix = lane / 8;
    const u32 rows = wm * 16 + matrix % 2 * 8 + lane % 8;
    const u32 weights = shared + WEIGHTS_AT + rows * WEIGHT_PITCH + matrix / 2 * 16;
    const u32 start = keys + (matrix % 2 * 8 + lane % 8) * ROW_PITCH + matrix / 2 * 16 +
                      wn * DT * 16;
#pragma unroll
    for (u32 k = 0; k < LATENT_KEYS / 16; k++) {
      u32 p[4];
      load_matrices(p, weights + k * 32);
#pragma unroll
      for (u32 t = 0; t < DT; t += 2) {
        u32 b[4];
        load_transposed(b, start + k * 16 * ROW_PITCH + t * 16);
        multiply(o[t], p, b[0], b[1]);
        multiply(o[t + 1], p, b[2], b[3]);
      }
    }
  }

  // Where a key lies, in units of 16 bytes; keys beyond the range are the last one again.
  __device__ static u32 locate(const PagedLatent& c, const u32* table, u32 first, u32 end) {
    const u32 key = min(first + threadIdx.x % LATENT_KEYS, end - 1);
    return (table[key / c.page_size] * c.page_size + key % c.page_size) * ROW_PIECES;
  }

  __device__ void run(const PagedLatent& c, const WorkItem* item, u32 count) {
    // Tile t is copied to stage t % 2, from the places in row t % 2.
    __shared__ u32 places[2][LATENT_KEYS];
    const u32* table = row_of(c.slots, item->slot) + c.slots.pages;
    const u32 from = item->keys_from, to = item->keys_to;
    const u32 tiles = (to - from + LATENT_KEYS - 1) / LATENT_KEYS;
    begin_item(c, item, count);
#pragma unroll
    for (u32 t = 0; t < 2; t++) {
      const u32 place = t < tiles ? locate(c, table, from + t * LATENT_KEYS, to) : 0;
      if (threadIdx.x < LATENT_KEYS) places[t][threadIdx.x] = place;
    }
    __syncthreads();
    fetch(c, places[0], from, to, shared + KEYS_AT);
    commit();
    for (u32 t = 0; t < tiles; t++) {
      const u32 first = from + t * LATENT_KEYS, keys = shared + KEYS_AT + t % 2 * STAGE;
      const u32 next = shared + KEYS_AT + (t + 1) % 2 * STAGE;
      wait<0>();
      // All have the tile, and all are done with the stage that is filled next.
      __syncthreads();
      if (t + 1 < tiles) fetch(c, places[(t + 1) % 2], first + LATENT_KEYS, to, next);
      commit();
      u32 place = 0;
      const bool look = t + 2 < tiles && threadIdx.x < LATENT_KEYS;
      if (look) place = locate(c, table, first + 2 * LATENT_KEYS, to);

      float s[NT][4];
      scores(keys, s);
      mask(c, first, to, s);
      __syncthreads();
      weigh(s);
      __syncthreads();
      gather_values(keys);
      if (look) places[t % 2][threadIdx.x] = place;
    }
    sum_rows();
  }

  // Each row's weights lie with four threads of each of its warps; all have the same maximum.
  __device__ void sum_rows() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 1);
      row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 2);
      if (lane % 4 == 0) sums(wn)[row(half)] = row_sum[half];
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      row_sum[half] = 0.f;
#pragma unroll
      for (u32 w = 0; w < WN; w++) row_sum[half] += sums(w)[row(half)];
    }
  }

  // The output, or a part of it.
  __device__ void write(const PagedLatent& c, const WorkItem* item, u32 count) {
    const bool whole = item->part == NO_PART;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = row(half), column = wn * DT * 8 + lane % 4 * 2;
      if (r >= count) continue;
      if (whole) {
        act* to = c.out + ((u64)item->first_row * c.heads + item->begin + r) * RANK + column;
        const float scale = 1.f / row_sum[half];
#pragma unroll
        for (u32 t = 0; t < DT; t++)
          *reinterpret_cast<u32*>(to + t * 8) =
              pack_act(o[t][2 * half] * scale, o[t][2 * half + 1] * scale);
      } else {
        const u64 part = (u64)(item->part + item->piece) * ROWS + r;
        float* to = c.parts + part * RANK + column;
#pragma unroll
        for (u32 t = 0; t < DT; t++)
          *reinterpret_cast<float2*>(to + t * 8) =
              make_float2(o[t][2 * half], o[t][2 * half + 1]);
        if (wn == 0 && lane % 4 == 0)
          c.statistics[part] = make_float2(row_max[half], row_sum[half]);
      }
    }
  }

  // Join the parts of the packed rows of one sequence: a warp per row.
  __device__ static void join(const PagedLatent& c, const WorkItem* item, u32 count) {
    constexpr u32 PER_LANE = RANK / 32;
    const u32 lane = threadIdx.x % 32, parts = item->pieces;
    for (u32 r = threadIdx.x / 32; r < count; r += THREADS / 32) {
      const u64 first = (u64)item->part * ROWS + r;
      float peak = LOWEST, all = 0.f, sum[PER_LANE] = {};
      for (u32 p = 0; p < parts; p++) peak = fmaxf(peak, far(c.statistics + first + p * ROWS).x);
#pragma unroll 4
      for (u32 p = 0; p < parts; p++) {
        const float2 statistics = far(c.statistics + first + p * ROWS);
        const float share = exp2_fast(statistics.x - peak);
        const float* part = c.parts + (first + p * ROWS) * RANK;
        all += statistics.y * share;
#pragma unroll
        for (u32 i = 0; i < PER_LANE; i++) sum[i] += far(part + i * 32 + lane) * share;
      }
      act* to = c.out + ((u64)item->first_row * c.heads + item->begin + r) * RANK;
#pragma unroll
      for (u32 i = 0; i < PER_LANE; i++) to[i * 32 + lane] = from_f32<act>(sum[i] / all);
    }
  }
};

// True for the block that finishes the last part of its rows: it sees what the others wrote.
__device__ __forceinline__ bool last_of_latent(const PagedLatent& c, const WorkItem* item) {
  __shared__ bool last;
  if (item->part == NO_PART) return false;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    u32* arrivals = c.arrivals + item->part;
    last = atomicAdd(arrivals, 1) + 1 == item->pieces;
    if (last) *arrivals = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

template <int WM, int WN>
__device__ __forceinline__ void latent_chunk(const PagedLatent& call) {
  const WorkItem* item = call.items + blockIdx.x;
  LatentTile<WM, WN> t;
  t.run(call, item, item->count);
  t.write(call, item, item->count);
}

// A block's first item has the block's number; an empty one means that there is none.
template <int WM, int WN>
__device__ __forceinline__ void latent_split(const PagedLatent& call) {
  for (u32 i = blockIdx.x, next = 0;; i = next) {
    const WorkItem* item = call.items + i;
    const u32 word = item->count, count = word % NEXT_ITEM;
    next = word / NEXT_ITEM;
    if (count == 0) return;
    LatentTile<WM, WN> t;
    t.run(call, item, count);
    t.write(call, item, count);
    if (last_of_latent(call, item)) t.join(call, item, count);
    if (next == 0) return;
    __syncthreads();
  }
}
#define BODY(NAME, WM, WN) NAME<WM, WN>(call)
#else
#define BODY(NAME, WM, WN) (void)call
#endif

// f32 has no code here: the device never launches these for it.
#define LATENT_ENTRY(NAME, ROWS, WM, WN, THREADS, BLOCKS) \
  __global__ void __launch_bounds__(THREADS, BLOCKS)      \
      NAME##_##ROWS(const PagedLatent call) {             \
    begin();                                              \
    BODY(NAME, WM, WN);                                   \
  }

LATENT_ENTRY(latent_chunk, 16, 1, 4, LATENT_FEW_THREADS, 2)
LATENT_ENTRY(latent_chunk, 64, 4, 2, LATENT_MANY_THREADS, 1)
LATENT_ENTRY(latent_split, 16, 1, 4, LATENT_FEW_THREADS, 2)
LATENT_ENTRY(latent_split, 64, 4, 2, LATENT_MANY_THREADS, 1)

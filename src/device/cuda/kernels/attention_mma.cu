// Paged causal attention on tensor cores, for half types and head sizes 64, 80, 96, 128, 256. Any
// page size, window and soft cap; any mix of chunks and single rows, by a work list that the host
// lays into the step's input (worklist.rs). f32, and other head sizes, go to attention.cu.
//
// The q heads of a KV head are packed into the rows of a tile: packed row r of a sequence is token
// r / group, head r % group, so K and V are read once per group. Warps multiply by mma m16n8k16
// over tiles of 64 keys (K and V, padded rows: no bank conflicts for ldmatrix), which come by
// cp.async into a ring of stages; one barrier a tile. Where a key lies is looked up one tile ahead
// of its copy, by one thread a key, so that no copy waits for the page table. S stays in registers
// and is repacked as the operand of P V.
//
//   chunk  eight warps x 16 packed rows, all 64 keys each: 128 rows share a tile of keys. Prompts.
//   split  16 packed rows, four warps, each 16 of the 64 keys, merged in shared memory: single
//          tokens. The host deals all their keys to as many blocks as the card holds at once; a
//          block walks over its items, and the last to finish some rows joins their parts.
//
// Shared memory: a stage is 2 x 64 x (dim + 8) x 2 bytes, 34 KiB at 128. split has two stages, so
// that three blocks fit a Hopper SM and their tiles in flight (100 KiB) cover the latency of HBM;
// chunk has three where they fit. Bytes: split reads K and V once per KV head (the floor), chunk
// once per 128 packed rows from L2. FLOPs: 4 x rows x keys x dim, half of it masked away in the
// diagonal tiles. Bound of chunk: each warp reads all of a tile from shared memory, 2048 clocks per
// 128 x 64 x 128 tile at 128 bytes a clock. Where there is wgmma, whose operands need no such
// reads, attention_prefill_sm90.cu has the chunks.
#include "attention_mma.cuh"

#define KEYS TILE_KEYS

#if ACT != 0
// WM warps along packed rows, WN along keys.
template <int D, int WM, int WN>
struct Tile {
  static constexpr int THREADS = 32 * WM * WN;
  static constexpr int PAD = D + TILE_PADDING;             // elements of a row in shared memory
  static constexpr int STAGE = 2 * KEYS * PAD;  // K, then V
  static constexpr int STEPS = D / 16;          // of the inner dimension of Q K
  static constexpr int NT = KEYS / WN / 8;      // key tiles of a warp
  static constexpr int DT = D / 8;              // tiles of the head's dimension

  u32 lane, wm, wn;
  u32 q[STEPS][4];
  float o[DT][4];
  float row_max[2], row_sum[2];
  u32 at[2];  // positions of the two packed rows of this thread

  // A thread's two packed rows, relative to the tile.
  __device__ u32 row(int half) const { return wm * 16 + lane / 4 + half * 8; }

  __device__ void load_q(const PagedAttention& c, const WorkItem* item, u32 count, u32 kv,
                         u32 group) {
    const u64 width = (u64)(c.heads + 2 * c.kv_heads) * D;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = row(half);
      const bool valid = r < count;
      const u32 packed = item->begin + (valid ? r : 0);
      const u64 token = item->first_row + packed / group;
      at[half] = c.position[token];
      const act* from =
          c.qkv + token * width + (u64)(kv * group + packed % group) * D + lane % 4 * 2;
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        q[s][half] = valid ? *reinterpret_cast<const u32*>(from + s * 16) : 0;
        q[s][2 + half] = valid ? *reinterpret_cast<const u32*>(from + s * 16 + 8) : 0;
      }
    }
#pragma unroll
    for (int t = 0; t < DT; t++) o[t][0] = o[t][1] = o[t][2] = o[t][3] = 0.f;
    row_max[0] = row_max[1] = LOWEST;
    row_sum[0] = row_sum[1] = 0.f;
  }

  // Where the K of a key of this block's head lies, in units of 16 bytes from the pool's start. The
  // thread of key `first + threadIdx.x` gets it; keys beyond the range are the last one again.
  __device__ static u32 locate(const PagedAttention& c, const u32* table, u32 kv, u32 first,
                               u32 end) {
    const u32 key = min(first + threadIdx.x % KEYS, end - 1);
    const u32 inside = kv * c.page_size + key % c.page_size;
    return (2 * c.kv_heads * c.page_size * table[key / c.page_size] + inside) * (D / 8);
  }

  // Start copying a tile; keys at `end` and beyond become zeros. Neighbours in a row are neighbours
  // in a warp.
  __device__ static void fetch(const PagedAttention& c, const u32* places, u32 first, u32 end,
                               act* stage) {
    const u64 slab = (u64)c.kv_heads * c.page_size * D;
    constexpr int PIECES = KEYS * (D / 8);
#pragma unroll
    for (int i = 0; i < (PIECES + THREADS - 1) / THREADS; i++) {
      const u32 n = i * THREADS + threadIdx.x, row = n / (D / 8), chunk = n % (D / 8);
      if (PIECES % THREADS != 0 && n >= PIECES) break;
      const act* from = c.pool + ((u64)places[row] + chunk) * 8;
      const u32 to = shared_address(stage + row * PAD + chunk * 8);
      const bool valid = first + row < end;
      copy_async(to, from, valid);
      copy_async(to + KEYS * PAD * 2, from + slab, valid);
    }
  }

  // Scores of this warp's keys, base 2, masked. The tile starts at key `first`, the range stops at
  // `end`.
  __device__ void scores(const PagedAttention& c, const act* keys, u32 first, u32 end, bool mask,
                         float (&s)[NT][4]) {
#pragma unroll
    for (int n = 0; n < NT; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.f;
    const u32 matrix = lane / 8;
    const u32 start = shared_address(keys + (wn * (KEYS / WN) + matrix / 2 * 8 + lane % 8) * PAD +
                                     matrix % 2 * 8);
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
      for (int n = 0; n < NT; n += 2) {
        u32 b[4];
        load_matrices(b, start + (n * 8 * PAD + k * 16) * 2);
        multiply(s[n], q[k], b[0], b[1]);
        multiply(s[n + 1], q[k], b[2], b[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float x = s[n][i] * c.scale;
        if (c.softcap != 0.f) x = c.softcap * tanhf(x / c.softcap);
        s[n][i] = x * LOG2E;
        if (mask) {
          const u32 key = first + wn * (KEYS / WN) + n * 8 + lane % 4 * 2 + i % 2, mine = at[i / 2];
          const bool seen = key < end && key <= mine && (c.window == 0 || mine - key < c.window);
          if (!seen) s[n][i] = -INFINITY;
        }
      }
    }
  }

  // One step of the online softmax; scores become weights.
  __device__ void online_softmax(float (&s)[NT][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float peak = row_max[half];
#pragma unroll
      for (int n = 0; n < NT; n++) peak = fmaxf(peak, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
      peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
      const float shrink = exp2f(row_max[half] - peak);
      row_max[half] = peak;
      row_sum[half] *= shrink;
#pragma unroll
      for (int t = 0; t < DT; t++) {
        o[t][2 * half] *= shrink;
        o[t][2 * half + 1] *= shrink;
      }
#pragma unroll
      for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          s[n][i] = exp2f(s[n][i] - peak);
          row_sum[half] += s[n][i];
        }
      }
    }
  }

  // o += weights * V of this warp's keys.
  __device__ void gather_values(const act* values, const float (&s)[NT][4]) {
    const u32 matrix = lane / 8;
    const u32 start = shared_address(values + (wn * (KEYS / WN) + matrix % 2 * 8 + lane % 8) * PAD +
                                     matrix / 2 * 8);
#pragma unroll
    for (int n = 0; n < NT; n += 2) {
      const u32 p[4] = {pack(s[n][0], s[n][1]), pack(s[n][2], s[n][3]),
                        pack(s[n + 1][0], s[n + 1][1]), pack(s[n + 1][2], s[n + 1][3])};
#pragma unroll
      for (int t = 0; t < DT; t += 2) {
        u32 b[4];
        load_transposed(b, start + (n * 8 * PAD + t * 8) * 2);
        multiply(o[t], p, b[0], b[1]);
        multiply(o[t + 1], p, b[2], b[3]);
      }
    }
  }

  __device__ void run(const PagedAttention& c, const WorkItem* item, u32 count, u32 stages,
                      act* shared) {
    lane = threadIdx.x % 32;
    wm = threadIdx.x / 32 % WM;
    wn = threadIdx.x / 32 / WM;
    const u32 kv = blockIdx.y, group = c.heads / c.kv_heads;
    const u32* table = row_of(c.slots, item->slot) + c.slots.pages;
    load_q(c, item, count, kv, group);
    // Positions grow with the packed row: the first sees the fewest keys.
    const u32 lowest = c.position[item->first_row + item->begin / group];
    u32 from = item->keys_from;
    const u32 to = item->keys_to;
    if (c.window != 0 && lowest + 1 > c.window) from = max(from, lowest + 1 - c.window);
    const u32 tiles = from < to ? (to - from + KEYS - 1) / KEYS : 0;
    // Tile t is copied to stage t % stages, from the places in row t % 2.
    __shared__ u32 places[2][KEYS];
    for (u32 t = 0; t + 1 < stages && t < tiles; t++) {
      const u32 place = locate(c, table, kv, from + t * KEYS, to);
      if (threadIdx.x < KEYS) places[t][threadIdx.x] = place;
    }
    __syncthreads();
    for (u32 t = 0; t + 1 < stages; t++) {
      if (t < tiles) fetch(c, places[t], from + t * KEYS, to, shared + t * STAGE);
      commit();
    }
    __syncthreads();
    u32 ahead = stages - 1;
    if (ahead < tiles && threadIdx.x < KEYS)
      places[ahead % 2][threadIdx.x] = locate(c, table, kv, from + ahead * KEYS, to);
    for (u32 t = 0; t < tiles; t++, ahead++) {
      if (stages == 3) wait<1>();
      else wait<0>();
      // All have the tile, and all are done with the stage that is filled next.
      __syncthreads();
      if (ahead < tiles)
        fetch(c, places[ahead % 2], from + ahead * KEYS, to, shared + ahead % stages * STAGE);
      commit();
      u32 place = 0;
      const bool look = ahead + 1 < tiles && threadIdx.x < KEYS;
      if (look) place = locate(c, table, kv, from + (ahead + 1) * KEYS, to);
      const u32 first = from + t * KEYS;
      const act* keys = shared + t % stages * STAGE;
      const bool mask = first + KEYS > min(lowest + 1, to) || c.window != 0;
      float s[NT][4];
      scores(c, keys, first, to, mask, s);
      online_softmax(s);
      gather_values(keys + KEYS * PAD, s);
      if (look) places[(ahead + 1) % 2][threadIdx.x] = place;
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 1);
      row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 2);
    }
  }

  // Each warp owns its rows.
  __device__ void write(const PagedAttention& c, const WorkItem* item) {
    const u32 kv = blockIdx.y, group = c.heads / c.kv_heads;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = row(half);
      if (r >= item->count) continue;
      const u32 packed = item->begin + r;
      const u64 token = item->first_row + packed / group;
      act* to = c.out + (token * c.heads + kv * group + packed % group) * D + lane % 4 * 2;
      const float scale = 1.f / row_sum[half];
#pragma unroll
      for (int t = 0; t < DT; t++)
        *reinterpret_cast<u32*>(to + t * 8) =
            pack(o[t][2 * half] * scale, o[t][2 * half + 1] * scale);
    }
  }

  // The warps have the same rows and different keys: merge, then write the output or a part of it.
  __device__ void merge(const PagedAttention& c, const WorkItem* item, u32 count, float* shared) {
    constexpr int ROW = D + 4;
    float* sums = shared;                          // [WN][16][ROW]
    float* row_maxima = shared + WN * SPLIT_ROWS * ROW;  // [WN][16]
    float* row_sums = row_maxima + WN * SPLIT_ROWS;
    const u32 kv = blockIdx.y, group = c.heads / c.kv_heads;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = wn * SPLIT_ROWS + row(half);
#pragma unroll
      for (int t = 0; t < DT; t++) {
        sums[r * ROW + t * 8 + lane % 4 * 2] = o[t][2 * half];
        sums[r * ROW + t * 8 + lane % 4 * 2 + 1] = o[t][2 * half + 1];
      }
      if (lane % 4 == 0) {
        row_maxima[r] = row_max[half];
        row_sums[r] = row_sum[half];
      }
    }
    __syncthreads();
    for (u32 n = threadIdx.x; n < count * D; n += blockDim.x) {
      const u32 r = n / D, d = n % D;
      float peak = LOWEST, all = 0.f, sum = 0.f;
#pragma unroll
      for (int w = 0; w < WN; w++) peak = fmaxf(peak, row_maxima[w * SPLIT_ROWS + r]);
#pragma unroll
      for (int w = 0; w < WN; w++) {
        const float share = exp2f(row_maxima[w * SPLIT_ROWS + r] - peak);
        all += row_sums[w * SPLIT_ROWS + r] * share;
        sum += sums[(w * SPLIT_ROWS + r) * ROW + d] * share;
      }
      if (item->part == NO_PART) {
        const u32 packed = item->begin + r;
        const u64 token = item->first_row + packed / group;
        c.out[(token * c.heads + kv * group + packed % group) * D + d] = from_f32<act>(sum / all);
      } else {
        const u32 piece = item->piece;
        const u64 part = ((u64)(item->part + piece) * c.kv_heads + kv) * SPLIT_ROWS + r;
        c.parts[part * D + d] = sum;
        if (d == 0) c.statistics[part] = make_float2(peak, all);
      }
    }
  }
};

// What other blocks wrote: from L2, where this multiprocessor's L1 cannot be stale.
__device__ __forceinline__ float far(const float* p) {
  float x;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(p) : "memory");
  return x;
}
__device__ __forceinline__ float2 far(const float2* p) {
  float2 x;
  asm volatile("ld.global.cg.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(p) : "memory");
  return x;
}

// True for the block that finishes the last part of its rows: it sees what the others wrote.
__device__ __forceinline__ bool last_to_arrive(const PagedAttention& c, const WorkItem* item) {
  __shared__ bool last;
  if (item->part == NO_PART) return false;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    u32* arrivals = c.arrivals + item->part * c.kv_heads + blockIdx.y;
    last = atomicAdd(arrivals, 1) + 1 == item->pieces;
    if (last) *arrivals = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

// Join the parts of the packed rows of one sequence and KV head: a warp per row. First the weights
// of all parts, a lane each, then the sums, whose loads depend on nothing and overlap.
template <int D>
__device__ void join(const PagedAttention& c, const WorkItem* item, u32 count) {
  constexpr int PER_LANE = (D + 31) / 32;
  const u32 kv = blockIdx.y, group = c.heads / c.kv_heads, lane = threadIdx.x % 32;
  const u32 parts = item->pieces;
  for (u32 r = threadIdx.x / 32; r < count; r += blockDim.x / 32) {
    const u64 first = ((u64)item->part * c.kv_heads + kv) * SPLIT_ROWS + r;
    const u64 step = (u64)c.kv_heads * SPLIT_ROWS;
    float peak = LOWEST, all = 0.f;
    for (u32 p = lane; p < parts; p += 32)
      peak = fmaxf(peak, far(c.statistics + first + p * step).x);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, d));
    for (u32 p = lane; p < parts; p += 32) {
      const float2 s = far(c.statistics + first + p * step);
      all += s.y * exp2f(s.x - peak);
    }
    all = warp_sum(all);
    float sum[PER_LANE] = {};
#pragma unroll 8
    for (u32 p = 0; p < parts; p++) {
      const float share = exp2f(far(c.statistics + first + p * step).x - peak);
      const float* part = c.parts + (first + p * step) * D;
#pragma unroll
      for (int i = 0; i < PER_LANE; i++)
        if (D % 32 == 0 || i * 32 + lane < D) sum[i] += far(part + i * 32 + lane) * share;
    }
    const u32 packed = item->begin + r;
    const u64 token = item->first_row + packed / group;
    act* to = c.out + (token * c.heads + kv * group + packed % group) * D;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
      if (D % 32 == 0 || i * 32 + lane < D) to[i * 32 + lane] = from_f32<act>(sum[i] / all);
  }
}
#endif  // ACT != 0

// f32 has no code here: the device never launches these for it.
#if ACT != 0
#define CHUNK(D)                                                                       \
  const WorkItem* item = call.items + blockIdx.x;                                      \
  Tile<D, 8, 1> t;                                                                     \
  t.run(call, item, item->count, call.stages, reinterpret_cast<act*>(dynamic_shared)); \
  t.write(call, item)
// A block's first item has the block's number; an empty one means that there is none.
#define SPLIT(D)                                                                   \
  for (u32 i = blockIdx.x, next = 0;; i = next) {                                  \
    const WorkItem* item = call.items + i;                                         \
    const u32 word = item->count, count = word % NEXT_ITEM;                        \
    next = word / NEXT_ITEM;                                                       \
    if (count == 0) return;                                                        \
    Tile<D, 1, 4> t;                                                               \
    t.run(call, item, count, call.stages, reinterpret_cast<act*>(dynamic_shared)); \
    t.merge(call, item, count, reinterpret_cast<float*>(dynamic_shared));          \
    if (last_to_arrive(call, item)) join<D>(call, item, count);                    \
    if (next == 0) return;                                                         \
    __syncthreads();                                                               \
  }
#else
#define CHUNK(D) (void)call
#define SPLIT(D) (void)call
#endif

#define HEAD_SIZE(D, BLOCKS)               \
  ENTRY(chunk, CHUNK, D, CHUNK_THREADS, 1) \
  ENTRY(split, SPLIT, D, SPLIT_THREADS, BLOCKS)

HEAD_SIZE(64, 3)
HEAD_SIZE(80, 3)
HEAD_SIZE(96, 3)
HEAD_SIZE(128, 3)
HEAD_SIZE(256, 1)

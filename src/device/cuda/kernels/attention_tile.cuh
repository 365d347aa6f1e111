// A tile of packed rows against a range of keys by mma m16n8k16: q in registers, scores, the online
// softmax, sums of weights and values, and what becomes of them. What lies in pages, how a tile of
// it lies in shared memory and how it becomes an operand is `Pages`' business:
//
//   PIECES             16-byte pieces of a key's K, or V, in the pool
//   BYTES, STAGE       of a tile's K, or V, in shared memory; of both
//   at(key, piece)     where in there a piece lies
//   offset, column     which elements of a head a thread's fragments of q and of the result hold
//   multiply_keys      s += q K of some keys
//   multiply_values    o += weights V of some keys
//   UNIT               what their numbers are to be multiplied with
//   OWN_SCALE          rows of q are brought to a size of their own
//
// attention_mma.cu has the plan of it all, attention_fp8.cu the pages of eight bits.
#pragma once
#include "attention_parts.cuh"

#define KEYS TILE_KEYS

#if ACT != 0
// K and V as operands in shared memory: elements of 16 bits, rows padded so that ldmatrix has no
// conflicts.
template <int D>
struct OperandTile {
  static constexpr u32 PITCH = (D + TILE_PADDING) * 2;
  static constexpr u32 BYTES = KEYS * PITCH;
  static constexpr u32 STAGE = 2 * BYTES;

  static __device__ u32 at(u32 key, u32 piece) { return key * PITCH + piece * 16; }
  // Of the first of the two elements that register `high` of step `step` holds.
  static __device__ u32 offset(u32 lane, u32 step, u32 high) {
    return step * 16 + high * 8 + lane % 4 * 2;
  }
  // Of element i of a row of tile t of the result.
  static __device__ u32 column(u32 lane, u32 t, u32 i) { return t * 8 + lane % 4 * 2 + i; }

  // Keys from `row` on of the K at `keys`.
  template <int NT>
  static __device__ void multiply_keys(u32 keys, u32 row, u32 lane, const u32 (&q)[D / 16][4],
                                       float (&s)[NT][4]) {
    const u32 matrix = lane / 8;
    const u32 start = keys + (row + matrix / 2 * 8 + lane % 8) * PITCH + matrix % 2 * 16;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
#pragma unroll
      for (int n = 0; n < NT; n += 2) {
        u32 b[4];
        load_matrices(b, start + n * 8 * PITCH + k * 32);
        multiply(s[n], q[k], b[0], b[1]);
        multiply(s[n + 1], q[k], b[2], b[3]);
      }
    }
  }

  // The V at `values` of keys from `row` on, weights p of 16 keys each.
  template <int KT>
  static __device__ void multiply_values(u32 values, u32 row, u32 lane, const u32 (&p)[KT][4],
                                         float (&o)[D / 8][4]) {
    const u32 matrix = lane / 8;
    const u32 start = values + (row + matrix % 2 * 8 + lane % 8) * PITCH + matrix / 2 * 16;
#pragma unroll
    for (int k = 0; k < KT; k++) {
#pragma unroll
      for (int t = 0; t < D / 8; t += 2) {
        u32 b[4];
        load_transposed(b, start + k * 16 * PITCH + t * 16);
        multiply(o[t], p[k], b[0], b[1]);
        multiply(o[t + 1], p[k], b[2], b[3]);
      }
    }
  }
};

// The keys of an item that its rows see.
struct KeyRange {
  u32 from, to, tiles;
  u32 least;  // Where the keys end that the first row sees: the others see as many.
  u32 fresh;   // Keys from here on are this step's: of the sequence's rows before the tile, too.

  __device__ KeyRange(const PagedAttention& c, const WorkItem* item) {
    const SeenKeys first(c, item->first_row + item->begin / (c.heads / c.kv_heads));
    least = first.to;
    fresh = c.position[item->first_row];
    from = item->keys_from;
    to = item->keys_to;
    // Else nothing that is read by way of `from` waits for the position.
    if (c.window || c.chunk) from = max(from, first.from);
    tiles = from < to ? (to - from + KEYS - 1) / KEYS : 0;
  }
  // Whether a row may not see all of the tile that starts at this key.
  __device__ bool masked(const PagedAttention& c, u32 first) const {
    return first + KEYS > min(least, to) || (c.window | c.chunk) != 0;
  }
};

// Where the K of a key of this block's head lies, in units of 16 bytes from the pool's start. The
// thread of key `first + threadIdx.x` gets it; keys beyond the range are the last one again.
template <int PIECES>
__device__ __forceinline__ u32 locate(const PagedAttention& c, const u32* table, u32 first,
                                      u32 end) {
  const u32 key = min(first + threadIdx.x % KEYS, end - 1);
  const u32 inside = KV_HEAD * c.page_size + key % c.page_size;
  return (2 * c.kv_heads * c.page_size * table[key / c.page_size] + inside) * PIECES;
}

// Bytes from a key's K to its V in the pool.
template <int PIECES>
__device__ __forceinline__ u64 key_to_value(const PagedAttention& c) {
  return (u64)c.kv_heads * c.page_size * (16 * PIECES);
}

// WM warps along packed rows, WN along keys.
template <class Pages, int D, int WM, int WN>
struct Tile {
  static constexpr int THREADS = 32 * WM * WN;
  static constexpr int STEPS = D / 16;          // of the inner dimension of Q K
  static constexpr int NT = KEYS / WN / 8;      // key tiles of a warp
  static constexpr int DT = D / 8;              // tiles of the head's dimension
  static constexpr int PIECES = Pages::PIECES;

  u32 lane, wm, wn;
  u32 q[STEPS][4];
  float o[DT][4];
  float row_max[2], row_sum[2];
  float own_scale[2];
  u32 sees[2], seen_to[2];  // the keys that the two packed rows of this thread see

  // A thread's two packed rows, relative to the tile.
  __device__ u32 row(int half) const { return wm * 16 + lane / 4 + half * 8; }

  __device__ void begin_item(const PagedAttention& c, const WorkItem* item, u32 count) {
    place_warp();
    load_q(c, item, count);
    clear();
  }

  __device__ void place_warp() {
    lane = threadIdx.x % 32;
    wm = threadIdx.x / 32 % WM;
    wn = threadIdx.x / 32 / WM;
  }

  __device__ void clear() {
#pragma unroll
    for (int t = 0; t < DT; t++) o[t][0] = o[t][1] = o[t][2] = o[t][3] = 0.f;
    row_max[0] = row_max[1] = LOWEST;
    row_sum[0] = row_sum[1] = 0.f;
  }

  __device__ void load_q(const PagedAttention& c, const WorkItem* item, u32 count) {
    load_rows(c, item->begin, count, [&](u32 n) { return item->first_row + n; });
  }

  // `count` packed rows from `begin` on of the tokens whose rows `row_of_token` says.
  template <class Tokens>
  __device__ void load_rows(const PagedAttention& c, u32 begin, u32 count,
                            const Tokens& row_of_token) {
    const u64 width = c.row_width;
    const u32 kv = KV_HEAD, group = c.heads / c.kv_heads;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = row(half);
      const bool valid = r < count;
      const u32 packed = begin + (valid ? r : 0);
      const u64 token = row_of_token(packed / group);
      const SeenKeys keys(c, token);
      sees[half] = keys.from;
      seen_to[half] = keys.to;
      const act* from = c.qkv + token * width + (u64)(kv * group + packed % group) * D;
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
#pragma unroll
        for (int high = 0; high < 2; high++) {
          const act* pair = from + Pages::offset(lane, s, high);
          q[s][2 * high + half] = valid ? *reinterpret_cast<const u32*>(pair) : 0;
        }
      }
      if constexpr (Pages::OWN_SCALE) own_scale[half] = c.scale * Pages::UNIT * divide_q(half);
    }
  }

  // Operands of f16 out of q; what gives back the size of the row.
  __device__ float divide_q(int half) {
#if defined(F16_OPERANDS) && ACT == 2
    u32 top = 0;
#pragma unroll
    for (int s = 0; s < STEPS; s++) top = larger(larger(top, q[s][half]), q[s][2 + half]);
    top = max(top, __shfl_xor_sync(~0u, top, 1));
    top = max(top, __shfl_xor_sync(~0u, top, 2));
    const RowUnit unit(top);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      q[s][half] = unit.divide(q[s][half]);
      q[s][2 + half] = unit.divide(q[s][2 + half]);
    }
    return unit.factor;
#else
    return 1.f;
#endif
  }

  __device__ float scale(const PagedAttention& c, int half) const {
    if constexpr (Pages::OWN_SCALE) return own_scale[half];
    else return c.scale;
  }

  // Start copying a tile; keys at `end` and beyond become zeros. Neighbours in a row are neighbours
  // in a warp.
  __device__ static void fetch(const PagedAttention& c, const u32* places, u32 first, u32 end,
                               u32 stage) {
    const u8* pool = reinterpret_cast<const u8*>(c.pool);
    const u64 slab = key_to_value<PIECES>(c);
    constexpr int ALL = KEYS * PIECES;
    // Pieces of a thread that lie whole eights of keys apart go to places a constant apart.
    constexpr bool EVEN = THREADS % (8 * PIECES) == 0;
    constexpr u32 APART = THREADS / PIECES * Pages::PITCH;
    const u32 first_to = stage + Pages::at(threadIdx.x / PIECES, threadIdx.x % PIECES);
#pragma unroll
    for (int i = 0; i < (ALL + THREADS - 1) / THREADS; i++) {
      const u32 n = i * THREADS + threadIdx.x, key = n / PIECES, piece = n % PIECES;
      if (ALL % THREADS != 0 && n >= ALL) break;
      const u8* from = pool + ((u64)places[key] + piece) * 16;
      const u32 to = EVEN ? first_to + i * APART : stage + Pages::at(key, piece);
      const bool valid = first + key < end;
      copy_async(to, from, valid);
      copy_async(to + Pages::BYTES, from + slab, valid);
    }
  }

  // Scores of this warp's keys, base 2, masked. The tile starts at key `first`, the range stops at
  // `end`.
  __device__ void scores(const PagedAttention& c, u32 keys, u32 first, u32 end, bool mask,
                         float (&s)[NT][4]) {
#pragma unroll
    for (int n = 0; n < NT; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.f;
    Pages::multiply_keys(keys, wn * (KEYS / WN), lane, q, s);
    finish_scores(c, first, end, mask, s);
  }

  // Products of q and keys become scores.
  __device__ void finish_scores(const PagedAttention& c, u32 first, u32 end, bool mask,
                                float (&s)[NT][4]) {
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float x = s[n][i] * scale(c, i / 2);
        if (c.softcap != 0.f) x = c.softcap * tanh_fast(x / c.softcap);
        s[n][i] = x * LOG2E;
        if (mask) {
          const u32 key = first + wn * (KEYS / WN) + n * 8 + lane % 4 * 2 + i % 2;
          const bool seen = key < end && key < seen_to[i / 2] && key >= sees[i / 2];
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
      // Most tiles have no score above all before: then no sum shrinks.
      if (__any_sync(~0u, peak > row_max[half])) {
        const float shrink = exp2_fast(row_max[half] - peak);
        row_max[half] = peak;
        row_sum[half] *= shrink;
#pragma unroll
        for (int t = 0; t < DT; t++) {
          o[t][2 * half] *= shrink;
          o[t][2 * half + 1] *= shrink;
        }
      }
#pragma unroll
      for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          s[n][i] = exp2_fast(s[n][i] - peak);
          row_sum[half] += s[n][i];
        }
      }
    }
  }

  // o += weights * V of this warp's keys.
  __device__ void gather_values(u32 values, const float (&s)[NT][4]) {
    u32 p[NT / 2][4];
    weights(s, p);
    Pages::multiply_values(values, wn * (KEYS / WN), lane, p, o);
  }

  // As an operand.
  __device__ static void weights(const float (&s)[NT][4], u32 (&p)[NT / 2][4]) {
#pragma unroll
    for (int k = 0; k < NT / 2; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float* pair = &s[2 * k + i / 2][i % 2 * 2];
        p[k][i] = pack(pair[0], pair[1]);
      }
    }
  }

  // A tile whose K and V lie at `stage`.
  __device__ void add_tile(const PagedAttention& c, const KeyRange& range, u32 first, u32 stage) {
    float s[NT][4];
    scores(c, stage, first, range.to, range.masked(c, first), s);
    online_softmax(s);
    gather_values(stage + Pages::BYTES, s);
  }

  // Tiles come as they lie in pages, into a ring of stages. WAITS: the kernel has not yet waited;
  // the first tiles, whose keys earlier steps wrote, come meanwhile.
  template <bool WAITS>
  __device__ void run(const PagedAttention& c, const WorkItem* item, u32 count, u32 stages,
                      u32 shared) {
    const u32* table = row_of(c.slots, item->slot) + c.slots.pages;
    place_warp();
    const KeyRange range(c, item);
    bool waits = WAITS;
    const u32 from = range.from, to = range.to, tiles = range.tiles;
    // Tile t is copied to stage t % stages, from the places in row t % 2.
    __shared__ u32 places[2][KEYS];
    for (u32 t = 0; t + 1 < stages && t < tiles; t++) {
      const u32 place = locate<PIECES>(c, table, from + t * KEYS, to);
      if (threadIdx.x < KEYS) places[t][threadIdx.x] = place;
    }
    __syncthreads();
    for (u32 t = 0; t + 1 < stages; t++) {
      if (waits && min(from + (t + 1) * KEYS, to) > range.fresh) await(), waits = false;
      if (t < tiles) fetch(c, places[t], from + t * KEYS, to, shared + t * Pages::STAGE);
      commit();
    }
    if (waits) await();
    load_q(c, item, count);
    clear();
    __syncthreads();
    u32 ahead = stages - 1;
    if (ahead < tiles && threadIdx.x < KEYS)
      places[ahead % 2][threadIdx.x] = locate<PIECES>(c, table, from + ahead * KEYS, to);
    for (u32 t = 0; t < tiles; t++, ahead++) {
      if (stages == 3) wait<1>();
      else wait<0>();
      // All have the tile, and all are done with the stage that is filled next.
      __syncthreads();
      if (ahead < tiles)
        fetch(c, places[ahead % 2], from + ahead * KEYS, to,
              shared + ahead % stages * Pages::STAGE);
      commit();
      u32 place = 0;
      const bool look = ahead + 1 < tiles && threadIdx.x < KEYS;
      if (look) place = locate<PIECES>(c, table, from + (ahead + 1) * KEYS, to);
      add_tile(c, range, from + t * KEYS, shared + t % stages * Pages::STAGE);
      if (look) places[(ahead + 1) % 2][threadIdx.x] = place;
    }
    __syncthreads();
    sum_rows();
  }

  // Each row's weights lie with four threads.
  __device__ void sum_rows() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 1);
      row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 2);
    }
  }

  // Each warp owns its rows. Pages whose columns are neighbours by twos only.
  __device__ void write(const PagedAttention& c, const WorkItem* item, float value_scale) {
    const u32 kv = KV_HEAD, group = c.heads / c.kv_heads;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = row(half);
      if (r >= item->count) continue;
      const u32 packed = item->begin + r;
      const u64 token = item->first_row + packed / group;
      act* to = c.out + (token * c.heads + kv * group + packed % group) * D;
      const float sink = weight_of_sink(c, kv * group + packed % group, row_max[half]);
      const float scale = value_scale / (row_sum[half] + sink);
#pragma unroll
      for (int t = 0; t < DT; t++)
        *reinterpret_cast<u32*>(to + Pages::column(lane, t, 0)) =
            pack_act(o[t][2 * half] * scale, o[t][2 * half + 1] * scale);
    }
  }

  // The warps have the same rows and different keys: merge, then write the output or a part of it.
  __device__ void merge(const PagedAttention& c, const WorkItem* item, u32 count, float* shared) {
    constexpr int ROW = D + 4;
    float* sums = shared;                          // [WN][16][ROW]
    float* row_maxima = shared + WN * SPLIT_ROWS * ROW;  // [WN][16]
    float* row_sums = row_maxima + WN * SPLIT_ROWS;
    const u32 kv = KV_HEAD, group = c.heads / c.kv_heads;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (row(half) >= count) continue;
      const u32 r = wn * SPLIT_ROWS + row(half);
#pragma unroll
      for (int t = 0; t < DT; t++) {
        sums[r * ROW + Pages::column(lane, t, 0)] = o[t][2 * half];
        sums[r * ROW + Pages::column(lane, t, 1)] = o[t][2 * half + 1];
      }
      if (lane % 4 == 0) {
        row_maxima[r] = row_max[half];
        row_sums[r] = row_sum[half];
      }
    }
    __syncthreads();
    const float value_scale = c.value_scale * Pages::UNIT;
    for (u32 n = threadIdx.x; n < count * D; n += blockDim.x) {
      const u32 r = n / D, d = n % D;
      float peak = LOWEST, all = 0.f, sum = 0.f;
#pragma unroll
      for (int w = 0; w < WN; w++) peak = fmaxf(peak, row_maxima[w * SPLIT_ROWS + r]);
#pragma unroll
      for (int w = 0; w < WN; w++) {
        const float share = exp2_fast(row_maxima[w * SPLIT_ROWS + r] - peak);
        all += row_sums[w * SPLIT_ROWS + r] * share;
        sum += sums[(w * SPLIT_ROWS + r) * ROW + d] * share;
      }
      if (item->part == NO_PART) {
        const u32 packed = item->begin + r;
        const u64 token = item->first_row + packed / group;
        const u32 head = kv * group + packed % group;
        all += weight_of_sink(c, head, peak);
        c.out[(token * c.heads + head) * D + d] = from_f32<act>(sum * value_scale / all);
      } else {
        const u32 piece = item->piece;
        const u64 part = ((u64)(item->part + piece) * c.kv_heads + kv) * SPLIT_ROWS + r;
        c.parts[part * D + d] = sum;
        if (d == 0) c.statistics[part] = make_float2(peak, all);
      }
    }
  }
};

// Single tokens. A block's first item has the block's number; an empty one means that there is
// none. Behind it comes a product. Above its wait it reads what the step's first kernel wrote: work
// lists, positions and page tables; and keys of earlier steps.
template <class Pages, int D>
__device__ __forceinline__ void split(const PagedAttention& call) {
  give_leave();
  bool first = true;
  for (u32 i = FIRST_ITEM, next = 0;; i = next, first = false) {
    const WorkItem* item = call.items + i;
    const u32 word = item->count, count = word % NEXT_ITEM;
    next = word / NEXT_ITEM;
    if (count == 0) {
      // The kernel is not done before the one before it: one block waits at least.
      if (first && FIRST_ITEM == 0) await();
      return;
    }
    Tile<Pages, D, 1, 4> t;
    const u32 shared = shared_address(dynamic_shared);
    if (first) t.template run<true>(call, item, count, call.stages, shared);
    else t.template run<false>(call, item, count, call.stages, shared);
    t.merge(call, item, count, reinterpret_cast<float*>(dynamic_shared));
    if (last_to_arrive<WholeBlock>(call, item))
      join<D>(call, item, count, call.value_scale * Pages::UNIT);
    if (next == 0) return;
    __syncthreads();
  }
}
#endif

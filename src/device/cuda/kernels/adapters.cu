// Low-rank adapters behind a linear: y[r] += B (A x[r]) for the rows whose slot has an adapter; all
// others leave after a load. Which slot a row uses the step's first kernel wrote, so a launch
// depends on the model and the number of rows alone. Adapter slots lie in
// [slot][part][rank][inputs] (A) and [slot][rank][outputs] (B transposed), with room for the
// largest rank; `ranks` [slot][part] says how many there are. A scale is in B already. And adapters
// behind a table, whose rows are looked up: embed_adapted.
//
// A grouped product: of each 32 rows those that have the same slot, eight at a time, read it
// together. Tokens of a prompt lie together and fill such tiles by themselves; streams with few
// adapters among them fill them too, wherever they stand in the step. A block takes one tile after
// another of its 32 rows.
//
//   shrink  low = A x. A block per 16 rows of A, by mma m16n8k16: A is the left operand, x^T the
//           right. Sixteen warps share the inputs, and where rows are few SPLITS blocks do: latency
//           is all then, and a multiprocessor reads 64 bytes a clock. f32 and odd inputs: a warp
//           for each row of A.
//   expand  y += B low, eight columns of four rows a thread.
//
// Bytes: shrink reads x once for each 16 rows of A, and A once for each tile, expand reads B, reads
// and writes y, all from L2 once somebody used them. At rank 16 both are some 1 % of the GEMM's
// work.
#include "abi_ops.h"
#include "mma.cuh"

#define WARPS SHRINK_WARPS
#define WINDOW ADAPTER_WINDOW
#define TILE_ROWS ADAPTER_TILE_ROWS
#define COLUMNS EXPAND_COLUMNS
#define PARTS ADAPTER_PARTS
#define RANKS 16
#define SPLITS SHRINK_SPLITS

// Rows of a window that have one slot.
struct Tile {
  u32 slot;  // counted from 0
  u32 first, rows;  // of the window, and a bit for each of the tile's
  __device__ u32 count() const { return __popc(rows); }
  // The n-th of its rows; beyond them the last.
  __device__ u32 row(u32 n) const {
    u32 left = rows;
    for (u32 i = 0; i < n && (left & (left - 1)); i++) left &= left - 1;
    return first + __ffs(left) - 1;
  }
};

// Which slot each row of a product uses: that of its token row, and where the rows are rows of
// logits, of the token row that `row_of` names.
struct RowAdapters {
  const u32 *adapter_slot_of, *row_of;
  __device__ u32 of(u32 row) const { return adapter_slot_of[row_of ? row_of[row] : row]; }
};

// The tile `which` of a window, the same for all threads of a block. False: there are fewer.
__device__ bool find(Tile& tile, u32 window, u32 which, u32 count, const RowAdapters slots) {
  const u32 lane = threadIdx.x % 32, mine = window * WINDOW + lane;
  const u32 slot = mine < count ? slots.of(mine) : 0;
  const u32 before = __popc(__match_any_sync(~0u, slot) & ((1u << lane) - 1));
  u32 starts = __ballot_sync(~0u, slot != 0 && before % TILE_ROWS == 0);
  if (which >= __popc(starts)) return false;
  for (u32 t = 0; t < which; t++) starts &= starts - 1;
  const u32 leader = __ffs(starts) - 1;
  const u32 its_slot = __shfl_sync(~0u, slot, leader);
  const u32 its_number = __shfl_sync(~0u, before, leader) / TILE_ROWS;
  tile.slot = its_slot - 1;
  tile.first = window * WINDOW;
  tile.rows = __ballot_sync(~0u, slot == its_slot && before / TILE_ROWS == its_number);
  return true;
}

// N neighbours, as they lie in memory: words, for elements would take a register each.
template <class T, int N>
struct Pack {
  static constexpr int WORDS = sizeof(Eight<T>) / 4;
  u32 raw[WORDS];
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < WORDS; i++) raw[i] = 0;
  }
  __device__ void load(const T* p) {
    const uint4* from = reinterpret_cast<const uint4*>(p);
#pragma unroll
    for (int i = 0; i < WORDS / 4; i++) {
      const uint4 four = from[i];
      raw[4 * i] = four.x, raw[4 * i + 1] = four.y, raw[4 * i + 2] = four.z;
      raw[4 * i + 3] = four.w;
    }
  }
  __device__ void unpack(float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < WORDS; i++) asm volatile("" : "+r"(raw[i]));
    const Eight<T>& eight = reinterpret_cast<const Eight<T>&>(raw);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = to_f32(eight.v[i]);
  }
};
template <class T>
struct Pack<T, 1> {
  T raw;
  __device__ void clear() { raw = from_f32<T>(0.f); }
  __device__ void load(const T* p) { raw = *p; }
  __device__ void unpack(float (&x)[1]) { x[0] = to_f32(raw); }
};

// A warp's share of 16 rows of A, `a` the first, times the tile's rows of x, over the inputs
// from..to.
#if ACT != 0
__device__ void multiply_share(const act* x, const act* a, u32 rows, const Tile& tile, u32 inputs,
                               u32 from, u32 to, float (&sum)[4]) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = lane / 4;
  // Which inputs a lane feeds is free as long as both operands agree: eight neighbours.
  const act* const left = a + (u64)min(r, rows - 1) * inputs;
  const act* const below = a + (u64)min(r + 8, rows - 1) * inputs;
  const act* const right = x + (u64)tile.row(r) * inputs;
  constexpr u32 STEP = WARPS * 32;
  const auto take = [](const act* p) { return *reinterpret_cast<const uint4*>(p); };
  const auto add = [&](const uint4& low, const uint4& high, const uint4& v) {
    const u32 one[4] = {low.x, high.x, low.y, high.y}, two[4] = {low.z, high.z, low.w, high.w};
    multiply(sum, one, v.x, v.y);
    multiply(sum, two, v.z, v.w);
  };
  const u32 mine = lane % 4 * 8;
  constexpr u32 FLIGHT = 2;
  u32 i = from + warp * 32;
  for (; i + (FLIGHT - 1) * STEP + 32 <= to; i += FLIGHT * STEP) {
    uint4 low[FLIGHT], high[FLIGHT], v[FLIGHT];
#pragma unroll
    for (u32 f = 0; f < FLIGHT; f++) {
      low[f] = take(left + i + f * STEP + mine);
      high[f] = take(below + i + f * STEP + mine);
      v[f] = take(right + i + f * STEP + mine);
    }
#pragma unroll
    for (u32 f = 0; f < FLIGHT; f++) add(low[f], high[f], v[f]);
  }
  for (; i < to; i += STEP) {
    const bool there = i + mine < to;
    const uint4 none = {0, 0, 0, 0};
    add(there ? take(left + i + mine) : none, there ? take(below + i + mine) : none,
        there ? take(right + i + mine) : none);
  }
}
#endif

// low[split][r][part][j] = A[part][j] . x[r] over the split's share of the inputs, f32. Grid
// (windows x tiles at a time, splits x parts * max_rank / 16).
__global__ void __launch_bounds__(32 * WARPS) adapter_shrink(const AdapterShrink p) {
  begin();
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 inputs = p.inputs, parts = p.parts, max_rank = p.max_rank;
  const u32 width = parts * max_rank, splits = p.splits, split = blockIdx.y % splits;
  const u32 first = blockIdx.y / splits * SHRINK_ROWS;
  const u32 share = (inputs + 32 * splits - 1) / (32 * splits) * 32;
  const u32 from = min(split * share, inputs), to = min(from + share, inputs);
  float* low = p.low + (u64)split * p.rows * width;
  const RowAdapters slots = {p.adapter_slot_of, p.row_of};
  const u32 tiles = p.tiles;
  Tile tile;
  for (u32 t = blockIdx.x % tiles; find(tile, blockIdx.x / tiles, t, p.rows, slots); t += tiles) {
    // Sums that nobody asks for, unless it is worth waiting for the rank.
    const u32 part = first / max_rank;
    if (max_rank > 16 && max_rank % 16 == 0 &&
        first % max_rank >= p.ranks[tile.slot * parts + part])
      continue;
    const act* a = p.a + ((u64)tile.slot * width + first) * inputs;
    const u32 rows = min(SHRINK_ROWS, width - first);
#if ACT != 0
    if (inputs % 8 == 0) {
      __shared__ float shares[WARPS][4 * 32];
      float sum[4] = {};
      multiply_share(p.x, a, rows, tile, inputs, from, to, sum);
#pragma unroll
      for (int e = 0; e < 4; e++) shares[warp][e * 32 + lane] = sum[e];
      __syncthreads();
      // Element (r, n) is in lane r % 8 * 4 + n / 2, register r / 8 * 2 + n % 2.
      const u32 r = threadIdx.x % 16, n = threadIdx.x / 16;
      if (n < tile.count() && r < rows) {
        const u32 at = (r / 8 * 2 + n % 2) * 32 + r % 8 * 4 + n / 2;
        float all_warps = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) all_warps += shares[w][at];
        low[(u64)tile.row(n) * width + first + r] = all_warps;
      }
      __syncthreads();
      continue;
    }
#endif
    if (warp >= rows) continue;
    for (u32 n = 0; n < tile.count(); n++) {
      const act* v = p.x + (u64)tile.row(n) * inputs;
      float sum = 0.f;
      for (u32 i = from + lane; i < to; i += 32)
        sum += to_f32(a[(u64)warp * inputs + i]) * to_f32(v[i]);
      sum = warp_sum(sum);
      if (lane == 0) low[(u64)tile.row(n) * width + first + warp] = sum;
    }
  }
}

// y of R rows, N columns a thread, from column i on. All threads of a block come here, also those
// with `rank` or `count` 0, which have nothing to add. `low` passes through shared memory, RANKS at
// a time of every part, for all threads of these rows want the same of it.
template <int R, int N, class Out>
__device__ void add(Out* y, const u32 (&row)[R], u32 count, float (*shared)[PARTS * RANKS],
                    const float* low, u32 splits, u64 next_split, const act* b, const u32* ranks,
                    u32 part, u32 rank, u32 outputs, u32 parts, u32 max_rank) {
  const u32 across = threadIdx.x % COLUMNS;
  Pack<act, N> p[RANKS];
  Pack<Out, N> old[R];
  float sum[R][N];
#pragma unroll
  for (int m = 0; m < R; m++)
    if (rank > 0) old[m].load(y + (u64)row[m] * outputs);
  u32 highest = 0;
  for (u32 q = 0; q < parts; q++) highest = max(highest, ranks[q]);
  for (u32 from = 0; from < highest; from += RANKS) {
#pragma unroll
    for (int j = 0; j < RANKS; j++) {
      p[j].clear();
      if (from + j < rank) p[j].load(b + (u64)(from + j) * outputs);
    }
    // One rank of one part, of every row.
    const u32 q = across / RANKS, j = from + across % RANKS;
    if (q < parts) {
#pragma unroll
      for (int m = 0; m < R; m++) {
        const float* at = low + ((u64)row[m] * parts + q) * max_rank + j;
        float t[SPLITS];
#pragma unroll
        for (int s = 0; s < SPLITS; s++)
          t[s] = s < splits && j < ranks[q] ? at[s * next_split] : 0.f;
        shared[m][across] = t[0] + t[1] + t[2] + t[3];
      }
    }
    __syncthreads();
    if (from == 0) {
#pragma unroll
      for (int m = 0; m < R; m++) old[m].unpack(sum[m]);
    }
#pragma unroll
    for (int j = 0; j < RANKS; j++) {
      float w[N];
      p[j].unpack(w);
#pragma unroll
      for (int m = 0; m < R; m++) {
        const float t = shared[m][part * RANKS + j];
#pragma unroll
        for (int i = 0; i < N; i++) sum[m][i] += t * w[i];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (u32 m = 0; m < R; m++) {
    if (rank == 0 || m >= count) break;
    Out* to = y + (u64)row[m] * outputs;
    if constexpr (N == 8) store8(to, sum[m]);
    else *to = from_f32<Out>(sum[m][0]);
  }
}

// What both kernels below do, `Out` being the type of y.
template <class Out>
__device__ void expand(const AdapterExpand& p) {
  __shared__ float shared[TILE_ROWS][PARTS * RANKS];
  const u32 outputs = p.outputs, parts = p.parts, max_rank = p.max_rank, tiles = p.tiles;
  const bool wide = (outputs | p.end0 | p.end1) % 8 == 0;
  const u32 i = (blockIdx.y * COLUMNS + threadIdx.x % COLUMNS) * (wide ? 8 : 1);
  const u32 part = (i >= p.end0) + (i >= p.end1);
  const bool upper = threadIdx.x >= COLUMNS;
  const u64 next_split = (u64)p.rows * parts * max_rank;
  const RowAdapters slots = {p.adapter_slot_of, p.row_of};
  Tile tile;
  for (u32 t = blockIdx.x % tiles; find(tile, blockIdx.x / tiles, t, p.rows, slots); t += tiles) {
    const u32* ranks = p.ranks + tile.slot * parts;
    const u32 above = upper ? 4 : 0, mine = tile.count() > above ? tile.count() - above : 0;
    const u32 rank = i < outputs && mine > 0 ? ranks[part] : 0;
    const act* w = p.b + (u64)tile.slot * max_rank * outputs + i;
    u32 row[4];
#pragma unroll
    for (u32 m = 0; m < 4; m++) row[m] = tile.row(above + m);
    const u32 one[1] = {row[0]};
    float(*const at)[PARTS * RANKS] = shared + above;
#define ADD(R, N, ROWS)                                                                      \
  add<R, N>(reinterpret_cast<Out*>(p.y) + i, ROWS, mine, at, p.low, p.splits, next_split, w, \
            ranks, part, rank, outputs, parts, max_rank)
    if (wide && tile.count() == 1) ADD(1, 8, one);
    else if (wide) ADD(4, 8, row);
    else ADD(4, 1, row);
  }
}

// y[r] += B low[r]. One thread per eight columns (one where the widths are odd) of four rows, grid
// (windows x tiles at a time, columns). At most three parts: they end at end0, end1 and outputs.
__global__ void __launch_bounds__(EXPAND_THREADS) adapter_expand(const AdapterExpand p) {
  begin();
  expand<act>(p);
}

// The same onto logits rows.
__global__ void __launch_bounds__(EXPAND_THREADS) adapter_expand_logits(const AdapterExpand p) {
  begin();
  expand<float>(p);
}

// Columns i.. of row `id` of a table and what an adapter adds to them, times scale.
template <int N>
__device__ void looked_up(const act* from, const act* a, const act* b, u32 rank, u32 width,
                          float scale, act* to) {
  Pack<act, N> pack;
  float x[N];
  pack.load(from);
  pack.unpack(x);
  for (u32 j = 0; j < rank; j++) {
    float w[N];
    pack.load(b + (u64)j * width);
    pack.unpack(w);
    const float t = to_f32(a[j]);
#pragma unroll
    for (int n = 0; n < N; n++) x[n] += t * w[n];
  }
#pragma unroll
  for (int n = 0; n < N; n++) x[n] *= scale;
  if constexpr (N == 8) store8(to, x);
  else *to = from_f32<act>(x[0]);
}

// out[r] = (table[token[r]] + B a) * scale, a the token's row of A in the slot of row r: `embed` of
// gather.cu for steps in which some row has an adapter. A lies in [slot][token][rank], with room
// for max_rank, B transposed in [slot][max_rank][width]. Block per row, eight columns a thread (one
// where the width is odd). Bytes: B once per row, from L2.
__global__ void embed_adapted(const EmbedAdapted p) {
  begin();
  const u32 id = p.token[blockIdx.x] - p.first, slot = p.adapter_slot_of[blockIdx.x];
  const u32 table_rows = p.table_rows, width = p.width, max_rank = p.max_rank;
  act* to = p.out + (u64)blockIdx.x * width;
  if (id >= table_rows) {
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = from_f32<act>(0.f);
    return;
  }
  const u32 rank = slot ? p.ranks[slot - 1] : 0;
  const u64 place = slot ? slot - 1 : 0;
  const act* from = p.table + (u64)id * width;
  const act* a = p.a + place * table_rows * max_rank + (u64)id * rank;
  const act* b = p.b + place * max_rank * width;
  if (width % 8 == 0) {
    for (u32 i = threadIdx.x * 8; i < width; i += blockDim.x * 8)
      looked_up<8>(from + i, a, b + i, rank, width, p.scale, to + i);
  } else {
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
      looked_up<1>(from + i, a, b + i, rank, width, p.scale, to + i);
  }
}

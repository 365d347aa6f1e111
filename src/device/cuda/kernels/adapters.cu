// Low-rank adapters behind a linear: y[r] += B (A x[r]) for the rows whose slot has an adapter; all
// others leave after two loads. Which bank a row uses is read from its slot's row, so a launch
// depends on the model and the number of rows alone. Banks lie in [bank][part][rank][inputs] (A)
// and [bank][rank][outputs] (B transposed), with room for the largest rank; `ranks` [bank][part]
// says how many there are. A scale is in B already.
//
// A grouped product: of each 32 rows those that have the same bank, eight at a time, read it
// together. Tokens of a prompt lie together and fill such tiles by themselves; streams with few
// adapters among them fill them too, wherever they stand in the step. A block takes one tile after
// another of its 32 rows. Where rows are few, more warps share a sum, for then latency is all.
//
// Bytes: shrink reads x and A of each tile, expand reads B, reads and writes y, all from L2 once
// somebody used them. At rank 16 both are some 1 % of the GEMM's work; at decode sizes they are
// latency.
#include "common.cuh"

#define WARPS 8  // as in adapters.rs, like the next two
#define WINDOW 32
#define TILE_ROWS 8
// Loads of a bank in flight at once: they come from L2, and few rows have nothing else to do.
template <int R>
constexpr int FLIGHT = 8 / R > 1 ? 8 / R : 2;

// 1 + the bank of a row, 0 = none.
__device__ __forceinline__ u32 bank_of(u32 slot, const u32* rows, u64 stride) {
  return slot == NO_SLOT ? 0 : rows[slot * stride + SLOT_BANK];
}

// Rows of a window that have one bank.
struct Tile {
  u32 bank;  // counted from 0
  u32 count;
  u32 row[TILE_ROWS];  // beyond `count` the last one again
};

// The tile `which` of a window, the same for all threads of a block. False: there are fewer.
__device__ bool find(Tile& tile, u32 window, u32 which, u32 count, const u32* slot_of,
                     const u32* rows, u64 stride) {
  const u32 lane = threadIdx.x % 32, mine = window * WINDOW + lane;
  const u32 bank = mine < count ? bank_of(slot_of[mine], rows, stride) : 0;
  const u32 before = __popc(__match_any_sync(~0u, bank) & ((1u << lane) - 1));
  u32 starts = __ballot_sync(~0u, bank != 0 && before % TILE_ROWS == 0);
  if (which >= __popc(starts)) return false;
  for (u32 t = 0; t < which; t++) starts &= starts - 1;
  const u32 leader = __ffs(starts) - 1;
  const u32 its_bank = __shfl_sync(~0u, bank, leader);
  const u32 its_number = __shfl_sync(~0u, before, leader) / TILE_ROWS;
  u32 in = __ballot_sync(~0u, bank == its_bank && before / TILE_ROWS == its_number);
  tile.bank = its_bank - 1;
  tile.count = __popc(in);
#pragma unroll
  for (u32 m = 0; m < TILE_ROWS; m++) {
    tile.row[m] = window * WINDOW + __ffs(in) - 1;
    if (m + 1 < tile.count) in &= in - 1;
  }
  return true;
}

// BODY(R) for the smallest R of 1, 4, 8 that holds the tile's rows.
#define BY_COUNT(COUNT, BODY) \
  if (COUNT == 1) BODY(1);    \
  else if (COUNT <= 4) BODY(4); \
  else BODY(8)

// sum[m] = this lane's part of w . x[row m], of every SLICES-th piece of the inputs.
template <int R, int SLICES>
__device__ void dot(const act* x, const act* w, const Tile& tile, u32 inputs, u32 slice,
                    float (&sum)[TILE_ROWS]) {
  const u32 lane = threadIdx.x % 32;
  if (inputs % 8 == 0) {
    constexpr u32 STEP = SLICES * 32 * 8;
    auto take = [&](u32 i) {
      float p[8], q[8];
      load8(w + i, p);
#pragma unroll
      for (int m = 0; m < R; m++) {
        load8(x + (u64)tile.row[m] * inputs + i, q);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[m] += p[j] * q[j];
      }
    };
    u32 i = (slice * 32 + lane) * 8;
    for (; i + (FLIGHT<R> - 1) * STEP < inputs; i += FLIGHT<R> * STEP) {
#pragma unroll
      for (int f = 0; f < FLIGHT<R>; f++) take(i + f * STEP);
    }
    for (; i < inputs; i += STEP) take(i);
  } else {
    for (u32 i = slice * 32 + lane; i < inputs; i += SLICES * 32) {
      const float p = to_f32(w[i]);
#pragma unroll
      for (int m = 0; m < R; m++) sum[m] += p * to_f32(x[(u64)tile.row[m] * inputs + i]);
    }
  }
}

// low[r][part][j] = A[part][j] . x[r], f32. SLICES warps for each j, grid (windows x tiles at a
// time, parts * max_rank * SLICES / WARPS).
template <int SLICES>
__device__ void shrink(const act* x, u32 count, u32 tiles, const u32* slot_of, const u32* rows,
                       u64 stride, const act* a, const u32* ranks, u32 inputs, u32 parts,
                       u32 max_rank, float* low) {
  begin();
  __shared__ float shares[WARPS][TILE_ROWS];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, slice = warp % SLICES;
  const u32 j = (blockIdx.y * WARPS + warp) / SLICES, width = parts * max_rank;
  Tile tile;
  for (u32 t = blockIdx.x % tiles;
       find(tile, blockIdx.x / tiles, t, count, slot_of, rows, stride); t += tiles) {
    const bool any = j < width && j % max_rank < ranks[tile.bank * parts + j / max_rank];
    float sum[TILE_ROWS] = {};
    if (any) {
      const act* w = a + ((u64)tile.bank * width + j) * inputs;
#define DOT(R) dot<R, SLICES>(x, w, tile, inputs, slice, sum)
      BY_COUNT(tile.count, DOT);
    }
#pragma unroll
    for (u32 m = 0; m < TILE_ROWS; m++) {
      const float all = warp_sum(sum[m]);
      if (lane == m) shares[warp][m] = all;
    }
    __syncthreads();
    if (any && slice == 0 && lane < tile.count) {
      float all = 0.f;
#pragma unroll
      for (int s = 0; s < SLICES; s++) all += shares[warp + s][lane];
      u32 row = tile.row[0];
#pragma unroll
      for (u32 m = 1; m < TILE_ROWS; m++)
        if (lane == m) row = tile.row[m];
      low[(u64)row * width + j] = all;
    }
    __syncthreads();
  }
}

// N columns of a tile's rows. `low` has `low_stride` elements a row.
template <int R, int N>
__device__ void add(act* y, const Tile& tile, const float* low, u32 low_stride, const act* b,
                    u32 rank, u32 outputs) {
  float sum[R][8];
#pragma unroll
  for (int m = 0; m < R; m++) {
    if constexpr (N == 8) load8(y + (u64)tile.row[m] * outputs, sum[m]);
    else sum[m][0] = to_f32(y[(u64)tile.row[m] * outputs]);
  }
  auto take = [&](u32 j) {
    float p[8];
    if constexpr (N == 8) load8(b + (u64)j * outputs, p);
    else p[0] = to_f32(b[(u64)j * outputs]);
#pragma unroll
    for (int m = 0; m < R; m++) {
      const float t = low[(u64)tile.row[m] * low_stride + j];
#pragma unroll
      for (int i = 0; i < N; i++) sum[m][i] += t * p[i];
    }
  };
  u32 from = 0;
  for (; from + FLIGHT<R> <= rank; from += FLIGHT<R>) {
#pragma unroll
    for (int f = 0; f < FLIGHT<R>; f++) take(from + f);
  }
  for (; from < rank; from++) take(from);
#pragma unroll
  for (u32 m = 0; m < R; m++) {
    if (m >= tile.count) break;
    if constexpr (N == 8) store8(y + (u64)tile.row[m] * outputs, sum[m]);
    else y[(u64)tile.row[m] * outputs] = from_f32<act>(sum[m][0]);
  }
}

// y[r] += B low[r]. One thread per eight columns (one where the widths are odd), grid (windows x
// tiles at a time, columns). At most three parts: they end at end0, end1 and outputs.
extern "C" __global__ void __launch_bounds__(128)
    adapter_expand(act* y, u32 count, u32 tiles, const u32* slot_of, const u32* rows, u64 stride,
                   const float* low, const act* b, const u32* ranks, u32 outputs, u32 parts,
                   u32 max_rank, u32 end0, u32 end1) {
  begin();
  const bool wide = (outputs | end0 | end1) % 8 == 0;
  const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * (wide ? 8 : 1);
  const u32 part = (i >= end0) + (i >= end1);
  Tile tile;
  for (u32 t = blockIdx.x % tiles;
       find(tile, blockIdx.x / tiles, t, count, slot_of, rows, stride); t += tiles) {
    const u32 rank = i < outputs ? ranks[tile.bank * parts + part] : 0;
    if (rank == 0) continue;
    const float* from = low + part * max_rank;
    const act* w = b + (u64)tile.bank * max_rank * outputs + i;
#define WIDE(R) add<R, 8>(y + i, tile, from, parts * max_rank, w, rank, outputs)
#define NARROW(R) add<R, 1>(y + i, tile, from, parts * max_rank, w, rank, outputs)
    if (wide) {
      BY_COUNT(tile.count, WIDE);
    } else {
      BY_COUNT(tile.count, NARROW);
    }
  }
}

#define SHRINK(NAME, SLICES)                                                                     \
  extern "C" __global__ void __launch_bounds__(32 * WARPS)                                       \
      NAME(const act* x, u32 count, u32 tiles, const u32* slot_of, const u32* rows, u64 stride,  \
           const act* a, const u32* ranks, u32 inputs, u32 parts, u32 max_rank, float* low) {    \
    shrink<SLICES>(x, count, tiles, slot_of, rows, stride, a, ranks, inputs, parts, max_rank,    \
                   low);                                                                         \
  }

SHRINK(adapter_shrink, 8)
SHRINK(adapter_shrink_many, 1)

// Low-rank adapters behind a linear: y[r] += B (A x[r]) for the rows whose slot has an adapter; all
// others leave after two loads. Which bank a row uses is read from its slot's row, so a launch
// depends on the model and the number of rows alone. Banks lie in [bank][part][rank][inputs] (A)
// and [bank][rank][outputs] (B transposed), with room for the largest rank; `ranks` [bank][part]
// says how many there are. A scale is in B already.
//
// A grouped product: the rows of a tile that have the same bank read it once, bank after bank.
// Tokens of a prompt lie together, so a tile of theirs has one bank; a tile of decode rows has as
// many as it must. TILE_ROWS is for many rows, single rows are for few, where more blocks at once
// count for more than bytes. Either way a row's sums are added in the same order.
//
// Bytes: shrink reads x and A of the tile's banks (from L2 once a tile used them), expand reads B,
// reads and writes y. At rank 16 both are some 1 % of the GEMM's work; at decode sizes they are
// latency.
#include "common.cuh"

#define WARPS 8
#define TILE_ROWS 8  // as in adapters.rs
// Loads of a bank in flight at once: they come from L2, and a single row has nothing else to do.
template <int R>
constexpr int FLIGHT = R == 1 ? 8 : 2;

// 1 + the bank of a row, 0 = none.
__device__ __forceinline__ u32 bank_of(u32 slot, const u32* rows, u64 stride) {
  return slot == NO_SLOT ? 0 : rows[slot * stride + SLOT_BANK];
}

// The rows of a tile, and which of them still wait for their bank's turn: a bit each. The same for
// all threads of a block.
template <int R>
struct Group {
  u32 bank[R];
  u32 left = 0;

  __device__ Group(u32 first, u32 count, const u32* slot_of, const u32* rows, u64 stride) {
#pragma unroll
    for (int m = 0; m < R; m++) {
      bank[m] = first + m < count ? bank_of(slot_of[first + m], rows, stride) : 0;
      left |= (bank[m] != 0 ? 1u : 0u) << m;
    }
  }

  // The next bank, counted from 0, and the rows that have it. Only while some are left.
  __device__ u32 next(u32* mine) {
    u32 one = 0, same = 0;
#pragma unroll
    for (int m = R - 1; m >= 0; m--)
      if (left >> m & 1) one = bank[m];
#pragma unroll
    for (int m = 0; m < R; m++) same |= (bank[m] == one ? 1u : 0u) << m;
    left &= ~same;
    *mine = same;
    return one - 1;
  }
};

// Is row m of a tile one of these? A row on its own always is, which spares a branch per load.
template <int R>
__device__ __forceinline__ bool among(u32 rows, int m) {
  return R == 1 || (rows >> m & 1);
}

// low[r][part][j] = A[part][j] . x[r], f32. A warp for each j, grid (tiles of rows, parts *
// max_rank / WARPS).
template <int R>
__device__ void shrink(const act* x, u32 count, const u32* slot_of, const u32* rows, u64 stride,
                       const act* a, const u32* ranks, u32 inputs, u32 parts, u32 max_rank,
                       float* low) {
  begin();
  const u32 first = blockIdx.x * R, lane = threadIdx.x % 32;
  const u32 row = blockIdx.y * WARPS + threadIdx.x / 32;
  if (row >= parts * max_rank) return;
  Group<R> group(first, count, slot_of, rows, stride);
  while (group.left) {
    u32 mine;
    const u32 bank = group.next(&mine);
    if (row % max_rank >= ranks[bank * parts + row / max_rank]) continue;
    const act* w = a + ((u64)bank * parts * max_rank + row) * inputs;
    const act* v = x + (u64)first * inputs;
    float sum[R] = {};
    if (inputs % 8 == 0) {
      constexpr int STEP = 32 * 8;
      auto take = [&](u32 i) {
        float p[8], q[8];
        load8(w + i, p);
#pragma unroll
        for (int m = 0; m < R; m++) {
          if (!among<R>(mine, m)) continue;
          load8(v + (u64)m * inputs + i, q);
#pragma unroll
          for (int j = 0; j < 8; j++) sum[m] += p[j] * q[j];
        }
      };
      u32 from = 0;
      for (; from + FLIGHT<R> * STEP <= inputs; from += FLIGHT<R> * STEP) {
#pragma unroll
        for (int f = 0; f < FLIGHT<R>; f++) take(from + f * STEP + lane * 8);
      }
      for (u32 i = from + lane * 8; i < inputs; i += STEP) take(i);
    } else {
      for (u32 i = lane; i < inputs; i += 32) {
        const float p = to_f32(w[i]);
#pragma unroll
        for (int m = 0; m < R; m++)
          if (among<R>(mine, m)) sum[m] += p * to_f32(v[(u64)m * inputs + i]);
      }
    }
#pragma unroll
    for (int m = 0; m < R; m++) {
      if (!among<R>(mine, m)) continue;
      const float all = warp_sum(sum[m]);
      if (lane == 0) low[(u64)(first + m) * parts * max_rank + row] = all;
    }
  }
}

// N columns of the rows `mine` of a tile. `low` has `low_stride` elements a row.
template <int R, int N>
__device__ void add(act* y, u32 mine, const float* low, u32 low_stride, const act* b, u32 rank,
                    u32 outputs) {
  float sum[R][8];
#pragma unroll
  for (int m = 0; m < R; m++) {
    if (!among<R>(mine, m)) continue;
    if constexpr (N == 8) load8(y + (u64)m * outputs, sum[m]);
    else sum[m][0] = to_f32(y[(u64)m * outputs]);
  }
  auto take = [&](u32 j) {
    float p[8];
    if constexpr (N == 8) load8(b + (u64)j * outputs, p);
    else p[0] = to_f32(b[(u64)j * outputs]);
#pragma unroll
    for (int m = 0; m < R; m++) {
      if (!among<R>(mine, m)) continue;
      const float t = low[(u64)m * low_stride + j];
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
  for (int m = 0; m < R; m++) {
    if (!among<R>(mine, m)) continue;
    if constexpr (N == 8) store8(y + (u64)m * outputs, sum[m]);
    else y[(u64)m * outputs] = from_f32<act>(sum[m][0]);
  }
}

// y[r] += B low[r]. One thread per eight columns (one where the widths are odd), grid (tiles of
// rows, columns). At most three parts: they end at end0, end1 and outputs.
template <int R>
__device__ void expand(act* y, u32 count, const u32* slot_of, const u32* rows, u64 stride,
                       const float* low, const act* b, const u32* ranks, u32 outputs, u32 parts,
                       u32 max_rank, u32 end0, u32 end1) {
  begin();
  const u32 first = blockIdx.x * R;
  const bool wide = (outputs | end0 | end1) % 8 == 0;
  const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * (wide ? 8 : 1);
  if (i >= outputs) return;
  const u32 part = (i >= end0) + (i >= end1);
  Group<R> group(first, count, slot_of, rows, stride);
  while (group.left) {
    u32 mine;
    const u32 bank = group.next(&mine);
    const u32 rank = ranks[bank * parts + part];
    if (rank == 0) continue;
    const float* t = low + ((u64)first * parts + part) * max_rank;
    const act* w = b + (u64)bank * max_rank * outputs + i;
    act* p = y + (u64)first * outputs + i;
    if (wide) add<R, 8>(p, mine, t, parts * max_rank, w, rank, outputs);
    else add<R, 1>(p, mine, t, parts * max_rank, w, rank, outputs);
  }
}

#define SHRINK(NAME, R)                                                                         \
  extern "C" __global__ void __launch_bounds__(256)                                             \
      NAME(const act* x, u32 count, const u32* slot_of, const u32* rows, u64 stride,            \
           const act* a, const u32* ranks, u32 inputs, u32 parts, u32 max_rank, float* low) {   \
    shrink<R>(x, count, slot_of, rows, stride, a, ranks, inputs, parts, max_rank, low);         \
  }
#define EXPAND(NAME, R)                                                                         \
  extern "C" __global__ void __launch_bounds__(128)                                             \
      NAME(act* y, u32 count, const u32* slot_of, const u32* rows, u64 stride,                  \
           const float* low, const act* b, const u32* ranks, u32 outputs, u32 parts,            \
           u32 max_rank, u32 end0, u32 end1) {                                                  \
    expand<R>(y, count, slot_of, rows, stride, low, b, ranks, outputs, parts, max_rank, end0,   \
              end1);                                                                            \
  }

SHRINK(adapter_shrink, 1)
SHRINK(adapter_shrink_tile, TILE_ROWS)
EXPAND(adapter_expand, 1)
EXPAND(adapter_expand_tile, TILE_ROWS)

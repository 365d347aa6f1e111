// Low-rank adapters behind a linear: y[r] += B (A x[r]) for the rows whose slot has an adapter; all
// others leave after two loads. Which bank a row uses is read from its slot's row, so a launch
// depends on the model and the number of rows alone. Banks lie in [bank][part][rank][inputs] (A)
// and [bank][rank][outputs] (B transposed), with room for the largest rank; `ranks` [bank][part]
// says how many there are. A scale is in B already.
//
// Bytes: shrink reads x and A of its bank (from L2 once a row used it), expand reads B, reads and
// writes y. At rank 16 both are some 1 % of the GEMM's work; at decode sizes they are latency.
#include "common.cuh"

#define WARPS 8

// 1 + the bank of a row, 0 = none.
__device__ __forceinline__ u32 bank_of(u32 slot, const u32* rows, u64 stride) {
  return slot == NO_SLOT ? 0 : rows[slot * stride + SLOT_BANK];
}

// low[r][part][j] = A[part][j] . x[r], f32. A warp for each j, grid (rows, parts * max_rank /
// WARPS).
extern "C" __global__ void adapter_shrink(const act* x, const u32* slot_of, const u32* rows,
                                          u64 stride, const act* a, const u32* ranks, u32 inputs,
                                          u32 parts, u32 max_rank, float* low) {
  begin();
  const u32 r = blockIdx.x, lane = threadIdx.x % 32;
  const u32 bank = bank_of(slot_of[r], rows, stride);
  const u32 row = blockIdx.y * WARPS + threadIdx.x / 32;
  if (bank == 0 || row >= parts * max_rank) return;
  if (row % max_rank >= ranks[(bank - 1) * parts + row / max_rank]) return;
  const act* w = a + ((u64)(bank - 1) * parts * max_rank + row) * inputs;
  const act* v = x + (u64)r * inputs;
  float sum = 0.f;
  if (inputs % 8 == 0) {
    for (u32 i = lane * 8; i < inputs; i += 32 * 8) {
      float p[8], q[8];
      load8(w + i, p);
      load8(v + i, q);
#pragma unroll
      for (int j = 0; j < 8; j++) sum += p[j] * q[j];
    }
  } else {
    for (u32 i = lane; i < inputs; i += 32) sum += to_f32(w[i]) * to_f32(v[i]);
  }
  sum = warp_sum(sum);
  if (lane == 0) low[(u64)r * parts * max_rank + row] = sum;
}

template <int N>
__device__ void expand(act* y, const float* low, const act* b, u32 rank, u32 outputs) {
  float sum[8];
  if constexpr (N == 8) load8(y, sum);
  else sum[0] = to_f32(*y);
  for (u32 j = 0; j < rank; j++) {
    const float t = low[j];
    const act* w = b + (u64)j * outputs;
    if constexpr (N == 8) {
      float p[8];
      load8(w, p);
#pragma unroll
      for (int i = 0; i < 8; i++) sum[i] += t * p[i];
    } else {
      sum[0] += t * to_f32(*w);
    }
  }
  if constexpr (N == 8) store8(y, sum);
  else *y = from_f32<act>(sum[0]);
}

// y[r] += B low[r]. One thread per eight columns (one where the widths are odd), grid (rows,
// columns). At most three parts: they end at end0, end1 and outputs.
extern "C" __global__ void adapter_expand(act* y, const u32* slot_of, const u32* rows, u64 stride,
                                          const float* low, const act* b, const u32* ranks,
                                          u32 outputs, u32 parts, u32 max_rank, u32 end0,
                                          u32 end1) {
  begin();
  const u32 r = blockIdx.x;
  const u32 bank = bank_of(slot_of[r], rows, stride);
  const bool wide = (outputs | end0 | end1) % 8 == 0;
  const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * (wide ? 8 : 1);
  if (bank == 0 || i >= outputs) return;
  const u32 part = (i >= end0) + (i >= end1);
  const u32 rank = ranks[(bank - 1) * parts + part];
  if (rank == 0) return;
  const float* t = low + ((u64)r * parts + part) * max_rank;
  const act* w = b + (u64)(bank - 1) * max_rank * outputs + i;
  act* p = y + (u64)r * outputs + i;
  if (wide) expand<8>(p, t, w, rank, outputs);
  else expand<1>(p, t, w, rank, outputs);
}

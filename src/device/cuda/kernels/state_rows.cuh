// Rows of a matrix of a layer that keeps a state, in the registers of a warp: a lane has a run of
// columns of each of eight rows. What state.cu and scan.cu share; it knows no op.
#pragma once
#include "abi_state.h"

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
__device__ __forceinline__ float softplus(float x) { return x > 20.f ? x : log1pf(expf(x)); }

constexpr int ROWS = DELTA_WARP_ROWS;

// Sums over the warp of eight values of each lane: lane l gets that of value l % 8. Halves are
// exchanged, so that nine exchanges do what forty would.
__device__ __forceinline__ float sums_of_eight(const float (&v)[8]) {
  const u32 lane = threadIdx.x % 32;
  float four[4], two[2];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const bool high = lane & 4;
    const float mine = high ? v[i + 4] : v[i], others = high ? v[i] : v[i + 4];
    four[i] = mine + __shfl_xor_sync(~0u, others, 4);
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const bool high = lane & 2;
    const float mine = high ? four[i + 2] : four[i], others = high ? four[i] : four[i + 2];
    two[i] = mine + __shfl_xor_sync(~0u, others, 2);
  }
  const bool high = lane & 1;
  const float mine = high ? two[1] : two[0], others = high ? two[0] : two[1];
  float sum = mine + __shfl_xor_sync(~0u, others, 1);
  sum += __shfl_xor_sync(~0u, sum, 8);
  return sum + __shfl_xor_sync(~0u, sum, 16);
}

// COLUMNS neighbours, in loads and stores of up to 16 bytes.
template <int COLUMNS, class T>
struct alignas(COLUMNS * sizeof(T) < 16 ? COLUMNS * sizeof(T) : 16) Run {
  T v[COLUMNS];
};

// COLUMNS neighbours of a row of `width`, zeros beyond it. `whole`: all lanes have all of theirs,
// aligned.
template <int COLUMNS, class T>
__device__ __forceinline__ void load_columns(const T* row, u32 first, u32 width, bool whole,
                                             float (&out)[COLUMNS]) {
  if (whole) {
    const Run<COLUMNS, T> run = *reinterpret_cast<const Run<COLUMNS, T>*>(row + first);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) out[c] = to_f32(run.v[c]);
    return;
  }
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) out[c] = first + c < width ? to_f32(row[first + c]) : 0.f;
}
template <int COLUMNS>
__device__ __forceinline__ void store_columns(float* row, u32 first, u32 width, bool whole,
                                              const float (&x)[COLUMNS]) {
  if (whole) {
    Run<COLUMNS, float> run;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) run.v[c] = x[c];
    *reinterpret_cast<Run<COLUMNS, float>*>(row + first) = run;
    return;
  }
#pragma unroll
  for (int c = 0; c < COLUMNS; c++)
    if (first + c < width) row[first + c] = x[c];
}

// Norms, plain and with the residual added first. Block per row with a thread for every eight
// columns (32 to 1024 threads). The row is read from device memory once and again from L1 (it is at
// most some tens of KiB), sums are f32 in a fixed order. Layer norm takes the variance around the
// mean in a pass of its own: the one-pass form cancels. Bytes per row: norm 2 x width, add_norm 4 x
// width elements (delta, residual in and out, out).
#include "abi_ops.h"
#include "e4m3.cuh"

// The block covers [0, width) in steps of 8 elements (or 1).
#define FOR_ROW(i) for (u32 i = threadIdx.x * step; i < width; i += blockDim.x * step)

// The residual becomes the rounded sum, and the norm sees that rounded sum.
template <int N>
__device__ void add(const act* delta, act* residual, u32 width) {
  const u32 step = N;
  FOR_ROW(i) {
    float x[8], d[8];
    get<N>(residual + i, x);
    get<N>(delta + i, d);
#pragma unroll
    for (int j = 0; j < N; j++) x[j] += d[j];
    put<N>(residual + i, x);
  }
  // The same thread reads these elements again: no barrier is needed.
}

template <int N>
__device__ void normalise(const act* x, const float* weight, const float* bias, u32 width,
                          float eps, NormKind kind, act* out) {
  __shared__ float scratch[33];
  const u32 step = N;
  float v[8];
  float mean = 0.f;
  if (kind == NORM_KIND_LAYER) {
    float sum = 0.f;
    FOR_ROW(i) {
      get<N>(x + i, v);
#pragma unroll
      for (int j = 0; j < N; j++) sum += v[j];
    }
    mean = block_sum(sum, scratch) / width;
  }
  float squares = 0.f;
  FOR_ROW(i) {
    get<N>(x + i, v);
#pragma unroll
    for (int j = 0; j < N; j++) squares += (v[j] - mean) * (v[j] - mean);
  }
  const float scale = 1.f / sqrtf(block_sum(squares, scratch) / width + eps);
  FOR_ROW(i) {
    get<N>(x + i, v);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float w = weight[i + j] + (kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f);
      v[j] = (v[j] - mean) * scale * w + (bias ? bias[i + j] : 0.f);
    }
    put<N>(out + i, v);
  }
}

// What products make of the row that was written; each thread reads what it wrote.
template <class Norm>
__device__ void round_written(const Norm& a) {
  const u64 row = blockIdx.x;
  round_row(a.out + row * a.width, a.width, 0.f, a.codes ? a.codes + row * a.width : 0,
            a.bytes ? a.bytes + row * a.padded_width : 0, a.padded_width, a.steps + row);
}

__global__ void norm_rows(const NormRows a) {
  begin();
  const u32 width = a.width;
  const u64 row = (u64)blockIdx.x * width;
  if (width % 8 == 0)
    normalise<8>(a.x + row, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  else normalise<1>(a.x + row, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  if (a.steps) round_written(a);
}

__global__ void add_norm(const AddNorm a) {
  begin();
  const u32 width = a.width;
  const u64 row = (u64)blockIdx.x * width;
  act* residual = a.residual + row;
  if (width % 8 == 0) {
    add<8>(a.delta + row, residual, width);
    normalise<8>(residual, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  } else {
    add<1>(a.delta + row, residual, width);
    normalise<1>(residual, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  }
  if (a.steps) round_written(a);
}

__global__ void add_rows(const AddRows a) {
  begin();
  const u64 row = (u64)blockIdx.x * a.width;
  if (a.width % 8 == 0) add<8>(a.delta + row, a.residual + row, a.width);
  else add<1>(a.delta + row, a.residual + row, a.width);
}

// A thread writes what it alone reads.
__global__ void norm_parts(const NormParts a) {
  begin();
  const u32 width = a.width;
  act* part = a.x + (u64)blockIdx.x * a.stride + a.first + (u64)blockIdx.y * width;
  if ((a.stride | a.first | width) % 8 == 0)
    normalise<8>(part, a.weight, 0, width, a.eps, a.kind, part);
  else normalise<1>(part, a.weight, 0, width, a.eps, a.kind, part);
}

// Norms, plain and with the residual added first. Block per row with a thread for every eight
// columns (32 to 1024 threads). The row is read from device memory once and again from L1 (it is at
// most some tens of KiB), sums are f32 in a fixed order. Layer norm takes the variance around the
// mean in a pass of its own: the one-pass form cancels. Bytes per row: norm 2 x width, add_norm 4 x
// width elements (delta, residual in and out, out).
#include "common.cuh"

// As NormKind in device/mod.rs.
enum { RMS, RMS_PLUS_ONE, LAYER };

// The block covers [0, width) in steps of 8 elements (or 1).
#define FOR_ROW(i) for (u32 i = threadIdx.x * step; i < width; i += blockDim.x * step)

template <int N>
__device__ __forceinline__ void load(const act* p, float (&x)[8]) {
  if constexpr (N == 8) load8(p, x);
  else x[0] = to_f32(*p);
}
template <int N>
__device__ __forceinline__ void store(act* p, const float (&x)[8]) {
  if constexpr (N == 8) store8(p, x);
  else *p = from_f32<act>(x[0]);
}

// The residual becomes the rounded sum, and the norm sees that rounded sum.
template <int N>
__device__ void add(const act* delta, act* residual, u32 width) {
  const u32 step = N;
  FOR_ROW(i) {
    float x[8], d[8];
    load<N>(residual + i, x);
    load<N>(delta + i, d);
#pragma unroll
    for (int j = 0; j < N; j++) x[j] += d[j];
    store<N>(residual + i, x);
  }
  // The same thread reads these elements again: no barrier is needed.
}

template <int N>
__device__ void normalise(const act* x, const float* weight, const float* bias, u32 width,
                          float eps, int kind, act* out) {
  __shared__ float scratch[33];
  const u32 step = N;
  float v[8];
  float mean = 0.f;
  if (kind == LAYER) {
    float sum = 0.f;
    FOR_ROW(i) {
      load<N>(x + i, v);
#pragma unroll
      for (int j = 0; j < N; j++) sum += v[j];
    }
    mean = block_sum(sum, scratch) / width;
  }
  float squares = 0.f;
  FOR_ROW(i) {
    load<N>(x + i, v);
#pragma unroll
    for (int j = 0; j < N; j++) squares += (v[j] - mean) * (v[j] - mean);
  }
  const float scale = 1.f / sqrtf(block_sum(squares, scratch) / width + eps);
  FOR_ROW(i) {
    load<N>(x + i, v);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float w = weight[i + j] + (kind == RMS_PLUS_ONE ? 1.f : 0.f);
      v[j] = (v[j] - mean) * scale * w + (bias ? bias[i + j] : 0.f);
    }
    store<N>(out + i, v);
  }
}

extern "C" __global__ void norm_rows(const act* x, const float* weight, const float* bias,
                                     u32 width, float eps, int kind, act* out) {
  begin();
  const u64 row = (u64)blockIdx.x * width;
  if (width % 8 == 0) normalise<8>(x + row, weight, bias, width, eps, kind, out + row);
  else normalise<1>(x + row, weight, bias, width, eps, kind, out + row);
}

extern "C" __global__ void add_norm(const act* delta, act* residual, const float* weight,
                                    const float* bias, u32 width, float eps, int kind, act* out) {
  begin();
  const u64 row = (u64)blockIdx.x * width;
  if (width % 8 == 0) {
    add<8>(delta + row, residual + row, width);
    normalise<8>(residual + row, weight, bias, width, eps, kind, out + row);
  } else {
    add<1>(delta + row, residual + row, width);
    normalise<1>(residual + row, weight, bias, width, eps, kind, out + row);
  }
}

extern "C" __global__ void add_rows(const act* delta, act* residual, u32 width) {
  begin();
  const u64 row = (u64)blockIdx.x * width;
  if (width % 8 == 0) add<8>(delta + row, residual + row, width);
  else add<1>(delta + row, residual + row, width);
}

// Row r's part p lies at x + r * stride + first + p * width. A thread writes what it alone reads.
extern "C" __global__ void norm_parts(act* x, u32 stride, u32 first, const float* weight, u32 width,
                                      float eps, int kind) {
  begin();
  act* part = x + (u64)blockIdx.x * stride + first + (u64)blockIdx.y * width;
  if ((stride | first | width) % 8 == 0) normalise<8>(part, weight, 0, width, eps, kind, part);
  else normalise<1>(part, weight, 0, width, eps, kind, part);
}

// Norms, plain and with the residual added first. Block per row with a thread for every eight
// columns (32 to 1024 threads), which hold them from the first read to the last write; wider rows,
// and those of an odd width, are read again from L1. Sums are f32 in a fixed order. Layer norm
// takes the variance around the mean in a pass of its own: the one-pass form cancels. Bytes per
// row: norm 2 x width, add_norm 4 x width elements (delta, residual in and out, out).
#include "abi_ops.h"
#include "e4m3.cuh"
#include "norm_columns.cuh"

// The block covers [0, width) in steps of 8 elements (or 1).
#define FOR_ROW(i) for (u32 i = threadIdx.x * step; i < width; i += blockDim.x * step)

// The residual becomes the rounded sum, and the norm sees that rounded sum. `bias` may be null.
template <int N>
__device__ void add(const act* delta, act* residual, const float* bias, u32 width) {
  const u32 step = N;
  FOR_ROW(i) {
    float x[8], d[8];
    get<N>(residual + i, x);
    get<N>(delta + i, d);
#pragma unroll
    for (int j = 0; j < N; j++) x[j] += d[j] + (bias ? bias[i + j] : 0.f);
    put<N>(residual + i, x);
  }
  // The same thread reads these elements again: no barrier is needed.
}

template <int N>
__device__ void normalise(const act* x, const float* weight, const float* bias, u32 width,
                          float eps, NormKind kind, act* out) {
  __shared__ float scratch[32];
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

// A row of which each thread of the block has eight columns: nothing is read twice, and the weights
// before the kernel before is done.
template <class Norm>
struct HeldRow {
  const Norm& a;
  const u32 i = threadIdx.x * 8;
  const bool inside = i < a.width;
  const u64 at = (u64)blockIdx.x * a.width + i;
  float weight[8], bias[8];

  static __device__ bool fits(const Norm& a) {
    return a.width % 8 == 0 && a.width <= blockDim.x * 8;
  }

  __device__ HeldRow(const Norm& a) : a(a) {
#pragma unroll
    for (int j = 0; j < 8; j++) weight[j] = bias[j] = 0.f;
    if (inside) load8(a.weight + i, weight);
    if (inside && a.bias) load8(a.bias + i, bias);
#pragma unroll
    for (int j = 0; j < 8; j++) weight[j] += a.kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f;
  }

  // The norm of these columns, and what products make of it. 0 beyond the row.
  __device__ void norm(float (&v)[8]) const {
    // Places of their own: nobody waits until all have read a sum.
    __shared__ float sums[32], squares[32], largest[32];
    float mean = 0.f, own = 0.f;
    if (a.kind == NORM_KIND_LAYER) {
#pragma unroll
      for (int j = 0; j < 8; j++) own += v[j];
      mean = sum_of_block(own, sums) / a.width;
    }
    own = inside ? squares_of(v, mean) : 0.f;
    const float scale = norm_scale(sum_of_block(own, squares), a.width, a.eps);
    normed(v, mean, scale, weight, bias);
    const float most = inside ? largest_of(v) : 0.f;
    if (inside && a.out) store8(a.out + at, v);
    if (!a.steps) return;

    const float step = e4m3_step(largest_of_block(most, largest)), inverse = 1.f / step;
    u8* const bytes = a.bytes ? a.bytes + (u64)blockIdx.x * a.padded_width : 0;
    act* const codes = a.codes ? a.codes + (u64)blockIdx.x * a.width : 0;
    put_rounded(v, i, a.width, 0.f, step, inverse, codes, bytes, a.padded_width);
    if (threadIdx.x == 0) a.steps[blockIdx.x] = step;
  }
};

__global__ void norm_rows(const NormRows a) {
  if (HeldRow<NormRows>::fits(a)) {
    const HeldRow<NormRows> own(a);
    begin_ahead();
    float v[8] = {};
    if (own.inside) load8(a.x + own.at, v);
    return own.norm(v);
  }
  begin_ahead();
  const u32 width = a.width;
  const u64 row = (u64)blockIdx.x * width;
  if (width % 8 == 0)
    normalise<8>(a.x + row, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  else normalise<1>(a.x + row, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  if (a.steps) round_written(a);
}

__global__ void add_norm(const AddNorm a) {
  if (HeldRow<AddNorm>::fits(a)) {
    const HeldRow<AddNorm> own(a);
    begin_ahead();
    float v[8] = {}, delta[8], bias[8] = {};
    if (own.inside) {
      load8(a.residual + own.at, v);
      load8(a.delta + own.at, delta);
      if (a.delta_bias) load8(a.delta_bias + own.i, bias);
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = to_f32(from_f32<act>(v[j] + (delta[j] + bias[j])));
      store8(a.residual + own.at, v);
    }
    return own.norm(v);
  }
  begin_ahead();
  const u32 width = a.width;
  const u64 row = (u64)blockIdx.x * width;
  act* residual = a.residual + row;
  if (width % 8 == 0) {
    add<8>(a.delta + row, residual, a.delta_bias, width);
    normalise<8>(residual, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  } else {
    add<1>(a.delta + row, residual, a.delta_bias, width);
    normalise<1>(residual, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  }
  if (a.steps) round_written(a);
}

__global__ void add_rows(const AddRows a) {
  begin_ahead();
  const u64 row = (u64)blockIdx.x * a.width;
  if (a.width % 8 == 0) add<8>(a.delta + row, a.residual + row, 0, a.width);
  else add<1>(a.delta + row, a.residual + row, 0, a.width);
}

// Of each row the sums of squares of its first columns and of those behind them.
__global__ void square_parts(const SquareParts a) {
  __shared__ float scratch[32];
  begin_ahead();
  const act* part = a.x + (u64)blockIdx.x * a.stride + (blockIdx.y == 0 ? 0 : a.q_width);
  const u32 width = blockIdx.y == 0 ? a.q_width : a.k_width;
  float squares = 0.f;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float x = to_f32(part[i]);
    squares += x * x;
  }
  squares = block_sum(squares, scratch);
  if (threadIdx.x == 0) a.squares[blockIdx.x * 2 + blockIdx.y] = squares;
}

// A thread writes what it alone reads.
__global__ void norm_parts(const NormParts a) {
  begin_ahead();
  const u32 width = a.width;
  act* part = a.x + (u64)blockIdx.x * a.stride + a.first + (u64)blockIdx.y * width;
  if (a.squares) {
    const float scale = 1.f / sqrtf(a.squares[blockIdx.x * 2] / a.count + a.eps);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
      const float w = a.weight[i] + (a.kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f);
      part[i] = from_f32<act>(to_f32(part[i]) * scale * w);
    }
    return;
  }
  const float* weight = a.weight + (u64)blockIdx.y * a.weight_step;
  if ((a.stride | a.first | width) % 8 == 0)
    normalise<8>(part, weight, 0, width, a.eps, a.kind, part);
  else normalise<1>(part, weight, 0, width, a.eps, a.kind, part);
}

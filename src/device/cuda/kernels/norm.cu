// Norms, plain and with the residual added first. Block per row with a thread for every eight
// columns (32 to 1024 threads), or of many rows for every NORM_GROUPS times eight, so that more
// rows are on their way at once; threads hold them from the first read to the last write. Wider
// rows, and those of an odd width, are read again from L1. Sums are f32 in a fixed order. Layer
// norm takes the variance around the mean in a pass of its own: the one-pass form cancels. Bytes
// per row: norm 2 x width, add_norm 4 x width elements (delta, residual in and out, out).
#include "abi_norms.h"
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
  round_row<1>(a.out + row * a.width, a.width, 0.f, a.codes ? a.codes + row * a.width : 0,
               a.bytes ? a.bytes + row * a.padded_width : 0, a.padded_width, a.steps + row);
}

// A row of which each thread of the block has eight columns in each of GROUPS parts: nothing is
// read twice. Sums are those of as many threads as the row has eights, in their order, so that a
// row has the same bits however many threads have it.
template <class Norm, u32 GROUPS>
struct HeldRow {
  const Norm& a;
  const u64 row = (u64)blockIdx.x * a.width;
  // Of few rows weights come before the kernel before is done; of many they wait for no memory, and
  // fewer registers hold more rows.
  static constexpr bool EARLY = GROUPS == 1;
  float weight[EARLY ? GROUPS : 1][8], bias[EARLY ? GROUPS : 1][8];
  float v[GROUPS][8];

  static __device__ bool fits(const Norm& a) {
    return a.width % 8 == 0 && a.width <= blockDim.x * GROUPS * 8;
  }
  __device__ u32 column(u32 group) const { return (group * blockDim.x + threadIdx.x) * 8; }
  __device__ bool inside(u32 group) const { return column(group) < a.width; }

  __device__ HeldRow(const Norm& a) : a(a) {
    if constexpr (EARLY) load_weights(0, weight[0], bias[0]);
  }

  __device__ void load_weights(u32 group, float (&weight)[8], float (&bias)[8]) const {
    const u32 i = column(group);
#pragma unroll
    for (int j = 0; j < 8; j++) weight[j] = bias[j] = 0.f;
    if (inside(group)) load8(a.weight + i, weight);
    if (inside(group) && a.bias) load8(a.bias + i, bias);
#pragma unroll
    for (int j = 0; j < 8; j++) weight[j] += a.kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f;
  }

  // Of what each eight of the row has; `scratch` are 32 places that nobody else uses.
  __device__ static float sum_of_row(const float (&own)[GROUPS], float* scratch) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
      const float sum = warp_sum(own[group]);
      if (lane == 0) scratch[group * warps + warp] = sum;
    }
    __syncthreads();
    return warp_sum(lane < GROUPS * warps ? scratch[lane] : 0.f);
  }

  // Reads the row: x.
  __device__ void load(const act* x) {
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
#pragma unroll
      for (int j = 0; j < 8; j++) v[group][j] = 0.f;
      if (inside(group)) load8(x + row + column(group), v[group]);
    }
  }

  // Adds `delta` and a bias that may be null; the residual becomes the rounded sum, and the norm
  // sees that.
  __device__ void add(const act* delta, const float* delta_bias, act* residual) {
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
      if (!inside(group)) continue;
      float more[8], bias[8] = {};
      load8(delta + row + column(group), more);
      if (delta_bias) load8(delta_bias + column(group), bias);
#pragma unroll
      for (int j = 0; j < 8; j++)
        v[group][j] = to_f32(from_f32<act>(v[group][j] + (more[j] + bias[j])));
      store8(residual + row + column(group), v[group]);
    }
  }

  __device__ float mean(float* scratch) const {
    float own[GROUPS] = {};
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
#pragma unroll
      for (int j = 0; j < 8; j++) own[group] += v[group][j];
    }
    return sum_of_row(own, scratch) / a.width;
  }

  // The norm of these columns, and what products make of it.
  __device__ void norm() {
    // Places of their own: nobody waits until all have read a sum.
    __shared__ float sums[32], squares[32], largest[32];
    const float mean = a.kind == NORM_KIND_LAYER ? this->mean(sums) : 0.f;
    float own[GROUPS];
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++)
      own[group] = inside(group) ? squares_of(v[group], mean) : 0.f;
    const float scale = norm_scale(sum_of_row(own, squares), a.width, a.eps);

    float most = 0.f;
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
      if constexpr (EARLY) {
        normed(v[group], mean, scale, weight[group], bias[group]);
      } else {
        float weight[8], bias[8];
        load_weights(group, weight, bias);
        normed(v[group], mean, scale, weight, bias);
      }
      if (!inside(group)) continue;
      most = fmaxf(most, largest_of(v[group]));
      if (a.out) store8(a.out + row + column(group), v[group]);
    }
    if (a.steps) round(largest_of_block(most, largest));
  }

  __device__ void round(float most) const {
    const float step = e4m3_step(most), inverse = 1.f / step;
    u8* const bytes = a.bytes ? a.bytes + (u64)blockIdx.x * a.padded_width : 0;
    act* const codes = a.codes ? a.codes + row : 0;
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++)
      put_rounded(v[group], column(group), a.width, 0.f, step, inverse, codes, bytes,
                  a.padded_width);
    if (threadIdx.x == 0) a.steps[blockIdx.x] = step;
  }
};

template <u32 GROUPS>
__device__ __forceinline__ void norm_held(const NormRows& a) {
  HeldRow<NormRows, GROUPS> own(a);
  begin_ahead();
  own.load(a.x);
  own.norm();
}

__global__ void norm_rows(const NormRows a) {
  if (HeldRow<NormRows, 1>::fits(a)) return norm_held<1>(a);
  begin_ahead();
  const u32 width = a.width;
  const u64 row = (u64)blockIdx.x * width;
  if (width % 8 == 0)
    normalise<8>(a.x + row, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  else normalise<1>(a.x + row, a.weight, a.bias, width, a.eps, a.kind, a.out + row);
  if (a.steps) round_written(a);
}

template <u32 GROUPS>
__device__ __forceinline__ void add_norm_held(const AddNorm& a) {
  HeldRow<AddNorm, GROUPS> own(a);
  begin_ahead();
  own.load(a.residual);
  own.add(a.delta, a.delta_bias, a.residual);
  own.norm();
}

__global__ void add_norm(const AddNorm a) {
  if (HeldRow<AddNorm, 1>::fits(a)) return add_norm_held<1>(a);
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

// The same of rows that a block holds, behind a product alone, which waits for all before it and
// gives leave only then: the residual, which others wrote before, comes while this one still waits.
__global__ void add_norm_ahead(const AddNorm a) {
  HeldRow<AddNorm, 1> own(a);
  give_leave();
  own.load(a.residual);
  await();
  own.add(a.delta, a.delta_bias, a.residual);
  own.norm();
}

// Both of many rows that a block holds: threads for every NORM_GROUPS times eight columns.
__global__ void __launch_bounds__(NORM_MANY_THREADS, 2) norm_rows_many(const NormRows a) {
  norm_held<NORM_GROUPS>(a);
}
__global__ void __launch_bounds__(NORM_MANY_THREADS, 2) add_norm_many(const AddNorm a) {
  add_norm_held<NORM_GROUPS>(a);
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

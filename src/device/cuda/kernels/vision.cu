// What a vision tower needs beside norms and products (device/vision.rs), but for attention on
// tensor cores (attention_spans.cu): patches out of bytes, rotation by angles that the host
// computed once for all layers, copies of rows, and attention in its simple form, for f32 and head
// sizes that have no tile. Each is bound by the bytes it reads and writes once; attend_spans reads
// K and V of a span once per row and is for tests and odd models.
#include "abi_vision.h"
#include "common.cuh"

#define LOG2E 1.4426950408889634f
#define LOWEST -1e30f
#define WARPS (VISION_THREADS / 32)
// Elements of a head that a lane has.
#define PARTS (SPAN_MAX_HEAD_DIM / 32)

// An element for each thread, grid (rows, columns).
__global__ void put_patches(const PutPatches a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  const u32 patch = a.patch[blockIdx.x];
  float x = 0.f;
  if (patch != NO_PATCH) {
    const u32 byte = a.bytes[(u64)patch * a.width + i];
    x = a.numbers[i / (a.width / 3) * 256 + byte];
  }
  a.out[(u64)blockIdx.x * a.width + i] = from_f32<act>(x);
}

// An element for each thread, grid (rows, columns).
__global__ void add_places(const AddPlaces a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  const Corner* corners = a.corners + 4 * blockIdx.x;
  float sum = 0.f;
#pragma unroll
  for (int c = 0; c < 4; c++) {
    const u32 row = min(corners[c].row, a.table_rows - 1);
    sum += corners[c].share * to_f32(a.table[(u64)row * a.width + i]);
  }
  act* x = a.x + (u64)blockIdx.x * a.width + i;
  *x = from_f32<act>(to_f32(*x) + sum);
}

// N neighbours: 16 or 8 bytes of a half type, or one of any.
template <class T, int N>
struct alignas(N * sizeof(T)) Neighbours {
  T v[N];
};
template <int N>
__device__ __forceinline__ void load_biased(const act* p, const float* bias, float (&x)[N]) {
  const Neighbours<act, N> raw = *reinterpret_cast<const Neighbours<act, N>*>(p);
#pragma unroll
  for (int j = 0; j < N; j++) x[j] = to_f32(raw.v[j]) + (bias ? bias[j] : 0.f);
}
template <int N>
__device__ __forceinline__ void store(act* p, const float (&x)[N]) {
  Neighbours<act, N> raw;
#pragma unroll
  for (int j = 0; j < N; j++) raw.v[j] = from_f32<act>(x[j]);
  *reinterpret_cast<Neighbours<act, N>*>(p) = raw;
}

// Columns by N at once: pairs of the heads that turn, then what has a bias alone.
template <int N>
__device__ __forceinline__ void turn(const TurnRows& a, const float* sine, const float* cosine) {
  const u32 half = a.dim / 2, steps = half / N, pairs = a.heads * steps;
  const u32 turned = a.heads * a.dim, rest = a.bias ? (a.width - turned) / N : 0;
  act* row = a.qkv + (u64)blockIdx.x * a.width;
  for (u32 n = threadIdx.x; n < pairs; n += blockDim.x) {
    const u32 i = n % steps * N, at = n / steps * a.dim + i;
    const float* bias = a.bias ? a.bias + at : 0;
    float x[N], y[N], low[N], high[N];
    load_biased(row + at, bias, x);
    load_biased(row + at + half, bias ? bias + half : 0, y);
#pragma unroll
    for (int j = 0; j < N; j++) {
      low[j] = x[j] * cosine[i + j] - y[j] * sine[i + j];
      high[j] = y[j] * cosine[i + j] + x[j] * sine[i + j];
    }
    store(row + at, low);
    store(row + at + half, high);
  }
  for (u32 n = threadIdx.x; n < rest; n += blockDim.x) {
    float x[N];
    load_biased(row + turned + n * N, a.bias + turned + n * N, x);
    store(row + turned + n * N, x);
  }
}

// A block for each row: its sines and cosines serve all heads.
__global__ void turn_rows(const TurnRows a) {
  begin();
  __shared__ float sine[SPAN_MAX_HEAD_DIM / 2], cosine[SPAN_MAX_HEAD_DIM / 2];
  const u32 half = a.dim / 2;
  for (u32 i = threadIdx.x; i < half; i += blockDim.x)
    sincosf(a.angles[(u64)blockIdx.x * half + i], &sine[i], &cosine[i]);
  __syncthreads();
  // Rows and halves of heads lie at whole pieces then; of f32 eight are two of them.
  constexpr u32 MOST = sizeof(act) == 2 ? 8 : 4;
  if ((half | a.width) % MOST == 0) turn<MOST>(a, sine, cosine);
  else if ((half | a.width) % 4 == 0) turn<4>(a, sine, cosine);
  else turn<1>(a, sine, cosine);
}

// An element of a mean for each thread, grid (means, columns).
__global__ void mean_rows(const MeanRows a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  const act* x = a.x + (u64)blockIdx.x * a.count * a.width + i;
  float sum = 0.f;
  for (u32 r = 0; r < a.count; r++) sum += to_f32(x[(u64)r * a.width]);
  a.out[(u64)blockIdx.x * a.width + i] = from_f32<act>(sum / a.count);
}

// An element for each thread, grid (rows, columns).
__global__ void standardise(const Standardise a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  act* x = a.x + (u64)blockIdx.x * a.width + i;
  *x = from_f32<act>((to_f32(*x) * a.factor - a.bias[i]) * a.scale[i]);
}

// A block for each pair of rows.
__global__ void copy_rows(const CopyRows a) {
  begin();
  const RowPair pair = a.pairs[blockIdx.x];
  const act* from = a.x + (u64)pair.from * a.width;
  act* to = a.out + (u64)pair.to * a.width;
  if (a.width % 8 == 0) {
    for (u32 i = threadIdx.x * 8; i < a.width; i += blockDim.x * 8)
      *reinterpret_cast<Eight<act>*>(to + i) = *reinterpret_cast<const Eight<act>*>(from + i);
  } else {
    for (u32 i = threadIdx.x; i < a.width; i += blockDim.x) to[i] = from[i];
  }
}

// The same, added.
__global__ void add_row_pairs(const CopyRows a) {
  begin();
  const RowPair pair = a.pairs[blockIdx.x];
  const act* from = a.x + (u64)pair.from * a.width;
  act* to = a.out + (u64)pair.to * a.width;
  for (u32 i = threadIdx.x; i < a.width; i += blockDim.x)
    to[i] = from_f32<act>(to_f32(to[i]) + to_f32(from[i]));
}

// A block for each row. What counts 0 is not read: it may be of no patch, and no number.
__global__ void blend_rows(const BlendRows a) {
  begin();
  const RowBlend blend = a.blends[blockIdx.x];
  act* to = a.out + (u64)blend.to * a.width;
  for (u32 i = threadIdx.x; i < a.width; i += blockDim.x) {
    float sum = 0.f;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const float share = blend.of[c].share;
      if (share == 0.f) continue;
      const u32 row = blend.of[c].row;
      const act* from = a.x + (u64)row * a.width;
      if (row >= a.x_rows) from = a.table + (u64)min(row - a.x_rows, a.table_rows - 1) * a.width;
      sum += share * to_f32(from[i]);
    }
    to[i] = from_f32<act>(sum);
  }
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}

// A row of one head by a warp: a lane scores a key of each 32, then has every 32nd element of the
// sum of values.
__device__ void attend_row(const AttendSpans& a, u32 row, u32 head, u32 begin, u32 end) {
  const u32 lane = threadIdx.x % 32, dim = a.dim;
  const u64 heads = (u64)a.heads * dim, width = 3 * heads;
  const act* q = a.qkv + row * width + head * dim;
  const act* keys = a.qkv + heads + head * dim;
  float sum[PARTS] = {}, peak = LOWEST, total = 0.f;
  for (u32 base = begin; base < end; base += 32) {
    float score = -INFINITY;
    if (base + lane < end) {
      const act* key = keys + (base + lane) * width;
      score = 0.f;
      for (u32 i = 0; i < dim; i++) score += to_f32(q[i]) * to_f32(key[i]);
      score *= a.scale * LOG2E;
    }
    const float top = fmaxf(peak, warp_max(score));
    const float shrink = exp2f(peak - top), weight = exp2f(score - top);
    peak = top;
    total = total * shrink + warp_sum(weight);
#pragma unroll
    for (int n = 0; n < PARTS; n++) sum[n] *= shrink;
    const u32 count = min(32u, end - base);
    for (u32 k = 0; k < count; k++) {
      const float share = __shfl_sync(~0u, weight, k);
      const act* value = keys + heads + (base + k) * width;
#pragma unroll
      for (int n = 0; n < PARTS; n++)
        if (lane + 32 * n < dim) sum[n] += share * to_f32(value[lane + 32 * n]);
    }
  }
  act* out = a.out + row * heads + head * dim;
#pragma unroll
  for (int n = 0; n < PARTS; n++)
    if (lane + 32 * n < dim) out[lane + 32 * n] = from_f32<act>(sum[n] / total);
}

// Grid (tiles, heads); the warps of a block share out the rows of a tile.
__global__ void __launch_bounds__(VISION_THREADS) attend_spans(const AttendSpans a) {
  begin();
  const SpanTile tile = a.tiles[blockIdx.x];
  for (u32 r = threadIdx.x / 32; r < tile.count; r += WARPS)
    attend_row(a, tile.first + r, blockIdx.y, tile.begin, tile.end);
}

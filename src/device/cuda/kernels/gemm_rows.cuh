// What gemm_rows.cu and gemm_rows_more.cu share: how their one thread that copies goes over stages
// and tiles, and how outputs go to their rows.
#pragma once
#include "activation.cuh"
#include "bulk.cuh"
#include "cluster.cuh"
#include "norm_columns.cuh"
#include "warpgroup.cuh"

#if ARCH == 90 && ACT != 0
// What of a product T is copied next. T has a stage's fetch_weights(cursor) and
// fetch_inputs(cursor), and how many stages its ring has.
template <class T>
struct RowsCursor {
  const T& t;
  u32 tile = t.first_tile, unit = t.from, stage = 0;

  __device__ RowsCursor(const T& t) : t(t) {}

  __device__ void advance() {
    if (++stage == t.stages()) stage = 0;
    if (++unit != t.to) return;
    unit = t.from;
    tile += t.step;
  }
};

// Copies all of a block's stages; weights, which depend on nobody, before `wait`.
template <class T, class Wait>
__device__ __forceinline__ void copy_stages(const T& t, Wait wait) {
  const u32 total = t.count * t.of_tile, ahead = min(total, t.stages());
  RowsCursor<T> next(t);
  for (u32 n = 0; n < ahead; n++, next.advance()) t.fetch_weights(next);
  wait();
  RowsCursor<T> inputs(t);
  for (u32 n = 0; n < ahead; n++, inputs.advance()) t.fetch_inputs(inputs);
  u32 phase = 0;
  for (u32 n = t.stages(); n < total; n++, next.advance()) {
    barrier_wait(t.empty + next.stage * 8, phase);
    t.fetch_weights(next);
    t.fetch_inputs(next);
    if (next.stage == t.stages() - 1) phase ^= 1;
  }
}

// A warp is done with a stage.
__device__ __forceinline__ void leave_stage(u32 empty, u32 stage) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(empty + stage * 8);
}

// To `scales`, what rows that are still to be divided are multiplied by, of the sums of squares
// that blocks left. A warp has each ROWS_DIVIDING-th eight of rows from `eight` on. The order of a
// row's sum is the same of few rows and of many.
__device__ __forceinline__ void scale_rows(const RowsGemm& c, u32 eight, float* scales) {
  constexpr u32 AT_ONCE = 16, LOADS = ROWS_PARTS_MOST / AT_ONCE;
  const u32 lane = threadIdx.x % 32;
#pragma unroll 1
  for (; eight * 8 < c.rows; eight += ROWS_DIVIDING) {
    const u32 first = eight * 8 + lane % 2 * 4;
    float4 parts[LOADS];
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) {
      const u32 part = i * AT_ONCE + lane / 2;
      const float* const from = c.squares_of_x + part * ROWS_MOST + first;
      parts[i] = part < c.parts ? *reinterpret_cast<const float4*>(from) : float4{};
    }
    float sums[4] = {};
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) add_to(sums, parts[i]);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
#pragma unroll
      for (u32 d = 2; d < 32; d *= 2) sums[i] += __shfl_xor_sync(~0u, sums[i], d);
    }
    // Of all lanes that have the same rows each of four takes one.
    const u32 i = lane / 2;
    const float own = i == 0 ? sums[0] : i == 1 ? sums[1] : i == 2 ? sums[2] : sums[3];
    if (i < 4) scales[first + i] = norm_scale(own, c.normed_inputs, c.eps);
  }
}

// Two outputs of eight `e` of a tile and two of the one behind it, or gated two of both, to the row
// of `heights` outputs, an even number, that `y` is. Those of the tile begin at output `first`.
template <bool GATED>
__device__ __forceinline__ void write_two_of_eights(act* y, u32 first, u32 e, u32 heights,
                                                    float (&low)[2], const float (&high)[2]) {
  if constexpr (GATED) {
    const u32 output = first + e * 4 + threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 j = 0; j < 2; j++) low[j] = activate_gated(low[j], high[j], ACTIVATION_SILU_GATED);
    if (output < heights) *reinterpret_cast<u32*>(y + output) = pack_act(low[0], low[1]);
  } else {
    const u32 output = first + (e * 8 + threadIdx.x % 4 * 2);
    if (output < heights) *reinterpret_cast<u32*>(y + output) = pack_act(low[0], low[1]);
    if (output + 8 < heights)
      *reinterpret_cast<u32*>(y + output + 8) = pack_act(high[0], high[1]);
  }
}
#endif

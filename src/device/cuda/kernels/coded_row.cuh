// A row of x, or its norm, on its way to codes of E4M3 in the order of a coded matrix, by the block
// that multiplies them (coded_small_m.cu).
#pragma once
#include "bulk.cuh"
#include "codes.cuh"
#include "norm_columns.cuh"

#define WARPS SMALL_M_WARPS

#if ACT != 0 && ARCH >= 90
// Inputs that the threads that multiply take at a time.
constexpr u32 PIECES = WARPS * 32 * 8;

// They meet.
__device__ __forceinline__ void meet() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

// Eight inputs of a row; zeros beyond the last.
__device__ __forceinline__ uint4 inputs_of(const act* x, u32 k, u32 inputs) {
  const uint4 none = {0, 0, 0, 0};
  return k < inputs ? *reinterpret_cast<const uint4*>(x + k) : none;
}

// A thread holds its first MOST eights of inputs, and makes their codes chunk by chunk; 0: the
// codes of all are made at once.
template <u32 MOST>
struct CodedRow {
  static constexpr u32 HELD = MOST;

  const CodedSmall& call;
  const CodedProduct& c = call.product;
  const u32 end = c.w.blocks * CODE_BLOCK_BYTES;  // of the inputs, filled up
  float* steps;  // of the rows of x, in shared memory
  uint4 held[HELD == 0 ? 1 : HELD];
  float step, inverse;
  u32 eights = 0;  // whose codes are to be made

  __device__ CodedRow(const CodedSmall& call, float* steps) : call(call), steps(steps) {}

  // Where a thread's i-th eight of inputs begins.
  __device__ static u32 place_of(u32 i) { return threadIdx.x * 8 + i * PIECES; }

  // A row of x to codes of E4M3, but for what is held of it. It is read once if it is not wider.
  __device__ void round(const act* x, u32 row, u8* to, float* scratch) {
    if constexpr (HELD != 0) {
#pragma unroll
      for (u32 i = 0; i < HELD; i++) held[i] = inputs_of(x, place_of(i), c.w.inputs);
    }
    find_step(x, row, to, scratch);
  }

  // The same, given what is held; x has the others.
  __device__ void find_step(const act* x, u32 row, u8* to, float* scratch) {
    step = c.step;
    if (step == 0.f) {
      float most = 0.f;
      if constexpr (HELD != 0) {
#pragma unroll
        for (u32 i = 0; i < HELD; i++) most = fmaxf(most, largest(held[i]));
      }
#pragma unroll 1
      for (u32 k = place_of(HELD); HELD == 0 && k < end; k += PIECES)
        most = fmaxf(most, largest(inputs_of(x, k, c.w.inputs)));
      step = e4m3_step(largest_of_all(most, scratch));
    }
    inverse = 1.f / step;
    eights = min((end + PIECES - 1) / PIECES, HELD);
#pragma unroll 1
    for (u32 k = place_of(HELD); HELD == 0 && k < end; k += PIECES)
      encode(inputs_of(x, k, c.w.inputs), k, to);
    if (threadIdx.x == 0) steps[row] = step;
    if (HELD == 0) meet();
  }

  // The single row that x is to codes of its norm, once the kernel before is done: in the order of
  // sums of norm_rows, whose threads have eight columns each.
  __device__ void norm(u8* to, float* scratch) {
    constexpr u32 GROUPS = HELD;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = c.w.inputs;
    const u32 groups = (width + PIECES - 1) / PIECES;
    const float none[8] = {};
    float weight[GROUPS][8] = {}, v[8];
#pragma unroll
    for (u32 i = 0; i < GROUPS; i++) {
      if (place_of(i) >= width) break;
      load8(call.norm_weight + place_of(i), weight[i]);
#pragma unroll
      for (u32 j = 0; j < 8; j++)
        weight[i][j] += call.norm_kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f;
    }
    begin();

#pragma unroll
    for (u32 i = 0; i < GROUPS; i++) held[i] = inputs_of(c.x, place_of(i), c.w.inputs);
    float own_sum[GROUPS];
#pragma unroll
    for (u32 i = 0; i < GROUPS; i++) {
      floats_of(*reinterpret_cast<const Eight<act>*>(&held[i]), v);
      own_sum[i] = squares_of(v, 0.f);
    }
#pragma unroll
    for (u32 i = 0; i < GROUPS; i++) {
      own_sum[i] = warp_sum(own_sum[i]);
      if (lane == 0) scratch[i * WARPS + warp] = own_sum[i];
    }
    meet();
    const float sum = warp_sum(lane < groups * WARPS ? scratch[lane] : 0.f);
    const float scale = norm_scale(sum, width, call.eps);

#pragma unroll
    for (u32 i = 0; i < GROUPS; i++) {
      if (place_of(i) >= width) break;
      floats_of(*reinterpret_cast<const Eight<act>*>(&held[i]), v);
      normed(v, 0.f, scale, weight[i], none);
      store8(reinterpret_cast<act*>(&held[i]), v);
      if (blockIdx.x == 0) store8(call.normed + place_of(i), v);
    }
    find_step(c.x, 0, to, scratch + 32);
  }

  // Eight inputs to their places.
  __device__ void encode(const uint4& raw, u32 k, u8* to) const {
    const Eight<act>& values = *reinterpret_cast<const Eight<act>*>(&raw);
    // The step of a row divides, that of all rows multiplies by what it is the inverse of.
    const auto quotient = [&](float x) {
      const float near = x * inverse, rest = fmaf(-near, step, x);
      return fmaf(c.step == 0.f ? rest : 0.f, inverse, near);
    };
#pragma unroll
    for (u32 t = 0; t < 4; t++) {
      const float low = to_f32(values.v[2 * t]), high = to_f32(values.v[2 * t + 1]);
      const u32 pair = E4m3::encode(quotient(low), quotient(high));
      *reinterpret_cast<u16*>(to + e4m3_place(k + 2 * t)) = pair;
    }
  }

  // The largest |x| of eight.
  __device__ static float largest(const uint4& raw) {
    const Eight<act>& values = *reinterpret_cast<const Eight<act>*>(&raw);
    float most = 0.f;
#pragma unroll
    for (int j = 0; j < 8; j++) most = fmaxf(most, fabsf(to_f32(values.v[j])));
    return most;
  }

  // And of what all threads found.
  __device__ static float largest_of_all(float most, float* scratch) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    // All have read those of the row before.
    meet();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = most;
    meet();
    for (u32 i = 0; i < WARPS; i++) most = fmaxf(most, scratch[i]);
    return most;
  }

  // The codes of a held row's next PIECES inputs, before the first chunk that has them: the first
  // stage is free again, and its next copy on its way, before all of the row's codes are made.
  __device__ void encode_next(u32 n, u8* xs) {
    if constexpr (HELD != 0) {
      constexpr u32 CHUNKS = PIECES / (CODE_CHUNK_BLOCKS * CODE_BLOCK_BYTES);
      if (n % CHUNKS != 0 || n / CHUNKS >= eights) return;
      const u32 k = place_of(n / CHUNKS);
      if (k < end) encode(held[0], k, xs);
#pragma unroll
      for (u32 i = 1; i < HELD; i++) held[i - 1] = held[i];
      meet();
    }
  }
};
#endif

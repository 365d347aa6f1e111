// Rows of activations as E4M3 for products that round their inputs, and the order of their codes
// where they are to meet a coded matrix (abi_codes.h).
#pragma once
#include "fp8.cuh"

// x / step as the division rounds it, given 1 / step: one step of correction is enough where
// nothing overflows or is smaller than the least normal number.
__device__ __forceinline__ float divide(float x, float step, float inverse) {
  const float quotient = x * inverse;
  return fmaf(fmaf(-quotient, step, x), inverse, quotient);
}

// The step of a row whose largest |x| this is.
__device__ __forceinline__ float e4m3_step(float largest) {
  return fmaxf(largest / 448.f, 1.f / (448.f * 512.f));
}

// Where the codes of inputs k and k + 1 lie in a row of bytes, k even.
__device__ __forceinline__ u32 e4m3_place(u32 k) {
  const u32 step = k % 64 / 16, inside = k % 16;
  return k / 64 * 64 + inside % 8 / 2 * 16 + step * 4 + inside / 8 * 2;
}

// Zeros behind a row's last input, if it is in bytes.
__device__ __forceinline__ void fill_up(u32 width, u8* bytes, u32 padded) {
  for (u32 i = width + threadIdx.x * 2; bytes && i < padded; i += blockDim.x * 2)
    *reinterpret_cast<u16*>(bytes + e4m3_place(i)) = 0;
}

// Eight of a row's inputs, from input `i` on, as products take them that round their inputs to
// E4M3: as `bytes` in the order of codes, or as activations. `fixed` is the step of all rows, or 0:
// each row has its own.
__device__ __forceinline__ void put_rounded(const float (&x)[8], u32 i, float fixed, float step,
                                            float inverse, act* codes, u8* bytes) {
  u32 pair[4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const float low = x[2 * j], high = x[2 * j + 1];
    pair[j] = fixed == 0.f ? E4m3::encode(divide(low, step, inverse), divide(high, step, inverse))
                           : E4m3::encode(low * inverse, high * inverse);
  }
  if (bytes) {
    u16* to = reinterpret_cast<u16*>(bytes);
#pragma unroll
    for (int j = 0; j < 4; j++) to[e4m3_place(i + 2 * j) / 2] = pair[j];
  } else {
    float v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = E4m3::to_f32(pair[j / 2] >> j % 2 * 8 & 255);
    store8(codes + i, v);
  }
}

// The largest of a block's threads; `scratch` are 32 places that nobody else uses until the block
// has met again.
__device__ __forceinline__ float largest_of_block(float most, float* scratch) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = most;
  __syncthreads();
  for (u32 i = 0; i < blockDim.x / 32; i++) most = fmaxf(most, scratch[i]);
  return most;
}

// A row of a block's own, all of it: `bytes` are filled up to `padded`; and the step. Width a
// multiple of 8, aligned to 16 bytes.
__device__ __forceinline__ void round_row(const act* x, u32 width, float fixed, act* codes,
                                          u8* bytes, u32 padded, float* step_of_row) {
  __shared__ float scratch[32];
  float v[8], most = 0.f;
  if (fixed == 0.f) {
    for (u32 i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
      load8(x + i, v);
#pragma unroll
      for (int j = 0; j < 8; j++) most = fmaxf(most, fabsf(v[j]));
    }
    most = largest_of_block(most, scratch);
  }
  const float step = fixed == 0.f ? e4m3_step(most) : fixed, inverse = 1.f / step;
  for (u32 i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
    load8(x + i, v);
    put_rounded(v, i, fixed, step, inverse, codes, bytes);
  }
  fill_up(width, bytes, padded);
  if (threadIdx.x == 0) *step_of_row = step;
}

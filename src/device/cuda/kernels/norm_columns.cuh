// The arithmetic of a norm over eight columns of a row that a thread holds: norm.cu, ranks_norm.cu
// and ranks_pushed.cu come to the same bits by it. What is one multiplication and addition at once
// is written so, lest compilers choose in one kernel as they do not in the other.
#pragma once
#include "common.cuh"

// The squares of columns around the mean, added up.
__device__ __forceinline__ float squares_of(const float (&v)[8], float mean) {
  float sum = 0.f;
#pragma unroll
  for (int j = 0; j < 8; j++) sum = fmaf(v[j] - mean, v[j] - mean, sum);
  return sum;
}

// What multiplies a row of so many columns with this sum of squares.
__device__ __forceinline__ float norm_scale(float squares, u32 width, float eps) {
  return 1.f / sqrtf(squares / width + eps);
}

// The norm of columns, rounded to activations.
__device__ __forceinline__ void normed(float (&v)[8], float mean, float scale,
                                       const float (&weight)[8], const float (&bias)[8]) {
#pragma unroll
  for (int j = 0; j < 8; j++)
    v[j] = to_f32(from_f32<act>(fmaf((v[j] - mean) * scale, weight[j], bias[j])));
}

__device__ __forceinline__ float largest_of(const float (&v)[8]) {
  float most = 0.f;
#pragma unroll
  for (int j = 0; j < 8; j++) most = fmaxf(most, fabsf(v[j]));
  return most;
}

// How a row's q and k are rotated: what rope.cu and attention of single tokens share, so that both
// write the same bits.
#pragma once
#include "abi_ops.h"

// Sine and cosine of pair `i` of the token of a row, at position `at`. The angle is f32 with the
// exact range reduction: positions reach 131072.
__device__ __forceinline__ void angle_of(const RopeStore& a, u32 row, u32 at, u32 i, float* sine,
                                         float* cosine) {
  const u32 axis = a.axes[i / 16] >> i % 16 * 2 & 3;
  const u32 turns = a.places ? a.places[3 * row + axis] : at;
  float s, c;
  sincosf((float)turns * a.inverse_frequency[i], &s, &c);
  *sine = s * a.magnitude;
  *cosine = c * a.magnitude;
}

// What q is multiplied with at position `at`.
__device__ __forceinline__ float growth_at(const RopeStore& a, u32 at) {
  const u32 steps = a.growth != 0.f ? (at + a.growth_ahead) / a.growth_length : 0;
  return a.growth != 0.f ? 1.f + a.growth * logf(1.f + (float)steps) : 1.f;
}

// N pairs.
template <int N>
__device__ __forceinline__ void turn(float (&low)[8], float (&high)[8], const float* cosine,
                                     const float* sine) {
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float c = cosine[j], s = sine[j], old = low[j];
    low[j] = old * c - high[j] * s;
    high[j] = high[j] * c + old * s;
  }
}

// E4M3 by integer arithmetic, for any card, and the order of its codes in a row that is to meet a
// coded matrix (abi_codes.h).
#pragma once
#include "common.cuh"

__device__ __forceinline__ float from_e4m3(u32 code) {
  const u32 size = code & 0x7f, sign = (code & 0x80) << 24;
  // The bits of an f32 whose exponent is 120 too small; the product with 2^120 also makes the small
  // ones right.
  const float x = __uint_as_float(size << 20) * __uint_as_float((127u + 120u) << 23);
  return __uint_as_float(__float_as_uint(size == 0x7f ? __int_as_float(0x7fc00000) : x) | sign);
}

// x to E4M3: nearest, ties to even, saturating.
__device__ __forceinline__ u32 to_e4m3(float x) {
  const u32 sign = __float_as_uint(x) >> 24 & 0x80;
  const float size = fminf(fabsf(x), 448.f);
  if (!(size == size)) return sign | 0x7f;
  u32 code;
  if (size < 0.015625f) {
    // Multiples of 2^-9: adding 1.5 * 2^(23 - 9) rounds to them.
    const float magic = 1.5f * 16384.f;
    code = __float_as_uint(size + magic) - __float_as_uint(magic);
  } else {
    const u32 bits = __float_as_uint(size);
    const u32 rounded = bits + 0x7ffff + (bits >> 20 & 1);
    code = (rounded >> 20) - (120u << 3);
  }
  return sign | code;
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

// Numbers of eight bits, in pages, weights and rounded inputs: OCP's E4M3 and E5M2. From f32, to
// the nearest, ties to even, where what is beyond the largest becomes that; to f32; and by fours to
// f16, which holds each of them exactly. Cards from 8.9 on convert E4M3 by an instruction, older
// ones by bits. E5M2 is the upper byte of an f16 everywhere.
#pragma once
#include "abi_ops.h"

// By bits: a number with so many bits of fraction and this bias.
template <int FRACTION, int BIAS>
__device__ __forceinline__ u32 encode_by_bits(float x, float largest) {
  constexpr int CUT = 23 - FRACTION, REBIAS = 127 - BIAS;
  const u32 sign = __float_as_uint(x) >> 24 & 0x80;
  if (x != x) return sign | 0x7f;
  const float size = fminf(fabsf(x), largest);
  const u32 bits = __float_as_uint(size);
  if (bits < (REBIAS + 1) << 23) {
    // Subnormal: adding this rounds to a multiple of the least number.
    const float magic = __uint_as_float((24 - BIAS - FRACTION + 127) << 23);
    return sign | (__float_as_uint(size + magic) - __float_as_uint(magic));
  }
  const u32 rounded = (bits + (1 << (CUT - 1)) - 1 + (bits >> CUT & 1)) >> CUT;
  return sign | (rounded - (REBIAS << FRACTION));
}

struct E4m3 {
  // What `pairs` gives is the number divided by this; whoever multiplies with them puts it back.
#if ARCH >= 89
  static constexpr float UNIT = 1.f;
#else
  static constexpr float UNIT = 256.f;
#endif

  // Bytes 0 and 1, and bytes 2 and 3, as f16.
  static __device__ __forceinline__ void pairs(u32 x, u32& low, u32& high) {
#if ARCH >= 89
    asm("{ .reg .b16 l, h;\n mov.b32 {l, h}, %2;\n cvt.rn.f16x2.e4m3x2 %0, l;\n"
        " cvt.rn.f16x2.e4m3x2 %1, h; }"
        : "=r"(low), "=r"(high)
        : "r"(x));
#else
    // An f16's exponent has a bit more and its zero lies 8 higher: moved into place the number is
    // too small by 2^8, subnormals too. What is no number reads as 480.
    const u32 y = __byte_perm(x, 0, 0x3120);
    low = (y << 7 & 0x3f803f80) | (y << 8 & 0x80008000);
    high = (y >> 1 & 0x3f803f80) | (y & 0x80008000);
#endif
  }

  static __device__ __forceinline__ float to_f32(u8 x) {
    const u32 size = x & 0x7f, none = 0x7fffffff;
    const u32 number = __float_as_uint(__uint_as_float(size << 20) * 0x1p120f);
    return __uint_as_float((size == 0x7f ? none : number) | (u32)(x & 0x80) << 24);
  }

  static __device__ __forceinline__ u32 encode(float x) { return encode_by_bits<3, 7>(x, 448.f); }

  // `low` in the low byte.
  static __device__ __forceinline__ u16 encode(float low, float high) {
#if ARCH >= 89
    u16 both;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(high), "f"(low));
    return both;
#else
    return encode(low) | encode(high) << 8;
#endif
  }
};

struct E5m2 {
  static constexpr float UNIT = 1.f;

  static __device__ __forceinline__ void pairs(u32 x, u32& low, u32& high) {
    low = __byte_perm(x, 0, 0x1404);
    high = __byte_perm(x, 0, 0x3424);
  }

  static __device__ __forceinline__ float to_f32(u8 x) { return ::to_f32(f16{(u16)(x << 8)}); }

  static __device__ __forceinline__ u16 encode(float low, float high) {
#if ARCH >= 89
    u16 both;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(both) : "f"(high), "f"(low));
    return both;
#else
    return encode_by_bits<2, 15>(low, 57344.f) | encode_by_bits<2, 15>(high, 57344.f) << 8;
#endif
  }
};

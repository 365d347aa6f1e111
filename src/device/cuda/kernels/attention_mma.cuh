// What the files of paged attention on tensor cores share: constants, the shape of a kernel's
// entry, and the functions of the softmax. The work list is in abi_ops.h.
#pragma once
#include "abi_ops.h"
#include "mma.cuh"

#define LOG2E 1.4426950408889634f
#define LOWEST -1e30f

extern __shared__ __align__(16) u8 dynamic_shared[];

// BODY(D) has `call`.
#define ENTRY(NAME, BODY, D, THREADS, BLOCKS)        \
  __global__ void __launch_bounds__(THREADS, BLOCKS) \
      NAME##_##D(const PagedAttention call) {        \
    BODY(D);                                         \
  }

// A file's CHUNK, but for the head sizes that wgmma has, where there is wgmma: nobody launches
// these there.
#if ARCH == 90
#define CHUNK_OF_MMA(D) (void)call
#else
#define CHUNK_OF_MMA(D) CHUNK(D)
#endif

#if ACT != 0
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// How many keys a row at this position sees at most, itself included; and the first of them.
__device__ __forceinline__ u32 reach(const PagedAttention& c, u32 at) {
  return c.chunk != 0 ? at % c.chunk + 1 : c.window != 0 ? c.window : ~0u;
}
__device__ __forceinline__ u32 first_key(const PagedAttention& c, u32 at) {
  const u32 most = reach(c, at);
  return at >= most ? at + 1 - most : 0;
}

// The keys that a row sees: those before it, as far as it reaches, and all of its image, if it is
// of one whose tokens see each other. Neither end comes before that of an earlier row.
struct SeenKeys {
  u32 from, to;
  __device__ __forceinline__ SeenKeys(const PagedAttention& c, u64 row) {
    const u32 at = c.position[row];
    from = first_key(c, at);
    to = at + 1;
    if (c.seen) {
      from = min(from, c.seen[3 * row + 1]);
      to = c.seen[3 * row + 2] + 1;
    }
  }
};

// What a head's sink adds to the sum of a row's weights, which are relative to `peak` (base 2).
// However high it is: then nothing is left for the others.
__device__ __forceinline__ float weight_of_sink(const PagedAttention& c, u32 head, float peak) {
  return c.sinks ? exp2f(c.sinks[head] * LOG2E - peak) : 0.f;
}

// Off by a few 1e-7 whatever x: 1 - 2 / (1 + e^2x), without tanhf's branches.
__device__ __forceinline__ float tanh_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.f + exp2_fast(2.f * LOG2E * x)));
  return 1.f - 2.f * y;
}

#if defined(F16_OPERANDS) && ACT == 2
// Rows of q as f16, which bfloat16 outreaches: each is divided by a power of two with which its
// largest element lies in [1, 2), or nearly so at the ends of bfloat16's range. Elements below
// 2^-14 of the largest lose bits that no sum with it has. `top` is the largest magnitude, as bits;
// the factor is what gives back the size.
struct RowUnit {
  float inverse, factor;
  __device__ __forceinline__ RowUnit(u32 top) {
    const u32 power = min(max(top & 0x7f80, 0x0080), 0x7e80);
    factor = __uint_as_float(power << 16);
    inverse = __uint_as_float((0x7f00 - power) << 16);
  }
  // Two neighbours.
  __device__ __forceinline__ u32 divide(u32 x) const {
    return pack(__uint_as_float(x << 16) * inverse, __uint_as_float(x & 0xffff0000) * inverse);
  }
};
__device__ __forceinline__ u32 larger(u32 top, u32 x) {
  return max(top, max(x & 0x7fff, x >> 16 & 0x7fff));
}
#endif
#endif

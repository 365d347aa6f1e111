// What every kernel of this folder shares: integer names, the element types, the parameters and
// records of abi.h, loads of 16 bytes, sums over a block. No CUDA header is included: NVRTC alone
// compiles this folder, and conversions are PTX that sm_80 already has.
//
// A file is compiled once per element type of the activations (ACT: 0 = f32, 1 = f16, 2 = bf16), so
// that kernel names carry no type and a device loads the code of its own type only.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// NVRTC has no <math.h>.
#define INFINITY __int_as_float(0x7f800000)

struct f16 {
  u16 bits;
};
struct bf16 {
  u16 bits;
};

#ifndef ARCH
#define ARCH 80
#endif
#ifndef ACT
#define ACT 0
#endif
#if ACT == 0
typedef float act;
#elif ACT == 1
typedef f16 act;
#else
typedef bf16 act;
#endif

#include "abi.h"

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ float to_f32(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

template <class T>
__device__ __forceinline__ T from_f32(float x);
template <>
__device__ __forceinline__ float from_f32<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ f16 from_f32<f16>(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// From here on everything before this kernel in the stream is done. Until here a Hopper card has
// its launch overlap the end of the kernel before (programmatic dependent launch).
__device__ __forceinline__ void await() {
#if ARCH >= 90
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The kernel after may be launched, once all blocks have come here.
__device__ __forceinline__ void give_leave() {
#if ARCH >= 90
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The first line of nearly every kernel. Above it nothing may be read or written but weights, which
// no kernel of a step writes, and what the step's first kernel wrote for all others. (In the other
// order later kernels take places on a few multiprocessors while earlier ones still run: up to
// twice as slow.)
__device__ __forceinline__ void begin() {
  await();
  give_leave();
}

// The same of a small kernel in front of a product or of attention: weights, or keys of earlier
// steps, begin to come while this one still waits. All its blocks are on the card at once, so none
// is kept from its place. A kernel behind it may start before those in front of it have ended.
__device__ __forceinline__ void begin_ahead() {
  give_leave();
  await();
}

// The first line of a kernel that waits for other GPUs: as `begin`, but the kernel after gets leave
// only at the end, or with `give_leave` where a block has all that it waits for. Its blocks would
// take places that others need to get to where they are waited for; where nobody else does, some
// give leave first (Member::leaves_ahead).
__device__ __forceinline__ void begin_apart() { await(); }

// Eight neighbours: 16 bytes of a half type, two times 16 of f32. The pointer is aligned to 16
// bytes.
template <class T>
struct alignas(16) Eight {
  T v[8];
};

template <class T>
__device__ __forceinline__ void floats_of(const Eight<T>& raw, float (&out)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) out[i] = to_f32(raw.v[i]);
}
template <class T>
__device__ __forceinline__ void load8(const T* p, float (&out)[8]) {
  floats_of(*reinterpret_cast<const Eight<T>*>(p), out);
}
template <class T>
__device__ __forceinline__ void store8(T* p, const float (&x)[8]) {
  Eight<T> raw;
#pragma unroll
  for (int i = 0; i < 8; i++) raw.v[i] = from_f32<T>(x[i]);
  *reinterpret_cast<Eight<T>*>(p) = raw;
}

// Eight neighbours, or one where a width or an address allows no more.
template <int N>
__device__ __forceinline__ void get(const act* p, float (&x)[8]) {
  if constexpr (N == 8) load8(p, x);
  else x[0] = to_f32(*p);
}
template <int N>
__device__ __forceinline__ void put(act* p, const float (&x)[8]) {
  if constexpr (N == 8) store8(p, x);
  else *p = from_f32<act>(x[0]);
}

// Every lane gets the same sum (maximum): a butterfly adds in one order, so the bits repeat.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  return x;
}
// Sum over the block, at most 1024 threads; every thread gets it. `scratch` are 32 places that
// nobody else uses until the block has met again.
__device__ __forceinline__ float sum_of_block(float x, float* scratch) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  x = warp_sum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : 0.f);
}
// The same with places that are free again at once.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  const float total = sum_of_block(x, scratch);
  __syncthreads();
  return total;
}

// The row of a slot, in words; it begins with its header.
__device__ __forceinline__ u32* row_of(const SlotRows& slots, u32 slot) {
  return slots.rows + slot * slots.stride;
}
__device__ __forceinline__ SlotHeader* header_of(u32* row) {
  return reinterpret_cast<SlotHeader*>(row);
}

// What every kernel of this folder shares: integer names, the element types, loads of 16 bytes,
// sums over a block, and the layout of a slot's row. No CUDA header is included: NVRTC alone
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

// The first line of every kernel: from here on everything before it in the stream is done. Until
// here a Hopper card has its launch overlap the end of the kernel before (programmatic dependent
// launch), and the second instruction gives the same leave to the kernel after. (In the other order
// later kernels take places on a few multiprocessors while earlier ones still run: up to twice as
// slow.) Nothing may be read or written above this line but weights, which no kernel of a step
// writes.
__device__ __forceinline__ void begin() {
#if ARCH >= 90
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Eight neighbours: 16 bytes of a half type, two times 16 of f32. The pointer is aligned to 16
// bytes.
template <class T>
struct alignas(16) Eight {
  T v[8];
};

template <class T>
__device__ __forceinline__ void load8(const T* p, float (&out)[8]) {
  const Eight<T> raw = *reinterpret_cast<const Eight<T>*>(p);
#pragma unroll
  for (int i = 0; i < 8; i++) out[i] = to_f32(raw.v[i]);
}
template <class T>
__device__ __forceinline__ void store8(T* p, const float (&x)[8]) {
  Eight<T> raw;
#pragma unroll
  for (int i = 0; i < 8; i++) raw.v[i] = from_f32<T>(x[i]);
  *reinterpret_cast<Eight<T>*>(p) = raw;
}

// Every lane gets the same sum (maximum): a butterfly adds in one order, so the bits repeat.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  return x;
}
// Sum over the block, at most 1024 threads; every thread gets it. `scratch` has 33 floats.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  x = warp_sum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  if (warp == 0) {
    const float total = warp_sum(lane < warps ? scratch[lane] : 0.f);
    if (lane == 0) scratch[32] = total;
  }
  __syncthreads();
  const float total = scratch[32];
  __syncthreads();
  return total;
}

// A row that only pads the batch has no slot: nothing may be read or written for it beyond its own
// row.
#define NO_SLOT ~0u

// Words of a slot's row; `sampler_row.rs` writes them and has the same list. After the header come
// room for the sampler's lists (logits_order.cuh), the page table, and the counts: two words an
// entry, the token and how often it was sampled (0 = it is in the prompt only).
enum SlotWord {
  SLOT_LENGTH = 0,
  SLOT_LAST = 1,
  SLOT_OUTPUTS = 2,
  SLOT_ENTRIES = 3,
  SLOT_TEMPERATURE = 4,
  SLOT_TOP_K = 5,
  SLOT_TOP_P = 6,
  SLOT_LN_MIN_P = 7,
  SLOT_REPETITION = 8,
  SLOT_FREQUENCY = 9,
  SLOT_PRESENCE = 10,
  SLOT_SEED_LOW = 11,
  SLOT_SEED_HIGH = 12,
  SLOT_MIN_TOKENS = 13,
  SLOT_MASKED = 14,
  SLOT_NEEDS_COUNTS = 15,
  // Address of the lists where the row has no room for them, else 0.
  SLOT_LISTS_LOW = 16,
  SLOT_LISTS_HIGH = 17,
  SLOT_BIASES = 18,
  SLOT_BAD_WORDS = 19,
  SLOT_TAIL = 20,
  // Words of the mask, ~0 = there is none; where it begins in the lists.
  SLOT_ALLOWED = 21,
  SLOT_ALLOWED_AT = 22,
  // 1 + the slot of its adapter, 0 = none.
  SLOT_ADAPTER = 23,
  // What was seen of the logits row that is sampled from (logits_order.cuh); 0 between steps.
  SLOT_SEEN = 24,
  SLOT_HEADER_WORDS = 32,
};

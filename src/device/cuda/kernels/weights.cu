// Loading: from a checkpoint's element type and orientation to the device's, and the two ways to
// make a weight out of nothing. Grid-stride over elements, 256 threads. Bytes: each element read
// and written once; the copy from the host (about 50 GB/s) is what a load waits for, not these.
#include "common.cuh"

// As DType in device/mod.rs.
enum { SOURCE_F32, SOURCE_F16, SOURCE_BF16 };

__device__ __forceinline__ float element(const u8* from, u64 i, int type) {
  switch (type) {
    case SOURCE_F32:
      return reinterpret_cast<const float*>(from)[i];
    case SOURCE_F16:
      return to_f32(reinterpret_cast<const f16*>(from)[i]);
    default:
      return to_f32(reinterpret_cast<const bf16*>(from)[i]);
  }
}

#define FOR_ALL(i, count)                                               \
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (count); \
       i += (u64)gridDim.x * blockDim.x)

// to[i] = from[i]
template <class T> __device__ void convert(const u8* from, int type, u64 count, T* to) {
  FOR_ALL(i, count) to[i] = from_f32<T>(element(from, i, type));
}
// `from` is [inputs, outputs], rows first_input.. of the whole; `to` is [outputs, all_inputs].
template <class T> __device__ void turn(const u8* from, int type, u64 count, u64 outputs,
                                        u64 first_input, u64 all_inputs, T* to) {
  FOR_ALL(i, count)
  to[(i % outputs) * all_inputs + first_input + i / outputs] = from_f32<T>(element(from, i, type));
}
// Uniform in [-scale, scale) from the top 24 bits of a mixed counter (SplitMix64's finaliser), the
// same values as on the cpu device.
template <class T> __device__ void dummy(u64 seed, float scale, u64 count, T* to) {
  FOR_ALL(i, count) {
    u64 z = (seed + i) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    to[i] = from_f32<T>(((float)(u32)(z >> 40) / 8388608.f - 1.f) * scale);
  }
}
template <class T> __device__ void constant(float value, u64 count, T* to) {
  FOR_ALL(i, count) to[i] = from_f32<T>(value);
}

#define KERNELS(NAME, T)                                                                   \
  extern "C" __global__ void convert_##NAME(const u8* from, int type, u64 count, T* to) {  \
    begin();                                                                               \
    convert(from, type, count, to);                                                        \
  }                                                                                        \
  extern "C" __global__ void turn_##NAME(const u8* from, int type, u64 count, u64 outputs, \
                                         u64 first_input, u64 all_inputs, T* to) {         \
    begin();                                                                               \
    turn(from, type, count, outputs, first_input, all_inputs, to);                         \
  }                                                                                        \
  extern "C" __global__ void dummy_##NAME(u64 seed, float scale, u64 count, T* to) {       \
    begin();                                                                               \
    dummy(seed, scale, count, to);                                                         \
  }                                                                                        \
  extern "C" __global__ void constant_##NAME(float value, u64 count, T* to) {              \
    begin();                                                                               \
    constant(value, count, to);                                                            \
  }

KERNELS(matrix, act)
KERNELS(vector, float)

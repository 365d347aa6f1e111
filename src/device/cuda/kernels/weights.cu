// Loading: from a checkpoint's element type and orientation to the device's, and the two ways to
// make a weight out of nothing. Grid-stride over elements, 256 threads. Bytes: each element read
// and written once; the copy from the host (about 50 GB/s) is what a load waits for, not these.
#include "abi_ops.h"

__device__ __forceinline__ float element(const void* from, u64 i, ElementType type) {
  switch (type) {
    case ELEMENT_TYPE_F32:
      return reinterpret_cast<const float*>(from)[i];
    case ELEMENT_TYPE_F16:
      return to_f32(reinterpret_cast<const f16*>(from)[i]);
    default:
      return to_f32(reinterpret_cast<const bf16*>(from)[i]);
  }
}

#define FOR_ALL(i, count)                                               \
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (count); \
       i += (u64)gridDim.x * blockDim.x)

// to[i] = from[i]
template <class T>
__device__ void convert(const ConvertWeight& a) {
  T* to = reinterpret_cast<T*>(a.to);
  FOR_ALL(i, a.count) to[i] = from_f32<T>(element(a.from, i, a.kind));
}
// `from` is [inputs, outputs], rows first_input.. of the whole; `to` is [outputs, all_inputs].
template <class T>
__device__ void turn(const TurnWeight& a) {
  T* to = reinterpret_cast<T*>(a.to);
  FOR_ALL(i, a.count)
  to[(i % a.outputs) * a.all_inputs + a.first_input + i / a.outputs] =
      from_f32<T>(element(a.from, i, a.kind));
}
// Uniform in [-scale, scale) from the top 24 bits of a mixed counter (SplitMix64's finaliser), the
// same values as on the cpu device.
template <class T>
__device__ void dummy(const DummyWeight& a) {
  T* to = reinterpret_cast<T*>(a.to);
  FOR_ALL(i, a.count) {
    u64 z = (a.seed + i) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    to[i] = from_f32<T>(((float)(u32)(z >> 40) / 8388608.f - 1.f) * a.scale);
  }
}
template <class T>
__device__ void constant(const ConstantWeight& a) {
  T* to = reinterpret_cast<T*>(a.to);
  FOR_ALL(i, a.count) to[i] = from_f32<T>(a.value);
}

#define ENTRY(NAME, STRUCT, BODY, T)     \
  __global__ void NAME(const STRUCT a) { \
    begin();                             \
    BODY<T>(a);                          \
  }

ENTRY(convert_matrix, ConvertWeight, convert, act)
ENTRY(convert_vector, ConvertWeight, convert, float)
ENTRY(turn_matrix, TurnWeight, turn, act)
ENTRY(turn_vector, TurnWeight, turn, float)
ENTRY(dummy_matrix, DummyWeight, dummy, act)
ENTRY(dummy_vector, DummyWeight, dummy, float)
ENTRY(constant_matrix, ConstantWeight, constant, act)
ENTRY(constant_vector, ConstantWeight, constant, float)

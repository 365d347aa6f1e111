// Rotate q and k, and write k and v to their pages. Block per token row, 128 threads. Sines and cosines
// are taken once per row (rotary_dim / 2 of them, at most 256 -> 2 KiB of shared memory) and reused by
// every head; the inverse frequencies ride in the launch's parameters, so a graph holds them too. Angles
// are f32 with the exact range reduction: positions reach 131072. Bytes per row: q and k read and written,
// v read, k and v written to the pool. Limits: rotary_dim <= 512, even.
#include "common.cuh"

#define MAX_HALF 256
struct Frequencies { float f[MAX_HALF]; };

extern "C" __global__ void rope_store(act* qkv, const u32* position, const u32* slot_of, const u32* rows,
                                      u64 stride, u32 pages_at, u32 heads, u32 kv_heads, u32 dim,
                                      u32 page_size, u32 half, float magnitude, act* pool,
                                      Frequencies inverse) {
  __shared__ float cosine[MAX_HALF], sine[MAX_HALF];
  const u32 at = position[blockIdx.x], slot = slot_of[blockIdx.x];
  act* row = qkv + (u64)blockIdx.x * (heads + 2 * kv_heads) * dim;
  for (u32 i = threadIdx.x; i < half; i += blockDim.x) {
    float s, c;
    sincosf((float)at * inverse.f[i], &s, &c);
    sine[i] = s * magnitude;
    cosine[i] = c * magnitude;
  }
  __syncthreads();
  for (u32 n = threadIdx.x; n < (heads + kv_heads) * half; n += blockDim.x) {
    const u32 head = n / half, i = n % half;
    act* x = row + head * dim + i;
    const float a = to_f32(x[0]), b = to_f32(x[half]);
    x[0] = from_f32<act>(a * cosine[i] - b * sine[i]);
    x[half] = from_f32<act>(b * cosine[i] + a * sine[i]);
  }
  __syncthreads();
  const u32 page = rows[slot * stride + pages_at + at / page_size];
  const u64 slab = (u64)kv_heads * page_size * dim;
  act* keys = pool + 2 * slab * page + (u64)(at % page_size) * dim;
  const act* from = row + heads * dim;
  const u32 count = kv_heads * dim;
  for (u32 n = threadIdx.x; n < 2 * count; n += blockDim.x) {
    const u32 m = n % count;
    keys[(n < count ? 0 : slab) + (u64)(m / dim) * page_size * dim + m % dim] = from[n];
  }
}

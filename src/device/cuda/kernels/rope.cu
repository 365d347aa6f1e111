// Rotate q and k, and write k and v to their pages. Blocks of 128 threads over (token row, 16 heads
// of q, k and v): at one row a block has its own heads in flight instead of walking all of them.
// Sines and cosines are taken once per block (rotary_dim / 2 of them, at most 256: 2 KiB of shared
// memory) and reused by its heads; the inverse frequencies ride in the launch's parameters, so a
// graph holds them too. Angles are f32 with the exact range reduction: positions reach 131072.
// Vectors of eight where the head allows it. Bytes per row: q and k read and written, v read, k and
// v written to the pool. Limits: rotary_dim <= 512, even.
#include "abi_ops.h"

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

// Heads first..last of a row; `keys` is where the token's k of head 0 goes, `slab` elements before
// its v.
template <int N>
__device__ void rotate_and_store(act* row, u32 first, u32 last, u32 heads, u32 kv_heads, u32 dim,
                                 u32 page_size, u32 half, const float* cosine, const float* sine,
                                 act* keys, u64 slab) {
  const u32 pairs = half / N, rest = (dim - 2 * half) / N;
  // q and k, the rotated front; k also to its page.
  const u32 turning = min(last, heads + kv_heads);
  for (u32 n = threadIdx.x; first < turning && n < (turning - first) * pairs; n += blockDim.x) {
    const u32 head = first + n / pairs, i = n % pairs * N;
    act* x = row + head * dim + i;
    float a[8], b[8];
    get<N>(x, a);
    get<N>(x + half, b);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float c = cosine[i + j], s = sine[i + j], old = a[j];
      a[j] = old * c - b[j] * s;
      b[j] = b[j] * c + old * s;
    }
    put<N>(x, a);
    put<N>(x + half, b);
    if (head >= heads) {
      act* to = keys + (u64)(head - heads) * page_size * dim + i;
      put<N>(to, a);
      put<N>(to + half, b);
    }
  }
  // What only moves: the rest of k.
  for (u32 n = threadIdx.x; first < turning && n < (turning - first) * rest; n += blockDim.x) {
    const u32 head = first + n / rest, i = 2 * half + n % rest * N;
    if (head < heads) continue;
    float x[8];
    get<N>(row + head * dim + i, x);
    put<N>(keys + (u64)(head - heads) * page_size * dim + i, x);
  }
  // And v.
  const u32 begin = max(first, heads + kv_heads);
  for (u32 n = threadIdx.x; begin < last && n < (last - begin) * (dim / N); n += blockDim.x) {
    const u32 head = begin + n / (dim / N), i = n % (dim / N) * N;
    float x[8];
    get<N>(row + head * dim + i, x);
    put<N>(keys + slab + (u64)(head - heads - kv_heads) * page_size * dim + i, x);
  }
}

__global__ void rope_store(const RopeStore a) {
  begin();
  __shared__ float cosine[ROPE_MAX_PAIRS], sine[ROPE_MAX_PAIRS];
  const u32 heads = a.heads, kv_heads = a.kv_heads, dim = a.dim, half = a.half;
  const u32 page_size = a.page_size, all = heads + 2 * kv_heads;
  const u32 at = a.position[blockIdx.x], slot = a.slot_of[blockIdx.x];
  if (slot == NO_SLOT) return;
  const u32 first = blockIdx.y * ROPE_HEADS, last = min(first + ROPE_HEADS, all);
  for (u32 i = threadIdx.x; i < half; i += blockDim.x) {
    float s, c;
    sincosf((float)at * a.inverse_frequency[i], &s, &c);
    sine[i] = s * a.magnitude;
    cosine[i] = c * a.magnitude;
  }
  __syncthreads();
  act* row = a.qkv + (u64)blockIdx.x * all * dim;
  const u32 page = row_of(a.slots, slot)[a.slots.pages + at / page_size];
  const u64 slab = (u64)kv_heads * page_size * dim;
  act* keys = a.pool + 2 * slab * page + (u64)(at % page_size) * dim;
  if (half % 8 == 0 && dim % 8 == 0)
    rotate_and_store<8>(row, first, last, heads, kv_heads, dim, page_size, half, cosine, sine, keys,
                        slab);
  else
    rotate_and_store<1>(row, first, last, heads, kv_heads, dim, page_size, half, cosine, sine, keys,
                        slab);
}

// Rotate q and k, and write k and v to their pages, by one of two kernels with the same bits.
//
// A block for each row where heads of half types are rotated whole (rope_store_rows): a thread has
// the same eight pairs of ROPE_UNITS heads, and all that it moves is on its way before the block
// looks up its position and its page and takes its sines. Rows have as many threads as let all of
// them be on the card at once: one for each eight pairs of a head where they are few.
//
// Else blocks of 128 threads over (token row, 16 heads of q, k and v). Vectors of eight where the
// head allows it. Both take sines and cosines once per block (rotary_dim / 2 of them, at most 256:
// 2 KiB of shared memory); the inverse frequencies ride in the launch's parameters, so a graph
// holds them too (rope.cuh). Angles are f32 with the exact range reduction: positions reach 131072.
//
// Bytes per row: q and k read and written, v read, k and v written to the pool, by *_fp8 as bytes:
// rotated in f32, divided by their scale, rounded once; rotate leaves pages out. q may grow with
// its own position. Tokens of prompts with images have three places, and each pair turns by one of
// them. Limits: rotary_dim <= 512, even. Measured on an H200, 32/8 heads of 128: 4096 rows 34.8 us
// by heads and 29.3 by rows (3.7 TB/s, as norms), 64 rows 4.9 and 2.5, one 2.35 and 2.0
// (ci/runs/2026-11-30-h200-prompts3.md).
#include "fp8.cuh"
#include "rope.cuh"

#if ACT != 0
// Eight elements as they lie in memory: registers hold them as four words until they are used.
__device__ __forceinline__ void floats_of_eight(const uint4& eight, float (&x)[8]) {
  floats_of(reinterpret_cast<const Eight<act>&>(eight), x);
}
#endif

// Elements of a page, from some place on; `scale` is what bytes are divided by.
struct Elements {
  static constexpr bool STORES = true;
  act* first;
  template <int N>
  __device__ void store(u64 at, const float (&x)[8], float) const {
    put<N>(first + at, x);
  }
#if ACT != 0
  __device__ void move(u64 at, const uint4& eight, float) const {
    *reinterpret_cast<uint4*>(first + at) = eight;
  }
#endif
};
struct Bytes {
  static constexpr bool STORES = true;
  u8* first;
  bool e5m2;
  __device__ u16 encode(float low, float high) const {
    return e5m2 ? E5m2::encode(low, high) : E4m3::encode(low, high);
  }
  template <int N>
  __device__ void store(u64 at, const float (&x)[8], float scale) const {
    if constexpr (N == 8) {
      u32 words[2];
#pragma unroll
      for (int i = 0; i < 2; i++)
        words[i] = encode(x[4 * i] / scale, x[4 * i + 1] / scale) |
                   (u32)encode(x[4 * i + 2] / scale, x[4 * i + 3] / scale) << 16;
      *reinterpret_cast<uint2*>(first + at) = make_uint2(words[0], words[1]);
    } else {
      first[at] = (u8)encode(x[0] / scale, 0.f);
    }
  }
#if ACT != 0
  __device__ void move(u64 at, const uint4& eight, float scale) const {
    float x[8];
    floats_of_eight(eight, x);
    store<8>(at, x, scale);
  }
#endif
};

// No page.
struct Nowhere {
  static constexpr bool STORES = false;
  template <int N>
  __device__ void store(u64, const float (&)[8], float) const {}
};

// Heads first..last of a row; the token's k of head 0 goes to `page` at `keys`, its v `slab`
// elements on.
template <int N, class Page>
__device__ void rotate_and_store(const RopeStore& a, act* row, u32 first, u32 last,
                                 const float* cosine, const float* sine, float growth,
                                 const Page page, u64 keys, u64 slab) {
  const u32 heads = a.heads, kv_heads = a.kv_heads, dim = a.dim, half = a.half;
  const u32 page_size = a.page_size;
  const u32 pairs = half / N, rest = (dim - 2 * half) / N;
  // q and k, the rotated front; k also to its page.
  const u32 turning = min(last, heads + kv_heads);
  for (u32 n = threadIdx.x; first < turning && n < (turning - first) * pairs; n += blockDim.x) {
    const u32 head = first + n / pairs, i = n % pairs * N;
    act* x = row + head * dim + i;
    float low[8], high[8];
    get<N>(x, low);
    get<N>(x + half, high);
    turn<N>(low, high, cosine + i, sine + i);
#pragma unroll
    for (int j = 0; j < N; j++) {
      low[j] *= head < heads ? growth : 1.f;
      high[j] *= head < heads ? growth : 1.f;
    }
    put<N>(x, low);
    put<N>(x + half, high);
    if (head >= heads) {
      const u64 to = keys + (u64)(head - heads) * page_size * dim + i;
      page.template store<N>(to, low, a.k_scale);
      page.template store<N>(to + half, high, a.k_scale);
    }
  }
  // What is not rotated: the rest of k only moves, that of q grows with the front.
  for (u32 n = threadIdx.x; first < turning && n < (turning - first) * rest; n += blockDim.x) {
    const u32 head = first + n / rest, i = 2 * half + n % rest * N;
    if (head < heads && growth == 1.f) continue;
    float x[8];
    get<N>(row + head * dim + i, x);
    if (head < heads) {
#pragma unroll
      for (int j = 0; j < N; j++) x[j] *= growth;
      put<N>(row + head * dim + i, x);
      continue;
    }
    page.template store<N>(keys + (u64)(head - heads) * page_size * dim + i, x, a.k_scale);
  }
  if constexpr (!Page::STORES) return;
  // And v.
  const u32 begin = max(first, heads + kv_heads);
  for (u32 n = threadIdx.x; begin < last && n < (last - begin) * (dim / N); n += blockDim.x) {
    const u32 head = begin + n / (dim / N), i = n % (dim / N) * N;
    float x[8];
    get<N>(row + head * dim + i, x);
    const u64 to = keys + slab + (u64)(head - heads - kv_heads) * page_size * dim + i;
    page.template store<N>(to, x, a.v_scale);
  }
}

template <class Page>
__device__ __forceinline__ void rope_store_row(const RopeStore& a, const Page page) {
  __shared__ float cosine[ROPE_MAX_PAIRS], sine[ROPE_MAX_PAIRS];
  const u32 kv_heads = a.kv_heads, dim = a.dim, half = a.half;
  const u32 page_size = a.page_size, all = a.heads + 2 * kv_heads;
  const u32 at = a.position[blockIdx.x], slot = a.slot_of[blockIdx.x];
  if (slot == NO_SLOT) return;
  const u32 first = blockIdx.y * ROPE_HEADS, last = min(first + ROPE_HEADS, all);
  for (u32 i = threadIdx.x; i < half; i += blockDim.x)
    angle_of(a, blockIdx.x, at, i, sine + i, cosine + i);
  const float growth = growth_at(a, at);
  __syncthreads();
  act* row = a.qkv + (u64)blockIdx.x * all * dim;
  u32 number = 0;
  if constexpr (Page::STORES) number = row_of(a.slots, slot)[a.slots.pages + at / page_size];
  const u64 slab = (u64)kv_heads * page_size * dim;
  const u64 keys = 2 * slab * number + (u64)(at % page_size) * dim;
  if (half % 8 == 0 && dim % 8 == 0)
    rotate_and_store<8>(a, row, first, last, cosine, sine, growth, page, keys, slab);
  else rotate_and_store<1>(a, row, first, last, cosine, sine, growth, page, keys, slab);
}

#if ACT != 0
// A row by a block of a multiple of `half / 8` threads, of which each has the same pairs of several
// heads. Heads are rotated whole, their halves are a multiple of eight.
template <class Page>
__device__ __forceinline__ void rope_store_whole_row(const RopeStore& a, const Page page) {
  __shared__ float cosine[ROPE_MAX_PAIRS], sine[ROPE_MAX_PAIRS];
  const u32 kv_heads = a.kv_heads, dim = a.dim, half = a.half, eights = half / 8;
  const u32 turning = a.heads + kv_heads, all = turning + kv_heads;
  const u32 i = threadIdx.x % eights * 8, step = blockDim.x / eights;
  act* const row = a.qkv + (u64)blockIdx.x * all * dim + i;

  uint4 low[ROPE_UNITS], high[ROPE_UNITS];
  auto load = [&](u32 first) {
#pragma unroll
    for (u32 k = 0; k < ROPE_UNITS; k++) {
      const u32 head = first + k * step;
      if (head >= all) continue;
      low[k] = *reinterpret_cast<const uint4*>(row + head * dim);
      high[k] = *reinterpret_cast<const uint4*>(row + head * dim + half);
    }
  };
  u32 first = threadIdx.x / eights;
  load(first);

  const u32 at = a.position[blockIdx.x], slot = a.slot_of[blockIdx.x];
  if (slot == NO_SLOT) return;
  const u32 number = row_of(a.slots, slot)[a.slots.pages + at / a.page_size];
  for (u32 n = threadIdx.x; n < half; n += blockDim.x)
    angle_of(a, blockIdx.x, at, n, sine + n, cosine + n);
  const float growth = growth_at(a, at);
  __syncthreads();
  const u64 head_size = (u64)a.page_size * dim, slab = kv_heads * head_size;
  const u64 keys = 2 * slab * number + (u64)(at % a.page_size) * dim + i;

  while (first < all) {
#pragma unroll
    for (u32 k = 0; k < ROPE_UNITS; k++) {
      const u32 head = first + k * step;
      if (head >= all) continue;
      if (head >= turning) {
        const u64 to = keys + slab + (head - turning) * head_size;
        page.move(to, low[k], a.v_scale);
        page.move(to + half, high[k], a.v_scale);
        continue;
      }
      float x[8], y[8];
      floats_of_eight(low[k], x);
      floats_of_eight(high[k], y);
      turn<8>(x, y, cosine + i, sine + i);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        x[j] *= head < a.heads ? growth : 1.f;
        y[j] *= head < a.heads ? growth : 1.f;
      }
      store8(row + head * dim, x);
      store8(row + head * dim + half, y);
      if (head < a.heads) continue;
      const u64 to = keys + (head - a.heads) * head_size;
      page.template store<8>(to, x, a.k_scale);
      page.template store<8>(to + half, y, a.k_scale);
    }
    first += ROPE_UNITS * step;
    load(first);
  }
}
#define WHOLE_ROW(PAGE) \
  begin_ahead();        \
  rope_store_whole_row(a, PAGE)
#else
// The device never launches these where they have no code.
#define WHOLE_ROW(PAGE) (void)a
#endif

__global__ void __launch_bounds__(ROPE_ROW_THREADS, 2) rope_store_rows(const RopeStore a) {
  WHOLE_ROW(Elements{(act*)a.pool});
}
__global__ void __launch_bounds__(ROPE_ROW_THREADS, 2) rope_store_rows_fp8(const RopeStore a) {
  WHOLE_ROW((Bytes{(u8*)a.pool, a.kv == KV_TYPE_E5M2}));
}

__global__ void rope_store(const RopeStore a) {
  begin_ahead();
  rope_store_row(a, Elements{(act*)a.pool});
}

__global__ void rope_store_fp8(const RopeStore a) {
  begin_ahead();
  rope_store_row(a, Bytes{(u8*)a.pool, a.kv == KV_TYPE_E5M2});
}

__global__ void rotate(const RopeStore a) {
  begin_ahead();
  rope_store_row(a, Nowhere{});
}

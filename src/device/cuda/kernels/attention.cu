// Attention, the simple form, right for every head size up to 512 and every element type; heads
// above 256 have kernels of their own (*_wide), which need more registers:
//
//   attend_rows  causal over pages, any mix of prefill chunks and single rows, every page size and
//                window. The tensor-core tile replaces it where it pays; this one stays as the
//                fallback and the yardstick.
//   attend_rows_fp8  the same over pages of eight bits, element by element: only for what tiles
//                have no code for, f32 and odd head sizes.
//   attend_all   over all rows of the sequence in the step itself, or those within a window to both
//                sides, for encoders.
//
// Block of 128 threads per (token row, head). LANES threads share a key, eight elements (16 bytes
// of a half type) each: 4 lanes to head 32, 8 to 64, 16 to 128, 32 to 256, and twice eight elements
// to 512. So a block has 128 /
// LANES groups; each walks its share of the keys, four at a time so that eight loads are in flight,
// and keeps its own online softmax (maximum, sum, weighted V) in f32 registers. The groups merge
// through shared memory once. Bytes: K and V of the visible positions per head, so a group of q
// heads re-reads its KV head from L2.
#include "fp8.cuh"

#define THREADS ATTEND_THREADS
#define KEYS 4
#define LOG2E 1.4426950408889634f
#define LOWEST -1e30f

struct Shape {
  u32 dim;
  float scale;
  float cap;  // 0 = none
  float value_scale;
  float sink;  // A score without a value.
  float slope;  // By which scores fall with the distance from the last key.
};

// Where the K of a key of one head lies, and how far behind it its V.
struct Paged {
  static constexpr bool VECTORS = true;
  const act* head;
  const u32* table;
  u32 page_size, dim;
  u64 value;
  __device__ const act* key(u32 k) const {
    return head + 2 * value * table[k / page_size] + (u64)(k % page_size) * dim;
  }
};
struct Flat {
  static constexpr bool VECTORS = true;
  const act* head;
  u64 width, value;
  __device__ const act* key(u32 k) const { return head + k * width; }
};
// Elements of eight bits.
struct Bytes {
  const u8* first;
  bool e5m2;
  __device__ Bytes operator+(u64 n) const { return {first + n, e5m2}; }
  __device__ float operator[](u32 i) const {
    return e5m2 ? E5m2::to_f32(first[i]) : E4m3::to_f32(first[i]);
  }
};
struct PagedBytes {
  static constexpr bool VECTORS = false;
  Bytes head;
  const u32* table;
  u32 page_size, dim;
  u64 value;
  __device__ Bytes key(u32 k) const {
    return head + (2 * value * table[k / page_size] + (u64)(k % page_size) * dim);
  }
};

// WHOLE: dim is a multiple of 8, so vectors are aligned; else element by element.
template <bool WHOLE>
__device__ __forceinline__ void load(const Bytes p, u32 i, u32 dim, float (&x)[8]) {
#pragma unroll
  for (int j = 0; j < 8; j++) x[j] = i + j < dim ? p[i + j] : 0.f;
}
template <bool WHOLE>
__device__ __forceinline__ void load(const act* p, u32 i, u32 dim, float (&x)[8]) {
  if (WHOLE) {
    if (i < dim) load8(p + i, x);
    else {
#pragma unroll
      for (int j = 0; j < 8; j++) x[j] = 0.f;
    }
  } else {
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] = i + j < dim ? to_f32(p[i + j]) : 0.f;
  }
}

// Over the keys first..=last. A lane has VECTORS times eight elements of a head, LANES * 8 apart.
template <int LANES, int VECTORS, bool WHOLE, class Keys>
__device__ void attend(const act* q, u32 first, u32 last, const Keys keys, const Shape s,
                       float* shared, act* out) {
  constexpr int GROUPS = THREADS / LANES;
  // [groups][width] partial sums, THREADS * 8 * VECTORS floats; then two per group.
  constexpr u32 STEP = LANES * 8, WIDTH = STEP * VECTORS;
  float* partial = shared;
  float* highest = shared + THREADS * 8 * VECTORS;
  float* total = highest + GROUPS;
  const u32 lane = threadIdx.x % LANES, group = threadIdx.x / LANES, element = lane * 8;

  float query[VECTORS][8], sum[VECTORS][8] = {}, row_max = LOWEST, row_sum = 0.f;
#pragma unroll
  for (int v = 0; v < VECTORS; v++) load<WHOLE>(q, element + v * STEP, s.dim, query[v]);
  // All groups make the same number of rounds, so the shuffles see whole warps.
  for (u32 base = first; base <= last; base += GROUPS * KEYS) {
    float score[KEYS], value[KEYS][VECTORS][8];
#pragma unroll
    for (int k = 0; k < KEYS; k++) {
      const auto token = keys.key(min(base + group * KEYS + k, last));
      score[k] = 0.f;
#pragma unroll
      for (int v = 0; v < VECTORS; v++) {
        float x[8];
        load<WHOLE>(token, element + v * STEP, s.dim, x);
        load<WHOLE>(token + keys.value, element + v * STEP, s.dim, value[k][v]);
#pragma unroll
        for (int j = 0; j < 8; j++) score[k] += query[v][j] * x[j];
      }
    }
    float peak = row_max;
#pragma unroll
    for (int k = 0; k < KEYS; k++) {
#pragma unroll
      for (int d = LANES / 2; d > 0; d /= 2) score[k] += __shfl_xor_sync(~0u, score[k], d);
      score[k] *= s.scale;
      if (s.cap != 0.f) score[k] = s.cap * tanhf(score[k] / s.cap);
      const u32 key = base + group * KEYS + k;
      if (s.slope != 0.f) score[k] -= s.slope * (float)(int)(last - key);
      score[k] = key <= last ? score[k] * LOG2E : -INFINITY;
      peak = fmaxf(peak, score[k]);
    }
    const float shrink = exp2f(row_max - peak);
    row_max = peak;
    row_sum *= shrink;
#pragma unroll
    for (int n = 0; n < 8 * VECTORS; n++) sum[n / 8][n % 8] *= shrink;
#pragma unroll
    for (int k = 0; k < KEYS; k++) {
      const float weight = exp2f(score[k] - peak);
      row_sum += weight;
#pragma unroll
      for (int n = 0; n < 8 * VECTORS; n++) sum[n / 8][n % 8] += weight * value[k][n / 8][n % 8];
    }
  }

#pragma unroll
  for (int n = 0; n < 8 * VECTORS; n++)
    partial[group * WIDTH + element + n / 8 * STEP + n % 8] = sum[n / 8][n % 8];
  if (lane == 0) {
    highest[group] = row_max;
    total[group] = row_sum;
  }
  __syncthreads();
  float peak = LOWEST, all = 0.f;
#pragma unroll
  for (int g = 0; g < GROUPS; g++) peak = fmaxf(peak, highest[g]);
#pragma unroll
  for (int g = 0; g < GROUPS; g++) all += total[g] * exp2f(highest[g] - peak);
  // However high it is: then nothing is left for the others.
  all += exp2f(s.sink * LOG2E - peak);
  for (u32 i = threadIdx.x; i < s.dim; i += THREADS) {
    float x = 0.f;
    for (int g = 0; g < GROUPS; g++) x += partial[g * WIDTH + i] * exp2f(highest[g] - peak);
    out[i] = from_f32<act>(x * s.value_scale / all);
  }
}

// WIDE: heads above 256.
template <bool WIDE, class Keys>
__device__ __forceinline__ void attend(const act* q, u32 first, u32 last, const Keys keys,
                                       const Shape s, act* out) {
  constexpr int TIMES = WIDE ? 2 : 1;
  __shared__ float shared[THREADS * 8 * TIMES + 2 * (THREADS / 4)];
  // Odd sizes and bytes have the widest only: nobody waits for them, but for the build.
#define CASE(LANES)                                                        \
  if (s.dim <= LANES * TIMES * 8) {                                        \
    if constexpr (Keys::VECTORS) {                                         \
      if (s.dim % 8 == 0) {                                                \
        attend<LANES, TIMES, true>(q, first, last, keys, s, shared, out);  \
        return;                                                            \
      }                                                                    \
    }                                                                      \
  }
  if constexpr (!WIDE) {
    CASE(4)
    CASE(8)
    CASE(16)
  }
  CASE(32)
  attend<32, TIMES, false>(q, first, last, keys, s, shared, out);
}

// `keys` makes the keys of a KV head: out of the elements before its first one, the page table, and
// the elements from a K to its V.
template <bool WIDE, class Keys>
__device__ __forceinline__ void attend_row(const AttendRows& a, Keys keys) {
  const u32 row = blockIdx.x, head = blockIdx.y, kv = head / (a.heads / a.kv_heads), dim = a.dim;
  if (a.slot_of[row] == NO_SLOT) return;
  const u32* table = row_of(a.slots, a.slot_of[row]) + a.slots.pages;
  const u32 at = a.position[row];
  // How many keys the row sees at most.
  const u32 reach = a.chunk != 0 ? at % a.chunk + 1 : a.window != 0 ? a.window : ~0u;
  u32 first = at >= reach ? at + 1 - reach : 0, last = at;
  if (a.seen) {
    first = min(first, a.seen[3 * row + 1]);
    last = a.seen[3 * row + 2];
  }
  const act* q = a.qkv + (u64)row * a.row_width + (u64)head * dim;
  act* out = a.out + ((u64)row * a.heads + head) * dim;
  const u64 plane = (u64)a.page_size * dim;
  const float sink = a.sinks ? a.sinks[head] : -INFINITY;
  const float slope = a.slopes ? a.slopes[head] : 0.f;
  const Shape shape = {dim, a.scale, a.softcap, a.value_scale, sink, slope};
  attend<WIDE>(q, first, last, keys(kv * plane, table, a.kv_heads * plane), shape, out);
}

template <bool WIDE>
__device__ __forceinline__ void attend_pages(const AttendRows& a) {
  begin();
  attend_row<WIDE>(a, [&](u64 head, const u32* table, u64 value) {
    return Paged{(const act*)a.pool + head, table, a.page_size, a.dim, value};
  });
}

template <bool WIDE>
__device__ __forceinline__ void attend_pages_fp8(const AttendRows& a) {
  begin();
  attend_row<WIDE>(a, [&](u64 head, const u32* table, u64 value) {
    const Bytes first = {(const u8*)a.pool + head, a.kv == KV_TYPE_E5M2};
    return PagedBytes{first, table, a.page_size, a.dim, value};
  });
}

#define ROWS __global__ void __launch_bounds__(THREADS)
ROWS attend_rows(const AttendRows a) { attend_pages<false>(a); }
ROWS attend_rows_wide(const AttendRows a) { attend_pages<true>(a); }
ROWS attend_rows_fp8(const AttendRows a) { attend_pages_fp8<false>(a); }
ROWS attend_rows_fp8_wide(const AttendRows a) { attend_pages_fp8<true>(a); }

// The step feeds every sequence as a whole: token row r of a sequence is its position r, and the
// slot's length is that of the sequence.
__global__ void __launch_bounds__(THREADS) attend_all(const AttendAll a) {
  begin();
  const u32 row = blockIdx.x, head = blockIdx.y, kv = head / (a.heads / a.kv_heads), dim = a.dim;
  if (a.slot_of[row] == NO_SLOT) return;
  const u64 width = (u64)(a.heads + 2 * a.kv_heads) * dim;
  const u32 at = a.position[row];
  const act* begin_of = a.qkv + (row - at) * width;
  const Flat keys = {begin_of + (u64)(a.heads + kv) * dim, width, (u64)a.kv_heads * dim};
  u32 first = 0, last = header_of(row_of(a.slots, a.slot_of[row]))->length - 1;
  if (a.window != 0) {
    first = at + 1 > a.window ? at + 1 - a.window : 0;
    last = min(last, at + a.window - 1);
  }
  const act* q = a.qkv + row * width + (u64)head * dim;
  act* out = a.out + ((u64)row * a.heads + head) * dim;
  attend<false>(q, first, last, keys, Shape{dim, a.scale, a.softcap, 1.f, -INFINITY, 0.f}, out);
}

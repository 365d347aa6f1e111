// One token per sampling row, in the order that src/sampling/spec.rs fixes, with the noise of
// src/sampling/noise.rs. Block of 1024 threads per row of f32 logits; a row of 128k is 512 KiB and
// stays in L2 between the passes, one pass costs about 8 us a block.
//
// No sort: min_p, top_k and top_p each come down to a floor under the logits, found by a 16-way
// search over the ordered bits of a float (at most 8 passes of 15 thresholds each, fewer once the
// bracket holds few logits). Masses are fixed-point integers (2^40 = the largest logit's weight),
// so the answer does not depend on the order of additions. Greedy rows need one pass, plain
// temperature two.
#include "common.cuh"

#define THREADS 1024
#define WARPS (THREADS / 32)
#define CUTS 15
#define ONE_MASS 1099511627776.f  // 2^40; 2^24 logits of full weight still fit 64 bits

// Bits of a float in an order that integers have too; NaN counts as -inf, -0 as 0.
__device__ __forceinline__ u32 key_of(float x) {
  x = isnan(x) ? -INFINITY : x + 0.f;
  const u32 bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_key(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// A value with its token, ordered by value, then by lower token.
__device__ __forceinline__ u64 ranked(float x, u32 token) {
  return (u64)key_of(x) << 32 | (u32)~token;
}
__device__ __forceinline__ u32 token_of(u64 rank) { return ~(u32)rank; }
__device__ __forceinline__ float value_of(u64 rank) { return of_key((u32)(rank >> 32)); }

__device__ u64 block_max(u64 x, u64* scratch) {
  for (int d = 16; d > 0; d /= 2) x = max(x, __shfl_xor_sync(~0u, x, d));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  for (int w = 0; w < WARPS; w++) x = max(x, scratch[w]);
  __syncthreads();
  return x;
}

// The row's logits and what a floor is measured by: how many are above, or how much mass.
struct Row {
  const float* logits;
  u32 vocab;
  float max;
  bool by_mass;
  __device__ u64 weight(float x) const { return by_mass ? (u64)(expf(x - max) * ONE_MASS) : 1; }
};

// measure[i] = weight of all logits with key > cut[i], for CUTS ascending cuts between low and
// high.
__device__ void measure(const Row& row, u32 low, u32 high, u64 (&sum)[CUTS], u64 (*scratch)[CUTS]) {
  u64 above = 0;
  u64 local[CUTS] = {};
  for (u32 i = threadIdx.x; i < row.vocab; i += THREADS) {
    const float x = row.logits[i];
    const u32 key = key_of(x);
    if (key <= low) continue;
    const u64 weight = row.weight(x);
    if (key > high) {
      above += weight;
      continue;
    }
#pragma unroll
    for (int c = 0; c < CUTS; c++)
      if (key > low + (u32)((u64)(high - low) * (c + 1) / (CUTS + 1))) local[c] += weight;
  }
#pragma unroll
  for (int c = 0; c < CUTS; c++) {
    u64 x = local[c] + above;
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32][c] = x;
  }
  __syncthreads();
#pragma unroll
  for (int c = 0; c < CUTS; c++) sum[c] = 0;
  for (int w = 0; w < WARPS; w++) {
#pragma unroll
    for (int c = 0; c < CUTS; c++) sum[c] += scratch[w][c];
  }
  __syncthreads();
}

// The smallest key t >= floor with less than `limit` above it; `floor` itself if that already holds
// below. `max_key` is the largest logit's key: nothing is above it.
__device__ u32 search(const Row& row, u32 floor, u32 max_key, u64 limit, u64 (*scratch)[CUTS]) {
  u32 low = floor - 1, high = max_key;
  while (high - low > 1) {
    u64 sum[CUTS];
    measure(row, low, high, sum, scratch);
    u32 next_low = low, next_high = high;
    // Sums fall as cuts rise: the last cut that still has `limit` above it is the new lower end.
#pragma unroll
    for (int c = 0; c < CUTS; c++) {
      const u32 cut = low + (u32)((u64)(high - low) * (c + 1) / (CUTS + 1));
      if (sum[c] >= limit) next_low = cut;
    }
#pragma unroll
    for (int c = CUTS - 1; c >= 0; c--) {
      const u32 cut = low + (u32)((u64)(high - low) * (c + 1) / (CUTS + 1));
      if (sum[c] < limit) next_high = cut;
    }
    low = next_low;
    high = next_high;
  }
  return high;
}

__device__ __forceinline__ void philox(u32 (&c)[4], u32 k0, u32 k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u32 even = __umulhi(0xD2511F53u, c[0]), even_low = 0xD2511F53u * c[0];
    const u32 odd = __umulhi(0xCD9E8D57u, c[2]), odd_low = 0xCD9E8D57u * c[2];
    c[0] = odd ^ c[1] ^ k0;
    c[2] = even ^ c[3] ^ k1;
    c[1] = odd_low;
    c[3] = even_low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}
__device__ __forceinline__ float gumbel(u32 word) {
  const float v =
      fminf(__fmul_rn(__fadd_rn((float)word, 0.5f), 2.3283064365386963e-10f), 0.99999994f);
  return -logf(-log1pf(-v));
}
// Above the noise of a word, without a logarithm.
__device__ __forceinline__ float gumbel_bound(u32 word) {
  return (__clz(word) + 1) * 0.6931472f + 1e-4f;
}

// Argmax of logit + noise over logits >= floor; `top` is the largest logit's token.
__device__ u32 draw(const float* logits, u32 vocab, u32 k0, u32 k1, u32 position, float floor,
                    u64 top, u64* scratch) {
  u32 words[4] = {token_of(top) / 4, position, 0, 0};
  philox(words, k0, k1);
  u32 word = words[0];
  for (u32 j = 1; j < 4; j++)
    if (token_of(top) % 4 == j) word = words[j];
  float best = value_of(top) + gumbel(word);
  u64 rank = ranked(best, token_of(top));
  for (u32 four = threadIdx.x; four * 4 < vocab; four += THREADS) {
    float x[4];
    bool any = false;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
      x[j] = four * 4 + j < vocab ? logits[four * 4 + j] : -INFINITY;
      any |= x[j] >= floor;
    }
    if (!any) continue;
    u32 noise[4] = {four, position, 0, 0};
    philox(noise, k0, k1);
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
      if (!(x[j] >= floor) || x[j] + gumbel_bound(noise[j]) < best) continue;
      const float score = x[j] + gumbel(noise[j]);
      rank = max(rank, ranked(score, four * 4 + j));
      best = fmaxf(best, score);
    }
  }
  return token_of(block_max(rank, scratch));
}

// Steps 1 to 3 of the spec: mask, min_tokens, penalties, in place.
__device__ void adjust(float* logits, u32 vocab, const u32* row, const u32* mask, u32 mask_words,
                       const u32* masked, const u32* counts) {
  if (mask) {
    for (u32 i = threadIdx.x; i < vocab; i += THREADS)
      if (i / 32 >= mask_words || (mask[i / 32] >> i % 32 & 1) == 0) logits[i] = -INFINITY;
    __syncthreads();
  }
  if (row[SLOT_OUTPUTS] < row[SLOT_MIN_TOKENS]) {
    for (u32 i = threadIdx.x; i < row[SLOT_MASKED]; i += THREADS)
      if (masked[i] < vocab) logits[masked[i]] = -INFINITY;
    __syncthreads();
  }
  if (row[SLOT_NEEDS_COUNTS]) {
    const float repetition = __uint_as_float(row[SLOT_REPETITION]);
    const float frequency = __uint_as_float(row[SLOT_FREQUENCY]);
    const float presence = __uint_as_float(row[SLOT_PRESENCE]);
    for (u32 i = threadIdx.x; i < row[SLOT_ENTRIES]; i += THREADS) {
      const u32 token = counts[2 * i], outputs = counts[2 * i + 1];
      if (token >= vocab) continue;
      float x = logits[token];
      x = x > 0.f ? __fdiv_rn(x, repetition) : __fmul_rn(x, repetition);
      x = __fsub_rn(x, __fmul_rn(frequency, (float)outputs));
      if (outputs > 0) x -= presence;
      logits[token] = x;
    }
    __syncthreads();
  }
}

// The slot's row learns its token: last, number of outputs, count.
__device__ void record(u32 token, u32* row, u32* counts, u32 capacity) {
  __shared__ bool known;
  const u32 entries = row[SLOT_ENTRIES];
  if (threadIdx.x == 0) known = false;
  __syncthreads();
  if (row[SLOT_NEEDS_COUNTS]) {
    for (u32 i = threadIdx.x; i < entries; i += THREADS) {
      if (counts[2 * i] != token) continue;
      counts[2 * i + 1]++;
      known = true;
    }
    __syncthreads();
    if (threadIdx.x == 0 && !known && entries < capacity) {
      counts[2 * entries] = token;
      counts[2 * entries + 1] = 1;
      row[SLOT_ENTRIES] = entries + 1;
    }
  }
  if (threadIdx.x == 0) {
    row[SLOT_LAST] = token;
    row[SLOT_OUTPUTS]++;
  }
}

// mask_of[s] = index of the row's mask in `masks`, or none (all ones). `masks` may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    sample(float* all_logits, u32 vocab, const u32* sample_slot, u32* rows, u64 stride,
           u32 masked_at, u32 counts_at, u32 counts_capacity, const u32* mask_of, const u32* masks,
           u32 mask_words, u32* out) {
  begin();
  __shared__ u64 scratch[WARPS][CUTS];
  float* logits = all_logits + (u64)blockIdx.x * vocab;
  u32* row = rows + sample_slot[blockIdx.x] * stride;
  const u32* mask = nullptr;
  if (masks && mask_of[blockIdx.x] != ~0u) mask = masks + (u64)mask_of[blockIdx.x] * mask_words;
  adjust(logits, vocab, row, mask, mask_words, row + masked_at, row + counts_at);

  const float temperature = __uint_as_float(row[SLOT_TEMPERATURE]);
  u64 rank = 0;
  if (temperature == 0.f) {
#pragma unroll 8
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) rank = max(rank, ranked(logits[i], i));
  } else {
#pragma unroll 4
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) {
      const float x = __fdiv_rn(logits[i], temperature);
      logits[i] = x;
      rank = max(rank, ranked(x, i));
    }
  }
  const u64 top = block_max(rank, &scratch[0][0]);
  const float max_logit = value_of(top);
  u32 token = token_of(top);
  if (temperature != 0.f && isfinite(max_logit)) {
    // Never -inf: what a mask forbade must not come back.
    float floor = fmaxf(-3.4028234663852886e38f, max_logit + __uint_as_float(row[SLOT_LN_MIN_P]));
    const u32 top_k = row[SLOT_TOP_K];
    const float top_p = __uint_as_float(row[SLOT_TOP_P]);
    Row survivors = {logits, vocab, max_logit, false};
    if (top_k > 0 && top_k < vocab)
      floor = of_key(search(survivors, key_of(floor), key_of(max_logit), top_k, scratch));
    if (top_p < 1.f) {
      survivors.by_mass = true;
      u64 sum[CUTS];
      measure(survivors, key_of(floor) - 1, key_of(floor) - 1, sum, scratch);
      const u64 wanted = (u64)((double)top_p * (double)sum[0]);
      floor = of_key(
          search(survivors, key_of(floor), key_of(max_logit), wanted > 0 ? wanted : 1, scratch));
    }
    token = draw(logits, vocab, row[SLOT_SEED_LOW], row[SLOT_SEED_HIGH], row[SLOT_LENGTH], floor,
                 top, &scratch[0][0]);
  }
  record(token, row, row + counts_at, counts_capacity);
  if (threadIdx.x == 0) out[blockIdx.x] = token;
}

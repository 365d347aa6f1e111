// Tokens from logits rows, in the order that src/sampling/spec.rs fixes, with the noise of
// src/sampling/noise.rs. Three kernels, and one that runs only where a grammar sent masks:
//
//   mask_rows    step 1: -inf where a mask has no bit. Blocks across a row.
//   adjust_rows  steps 4 to 7, which touch few tokens each: biases, min_tokens, penalties, bad
//                words. A block per row; only launched where a slot of the step has any of them.
//                Before step 3 instead of after, which makes no difference: -inf stays -inf.
//   scan_rows    step 3, temperature, and the best of each part of a row, for greedy rows of the
//                logits, for plain temperature of logit + noise too. Blocks across a row.
//   draw_rows    the best of the parts; for rows with a floor (min_p, top_k, top_p) the floor and
//                the draw. Then the slot's row learns its token. A block per row.
//
// On the way the first three see every logit once, before they hide or divide it, and gather in the
// slot's row whether the row is finite; where it is not, draw_rows answers so.
//
// A row of 128k is 512 KiB and stays in L2 between the passes. One block alone reads it in 8 us, so
// the scan cuts rows until the card is full; greedy and plain rows need no other pass.
//
// min_p, top_k and top_p each come down to a floor under the logits. Most floors lie among the few
// thousand largest logits of a row: two passes bring those to shared memory, by a histogram of the
// distance to the largest, where they are sorted. A floor that lies further down is found by a
// 16-way search over the ordered bits of a float (at most 8 passes over the row, of 15 thresholds
// each). Masses are fixed-point integers (2^40 = the largest logit's weight), so the answer depends
// neither on the order of additions nor on the way that was taken.
#include "shortlist.cuh"

#define CUTS 15
#define LOWEST_FLOOR -3.4028234663852886e38f

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

// The noise of one token: four neighbours share a block of words.
__device__ __forceinline__ float noise_of(u32 token, u32 k0, u32 k1, u32 position) {
  u32 words[4] = {token / 4, position, 0, 0};
  philox(words, k0, k1);
  u32 word = words[0];
#pragma unroll
  for (u32 j = 1; j < 4; j++)
    if (token % 4 == j) word = words[j];
  return gumbel(word);
}

// Argmax of logit + noise over logits >= floor; `top` is the largest logit's token.
__device__ u32 draw(const float* logits, u32 vocab, u32 k0, u32 k1, u32 position, float floor,
                    u64 top, u64* scratch) {
  float best = value_of(top) + noise_of(token_of(top), k0, k1, position);
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

// The same over the tokens of a list.
__device__ u32 draw(const Shortlist& list, u32 k0, u32 k1, u32 position, float floor,
                    u64* scratch) {
  u64 rank = 0;
  for (u32 i = threadIdx.x; i < list.length; i += THREADS) {
    const float x = value_of(list.ranks[i]);
    if (!(x >= floor)) break;
    const u32 token = token_of(list.ranks[i]);
    rank = max(rank, ranked(x + noise_of(token, k0, k1, position), token));
  }
  return token_of(block_max(rank, scratch));
}

// The token of a row that has a floor; its logits are divided by the temperature already, the
// largest is finite.
__device__ u32 draw_above_floor(const float* logits, u32 vocab, const u32* row, u64 top,
                                u64 (*scratch)[CUTS]) {
  __shared__ Shortlist list;
  const float max = value_of(top);
  // Never -inf: what a mask forbade must not come back.
  float floor = fmaxf(LOWEST_FLOOR, max + __uint_as_float(row[SLOT_LN_MIN_P]));
  const u32 top_k = row[SLOT_TOP_K];
  const float top_p = __uint_as_float(row[SLOT_TOP_P]);
  const bool counts = top_k > 0 && top_k < vocab;
  Row all = {logits, vocab, max, false};
  const u32 survivors = list.fill(all, floor, counts ? top_k : SHORTLIST, &scratch[0][0]);
  // Whether all that are above the floor are on the list.
  bool listed = list.length == survivors;
  if (counts && top_k < survivors) {
    listed |= list.length >= top_k;
    floor = listed ? value_of(list.ranks[top_k - 1])
                   : of_key(search(all, key_of(floor), key_of(max), top_k, scratch));
  }
  if (top_p < 1.f) {
    all.by_mass = true;
    u64 sums[SHARE];
    const u64 on_list = list.masses(max, floor, sums, &scratch[0][0]);
    u64 mass = on_list;
    if (!listed) {
      u64 sum[CUTS];
      measure(all, key_of(floor) - 1, key_of(floor) - 1, sum, scratch);
      mass = sum[0];
    }
    const u64 share = (u64)((double)top_p * (double)mass), wanted = share > 0 ? share : 1;
    listed |= on_list >= wanted;
    floor = listed ? value_of(list.ranks[list.place_of(wanted, sums)])
                   : of_key(search(all, key_of(floor), key_of(max), wanted, scratch));
  }
  const u32 k0 = row[SLOT_SEED_LOW], k1 = row[SLOT_SEED_HIGH], position = row[SLOT_LENGTH];
  if (listed) return draw(list, k0, k1, position, floor, &scratch[0][0]);
  return draw(logits, vocab, k0, k1, position, floor, top, &scratch[0][0]);
}

// A row whose draw has a floor under the logits.
__device__ __forceinline__ bool has_floor(const u32* row, u32 vocab) {
  const u32 top_k = row[SLOT_TOP_K];
  return (top_k > 0 && top_k < vocab) || __uint_as_float(row[SLOT_TOP_P]) < 1.f ||
         __uint_as_float(row[SLOT_LN_MIN_P]) > -INFINITY;
}

// For a logits row and what this thread saw of it: -inf instead of a logit.
__device__ __forceinline__ void hide(float& logit, u32& seen) {
  seen |= seen_of(logit);
  logit = -INFINITY;
}

// mask_of[s] = index of the row's mask in `masks`, or none (~0): only rows that are sampled from
// have one.
// Grid: rows x parts of `length`.
extern "C" __global__ void mask_rows(float* all_logits, u32 vocab, u32 length, const u32* mask_of,
                                     const u32* masks, u32 mask_words, const u32* sample_slot,
                                     u32* rows, u64 stride) {
  begin();
  if (mask_of[blockIdx.x] == ~0u) return;
  float* logits = all_logits + (u64)blockIdx.x * vocab;
  const u32* mask = masks + (u64)mask_of[blockIdx.x] * mask_words;
  const u32 from = blockIdx.y * length, to = min(from + length, vocab);
  u32 seen = 0;
  for (u32 i = from + threadIdx.x; i < to; i += blockDim.x)
    if ((mask[i / 32] >> i % 32 & 1) == 0) hide(logits[i], seen);
  seen = seen_by_block(seen);
  u32* row = rows + sample_slot[blockIdx.x] * stride;
  if (threadIdx.x == 0 && seen) atomicOr(&row[SLOT_SEEN], seen);
}

__device__ void penalise(float* logits, u32 vocab, const u32* row, const u32* counts) {
  const float repetition = __uint_as_float(row[SLOT_REPETITION]);
  const float frequency = __uint_as_float(row[SLOT_FREQUENCY]);
  const float presence = __uint_as_float(row[SLOT_PRESENCE]);
  for (u32 i = threadIdx.x; i < row[SLOT_ENTRIES]; i += blockDim.x) {
    const u32 token = counts[2 * i], outputs = counts[2 * i + 1];
    if (token >= vocab) continue;
    float x = logits[token];
    x = x > 0.f ? __fdiv_rn(x, repetition) : __fmul_rn(x, repetition);
    x = __fsub_rn(x, __fmul_rn(frequency, (float)outputs));
    if (outputs > 0) x -= presence;
    logits[token] = x;
  }
}

// -inf for the last token of each bad word whose other tokens are the newest outputs.
__device__ void forbid_bad_words(float* logits, u32 vocab, const u32* row, const Lists& lists,
                                 u32& seen) {
  const u32 outputs = row[SLOT_OUTPUTS], ring = row[SLOT_TAIL];
  const u32* tail = lists.tail();
  const u32* heads = lists.bad_words();
  for (u32 w = threadIdx.x; w < row[SLOT_BAD_WORDS]; w += blockDim.x) {
    const u32* word = lists.words + heads[2 * w];
    const u32 before = heads[2 * w + 1] - 1, last = word[before];
    bool same = before <= outputs;
    for (u32 i = 0; same && i < before; i++)
      same = tail[(outputs - before + i) % ring] == word[i];
    if (same && last < vocab) hide(logits[last], seen);
  }
}

extern "C" __global__ void adjust_rows(float* all_logits, u32 vocab, const u32* sample_slot,
                                       const u32* target, u32* rows, u64 stride, u32 lists_at,
                                       u32 counts_at) {
  begin();
  if (target[blockIdx.x] != TO_SAMPLE) return;
  float* logits = all_logits + (u64)blockIdx.x * vocab;
  u32* row = rows + sample_slot[blockIdx.x] * stride;
  const Lists lists(row, lists_at);
  for (u32 i = threadIdx.x; i < row[SLOT_BIASES]; i += blockDim.x) {
    const u32 token = lists.biases()[2 * i];
    const float bias = __uint_as_float(lists.biases()[2 * i + 1]);
    if (token < vocab) logits[token] = __fadd_rn(logits[token], bias);
  }
  __syncthreads();
  u32 seen = 0;
  if (row[SLOT_OUTPUTS] < row[SLOT_MIN_TOKENS]) {
    for (u32 i = threadIdx.x; i < row[SLOT_MASKED]; i += blockDim.x)
      if (lists.masked()[i] < vocab) hide(logits[lists.masked()[i]], seen);
    __syncthreads();
  }
  if (row[SLOT_NEEDS_COUNTS]) {
    penalise(logits, vocab, row, row + counts_at);
    __syncthreads();
  }
  forbid_bad_words(logits, vocab, row, lists, seen);
  seen = seen_by_block(seen);
  if (threadIdx.x == 0) row[SLOT_SEEN] |= seen;
}

// A part of a row: steps 3 and 8 as far as every logit has its own share in them.
struct Part {
  float* logits;
  const u32* allowed;
  u32 allowed_words, from, to;
  __device__ float at(u32 i, u32& seen) const {
    const float x = logits[i];
    seen |= seen_of(x);
    if (!allowed) return x;
    const u32 word = i / 32 < allowed_words ? allowed[i / 32] : 0;
    return word >> i % 32 & 1 ? x : -INFINITY;
  }
};

// best[0] = the largest logit + noise of this thread's share; the largest logit comes back.
__device__ u64 scan_with_noise(const Part& part, const u32* row, float temperature, u64& drawn,
                               u32& seen) {
  const u32 k0 = row[SLOT_SEED_LOW], k1 = row[SLOT_SEED_HIGH], position = row[SLOT_LENGTH];
  u64 top = 0;
  float best = -INFINITY;
  // A warp runs its rounds together, so that all of it knows the best so far.
  for (u32 first = part.from / 4; first * 4 < part.to; first += blockDim.x) {
    const u32 four = first + threadIdx.x;
    float x[4];
    bool any = false;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
      const u32 i = four * 4 + j;
      x[j] = i < part.to ? __fdiv_rn(part.at(i, seen), temperature) : -INFINITY;
      if (i < part.to) top = max(top, ranked(x[j], i));
      any |= x[j] >= LOWEST_FLOOR;
    }
    if (any) {
      u32 noise[4] = {four, position, 0, 0};
      philox(noise, k0, k1);
#pragma unroll
      for (u32 j = 0; j < 4; j++) {
        if (!(x[j] >= LOWEST_FLOOR) || x[j] + gumbel_bound(noise[j]) < best) continue;
        const float score = x[j] + gumbel(noise[j]);
        drawn = max(drawn, ranked(score, four * 4 + j));
        best = fmaxf(best, score);
      }
    }
    for (int d = 16; d > 0; d /= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, d));
  }
  return top;
}

// best[row][part] = largest logit, then largest logit + noise where the draw needs no floor. Rows
// that have one are left as step 8 divides them. Grid: rows x parts of `length` (a multiple of 4).
extern "C" __global__ void __launch_bounds__(512)
    scan_rows(float* all_logits, u32 vocab, u32 length, const u32* sample_slot, const u32* target,
              u32* rows, u64 stride, u32 lists_at, u64* best) {
  begin();
  if (target[blockIdx.x] != TO_SAMPLE) return;
  __shared__ u64 scratch[32];
  u32* row = rows + sample_slot[blockIdx.x] * stride;
  const Lists lists(row, lists_at);
  const u32 from = blockIdx.y * length;
  const Part part = {all_logits + (u64)blockIdx.x * vocab, lists.allowed(), row[SLOT_ALLOWED], from,
                     min(from + length, vocab)};
  const float temperature = __uint_as_float(row[SLOT_TEMPERATURE]);
  u64 top = 0, drawn = 0;
  u32 seen = 0;
  if (temperature == 0.f) {
#pragma unroll 8
    for (u32 i = part.from + threadIdx.x; i < part.to; i += blockDim.x)
      top = max(top, ranked(part.at(i, seen), i));
  } else if (has_floor(row, vocab)) {
#pragma unroll 4
    for (u32 i = part.from + threadIdx.x; i < part.to; i += blockDim.x) {
      const float x = __fdiv_rn(part.at(i, seen), temperature);
      part.logits[i] = x;
      top = max(top, ranked(x, i));
    }
  } else {
    top = scan_with_noise(part, row, temperature, drawn, seen);
  }
  seen = seen_by_block(seen);
  top = block_max(top, scratch);
  drawn = block_max(drawn, scratch);
  if (threadIdx.x == 0) {
    u64* to = best + 2 * ((u64)blockIdx.x * gridDim.y + blockIdx.y);
    to[0] = top;
    to[1] = drawn;
    if (seen) atomicOr(&row[SLOT_SEEN], seen);
  }
}

// The slot's row learns its token: last, number of outputs, count, newest outputs.
__device__ void record(u32 token, u32* row, const Lists& lists, u32* counts, u32 capacity) {
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
    if (row[SLOT_TAIL] > 0) lists.tail()[row[SLOT_OUTPUTS] % row[SLOT_TAIL]] = token;
    row[SLOT_LAST] = token;
    row[SLOT_OUTPUTS]++;
  }
}

// `parts` of a row are in `best`, as scan_rows left them.
extern "C" __global__ void __launch_bounds__(THREADS)
    draw_rows(const float* all_logits, u32 vocab, const u32* sample_slot, const u32* target,
              u32* rows, u64 stride, u32 lists_at, u32 counts_at, u32 counts_capacity,
              const u64* best, u32 parts, u32* out) {
  begin();
  if (target[blockIdx.x] != TO_SAMPLE) return;
  __shared__ u64 scratch[WARPS][CUTS];
  const float* logits = all_logits + (u64)blockIdx.x * vocab;
  u32* row = rows + sample_slot[blockIdx.x] * stride;
  u64 top = 0, drawn = 0;
  for (u32 p = threadIdx.x; p < parts; p += THREADS) {
    const u64* part = best + 2 * ((u64)blockIdx.x * parts + p);
    top = max(top, part[0]);
    drawn = max(drawn, part[1]);
  }
  top = block_max(top, &scratch[0][0]);
  drawn = block_max(drawn, &scratch[0][0]);
  const float max_logit = value_of(top);
  // The block's barriers in between keep the write below behind all reads.
  const bool finite = row[SLOT_SEEN] == SEEN_ABOVE;
  u32 token = token_of(top);
  // Where masks leave nothing, token 0: the lowest of equals. `drawn` is 0 for greedy rows.
  if (!finite) {
    token = 0;
  } else if (__uint_as_float(row[SLOT_TEMPERATURE]) != 0.f && isfinite(max_logit)) {
    token = token_of(drawn);
    if (has_floor(row, vocab)) token = draw_above_floor(logits, vocab, row, top, scratch);
  }
  record(token, row, Lists(row, lists_at), row + counts_at, counts_capacity);
  if (threadIdx.x == 0) {
    row[SLOT_SEEN] = 0;
    out[blockIdx.x] = finite ? token : NOT_FINITE;
  }
}

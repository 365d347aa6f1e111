// Tokens from logits rows, in the order that src/sampling/spec.rs fixes, with the noise of
// src/sampling/noise.rs. Three kernels, one that runs only where a grammar sent masks, and one only
// where there are drafts:
//
//   mask_rows    step 1: -inf where a mask has no bit. Blocks across a row.
//   adjust_rows  steps 4 to 7, which touch few tokens each: biases, min_tokens, penalties, bad
//                words. A block per row; only launched where a slot of the step has any of them.
//                Before step 3 instead of after, which makes no difference: -inf stays -inf.
//   scan_rows    step 3, temperature, and the best of each part of a row, for greedy rows of the
//                logits, for plain temperature of logit + noise too. Blocks across a row.
//                Not launched where all rows are greedy and none is masked or adjusted, and the
//                product of few rows that made them (gemm_small_m.cu) left the best of each
//                block's part.
//   draw_rows    the best of the parts; for rows with a floor (min_p, top_k, top_p) the floor and
//                the draw. Then the slot's row learns its token. A block per row.
//   accept_drafts  of a sequence with drafts: its slot's row learns the tokens up to the first that
//                is not the draft behind it. A block per row, of which a sequence's last works.
//
// On the way the first three see every logit once, before they hide or divide it, and gather for
// each row whether it is finite; where it is not, draw_rows answers so.
//
// A sequence with drafts has a row for each of them and one more, which are chosen from at the same
// time: each as if the drafts up to it were its newest outputs, at its own position. Whether they
// are is known behind all rows; nothing of a row that comes to nothing is kept.
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
__device__ u32 draw_above_floor(const float* logits, u32 vocab, const SlotHeader* slot,
                                u32 position, u64 top, u64 (*scratch)[CUTS]) {
  __shared__ Shortlist list;
  const float max = value_of(top);
  // Never -inf: what a mask forbade must not come back.
  float floor = fmaxf(LOWEST_FLOOR, max + slot->ln_min_p);
  const u32 top_k = slot->top_k;
  const float top_p = slot->top_p;
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
  const u32 k0 = slot->seed_low, k1 = slot->seed_high;
  if (listed) return draw(list, k0, k1, position, floor, &scratch[0][0]);
  return draw(logits, vocab, k0, k1, position, floor, top, &scratch[0][0]);
}

// A row whose draw has a floor under the logits.
__device__ __forceinline__ bool has_floor(const SlotHeader* slot, u32 vocab) {
  const u32 top_k = slot->top_k;
  return (top_k > 0 && top_k < vocab) || slot->top_p < 1.f ||
         slot->ln_min_p > -INFINITY;
}

// For a logits row and what this thread saw of it: -inf instead of a logit.
__device__ __forceinline__ void hide(float& logit, u32& seen) {
  seen |= seen_of(logit);
  logit = -INFINITY;
}

// Grid: rows x parts of `length`.
__global__ void mask_rows(const MaskRows a) {
  begin();
  if (a.mask_of[blockIdx.x] == NO_MASK) return;
  float* logits = a.logits + (u64)blockIdx.x * a.vocab;
  const u32* mask = a.masks + (u64)a.mask_of[blockIdx.x] * a.mask_words;
  const u32 from = blockIdx.y * a.length, to = min(from + a.length, a.vocab);
  u32 seen = 0;
  for (u32 i = from + threadIdx.x; i < to; i += blockDim.x)
    if ((mask[i / 32] >> i % 32 & 1) == 0) hide(logits[i], seen);
  seen = seen_by_block(seen);
  if (threadIdx.x == 0 && seen) atomicOr(&a.seen[blockIdx.x], seen);
}

// The drafts in front of a row's token, as if they were outputs.
struct Drafts {
  const u32* tokens;
  u32 count;
  __device__ u32 times(u32 token) const {
    u32 times = 0;
    for (u32 i = 0; i < count; i++) times += tokens[i] == token;
    return times;
  }
  // The first of its kind.
  __device__ bool is_first(u32 nth) const {
    for (u32 i = 0; i < nth; i++)
      if (tokens[i] == tokens[nth]) return false;
    return true;
  }
};

__device__ __forceinline__ float penalised(float x, const SlotHeader* slot, u32 outputs) {
  const float repetition = slot->repetition_penalty;
  x = x > 0.f ? __fdiv_rn(x, repetition) : __fmul_rn(x, repetition);
  x = __fsub_rn(x, __fmul_rn(slot->frequency_penalty, (float)outputs));
  return outputs > 0 ? x - slot->presence_penalty : x;
}

__device__ void penalise(float* logits, u32 vocab, const SlotHeader* slot, const u32* counts,
                         const Drafts& drafts) {
  // Drafts that are counted already.
  __shared__ u32 counted[MAX_DRAFTS];
  for (u32 i = threadIdx.x; i < drafts.count; i += blockDim.x) counted[i] = 0;
  __syncthreads();
  for (u32 i = threadIdx.x; i < slot->count_entries; i += blockDim.x) {
    const u32 token = counts[2 * i];
    for (u32 d = 0; d < drafts.count; d++)
      if (drafts.tokens[d] == token) counted[d] = 1;
    if (token < vocab)
      logits[token] = penalised(logits[token], slot, counts[2 * i + 1] + drafts.times(token));
  }
  __syncthreads();
  for (u32 d = threadIdx.x; d < drafts.count; d += blockDim.x) {
    const u32 token = drafts.tokens[d];
    if (!counted[d] && token < vocab && drafts.is_first(d))
      logits[token] = penalised(logits[token], slot, drafts.times(token));
  }
}

// -inf for the last token of each bad word whose other tokens are the newest outputs.
__device__ void forbid_bad_words(float* logits, u32 vocab, const Lists& lists,
                                 const Drafts& drafts, u32& seen) {
  const SlotHeader* slot = lists.header;
  const u32 known = slot->outputs, outputs = known + drafts.count, ring = slot->tail;
  const u32* tail = lists.tail();
  const u32* heads = lists.bad_words();
  for (u32 w = threadIdx.x; w < slot->bad_words; w += blockDim.x) {
    const u32* word = lists.words + heads[2 * w];
    const u32 before = heads[2 * w + 1] - 1, last = word[before];
    bool same = before <= outputs;
    for (u32 i = 0; same && i < before; i++) {
      const u32 nth = outputs - before + i;
      same = (nth < known ? tail[nth % ring] : drafts.tokens[nth - known]) == word[i];
    }
    if (same && last < vocab) hide(logits[last], seen);
  }
}

__global__ void adjust_rows(const AdjustRows a) {
  begin();
  if (a.target[blockIdx.x] != TO_SAMPLE) return;
  const u32 vocab = a.vocab;
  float* logits = a.logits + (u64)blockIdx.x * vocab;
  u32* row = row_of(a.slots, a.sample_slot[blockIdx.x]);
  SlotHeader* slot = header_of(row);
  const Lists lists(row, a.slots);
  const u32 before = a.drafts[blockIdx.x].before;
  const Drafts drafts = {a.token + a.gather_row[blockIdx.x] + 1 - before, before};
  for (u32 i = threadIdx.x; i < slot->biases; i += blockDim.x) {
    const u32 token = lists.biases()[2 * i];
    const float bias = __uint_as_float(lists.biases()[2 * i + 1]);
    if (token < vocab) logits[token] = __fadd_rn(logits[token], bias);
  }
  __syncthreads();
  u32 seen = 0;
  if (slot->outputs + before < slot->min_tokens) {
    for (u32 i = threadIdx.x; i < slot->masked; i += blockDim.x)
      if (lists.masked()[i] < vocab) hide(logits[lists.masked()[i]], seen);
    __syncthreads();
  }
  if (slot->needs_counts) {
    penalise(logits, vocab, slot, row + a.slots.counts, drafts);
    __syncthreads();
  }
  forbid_bad_words(logits, vocab, lists, drafts, seen);
  seen = seen_by_block(seen);
  if (threadIdx.x == 0) a.seen[blockIdx.x] |= seen;
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
__device__ u64 scan_with_noise(const Part& part, const SlotHeader* slot, u32 position, u64& drawn,
                               u32& seen) {
  const u32 k0 = slot->seed_low, k1 = slot->seed_high;
  const float temperature = slot->temperature;
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
__global__ void __launch_bounds__(SCAN_THREADS) scan_rows(const ScanRows a) {
  begin();
  if (a.target[blockIdx.x] != TO_SAMPLE) return;
  __shared__ u64 scratch[32];
  const u32 vocab = a.vocab;
  u32* row = row_of(a.slots, a.sample_slot[blockIdx.x]);
  SlotHeader* slot = header_of(row);
  const Lists lists(row, a.slots);
  const u32 from = blockIdx.y * a.length;
  const Part part = {a.logits + (u64)blockIdx.x * vocab, lists.allowed(), slot->allowed_words, from,
                     min(from + a.length, vocab)};
  const float temperature = slot->temperature;
  u64 top = 0, drawn = 0;
  u32 seen = 0;
  if (temperature == 0.f) {
#pragma unroll 8
    for (u32 i = part.from + threadIdx.x; i < part.to; i += blockDim.x)
      top = max(top, ranked(part.at(i, seen), i));
  } else if (has_floor(slot, vocab)) {
#pragma unroll 4
    for (u32 i = part.from + threadIdx.x; i < part.to; i += blockDim.x) {
      const float x = __fdiv_rn(part.at(i, seen), temperature);
      part.logits[i] = x;
      top = max(top, ranked(x, i));
    }
  } else {
    const u32 position = slot->length + slot->ahead - a.drafts[blockIdx.x].behind;
    top = scan_with_noise(part, slot, position, drawn, seen);
  }
  seen = seen_by_block(seen);
  top = block_max(top, scratch);
  drawn = block_max(drawn, scratch);
  if (threadIdx.x == 0) {
    u64* to = a.best + 2 * ((u64)blockIdx.x * gridDim.y + blockIdx.y);
    to[0] = top;
    to[1] = drawn;
    if (seen) atomicOr(&a.seen[blockIdx.x], seen);
  }
}

// The slot's row learns its token: last, number of outputs, count, newest outputs.
__device__ void record(u32 token, u32* row, const SlotRows& slots) {
  __shared__ bool known;
  SlotHeader* slot = header_of(row);
  u32* counts = row + slots.counts;
  const u32 entries = slot->count_entries;
  if (threadIdx.x == 0) known = false;
  __syncthreads();
  if (slot->needs_counts) {
    for (u32 i = threadIdx.x; i < entries; i += THREADS) {
      if (counts[2 * i] != token) continue;
      counts[2 * i + 1]++;
      known = true;
    }
    __syncthreads();
    if (threadIdx.x == 0 && !known && entries < slots.counts_capacity) {
      counts[2 * entries] = token;
      counts[2 * entries + 1] = 1;
      slot->count_entries = entries + 1;
    }
  }
  if (threadIdx.x == 0) {
    if (slot->tail > 0) Lists(row, slots).tail()[slot->outputs % slot->tail] = token;
    slot->last_token = token;
    slot->outputs++;
  }
}

// `parts` of a row are in `best`, as scan_rows left them.
__global__ void __launch_bounds__(THREADS) draw_rows(const DrawRows a) {
  begin();
  if (a.target[blockIdx.x] != TO_SAMPLE) return;
  __shared__ u64 scratch[WARPS][CUTS];
  const u32 vocab = a.vocab;
  const float* logits = a.logits + (u64)blockIdx.x * vocab;
  u32* row = row_of(a.slots, a.sample_slot[blockIdx.x]);
  SlotHeader* slot = header_of(row);
  u64 top = 0, drawn = 0;
  u32 seen = 0;
  for (u32 p = threadIdx.x; p < a.parts; p += THREADS) {
    const u64* part = a.best + 2 * ((u64)blockIdx.x * a.parts + p);
    top = max(top, part[0]);
    if (a.of_product) seen |= (u32)part[1];
    else drawn = max(drawn, part[1]);
  }
  seen = a.of_product ? seen_by_block(seen) : a.seen[blockIdx.x];
  top = block_max(top, &scratch[0][0]);
  drawn = block_max(drawn, &scratch[0][0]);
  const float max_logit = value_of(top);
  const bool finite = seen == SEEN_ABOVE;
  const RowDrafts drafts = a.drafts[blockIdx.x];
  u32 token = token_of(top);
  // Where masks leave nothing, token 0: the lowest of equals. `drawn` is 0 for greedy rows.
  if (!finite) {
    token = 0;
  } else if (slot->temperature != 0.f && isfinite(max_logit)) {
    token = token_of(drawn);
    if (has_floor(slot, vocab)) {
      const u32 position = slot->length + slot->ahead - drafts.behind;
      token = draw_above_floor(logits, vocab, slot, position, top, scratch);
    }
  }
  __syncthreads();
  if (drafts.before + drafts.behind == 0) record(token, row, a.slots);
  if (threadIdx.x == 0) {
    a.seen[blockIdx.x] = 0;
    a.out[blockIdx.x] = finite ? token : NOT_FINITE;
  }
}

// Only the last row of a sequence with drafts does something: it goes through all of them in order.
// A row that is not finite counts as token 0 if it is the first; behind a draft it counts for
// nothing, as it comes again in the next step.
__global__ void __launch_bounds__(THREADS) accept_drafts(const AcceptDrafts a) {
  begin();
  const u32 last = blockIdx.x;
  const u32 before = a.drafts[last].before;
  if (before == 0 || a.drafts[last].behind > 0) return;
  u32* row = row_of(a.slots, a.sample_slot[last]);
  for (u32 i = last - before; i <= last; i++) {
    const u32 chosen = a.out[i];
    const bool finite = chosen != NOT_FINITE;
    if (!finite && i > last - before) return;
    record(finite ? chosen : 0, row, a.slots);
    if (!finite || i == last || chosen != a.token[a.gather_row[i] + 1]) return;
    __syncthreads();
  }
}

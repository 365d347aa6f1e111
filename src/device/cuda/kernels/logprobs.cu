// Logprobs of the logits rows that ask for them, as src/sampling/logprobs.rs defines them. Only
// launched where a row asks. Three kernels, around the sampler's:
//
//   keep_rows      before the sampler changes a row: a copy of it. Blocks across a row.
//   report_parts   after it: of each part of a row the maximum, the sum of exp, how many logits are
//                  not below the token's, and the largest in order. Blocks across a row.
//   report_rows    the parts joined: logprob, rank, and what the request lists. A warp per row.
//
// The largest k (at most MAX_TOP; beyond it the host gets the whole row) without a sort: each lane
// of a warp holds the best of its share, and whoever gives the warp's best looks for its next. 20
// rounds over 1024 logits in L1 take about 3 us.
#include "logits_order.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define MAX_TOP 64
#define MAX_PARTS 32

// Words of a request: the logits row, the kept copy that stands for it (~0: the row itself), how
// many others it lists, where their tokens begin in `requests` (~0: the largest), and where the
// answer goes (~0: nowhere, the host wants the row). An answer: logprob, rank, then each other's
// token and logprob. Rank 0: the row is not finite; not said of kept rows, which the sampler judges
// and of which masks may have left nothing.
enum { REQ_ROW, REQ_KEPT, REQ_COUNT, REQ_TOKENS, REQ_OUT, REQ_WORDS };

struct alignas(8) Piece {
  float peak, sum;
  u32 not_below, seen;
  u64 top[MAX_TOP];
};

struct Asked {
  const u32* request;
  const float* logits;
  u32 token;
  __device__ Asked(const u32* requests, const float* logits_, const float* kept, u32 vocab,
                   const u32* target, const u32* out) {
    request = requests + blockIdx.x * REQ_WORDS;
    const u32 row = request[REQ_ROW];
    logits = request[REQ_KEPT] == ~0u ? logits_ + (u64)row * vocab
                                      : kept + (u64)request[REQ_KEPT] * vocab;
    token = target[row] == TO_SAMPLE ? out[row] : target[row];
  }
  __device__ float own(u32 vocab) const { return token < vocab ? logits[token] : -INFINITY; }
};

// The k largest of n ranks in descending order, by one warp; 0 where there are no more.
template <class At>
__device__ void warp_top(const At& at, u32 n, u32 k, u64* to) {
  const u32 lane = threadIdx.x % 32;
  u64 mine = 0;
  for (u32 i = lane; i < n; i += 32) mine = max(mine, at(i));
  for (u32 t = 0; t < k; t++) {
    const u64 best = warp_max(mine);
    if (lane == 0) to[t] = best;
    if (best == 0 || mine != best) continue;
    mine = 0;
    for (u32 i = lane; i < n; i += 32) {
      const u64 x = at(i);
      if (x < best) mine = max(mine, x);
    }
  }
}

// Grid: requests x parts of `length`.
extern "C" __global__ void keep_rows(const float* logits, float* kept, u32 vocab, u32 length,
                                     const u32* requests) {
  begin();
  const u32* request = requests + blockIdx.x * REQ_WORDS;
  if (request[REQ_KEPT] == ~0u) return;
  const float* from = logits + (u64)request[REQ_ROW] * vocab;
  float* to = kept + (u64)request[REQ_KEPT] * vocab;
  const u32 end = min((blockIdx.y + 1) * length, vocab);
  for (u32 i = blockIdx.y * length + threadIdx.x; i < end; i += blockDim.x) to[i] = from[i];
}

// Grid: requests x parts of `length`.
extern "C" __global__ void __launch_bounds__(THREADS)
    report_parts(const float* all_logits, const float* kept, u32 vocab, u32 length,
                 const u32* requests, const u32* target, const u32* out, Piece* pieces) {
  begin();
  __shared__ float scratch[33];
  __shared__ u64 found[WARPS][MAX_TOP];
  const Asked asked(requests, all_logits, kept, vocab, target, out);
  if (asked.request[REQ_OUT] == ~0u) return;
  Piece* piece = pieces + (u64)blockIdx.x * gridDim.y + blockIdx.y;
  const u32 from = blockIdx.y * length, to = min(from + length, vocab);
  const u32 own = key_of(asked.own(vocab));
  u32 peak_key = 0, not_below = 0, seen = 0;
#pragma unroll 4
  for (u32 i = from + threadIdx.x; i < to; i += THREADS) {
    const float x = asked.logits[i];
    const u32 key = key_of(x);
    seen |= seen_of(x);
    peak_key = max(peak_key, key);
    not_below += key >= own;
  }
  peak_key = max(peak_key, key_of(-INFINITY));
  const u32 warp = threadIdx.x / 32;
  peak_key = (u32)(warp_max(peak_key));
  if (threadIdx.x % 32 == 0) found[warp][0] = peak_key;
  __syncthreads();
  for (u32 w = 0; w < WARPS; w++) peak_key = max(peak_key, (u32)found[w][0]);
  const float peak = of_key(peak_key);
  float sum = 0.f;
  if (peak > -INFINITY) {
#pragma unroll 4
    for (u32 i = from + threadIdx.x; i < to; i += THREADS) {
      const float x = asked.logits[i];
      if (x > -INFINITY) sum += expf(x - peak);
    }
  }
  sum = block_sum(sum, scratch);
  // Exact: a part has fewer than 2^24 logits.
  const float count = block_sum((float)not_below, scratch);
  seen = seen_by_block(seen);
  if (threadIdx.x == 0) {
    piece->peak = peak;
    piece->sum = sum;
    piece->not_below = (u32)count;
    piece->seen = seen;
  }
  if (asked.request[REQ_TOKENS] != ~0u) return;
  const u32 k = min(asked.request[REQ_COUNT], MAX_TOP);
  const u32 share = (length + WARPS - 1) / WARPS;
  const u32 first = min(from + warp * share, to), last = min(first + share, to);
  const auto logit = [&](u32 i) { return ranked(asked.logits[first + i], first + i); };
  warp_top(logit, last - first, k, found[warp]);
  __syncthreads();
  const auto candidate = [&](u32 i) { return found[i / k][i % k]; };
  if (warp == 0) warp_top(candidate, WARPS * k, k, piece->top);
}

// Grid: requests; one warp each. `parts` pieces of each request are in `pieces`; `answers` begins
// where REQ_OUT counts from.
extern "C" __global__ void __launch_bounds__(32)
    report_rows(const float* all_logits, const float* kept, u32 vocab, const u32* requests,
                const u32* target, const u32* out, const Piece* pieces, u32 parts, u32* answers) {
  begin();
  __shared__ u64 found[MAX_TOP];
  const Asked asked(requests, all_logits, kept, vocab, target, out);
  if (asked.request[REQ_OUT] == ~0u) return;
  const u32 lane = threadIdx.x;
  const Piece* piece = pieces + (u64)blockIdx.x * parts;
  float peak = -INFINITY, sum = 0.f;
  u32 rank = 0, seen = 0;
  for (u32 p = 0; p < parts; p++) peak = fmaxf(peak, piece[p].peak);
  for (u32 p = 0; p < parts; p++) {
    rank += piece[p].not_below;
    seen |= piece[p].seen;
    if (piece[p].peak > -INFINITY) sum += piece[p].sum * expf(piece[p].peak - peak);
  }
  const float log_sum = logf(sum);
  const auto logprob = [&](float x) {
    return x > -INFINITY ? (x - peak) - log_sum : -INFINITY;
  };
  u32* answer = answers + asked.request[REQ_OUT];
  if (lane == 0) {
    answer[0] = __float_as_uint(logprob(asked.own(vocab)));
    const bool judged = asked.request[REQ_KEPT] == ~0u;
    answer[1] = judged && seen != SEEN_ABOVE ? 0 : rank;
  }
  const u32 count = asked.request[REQ_COUNT];
  if (asked.request[REQ_TOKENS] == ~0u) {
    const u32 k = min(count, MAX_TOP);
    const auto candidate = [&](u32 i) { return piece[i / k].top[i % k]; };
    warp_top(candidate, parts * k, k, found);
    __syncwarp();
    for (u32 i = lane; i < k; i += 32) {
      answer[2 + 2 * i] = token_of(found[i]);
      answer[3 + 2 * i] = __float_as_uint(logprob(value_of(found[i])));
    }
    return;
  }
  for (u32 i = lane; i < count; i += 32) {
    const u32 token = requests[asked.request[REQ_TOKENS] + i];
    answer[2 + 2 * i] = token;
    const float x = token < vocab ? asked.logits[token] : -INFINITY;
    answer[3 + 2 * i] = __float_as_uint(logprob(x));
  }
}

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

#define THREADS REPORT_THREADS
#define WARPS (THREADS / 32)
#define MAX_TOP REPORT_MAX_TOP

// The request of a block, and the logits that it is about.
struct Asked {
  const LogprobRequest* request;
  const float* logits;
  u32 token;
  template <class Parameters>
  __device__ Asked(const Parameters& a) {
    request = a.requests + blockIdx.x;
    const u32 row = request->row;
    logits = request->kept == NOT_ASKED ? a.logits + (u64)row * a.vocab
                                        : a.kept + (u64)request->kept * a.vocab;
    token = a.target[row] == TO_SAMPLE ? a.sampled[row] : a.target[row];
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
__global__ void keep_rows(const KeepRows a) {
  begin();
  const LogprobRequest& request = a.requests[blockIdx.x];
  if (request.kept == NOT_ASKED) return;
  const float* from = a.logits + (u64)request.row * a.vocab;
  float* to = a.kept + (u64)request.kept * a.vocab;
  const u32 end = min((blockIdx.y + 1) * a.length, a.vocab);
  for (u32 i = blockIdx.y * a.length + threadIdx.x; i < end; i += blockDim.x) to[i] = from[i];
}

// Grid: requests x parts of `length`.
__global__ void __launch_bounds__(THREADS) report_parts(const ReportParts a) {
  begin();
  __shared__ float scratch[32];
  __shared__ u64 found[WARPS][MAX_TOP];
  const u32 vocab = a.vocab, length = a.length;
  const Asked asked(a);
  if (asked.request->answer == NOT_ASKED) return;
  ReportPiece* piece = a.pieces + (u64)blockIdx.x * gridDim.y + blockIdx.y;
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
  if (asked.request->tokens != NOT_ASKED) return;
  const u32 k = min(asked.request->count, MAX_TOP);
  const u32 share = (length + WARPS - 1) / WARPS;
  const u32 first = min(from + warp * share, to), last = min(first + share, to);
  const auto logit = [&](u32 i) { return ranked(asked.logits[first + i], first + i); };
  warp_top(logit, last - first, k, found[warp]);
  __syncthreads();
  const auto candidate = [&](u32 i) { return found[i / k][i % k]; };
  if (warp == 0) warp_top(candidate, WARPS * k, k, piece->top);
}

// Grid: requests; one warp each. `parts` pieces of each request are in `pieces`.
__global__ void __launch_bounds__(32) report_rows(const ReportRows a) {
  begin();
  __shared__ u64 found[MAX_TOP];
  const u32 vocab = a.vocab, parts = a.parts;
  const Asked asked(a);
  if (asked.request->answer == NOT_ASKED) return;
  const u32 lane = threadIdx.x;
  const ReportPiece* piece = a.pieces + (u64)blockIdx.x * parts;
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
  LogprobAnswer* answer = reinterpret_cast<LogprobAnswer*>(a.answers + asked.request->answer);
  TokenLogprob* others = reinterpret_cast<TokenLogprob*>(answer + 1);
  if (lane == 0) {
    answer->logprob = logprob(asked.own(vocab));
    const bool judged = asked.request->kept == NOT_ASKED;
    answer->rank = judged && seen != SEEN_ABOVE ? 0 : rank;
  }
  const u32 count = asked.request->count;
  if (asked.request->tokens == NOT_ASKED) {
    const u32 k = min(count, MAX_TOP);
    const auto candidate = [&](u32 i) { return piece[i / k].top[i % k]; };
    warp_top(candidate, parts * k, k, found);
    __syncwarp();
    for (u32 i = lane; i < k; i += 32)
      others[i] = TokenLogprob{token_of(found[i]), logprob(value_of(found[i]))};
    return;
  }
  const u32* tokens = reinterpret_cast<const u32*>(a.requests) + asked.request->tokens;
  for (u32 i = lane; i < count; i += 32) {
    const float x = tokens[i] < vocab ? asked.logits[tokens[i]] : -INFINITY;
    others[i] = TokenLogprob{tokens[i], logprob(x)};
  }
}

// Which experts rows choose, and choices brought together by expert: experts.cu has a launch for
// each, experts_few.cu does both in the last block of the router's product, experts_small.cu the
// first one.
#pragma once
#include "abi_experts.h"

// What comes near in ROUTE_SCORE_SPARSE_MIXER.
#define SPARSE_MIXER_SPAN 0.02f

// Of a warp.
struct RouteScratch {
  // What experts are chosen by, where that goes by groups; then the weights of those chosen.
  float worth[MAX_EXPERTS];
  float of_group[MAX_EXPERT_GROUPS];
};

// Of a row's worths, in `groups` parts: take away those outside of the best groups. Of equal groups
// the first is the better one.
__device__ __forceinline__ void keep_groups(const RouteRows& a, RouteScratch& s) {
  const u32 lane = threadIdx.x % 32, size = a.experts / a.groups;
  for (u32 g = lane; g < a.groups; g += 32) {
    float best = -INFINITY, second = -INFINITY;
    for (u32 i = 0; i < size; i++) {
      const float x = s.worth[g * size + i];
      second = fmaxf(second, fminf(best, x));
      best = fmaxf(best, x);
    }
    s.of_group[g] = a.choice_bias && size > 1 ? best + second : best;
  }
  __syncwarp();
  for (u32 g = lane; g < a.groups; g += 32) {
    const float own = s.of_group[g];
    u32 rank = 0;
    for (u32 other = 0; other < a.groups; other++)
      rank += s.of_group[other] > own || (s.of_group[other] == own && other < g);
    if (rank < a.top_groups) continue;
    for (u32 i = 0; i < size; i++) s.worth[g * size + i] = -INFINITY;
  }
  __syncwarp();
}

// The share of the best expert of a row among those left that come near to it; -INFINITY: taken, or
// not there.
template <u32 PER_LANE>
__device__ __forceinline__ float share_of_near(const float (&left)[PER_LANE], float best) {
  float sum = 0.f;
#pragma unroll
  for (u32 i = 0; i < PER_LANE; i++) {
    const bool far = (best - left[i]) / fmaxf(fabsf(left[i]), best) > SPARSE_MIXER_SPAN;
    if (left[i] > -INFINITY && !far) sum += expf(left[i] - best);
  }
  return 1.f / warp_sum(sum);
}

// The best expert of a row among a warp's worths, of equals the first: every lane gets it.
template <u32 PER_LANE>
__device__ __forceinline__ u32 best_of(const float (&worth)[PER_LANE], u32 experts, float& best) {
  const u32 lane = threadIdx.x % 32;
  u32 expert = lane;
  best = -INFINITY;
#pragma unroll
  for (u32 i = 0; i < PER_LANE; i++) {
    if (worth[i] > best) {
      best = worth[i];
      expert = i * 32 + lane;
    }
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const float other = __shfl_xor_sync(~0u, best, d);
    const u32 its = __shfl_xor_sync(~0u, expert, d);
    if (other > best || (other == best && its < expert)) {
      best = other;
      expert = its;
    }
  }
  // One opinion, also among NaNs.
  return min(__shfl_sync(~0u, expert, 0), experts - 1);
}

// Of up to 32 * PER_LANE experts. Logits may be other blocks' of this launch.
template <u32 PER_LANE>
__device__ void choose_of(const RouteRows& a, u32 r, RouteScratch& s) {
  const u32 experts = a.experts, top_k = a.top_k, lane = threadIdx.x % 32;
  const float* row = a.logits + (u64)r * experts;
  // worth: what is chosen by; -INFINITY: not there, or taken.
  float score[PER_LANE], worth[PER_LANE], top = -INFINITY, all = 0.f;
#pragma unroll
  for (u32 i = 0; i < PER_LANE; i++) {
    const u32 e = i * 32 + lane;
    score[i] = e < experts ? __ldcg(row + e) + (a.bias ? a.bias[e] : 0.f) : -INFINITY;
    top = fmaxf(top, score[i]);
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
#pragma unroll
  for (u32 i = 0; i < PER_LANE; i++) {
    worth[i] = score[i];
    if (i * 32 + lane >= experts) score[i] = 0.f;
    else if (a.score == ROUTE_SCORE_SOFTMAX) score[i] = expf(score[i] - top);
    else if (a.score != ROUTE_SCORE_SPARSE_MIXER) score[i] = 1.f / (1.f + expf(-score[i]));
    all += score[i];
  }
  all = a.score == ROUTE_SCORE_SOFTMAX ? warp_sum(all) : 1.f;
#pragma unroll
  for (u32 i = 0; i < PER_LANE; i++) {
    const u32 e = i * 32 + lane;
    if (e >= experts) worth[i] = -INFINITY;
    else if (a.score != ROUTE_SCORE_SIGMOID_OF_CHOSEN)
      worth[i] = a.choice_bias ? score[i] / all + a.choice_bias[e] : score[i];
  }
  if (a.groups != 0) {
#pragma unroll
    for (u32 i = 0; i < PER_LANE; i++) s.worth[i * 32 + lane] = worth[i];
    __syncwarp();
    keep_groups(a, s);
#pragma unroll
    for (u32 i = 0; i < PER_LANE; i++) worth[i] = s.worth[i * 32 + lane];
    __syncwarp();
  }

  float* numbers = a.routes + (u64)r * 2 * top_k;
  float chosen = 0.f;
  for (u32 j = 0; j < top_k; j++) {
    float best;
    const u32 expert = best_of(worth, experts, best);
    const float near = a.score == ROUTE_SCORE_SPARSE_MIXER ? share_of_near(worth, best) : 0.f;
    float weight = 0.f;
#pragma unroll
    for (u32 i = 0; i < PER_LANE; i++) {
      if (i * 32 + lane != expert) continue;
      weight = score[i];
      worth[i] = -INFINITY;
    }
    weight = __shfl_sync(~0u, weight, expert % 32);
    if (a.score == ROUTE_SCORE_SPARSE_MIXER) weight = near;
    chosen += weight;
    if (lane == 0) {
      numbers[j] = (float)expert;
      s.worth[j] = weight;
    }
  }
  __syncwarp();
  const float total = a.renormalise ? chosen : all;
  for (u32 j = lane; j < top_k; j += 32) numbers[top_k + j] = s.worth[j] / total * a.scale;
}

// routes[r] = numbers, then weights, of the top_k largest, by a warp. Numbers stay below `experts`
// whatever the logits are.
__device__ __forceinline__ void choose(const RouteRows& a, u32 r, RouteScratch& scratch) {
  if (a.experts <= 128) choose_of<4>(a, r, scratch);
  else choose_of<MAX_EXPERTS / 32>(a, r, scratch);
}

// The last block of the router's, when all logits are there.
__device__ bool is_last(u32* ticket) {
  __shared__ u32 before;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) before = atomicAdd(ticket, 1u);
  __syncthreads();
  if (before + 1 != gridDim.x) return false;
  __threadfence();
  if (threadIdx.x == 0) *ticket = 0;
  return true;
}

// Of a block.
struct GroupScratch {
  u32 count[MAX_EXPERTS], next[MAX_EXPERTS], of_warps[32];
};

// Sum of x over the threads before this one, and (in `total`) over all of the block.
template <u32 THREADS>
__device__ __forceinline__ u32 scan(u32 x, u32* scratch, u32& total) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 sum = x;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const u32 below = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += below;
  }
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    u32 of = lane < THREADS / 32 ? scratch[lane] : 0;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const u32 below = __shfl_up_sync(~0u, of, d);
      if (lane >= d) of += below;
    }
    scratch[lane] = of;
  }
  __syncthreads();
  total = scratch[31];
  sum += warp == 0 ? 0 : scratch[warp - 1];
  __syncthreads();
  return sum - x;
}

// order = choices by expert; tiles and how many of them. By a block, each of whose threads has some
// neighbouring experts.
template <u32 THREADS>
__device__ void group(const GroupRows& a, GroupScratch& s) {
  constexpr u32 EACH = MAX_EXPERTS / THREADS;
  const u32 top_k = a.top_k, own = threadIdx.x * EACH;
  const auto expert_of = [&](u32 c) { return (u32)a.routes[c / top_k * 2 * top_k + c % top_k]; };
  for (u32 e = threadIdx.x; e < MAX_EXPERTS; e += THREADS) s.count[e] = 0;
  __syncthreads();
  for (u32 c = threadIdx.x; c < a.choices; c += THREADS) atomicAdd(s.count + expert_of(c), 1);
  __syncthreads();

  const auto pieces_of = [&](u32 e) { return (s.count[e] + a.tile_rows - 1) / a.tile_rows; };
  u32 mine = 0, pieces = 0;
#pragma unroll
  for (u32 e = own; e < own + EACH; e++) mine += s.count[e], pieces += pieces_of(e);
  u32 ignored, all;
  u32 first = scan<THREADS>(mine, s.of_warps, ignored);
  u32 tile = scan<THREADS>(pieces, s.of_warps, all);
  for (u32 e = own; e < own + EACH; e++) {
    s.next[e] = first;
    for (u32 i = 0; i < pieces_of(e); i++) {
      ExpertTile& t = a.tiles[tile++];
      t.expert = e;
      t.first = first + i * a.tile_rows;
      t.count = min(a.tile_rows, s.count[e] - i * a.tile_rows);
    }
    first += s.count[e];
  }
  if (threadIdx.x == 0) *a.tile_count = all;
  __syncthreads();
  for (u32 c = threadIdx.x; c < a.choices; c += THREADS)
    a.order[atomicAdd(s.next + expert_of(c), 1)] = c;
}

// What draw_rows of sampler.cu knows of a logits row: sums over a block, and the largest logits,
// sorted. One block of THREADS threads a row (block_max: any), whose threads call these together.
#pragma once
#include "logits_order.cuh"

#define THREADS DRAW_THREADS
#define WARPS (THREADS / 32)
#define SHARE 4                      // of the shortlist, per thread
#define SHORTLIST (SHARE * THREADS)  // tokens
#define BINS_PER_UNIT 32.f           // of a histogram of THREADS bins
#define ONE_MASS 1099511627776.f     // 2^40; 2^24 logits of full weight still fit 64 bits

// The largest of the block's values, at most 32 warps; every thread gets it.
__device__ u64 block_max(u64 x, u64* scratch) {
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  for (int w = 0; w < blockDim.x / 32; w++) x = max(x, scratch[w]);
  __syncthreads();
  return x;
}

// The sum of the values of this thread and those before it; `all` is that of the last thread.
__device__ u64 running_sum(u64 x, u64& all, u64* scratch) {
  const u32 lane = threadIdx.x % 32;
  for (u32 d = 1; d < 32; d *= 2) {
    const u64 before = __shfl_up_sync(~0u, x, d);
    if (lane >= d) x += before;
  }
  if (lane == 31) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  all = 0;
  for (u32 w = 0; w < WARPS; w++) {
    if (w < threadIdx.x / 32) x += scratch[w];
    all += scratch[w];
  }
  __syncthreads();
  return x;
}

// The weight of a logit: 2^40 for the largest.
__device__ __forceinline__ u64 mass_of(float x, float max) {
  return (u64)(expf(x - max) * ONE_MASS);
}

// The row's logits and what a floor is measured by: how many are above, or how much mass.
struct Row {
  const float* logits;
  u32 vocab;
  float max;
  bool by_mass;
  __device__ u64 weight(float x) const { return by_mass ? mass_of(x, max) : 1; }
};

// `each(x, i)` for a thread's share of a row, with eight loads in flight; -inf pads it.
template <class F>
__device__ __forceinline__ void over(const Row& row, F each) {
  for (u32 first = threadIdx.x; first < row.vocab; first += 8 * THREADS) {
    float x[8];
#pragma unroll
    for (u32 j = 0; j < 8; j++) {
      const u32 i = first + j * THREADS;
      x[j] = i < row.vocab ? row.logits[i] : -INFINITY;
    }
#pragma unroll
    for (u32 j = 0; j < 8; j++) each(x[j], first + j * THREADS);
  }
}

// The largest logits of a row, largest first, of equals the lower token.
struct Shortlist {
  u64 ranks[SHORTLIST];
  u32 bins[THREADS];
  u32 length;

  // Logits that are at least `floor`: at least `wanted` of them if that many fit, with all of a bin
  // or none. Returns how many there are in the row.
  __device__ u32 fill(const Row& row, float floor, u32 wanted, u64* scratch) {
    bins[threadIdx.x] = 0;
    if (threadIdx.x == 0) length = 0;
    __syncthreads();
    u64 mine = 0, survivors;
    over(row, [&](float x, u32) {
      if (!(x >= floor)) return;
      mine++;
      const u32 bin = bin_of(x, row.max);
      if (bin < THREADS) atomicAdd(&bins[bin], 1);
    });
    running_sum(mine, survivors, scratch);
    u64 all;
    const u64 sum = running_sum(bins[threadIdx.x], all, scratch);
    const u32 fitting = __syncthreads_count(sum <= SHORTLIST);
    const u32 enough = __syncthreads_count(sum < wanted) + 1;
    const u32 reach = min(fitting, enough);
    if (reach > 0) {
      over(row, [&](float x, u32 i) {
        if (x >= floor && bin_of(x, row.max) < reach) ranks[atomicAdd(&length, 1)] = ranked(x, i);
      });
    }
    __syncthreads();
    sort();
    return survivors;
  }

  // Rises as logits fall; far away it saturates.
  __device__ static u32 bin_of(float x, float max) { return (u32)((max - x) * BINS_PER_UNIT); }

  // Bitonic, over the next power of two; empty places rank last.
  __device__ void sort() {
    u32 size = 1;
    while (size < length) size *= 2;
    for (u32 i = length + threadIdx.x; i < size; i += THREADS) ranks[i] = 0;
    __syncthreads();
    for (u32 run = 2; run <= size; run *= 2) {
      for (u32 gap = run / 2; gap > 0; gap /= 2) {
        for (u32 i = threadIdx.x; i < size / 2; i += THREADS) {
          const u32 low = 2 * i - (i & (gap - 1)), high = low + gap;
          const u64 a = ranks[low], b = ranks[high];
          if ((low & run) == 0 ? a < b : a > b) ranks[low] = b, ranks[high] = a;
        }
        __syncthreads();
      }
    }
  }

  // Mass of the logits that are at least `floor`, from the largest on: sums[j] up to and with
  // place SHARE * threadIdx.x + j. Returns that of all.
  __device__ u64 masses(float max, float floor, u64 (&sums)[SHARE], u64* scratch) const {
    u64 mine = 0, all;
#pragma unroll
    for (u32 j = 0; j < SHARE; j++) {
      const u32 i = SHARE * threadIdx.x + j;
      const float x = i < length ? value_of(ranks[i]) : -INFINITY;
      if (x >= floor) mine += mass_of(x, max);
      sums[j] = mine;
    }
    const u64 before = running_sum(mine, all, scratch) - mine;
#pragma unroll
    for (u32 j = 0; j < SHARE; j++) sums[j] += before;
    return all;
  }

  // The first place whose sum reaches `wanted`; one does.
  __device__ u32 place_of(u64 wanted, const u64 (&sums)[SHARE]) {
    __shared__ u32 place;
    u32 below = 0;
#pragma unroll
    for (u32 j = 0; j < SHARE; j++) below += sums[j] < wanted;
    // Only this thread's share ends above while all before it are below.
    const u32 full = __syncthreads_count(below == SHARE);
    if (threadIdx.x == full) place = SHARE * full + below;
    __syncthreads();
    return place;
  }
};

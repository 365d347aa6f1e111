// Single tokens whose keys are cut among blocks: which block is the last to finish its part of some
// rows, and how it joins the parts. Of attention_tile.cuh's kernels and attention_ring_sm90.cu.
// `Block` says how the threads that call these meet.
#pragma once
#include "attention_mma.cuh"

// Which dimension of the grid counts KV heads, and which a block's first item: a file that has them
// the other way round says so before it includes this.
#ifndef KV_HEAD
#define KV_HEAD blockIdx.y
#define FIRST_ITEM blockIdx.x
#endif

#if ACT != 0
struct WholeBlock {
  static __device__ __forceinline__ void meet() { __syncthreads(); }
};

// What other blocks wrote: from L2, where this multiprocessor's L1 cannot be stale.
__device__ __forceinline__ float far(const float* p) {
  float x;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(p) : "memory");
  return x;
}
__device__ __forceinline__ float2 far(const float2* p) {
  float2 x;
  asm volatile("ld.global.cg.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(p) : "memory");
  return x;
}
__device__ __forceinline__ float4 far(const float4* p) {
  float4 x;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(p)
               : "memory");
  return x;
}

// One more has arrived: how many had before. What this thread saw written before, those that come
// later see.
__device__ __forceinline__ u32 arrive(u32* arrivals) {
#if ARCH >= 90
  // Two fences would be of all of memory's order, for which a block waits twice as long.
  u32 before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(arrivals)
               : "memory");
  return before;
#else
  __threadfence();
  const u32 before = atomicAdd(arrivals, 1);
  __threadfence();
  return before;
#endif
}

// True for the block that finishes the last part of its rows: it sees what the others wrote. One
// thread's arrival counts for all that met before and after it.
template <class Block>
__device__ __forceinline__ bool last_to_arrive(const PagedAttention& c, const WorkItem* item) {
  __shared__ bool last;
  if (item->part == NO_PART) return false;
  Block::meet();
  if (threadIdx.x == 0) {
    u32* arrivals = c.arrivals + item->part * c.kv_heads + KV_HEAD;
    last = arrive(arrivals) + 1 == item->pieces;
    if (last) *arrivals = 0;
  }
  Block::meet();
  return last;
}

__device__ __forceinline__ void scale(float4& x, float by) {
  x.x *= by;
  x.y *= by;
  x.z *= by;
  x.w *= by;
}
__device__ __forceinline__ void add_scaled(float4& sum, const float4& x, float by) {
  sum.x += x.x * by;
  sum.y += x.y * by;
  sum.z += x.z * by;
  sum.w += x.w * by;
}
__device__ __forceinline__ void store4(act* to, const float4& x, float unit) {
  *reinterpret_cast<uint2*>(to) =
      make_uint2(pack_act(x.x * unit, x.y * unit), pack_act(x.z * unit, x.w * unit));
}

// Of row r of an item and four of its elements: what parts hold over keys that are others' too,
// which an earlier launch left, is added to the weighted sum, the sum of weights and their peak.
template <int D>
__device__ __forceinline__ void add_shared(const PagedAttention& c, const WorkItem* item, u32 r,
                                           u32 four, float& peak, float& all, float4& sum) {
  constexpr u32 AT_ONCE = 8, PARTS = SHARED_ROWS / SPLIT_ROWS;
  const u32 row = item->shared_row + r, pieces = item->shared_pieces;
  const u32 part = item->shared + row / SPLIT_ROWS;
  const u64 first = ((u64)part * c.kv_heads + KV_HEAD) * SPLIT_ROWS + row % SPLIT_ROWS;
  const u64 step = (u64)PARTS * c.kv_heads * SPLIT_ROWS;
  const float4* sums = reinterpret_cast<const float4*>(c.parts) + four;
#pragma unroll 1
  for (u32 begin = 0; begin < pieces; begin += AT_ONCE) {
    float2 own[AT_ONCE];
    float4 x[AT_ONCE];
#pragma unroll
    for (u32 p = 0; p < AT_ONCE; p++) {
      own[p] = make_float2(LOWEST, 0.f);
      x[p] = make_float4(0.f, 0.f, 0.f, 0.f);
      if (begin + p >= pieces) continue;
      const u64 at = first + (begin + p) * step;
      own[p] = far(c.statistics + at);
      x[p] = far(sums + at * (D / 4));
    }
    float top = peak;
#pragma unroll
    for (u32 p = 0; p < AT_ONCE; p++) top = fmaxf(top, own[p].x);
    const float shrink = exp2_fast(peak - top);
    peak = top;
    all *= shrink;
    scale(sum, shrink);
#pragma unroll
    for (u32 p = 0; p < AT_ONCE; p++) {
      const float share = exp2_fast(own[p].x - top);
      all += own[p].y * share;
      add_scaled(sum, x[p], share);
    }
  }
}

// Join the parts of the packed rows of one sequence and KV head: a warp per row, four elements a
// lane. Parts are taken 32 at a time, whose weights lie with the lanes, and 16 vectors are read at
// once: a read takes as long as L2 does, and a loop that read some parts one by one took 6.5 us of
// 44 (a sequence of 32 000 keys on an H200). With 32 at once registers run out: 1 us more. SHARED:
// rows may have parts over keys that are others' too.
template <int D, bool SHARED = false>
__device__ void join(const PagedAttention& c, const WorkItem* item, u32 count, float value_scale) {
  constexpr int VECTORS = D / 4, PER_LANE = (VECTORS + 31) / 32, AT_ONCE = 16 / PER_LANE;
  const u32 kv = KV_HEAD, group = c.heads / c.kv_heads, lane = threadIdx.x % 32;
  const u32 parts = item->pieces;
  const u64 step = (u64)c.kv_heads * SPLIT_ROWS;
  for (u32 r = threadIdx.x / 32; r < count; r += SPLIT_THREADS / 32) {
    const u64 first = ((u64)item->part * c.kv_heads + kv) * SPLIT_ROWS + r;
    const float2* statistics = c.statistics + first;
    const float4* sums = reinterpret_cast<const float4*>(c.parts + first * D);
    float peak = LOWEST, all = 0.f;
    float4 sum[PER_LANE];
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) sum[i] = make_float4(0.f, 0.f, 0.f, 0.f);
    for (u32 begin = 0; begin < parts; begin += 32) {
      const u32 n = min(parts - begin, 32u);
      float2 own = far(statistics + (begin + min(lane, n - 1)) * step);
      if (lane >= n) own = make_float2(LOWEST, 0.f);
      float share = 0.f;
#pragma unroll 1
      for (u32 p = 0; p < n; p += AT_ONCE) {
        float4 x[AT_ONCE][PER_LANE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
#pragma unroll
          for (int i = 0; i < PER_LANE; i++) {
            const u32 v = i * 32 + lane;
            x[j][i] = make_float4(0.f, 0.f, 0.f, 0.f);
            if (p + j < n && (VECTORS % 32 == 0 || v < VECTORS))
              x[j][i] = far(sums + (begin + p + j) * step * VECTORS + v);
          }
        }
        if (p == 0) {
          float top = own.x;
#pragma unroll
          for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
          top = fmaxf(top, peak);
          const float shrink = exp2_fast(peak - top);
          peak = top;
          share = exp2_fast(own.x - top);
          all = all * shrink + own.y * share;
#pragma unroll
          for (int i = 0; i < PER_LANE; i++) scale(sum[i], shrink);
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
          const float weight = __shfl_sync(~0u, share, (p + j) % 32);
#pragma unroll
          for (int i = 0; i < PER_LANE; i++) add_scaled(sum[i], x[j][i], weight);
        }
      }
    }
    const u32 packed = item->begin + r, head = kv * group + packed % group;
    all = warp_sum(all);
    static_assert(!SHARED || PER_LANE == 1, "a lane's elements");
    if constexpr (SHARED) add_shared<D>(c, item, r, min(lane, VECTORS - 1), peak, all, sum[0]);
    const float unit = value_scale / (all + weight_of_sink(c, head, peak));
    act* to = c.out + ((item->first_row + packed / group) * (u64)c.heads + head) * D;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
      const u32 v = i * 32 + lane;
      if (VECTORS % 32 == 0 || v < VECTORS) store4(to + v * 4, sum[i], unit);
    }
  }
}
#endif

// Blocks of a cluster: how many they are, where they meet, and what lies in each other's shared
// memory; compute capability 9.0 and later. A launch without clusters has one block in each.
#pragma once
#include "common.cuh"

#if ARCH >= 90
__device__ __forceinline__ u32 cluster_blocks() {
  u32 n;
  asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(n));
  return n;
}
// This block's number among them.
__device__ __forceinline__ u32 cluster_block() {
  u32 n;
  asm("mov.u32 %0, %%cluster_ctaid.x;" : "=r"(n));
  return n;
}
// Arrive at the barrier that block `block` has where `barrier` is in this block's shared memory.
// Nothing that this thread wrote is published: it only needs no more what others will write.
__device__ __forceinline__ void barrier_arrive_at(u32 barrier, u32 block) {
  asm volatile(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
      "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(barrier),
      "r"(block)
      : "memory");
}
// All threads of the cluster are here; what each wrote to its shared memory before, all see. Of
// global memory nothing is said: a fence of that takes up to a microsecond.
__device__ __forceinline__ void meet_cluster() {
  asm volatile("fence.release.sync_restrict::shared::cta.cluster;" ::: "memory");
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// No thread goes on, to its end, while others may read its block's shared memory. Behind what was
// made of what was read there.
__device__ __forceinline__ void leave_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}
__device__ __forceinline__ float load_float_of_block(u32 at, u32 block) {
  float x;
  asm volatile(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %1, %2; "
      "ld.shared::cluster.f32 %0, [there]; }"
      : "=f"(x)
      : "r"(at), "r"(block)
      : "memory");
  return x;
}
// What block `block` of the cluster has where `at` is in this block's shared memory.
__device__ __forceinline__ float4 load_of_block(u32 at, u32 block) {
  float4 x;
  asm volatile(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %4, %5; "
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there]; }"
      : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
      : "r"(at), "r"(block)
      : "memory");
  return x;
}
__device__ __forceinline__ void add_to(float (&sums)[4], float4 part) {
  sums[0] += part.x, sums[1] += part.y, sums[2] += part.z, sums[3] += part.w;
}
// What the first blocks of the cluster, so many, have there is added to `sums`, in their order.
// That of four is on its way at once: what lies in another block takes long to come.
__device__ __forceinline__ void add_of_blocks(u32 at, u32 blocks, float (&sums)[4]) {
#pragma unroll 1
  for (u32 first = 0; first < blocks; first += 4) {
    float4 parts[4] = {};
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      if (first + i == blocks) break;
      parts[i] = load_of_block(at, first + i);
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) add_to(sums, parts[i]);
  }
}
#endif

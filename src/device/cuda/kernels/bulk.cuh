// Bulk copies to shared memory and the barriers that count their bytes; compute capability 9.0 and
// later.
#pragma once
#include "mma.cuh"

#if ACT != 0 && ARCH >= 90
// Barriers in shared memory that count arrivals and copied bytes; a phase ends when both are in.
__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void copy_bulk(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// One lane of a whole warp, of which the compiler knows that it is one.
__device__ __forceinline__ bool one_lane() {
  u32 is;
  asm volatile(
      "{\n.reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(is));
  return is != 0;
}

// A tensor map that copies are to follow, fetched before the first of them waits for it.
__device__ __forceinline__ void fetch_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A box of a matrix of two dimensions, as its tensor map says, from column `column` of row `row`
// on; zeros where it lies outside.
__device__ __forceinline__ void copy_box(u32 to, const void* map, u32 column, u32 row,
                                         u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// The same of a map of eights of rows, of each of which a third dimension has several panels: of
// two matrices, which take turns, or of the row's columns. `eight` is the first one.
__device__ __forceinline__ void copy_eights(u32 to, const void* map, u32 column, u32 eight,
                                            u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %3, %4}], [%5];" ::"r"(to),
      "l"(map), "r"(column), "r"(0), "r"(eight), "r"(barrier)
      : "memory");
}

// The same to that place of all blocks of the cluster that have a bit in `blocks`: the barrier of
// each counts its bytes.
__device__ __forceinline__ void copy_eights_to(u32 blocks, u32 to, const void* map, u32 column,
                                               u32 eight, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(map), "r"(column), "r"(0), "r"(eight), "r"(barrier), "h"((u16)blocks)
      : "memory");
}

// The barriers of a ring of stages: `full` by a copy's bytes and `more` arrivals beside its own,
// `empty` by the warps that multiply. By one thread; the block meets before any of them waits.
__device__ __forceinline__ void init_ring(u32 full, u32 empty, u32 stages, u32 warps, u32 more) {
  for (u32 i = 0; i < stages; i++) {
    barrier_init(full + i * 8, 1 + more);
    barrier_init(empty + i * 8, warps);
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// The same by the whole block.
__device__ __forceinline__ void start_ring(u32 full, u32 empty, u32 stages, u32 warps) {
  if (threadIdx.x == 0) init_ring(full, empty, stages, warps, 0);
  __syncthreads();
}

// Element (r, column) of an m16n8 tile, of which each of `WARPS` warps left its share in `sums` as
// [warp, register, lane]: the shares are added in order. It is in lane r % 8 * 4 + column / 2,
// register r / 8 * 2 + column % 2.
template <int WARPS>
__device__ __forceinline__ float sum_of_shares(const float* sums, u32 r, u32 column) {
  const u32 at = (r / 8 * 2 + column % 2) * 32 + r % 8 * 4 + column / 2;
  float all = 0.f;
#pragma unroll
  for (int w = 0; w < WARPS; w++) all += sums[w * 128 + at];
  return all;
}
#endif

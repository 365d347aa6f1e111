// How a product of a single row gives its outputs to all ranks, each as it is done: ends of
// gemm_small_m.cu and coded_small_m.cu. ranks_pushed.cu takes them; abi_ranks.h says how they lie.
#pragma once
#include "abi_ranks.h"
#include "common.cuh"

#if ACT != 0 && ARCH >= 90
// The number of the row that is being made. Behind the kernel's `begin`.
__device__ __forceinline__ u32 number_of_row(const RowPush& push) { return __ldcg(push.taken) + 1; }

// Where the row of a number begins in a rank's words.
__device__ __forceinline__ u32 place_of_row(u32 number) { return number % 2 * NORMED_COLUMNS; }

__device__ __forceinline__ void push_output(const RowPush& push, u32 number, u32 output, act y) {
  const u32 word = number << 16 | y.bits, at = place_of_row(number) + output;
#pragma unroll
  for (u32 to = 0; to < MOST_RANKS; to++)
    if (to < push.ranks)
      asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(push.to[to] + at), "r"(word)
                   : "memory");
}
#endif

// What the two files of paged attention on tensor cores share: constants, and the shape of a
// kernel's entry. The work list is in abi.h.
#pragma once
#include "abi_ops.h"
#include "mma.cuh"

#define LOG2E 1.4426950408889634f
#define LOWEST -1e30f

extern __shared__ __align__(16) u8 dynamic_shared[];

// BODY(D) has `call`.
#define ENTRY(NAME, BODY, D, THREADS, BLOCKS)        \
  __global__ void __launch_bounds__(THREADS, BLOCKS) \
      NAME##_##D(const PagedAttention call) {        \
    begin();                                         \
    BODY(D);                                         \
  }

// Experts of codes that a few rows chose, each with its rows of W streaming as in coded_small.cuh.
// Half types, inputs a multiple of 8, compute capability 9.0 and later. Bytes: codes and scales of
// each choice once; floor = bytes / bandwidth.
#include "coded_small.cuh"

#if ACT != 0 && ARCH >= 90
extern __shared__ __align__(128) u8 dynamic_shared[];

#define BODY(KIND, GOAL) Tile<KIND, OPERAND_ACT, GOAL>(a).run(dynamic_shared)
#else
// f32 and older cards have no code here: the device never launches these for them.
#define BODY(KIND, GOAL) (void)a
#endif

#define ENTRY(NAME, KIND, GOAL)                                                         \
  __global__ void __launch_bounds__(SMALL_M_THREADS, SMALL_M_BLOCKS_PER_MULTIPROCESSOR) \
      NAME(const CodedSmall a) {                                                        \
    BODY(KIND, GOAL);                                                                   \
  }

ENTRY(coded_up_e4m3, CODE_KIND_E4M3, GOAL_UPS)
ENTRY(coded_up_int8, CODE_KIND_INT8, GOAL_UPS)
ENTRY(coded_up_int4, CODE_KIND_INT4, GOAL_UPS)
ENTRY(coded_up_e2m1, CODE_KIND_E2M1, GOAL_UPS)
ENTRY(coded_down_e4m3, CODE_KIND_E4M3, GOAL_DOWNS)
ENTRY(coded_down_int8, CODE_KIND_INT8, GOAL_DOWNS)
ENTRY(coded_down_int4, CODE_KIND_INT4, GOAL_DOWNS)
ENTRY(coded_down_e2m1, CODE_KIND_E2M1, GOAL_DOWNS)

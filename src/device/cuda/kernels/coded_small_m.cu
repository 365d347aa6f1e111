// Products of at most 8 rows of x by codes (coded_small.cuh): a kernel for each kind of codes.
#include "coded_small.cuh"

#if ACT != 0 && ARCH >= 90
extern __shared__ __align__(128) u8 dynamic_shared[];

#define BODY(...) Tile<__VA_ARGS__>(a).run(dynamic_shared)
#else
// f32 and older cards have no code here: the device never launches these for them.
#define BODY(...) (void)a
#endif

#define ENTRY(NAME, ...)                                                                \
  __global__ void __launch_bounds__(SMALL_M_THREADS, SMALL_M_BLOCKS_PER_MULTIPROCESSOR) \
      NAME(const CodedSmall a) {                                                        \
    BODY(__VA_ARGS__);                                                                  \
  }

ENTRY(coded_small_e4m3, CODE_KIND_E4M3, OPERAND_ACT)
ENTRY(coded_small_e4m3_bytes, CODE_KIND_E4M3, OPERAND_BYTES)
ENTRY(coded_small_e4m3_row, CODE_KIND_E4M3, OPERAND_ROW)
ENTRY(coded_small_e4m3_normed, CODE_KIND_E4M3, OPERAND_NORMED_ROW)
ENTRY(coded_small_e4m3_bytes_pushed, CODE_KIND_E4M3, OPERAND_BYTES, GOAL_PUSHED)
ENTRY(coded_small_e4m3_row_pushed, CODE_KIND_E4M3, OPERAND_ROW, GOAL_PUSHED)
ENTRY(coded_small_int8, CODE_KIND_INT8, OPERAND_ACT)
ENTRY(coded_small_int4, CODE_KIND_INT4, OPERAND_ACT)
ENTRY(coded_small_e2m1, CODE_KIND_E2M1, OPERAND_ACT)
ENTRY(coded_small_table, CODE_KIND_TABLE, OPERAND_ACT)

// Products of at most 8 rows of x (gemm_small.cuh): a kernel for each end.
#include "gemm_small.cuh"

#if ACT != 0 && ARCH >= 90
extern __shared__ __align__(128) u8 dynamic_shared[];

#define BODY(OUT, ...) Tile<__VA_ARGS__>(a).template run<OUT>(dynamic_shared)
#else
// f32 and older cards have no code here: the device never launches these for them.
#define BODY(OUT, ...) (void)a
#endif

#define ENTRY(NAME, OUT, ...)                                                           \
  __global__ void __launch_bounds__(SMALL_M_THREADS, SMALL_M_BLOCKS_PER_MULTIPROCESSOR) \
      NAME(const SmallGemm a) {                                                         \
    BODY(OUT, __VA_ARGS__);                                                             \
  }

ENTRY(gemm_small_m, act, SMALL_M_TILE, false)
ENTRY(gemm_small_m_eights, act, SMALL_M_EIGHTS_TILE, false)
ENTRY(gemm_small_m_gated, act, SMALL_M_TILE, true)
ENTRY(gemm_small_m_logits, float, SMALL_M_TILE, false)
ENTRY(gemm_small_m_pushed, act, SMALL_M_TILE, false, GOAL_PUSHED)
ENTRY(gemm_small_m_pushed_eights, act, SMALL_M_EIGHTS_TILE, false, GOAL_PUSHED)

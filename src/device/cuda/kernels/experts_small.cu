// Experts of plain weights that a few rows chose, each with its rows of W streaming as in
// gemm_small.cuh, and the router's product with the choice behind it. Half types, inputs a multiple
// of 8, compute capability 9.0 and later. Bytes: weights of each choice once; floor = bytes /
// bandwidth.
//
// The router norms a single row on its way, as products do. Its last block, by a counter, chooses.
#include "gemm_small.cuh"
#include "routes.cuh"

#if ACT != 0 && ARCH >= 90
__device__ void route(const RouteSmall& a, u8* shared) {
  Tile<SMALL_M_EIGHTS_TILE, false>(a.product).run<float>(shared);
  if (!is_last(a.ticket)) return;
  // All that was copied is used.
  RouteScratch* const of_warps = reinterpret_cast<RouteScratch*>(shared);
  const u32 warp = threadIdx.x / 32;
  for (u32 r = warp; r < a.route.rows; r += SMALL_M_WARPS + 1) choose(a.route, r, of_warps[warp]);
}

extern __shared__ __align__(128) u8 dynamic_shared[];

#define BODY(...) Tile<__VA_ARGS__>(a).template run<act>(dynamic_shared)
#define ROUTE route(a, dynamic_shared)
#else
// f32 and older cards have no code here: the device never launches these for them.
#define BODY(...) (void)a
#define ROUTE (void)a
#endif

#define ENTRY(NAME, STRUCT, ...)                                                        \
  __global__ void __launch_bounds__(SMALL_M_THREADS, SMALL_M_BLOCKS_PER_MULTIPROCESSOR) \
      NAME(const STRUCT a) {                                                            \
    __VA_ARGS__;                                                                        \
  }

ENTRY(experts_small_up, SmallGemm, BODY(SMALL_M_TILE, false, GOAL_UPS))
ENTRY(experts_small_up_gated, SmallGemm, BODY(SMALL_M_TILE, true, GOAL_UPS))
ENTRY(experts_small_down, SmallGemm, BODY(SMALL_M_TILE, false, GOAL_DOWNS))
ENTRY(experts_small_down_eights, SmallGemm, BODY(SMALL_M_EIGHTS_TILE, false, GOAL_DOWNS))
ENTRY(route_small, RouteSmall, ROUTE)

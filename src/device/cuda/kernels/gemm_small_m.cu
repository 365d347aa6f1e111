// y = act(x W^T + b) for at most 8 rows, where the weights' bytes are everything: W streams through
// shared memory into the tensor cores, with bias, activation and the product of gate and up in the
// end. Half types, inputs a multiple of 8, compute capability 9.0 and later (bulk copies). More
// rows, f32 and older cards go to cuBLASLt.
//
// A tile is 16 rows of W (outputs) x all inputs; blocks walk over tiles with the grid's stride. One
// warp of a block keeps a ring of STAGES stages (16 KiB: 512 inputs of every row) under way, a bulk
// copy per row, and runs ahead over the ends of tiles. It starts before the kernel before has
// ended: weights depend on nobody. Two blocks fit a multiprocessor. Eight warps multiply, each its
// eighth of a stage's inputs, and add up through shared memory at a tile's end. mma m16n8k16 has W
// as its left operand and x^T as its right. Which inputs a lane feeds is free as long as both
// operands agree, so a lane takes 8 neighbours of a row. Rows lie 64 bytes beyond a multiple of 128
// apart: no bank conflicts.
//
// x comes through what the ring leaves of L1, up to 8 rows of it per 16 rows of W. Bytes: W once;
// floor = bytes / bandwidth. The order of sums does not depend on the number of rows.
#include "abi_ops.h"
#include "activation.cuh"
#include "bulk.cuh"

#define WARPS SMALL_M_WARPS
#define STAGES SMALL_M_STAGES

// f32 and older cards have no code here: the device never launches these for them.
#if ACT != 0 && ARCH >= 90
template <bool GATED>
struct Tile {
  static constexpr u32 ROWS = SMALL_M_TILE;
  static constexpr u32 HEIGHT = GATED ? SMALL_M_GATED_TILE : ROWS;  // outputs
  static constexpr u32 INPUTS = SMALL_M_INPUTS;
  static constexpr u32 SLICE = INPUTS / WARPS;  // of a warp
  static constexpr u32 PITCH = SMALL_M_PITCH;
  static constexpr u32 STAGE = SMALL_M_STAGE_BYTES;
  static constexpr u32 SUMS = SMALL_M_SUMS_BYTES;

  const SmallGemm& c;
  const u32 heights = GATED ? c.outputs / 2 : c.outputs;
  const u32 tiles = (heights + HEIGHT - 1) / HEIGHT;
  const u32 steps = (c.inputs + INPUTS - 1) / INPUTS;  // of a tile
  const u32 total = blockIdx.x < tiles ? ((tiles - 1 - blockIdx.x) / gridDim.x + 1) * steps : 0;
  u32 ring, full, empty;  // addresses in shared memory

  __device__ Tile(const SmallGemm& c) : c(c) {}

  // The row of W for row `r` of a tile. Gated: the first eight are gates, the others the ups that
  // they are multiplied with. Beyond the last row it is the last again: nobody stores it.
  __device__ const act* row(u32 tile, u32 r) const {
    const u32 output = tile * HEIGHT + r % HEIGHT;
    return c.w + (u64)(min(output, heights - 1) + r / HEIGHT * heights) * c.inputs;
  }

  __device__ void produce() const {
    const u32 lane = threadIdx.x % 32;
    u32 tile = blockIdx.x, step = 0, stage = 0, phase = 0;
    const act* from = row(tile, lane % ROWS);
    for (u32 n = 0; n < total; n++) {
      const u32 barrier = full + stage * 8;
      const u32 bytes = min(INPUTS, c.inputs - step * INPUTS) * 2;
      if (lane == 0) {
        barrier_wait(empty + stage * 8, phase ^ 1);
        barrier_expect(barrier, ROWS * bytes);
      }
      __syncwarp();
      if (lane < ROWS)
        copy_bulk(ring + stage * STAGE + lane * PITCH, from + step * INPUTS, bytes, barrier);
      if (++stage == STAGES) stage = 0, phase ^= 1;
      if (++step == steps) {
        step = 0;
        tile += gridDim.x;
        from = row(tile, lane % ROWS);
      }
    }
  }

  template <class Out>
  __device__ void consume(const u8* shared, float* sums) const {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = lane / 4;
    const u32 mine = warp * SLICE + lane % 4 * 8;
    const u8* const left = shared + r * PITCH + mine * 2;
    const act* const right = c.x + (u64)r * c.inputs + mine;
    float acc[2][4] = {};
    u32 tile = blockIdx.x, step = 0, stage = 0, phase = 0;
    for (u32 n = 0; n < total; n++) {
      const u32 first = step * INPUTS;
      uint4 x[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const bool valid = r < c.rows && first + mine + 32 * j < c.inputs;
        const act* from = right + first + 32 * j;
        x[j] = valid ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
      }
      barrier_wait(full + stage * 8, phase);
#pragma unroll
      for (int j = 0; j < 2; j++) {
        // Beyond the inputs lies what an earlier copy left.
        const bool valid = first + mine + 32 * j < c.inputs;
        const uint4* w = reinterpret_cast<const uint4*>(left + stage * STAGE + j * 64);
        const uint4 low = valid ? w[0] : uint4{0, 0, 0, 0};
        const uint4 high = valid ? w[8 * PITCH / 16] : uint4{0, 0, 0, 0};
        const u32 one[4] = {low.x, high.x, low.y, high.y}, two[4] = {low.z, high.z, low.w, high.w};
        multiply(acc[0], one, x[j].x, x[j].y);
        multiply(acc[1], two, x[j].z, x[j].w);
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(empty + stage * 8);
      if (++stage == STAGES) stage = 0, phase ^= 1;
      if (++step < steps) continue;
      step = 0;
      finish<Out>(tile, acc, sums);
      tile += gridDim.x;
    }
  }

  // The tile's end: the warps' shares are added in order.
  template <class Out>
  __device__ void finish(u32 tile, float (&acc)[2][4], float* sums) const {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // All have read the sums of the tile before.
    meet();
#pragma unroll
    for (int e = 0; e < 4; e++) {
      sums[(warp * 4 + e) * 32 + lane] = acc[0][e] + acc[1][e];
      acc[0][e] = acc[1][e] = 0.f;
    }
    meet();
    for (u32 e = threadIdx.x; e < HEIGHT * 8; e += WARPS * 32) {
      const u32 r = e % HEIGHT, column = e / HEIGHT, output = tile * HEIGHT + r;
      if (column >= c.rows || output >= heights) continue;
      const auto value = [&](u32 r, u32 output) {
        return sum_of_shares<WARPS>(sums, r, column) + (c.bias ? c.bias[output] : 0.f);
      };
      const float first = value(r, output);
      float y;
      if constexpr (GATED) y = activate_gated(first, value(r + 8, heights + output), c.kind);
      else y = activate(first, c.kind);
      reinterpret_cast<Out*>(c.y)[(u64)column * heights + output] = from_f32<Out>(y);
    }
  }

  // The warps that multiply.
  __device__ static void meet() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

  template <class Out>
  __device__ void run(u8* shared) {
    ring = shared_address(shared) + SUMS;
    full = ring + STAGES * STAGE;
    empty = full + STAGES * 8;
    start_ring(full, empty, STAGES, WARPS);
    if (threadIdx.x >= WARPS * 32) {
      produce();
    } else {
      begin();
      consume<Out>(shared + SUMS, reinterpret_cast<float*>(shared));
    }
  }
};

extern __shared__ __align__(128) u8 dynamic_shared[];

#define BODY(GATED, OUT) Tile<GATED>(a).template run<OUT>(dynamic_shared)
#else
#define BODY(GATED, OUT) (void)a
#endif

#define ENTRY(NAME, GATED, OUT)                                                         \
  __global__ void __launch_bounds__(SMALL_M_THREADS, SMALL_M_BLOCKS_PER_MULTIPROCESSOR) \
      NAME(const SmallGemm a) {                                                         \
    BODY(GATED, OUT);                                                                   \
  }

ENTRY(gemm_small_m, false, act)
ENTRY(gemm_small_m_gated, true, act)
ENTRY(gemm_small_m_logits, false, float)

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
// x comes through what the ring leaves of L1, up to 8 rows of it per 16 rows of W. A single row may
// be normed on its way: each block makes the norm for itself, while W is under way, which is less
// than the launch that it takes the place of.
//
// Bytes: W once; floor = bytes / bandwidth. The order of sums does not depend on the number of
// rows.
#include "abi_ops.h"
#include "activation.cuh"
#include "bulk.cuh"
#include "norm_columns.cuh"

#define WARPS SMALL_M_WARPS

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
  const u32 stages = c.stages;
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
      if (++stage == stages) stage = 0, phase ^= 1;
      if (++step == steps) {
        step = 0;
        tile += gridDim.x;
        from = row(tile, lane % ROWS);
      }
    }
  }

  // The norm of the row that x is, to shared memory, once the kernel before is done: in the order
  // of sums of norm_rows, whose threads have eight columns each.
  __device__ void norm_x(act* to, float* scratch) const {
    constexpr u32 GROUPS = SMALL_M_NORMED_INPUTS / (WARPS * 32 * 8);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float none[8] = {};
    float weight[GROUPS][8], v[GROUPS][8];
    const auto column = [](u32 group) { return (group * WARPS * 32 + threadIdx.x) * 8; };
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      if (column(g) < c.inputs) load8(c.norm_weight + column(g), weight[g]);
#pragma unroll
      for (int j = 0; j < 8; j++)
        weight[g][j] += c.norm_kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f;
    }
    begin();

#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      const bool inside = column(g) < c.inputs;
      if (inside) load8(c.x + column(g), v[g]);
      const float own = warp_sum(inside ? squares_of(v[g], 0.f) : 0.f);
      if (lane == 0) scratch[g * WARPS + warp] = own;
    }
    meet();
    const float sum = warp_sum(lane < GROUPS * WARPS ? scratch[lane] : 0.f);
    const float scale = norm_scale(sum, c.inputs, c.eps);

#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      if (column(g) >= c.inputs) break;
      normed(v[g], 0.f, scale, weight[g], none);
      store8(to + column(g), v[g]);
      if (blockIdx.x == 0) store8(c.normed + column(g), v[g]);
    }
    meet();
  }

  template <class Out>
  __device__ void consume(const u8* shared, act* normed_x, float* sums) const {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = lane / 4;
    const u32 mine = warp * SLICE + lane % 4 * 8;
    const u8* const left = shared + r * PITCH + mine * 2;
    const act* right = c.x + (u64)r * c.inputs + mine;
    if (c.norm_weight) {
      norm_x(normed_x, sums);
      right = normed_x + mine;
    } else {
      begin();
    }
    float acc[2][4] = {}, before = 0.f;
    u32 tile = blockIdx.x, step = 0, stage = 0, phase = 0;
    for (u32 n = 0; n < total; n++) {
      const u32 first = step * INPUTS;
      if (step == 0) before = residual_of(tile);
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
      if (++stage == stages) stage = 0, phase ^= 1;
      if (++step < steps) continue;
      step = 0;
      finish<Out>(tile, before, acc, sums);
      tile += gridDim.x;
    }
  }

  // What this thread's output of a tile is added to.
  __device__ float residual_of(u32 tile) const {
    const u32 column = threadIdx.x / HEIGHT, output = tile * HEIGHT + threadIdx.x % HEIGHT;
    const bool has = !GATED && c.residual && column < c.rows && output < heights;
    return has ? to_f32(c.residual[(u64)column * heights + output]) : 0.f;
  }

  // The tile's end: the warps' shares are added in order.
  template <class Out>
  __device__ void finish(u32 tile, float before, float (&acc)[2][4], float* sums) const {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // All have read the sums of the tile before.
    meet();
#pragma unroll
    for (int e = 0; e < 4; e++) {
      sums[(warp * 4 + e) * 32 + lane] = acc[0][e] + acc[1][e];
      acc[0][e] = acc[1][e] = 0.f;
    }
    meet();
    static_assert(HEIGHT * SMALL_M_ROWS <= WARPS * 32, "an output of a thread");
    const u32 r = threadIdx.x % HEIGHT, column = threadIdx.x / HEIGHT, output = tile * HEIGHT + r;
    if (column < c.rows && output < heights) {
      const auto value = [&](u32 r, u32 output) {
        return sum_of_shares<WARPS>(sums, r, column) + (c.bias ? c.bias[output] : 0.f);
      };
      const float first = value(r, output);
      float y;
      if constexpr (GATED) y = activate_gated(first, value(r + 8, heights + output), c.kind);
      else y = activate(first, c.kind);
      const u64 at = (u64)column * heights + output;
      if (!GATED && c.residual) c.residual[at] = from_f32<act>(before + to_f32(from_f32<act>(y)));
      else reinterpret_cast<Out*>(c.y)[at] = from_f32<Out>(y);
    }
  }

  // The warps that multiply.
  __device__ static void meet() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

  template <class Out>
  __device__ void run(u8* shared) {
    ring = shared_address(shared) + SUMS;
    full = ring + stages * STAGE;
    empty = full + stages * 8;
    start_ring(full, empty, stages, WARPS);
    if (threadIdx.x >= WARPS * 32) {
      produce();
    } else {
      act* const normed_x = reinterpret_cast<act*>(shared + SUMS + stages * (STAGE + 2 * 8));
      consume<Out>(shared + SUMS, normed_x, reinterpret_cast<float*>(shared));
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

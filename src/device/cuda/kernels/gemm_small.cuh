// y = act(x W^T + b) for at most 8 rows, where the weights' bytes are everything: W streams through
// shared memory into the tensor cores, with bias, activation and the product of gate and up in the
// end. Half types, inputs a multiple of 8, compute capability 9.0 and later (bulk copies). More
// rows, f32 and older cards go to cuBLASLt.
//
// A tile is 16 rows of W (outputs), or 8 where those are few, x all inputs; blocks walk over tiles
// with the grid's stride. One thread of a block keeps a ring of stages (16 KiB: 512 or 1024 inputs
// of every row) under way, a bulk copy per row, and runs ahead over the ends of tiles. It starts
// before the kernel before has ended: weights depend on nobody. Two blocks fit a multiprocessor.
// Eight warps multiply, each its eighth of a stage's inputs, and add up through shared memory at a
// tile's end. mma m16n8k16 has W as its left operand and x^T as its right. Which inputs a lane
// feeds is free as long as both operands agree, so a lane takes 8 neighbours of a row. Rows lie 64
// bytes beyond a multiple of 128 apart: no bank conflicts.
//
// x comes through what the ring leaves of L1, up to 8 rows of it per tile. A single row may be
// normed on its way: each block makes the norm for itself, while W is under way, which is less than
// the launch that it takes the place of.
//
// Bytes: W once; floor = bytes / bandwidth. The order of sums does not depend on the number of
// rows.
//
// Tried (ci/runs/2026-11-30-h200-copies.md): four products behind each other as one launch, whose
// blocks take tiles by number and wait for counts of tiles, is 9 to 19 % slower; tensor maps in
// place of a copy per row 2 to 5 %.
#pragma once
#include "abi_ops.h"
#include "activation.cuh"
#include "bulk.cuh"
#include "logits_order.cuh"
#include "norm_columns.cuh"
#include "row_push.cuh"
#include "small_experts.cuh"

#define WARPS SMALL_M_WARPS

// f32 and older cards have no code here: the device never launches these for them.
#if ACT != 0 && ARCH >= 90
// The warps that multiply meet.
__device__ __forceinline__ void meet() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

// Eight columns of a row; zeros beyond its width.
template <class T>
__device__ __forceinline__ Eight<T> eight_of(const T* row, u32 column, u32 width) {
  return column < width ? *reinterpret_cast<const Eight<T>*>(row + column) : Eight<T>{};
}

// The norm of the row that x is, to shared memory, once the kernel before is done: in the order of
// sums of norm_rows, whose threads have eight columns each.
__device__ __forceinline__ void norm_x(const SmallGemm& c, act* to, float* scratch) {
  constexpr u32 COLUMNS = WARPS * 32 * 8, GROUPS = SMALL_M_NORMED_INPUTS / COLUMNS;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 groups = (c.inputs + COLUMNS - 1) / COLUMNS;
  const float none[8] = {};
  float weight[GROUPS][8] = {}, v[8];
  Eight<act> raw[GROUPS];
  const auto column = [](u32 group) { return group * COLUMNS + threadIdx.x * 8; };
#pragma unroll
  for (u32 g = 0; g < GROUPS; g++) {
    if (g >= groups) break;
    floats_of(eight_of(c.norm_weight, column(g), c.inputs), weight[g]);
#pragma unroll
    for (int j = 0; j < 8; j++)
      weight[g][j] += c.norm_kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f;
  }
  begin();

#pragma unroll
  for (u32 g = 0; g < GROUPS; g++) raw[g] = eight_of(c.x, column(g), c.inputs);
#pragma unroll
  for (u32 g = 0; g < GROUPS; g++) {
    if (g >= groups) break;
    floats_of(raw[g], v);
    const float own = warp_sum(squares_of(v, 0.f));
    if (lane == 0) scratch[g * WARPS + warp] = own;
  }
  meet();
  const float sum = warp_sum(lane < groups * WARPS ? scratch[lane] : 0.f);
  const float scale = norm_scale(sum, c.inputs, c.eps);

#pragma unroll
  for (u32 g = 0; g < GROUPS; g++) {
    if (column(g) >= c.inputs) break;
    floats_of(raw[g], v);
    normed(v, 0.f, scale, weight[g], none);
    store8(to + column(g), v);
    if (blockIdx.x == 0) store8(c.normed + column(g), v);
  }
  meet();
}

// Logits are products that end in f32.
template <class Out>
constexpr bool LOGITS = false;
template <>
constexpr bool LOGITS<float> = true;

// What a block knows of its share of a row of logits: a thread of the outputs that it wrote.
struct Found {
  u64 top = 0;
  u32 seen = 0;
  __device__ __forceinline__ void add(float logit, u32 token) {
    top = max(top, ranked(logit, token));
    seen |= seen_of(logit);
  }
  // Of the sixteen threads that have a row's outputs.
  __device__ __forceinline__ void join() {
#pragma unroll
    for (int d = 8; d > 0; d /= 2) {
      top = max(top, __shfl_xor_sync(~0u, top, d));
      seen |= __shfl_xor_sync(~0u, seen, d);
    }
  }
};

// ROWS of W, 16 or 8: with 8 the rows of the tensor core's tile beyond them are zeros.
template <u32 ROWS, bool GATED, Goal GOAL = GOAL_ROWS>
struct Tile {
  static constexpr bool PUSHED = GOAL == GOAL_PUSHED, EXPERTS = Chosen<GOAL>::EXPERTS;
  static constexpr u32 HEIGHT = GATED ? SMALL_M_GATED_TILE : ROWS;  // outputs
  static constexpr u32 INPUTS = SMALL_M_INPUTS * SMALL_M_TILE / ROWS;
  static constexpr u32 PITCH = 2 * INPUTS + 64;
  static constexpr u32 STAGE = SMALL_M_STAGE_BYTES;
  static constexpr u32 SUMS = SMALL_M_SUMS_BYTES;
  // Of a stage a lane feeds so many times 8 inputs, 32 apart. x is under way for AHEAD stages: to
  // ask for it takes longer than all else of a stage.
  static constexpr u32 PIECES = INPUTS / WARPS / 32, AHEAD = SMALL_M_AHEAD / PIECES;
  static_assert(ROWS * PITCH <= STAGE && (ROWS == 16 || !GATED), "a stage");

  const SmallGemm& c;
  using Part = typename Chosen<GOAL>::Part;
  const u32 heights = GATED ? c.outputs / 2 : c.outputs;
  Chosen<GOAL> chosen = {c.routes, c.choices, c.rows, (heights + HEIGHT - 1) / HEIGHT};
  const u32 tiles = chosen.tiles();
  const u32 stages = c.stages;
  u32 ring, full, empty;  // addresses in shared memory

  __device__ Tile(const SmallGemm& c) : c(c) {}

  // The row of W for row `r` of a part. Gated: the first eight are gates, the others the ups that
  // they are multiplied with. Beyond the last row it is the last again: nobody stores it.
  __device__ const act* row(const Part& part, u32 r) const {
    const u32 output = part.slice * HEIGHT + r % HEIGHT;
    const u32 row = min(output, heights - 1) + r / HEIGHT * heights;
    return c.w + (u64)(EXPERTS ? part.expert * c.outputs + row : row) * c.inputs;
  }

  // By one thread, so that addresses are those of a warp: where each lane has its own they go to
  // the copies one by one, some 50 ns each, and a block has no more than its part of the bandwidth.
  __device__ void produce() const {
    if (!one_lane()) return;
    u32 stage = 0, phase = 0;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x)
      for (u32 index = 0; index < chosen.parts(); index++) {
        const Part part = chosen.part(tile, index);
        for (u32 first = 0; first < c.inputs; first += INPUTS) {
          const u32 barrier = full + stage * 8, to = ring + stage * STAGE;
          const u32 bytes = min(INPUTS, c.inputs - first) * 2;
          barrier_wait(empty + stage * 8, phase ^ 1);
          barrier_expect(barrier, ROWS * bytes);
#pragma unroll
          for (u32 r = 0; r < ROWS; r++)
            copy_bulk(to + r * PITCH, row(part, r) + first, bytes, barrier);
          if (++stage == stages) stage = 0, phase ^= 1;
        }
      }
  }

  // The inputs of a stage that a lane feeds begin here.
  __device__ static u32 inputs_of_lane() {
    return threadIdx.x / 32 * (INPUTS / WARPS) + threadIdx.x % 4 * 8;
  }

  // What a lane feeds of the stage that begins at input `first`; `right` is its row of x, from
  // inputs_of_lane() on.
  __device__ void fetch(uint4 (&x)[PIECES], const act* right, bool has_row, u32 first) const {
#pragma unroll
    for (u32 j = 0; j < PIECES; j++) {
      const bool valid = has_row && first + inputs_of_lane() + 32 * j < c.inputs;
      const act* from = right + first + 32 * j;
      x[j] = valid ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
    }
  }

  __device__ void multiply_stage(float (&acc)[2][4], const u8* left, const uint4 (&x)[PIECES],
                                 u32 first) const {
#pragma unroll
    for (u32 j = 0; j < PIECES; j++) {
      // Beyond the inputs lies what an earlier copy left.
      const bool valid = first + inputs_of_lane() + 32 * j < c.inputs;
      const uint4* w = reinterpret_cast<const uint4*>(left + j * 64);
      const uint4 low = valid ? w[0] : uint4{0, 0, 0, 0};
      const uint4 high = ROWS == 16 && valid ? w[8 * PITCH / 16] : uint4{0, 0, 0, 0};
      const u32 one[4] = {low.x, high.x, low.y, high.y}, two[4] = {low.z, high.z, low.w, high.w};
      multiply(acc[0], one, x[j].x, x[j].y);
      multiply(acc[1], two, x[j].z, x[j].w);
    }
  }

  template <class Out>
  __device__ void consume(const u8* shared, act* normed_x, float* sums) const {
    const u32 lane = threadIdx.x % 32, r = lane / 4;
    const u8* const left = shared + r * PITCH + inputs_of_lane() * 2;
    const act* const x_of_lane = c.x + inputs_of_lane();
    const act* right = x_of_lane + (u64)r * c.inputs;
    if (!EXPERTS && c.norm_weight) {
      norm_x(c, normed_x, sums);
      right = normed_x + inputs_of_lane();
    } else {
      begin();
    }
    const u32 number = PUSHED ? number_of_row(c.push) : 0;
    // A part has one row of x, in the first column.
    const bool has_row = r < (EXPERTS ? 1 : c.rows);
    const auto x_of = [&](u32 tile, u32 index) {
      return x_of_lane + (u64)chosen.row_of_x(chosen.part(tile, index)) * c.inputs;
    };
    if constexpr (EXPERTS) right = x_of(blockIdx.x, 0);
    // Places are of stages; behind the last ones of a part come the first ones of the next.
    uint4 x[AHEAD][PIECES];
#pragma unroll
    for (u32 i = 0; i < AHEAD; i++) fetch(x[i], right, has_row, i * INPUTS);
    float acc[2][4] = {}, all = 0.f;
    Found found;
    u32 stage = 0, phase = 0;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x)
      for (u32 index = 0; index < chosen.parts(); index++) {
        const Part part = chosen.part(tile, index);
        const float before = PUSHED || GOAL == GOAL_UPS ? 0.f : residual_of(part);
        const act* following = right;
        if constexpr (EXPERTS) {
          const bool same_tile = index + 1 < chosen.parts();
          following = same_tile ? x_of(tile, index + 1) : x_of(tile + gridDim.x, 0);
        }
        for (u32 some = 0; some < c.inputs; some += AHEAD * INPUTS) {
#pragma unroll
          for (u32 i = 0; i < AHEAD; i++) {
            const u32 first = some + i * INPUTS, next = first + AHEAD * INPUTS;
            if (first >= c.inputs) break;
            barrier_wait(full + stage * 8, phase);
            multiply_stage(acc, left + stage * STAGE, x[i], first);
            __syncwarp();
            if (lane == 0) barrier_arrive(empty + stage * 8);
            if (++stage == stages) stage = 0, phase ^= 1;
            const bool goes_on = next < c.inputs;
            fetch(x[i], goes_on ? right : following, has_row, goes_on ? next : i * INPUTS);
          }
        }
        finish<Out>(part, index, before, number, acc, sums, found, all);
        right = following;
      }
    if constexpr (LOGITS<Out>) leave(found);
  }

  // The largest logit of this block's share of each row, and what was seen of it.
  __device__ void leave(Found found) const {
    // Sixteen threads have the outputs of a row.
    if (HEIGHT != 16 || !c.best) return;
    found.join();
    const u32 row = threadIdx.x / 16;
    if (threadIdx.x % 16 != 0 || row >= c.rows) return;
    u64* const to = c.best + 2 * ((u64)row * gridDim.x + blockIdx.x);
    to[0] = found.top;
    to[1] = found.seen;
  }

  // What this thread's output of a part is added to.
  __device__ float residual_of(const Part& part) const {
    const u32 column = threadIdx.x / HEIGHT, output = part.slice * HEIGHT + threadIdx.x % HEIGHT;
    const u32 row = EXPERTS ? chosen.row(part) : column;
    const bool has = !GATED && c.residual && column < (EXPERTS ? 1 : c.rows) && output < heights;
    return has ? to_f32(c.residual[(u64)row * heights + output]) : 0.f;
  }

  // A part's end: the warps' shares are added in order.
  template <class Out>
  __device__ void finish(const Part& part, u32 index, float before, u32 number,
                         float (&acc)[2][4], float* sums, Found& found, float& all) const {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float weight = 0.f;
    if constexpr (GOAL == GOAL_DOWNS) weight = chosen.weight(part);
    // All have read the sums of the part before.
    meet();
#pragma unroll
    for (int e = 0; e < 4; e++) {
      sums[(warp * 4 + e) * 32 + lane] = acc[0][e] + acc[1][e];
      acc[0][e] = acc[1][e] = 0.f;
    }
    meet();
    static_assert(HEIGHT * SMALL_M_ROWS <= WARPS * 32, "an output of a thread");
    const u32 r = threadIdx.x % HEIGHT, column = threadIdx.x / HEIGHT;
    const u32 output = part.slice * HEIGHT + r;
    if (column < (EXPERTS ? 1 : c.rows) && output < heights) {
      const float* const bias = EXPERTS && c.bias ? c.bias + part.expert * c.outputs : c.bias;
      const auto value = [&](u32 r, u32 output) {
        return sum_of_shares<WARPS>(sums, r, column) + (bias ? bias[output] : 0.f);
      };
      const float first = value(r, output);
      float y;
      if constexpr (GATED) y = activate_gated(first, value(r + 8, heights + output), c.kind);
      else y = activate(first, c.kind);
      const u64 at = (u64)(EXPERTS ? part.choice : column) * heights + output;
      if constexpr (GOAL == GOAL_DOWNS) {
        all = (index == 0 ? 0.f : all) + weight * to_f32(from_f32<act>(y));
        if (index + 1 < chosen.parts()) return;
        const act sum = from_f32<act>(all);
        const u64 to = (u64)chosen.row(part) * heights + output;
        if (c.residual) c.residual[to] = from_f32<act>(before + to_f32(sum));
        else reinterpret_cast<act*>(c.y)[to] = sum;
        return;
      }
      if constexpr (PUSHED) push_output(c.push, number, output, from_f32<act>(y));
      else if (!GATED && c.residual)
        c.residual[at] = from_f32<act>(before + to_f32(from_f32<act>(y)));
      else reinterpret_cast<Out*>(c.y)[at] = from_f32<Out>(y);
      if constexpr (LOGITS<Out>) found.add(y, output);
    }
  }

  template <class Out>
  __device__ void run(u8* shared) {
    ring = shared_address(shared) + SUMS;
    full = ring + stages * STAGE;
    empty = full + stages * 8;
    start_ring(full, empty, stages, WARPS);
    if constexpr (EXPERTS) {
      __shared__ u32 experts[SMALL_CHOICES];
      chosen.find(experts);
    }
    if (threadIdx.x >= WARPS * 32) {
      produce();
    } else {
      act* const normed_x = reinterpret_cast<act*>(shared + SUMS + stages * (STAGE + 2 * 8));
      consume<Out>(shared + SUMS, normed_x, reinterpret_cast<float*>(shared));
    }
  }
};
#endif

// Experts that a row or two chose, for the kernels of few rows (gemm_small.cuh, coded_small.cuh):
// which rows of W a tile has, and which row of x they are multiplied with. A tile belongs to one
// choice, or (the second product) to a row, whose choices it takes one after the other and adds up:
// nobody waits for another block, and no sum depends on other rows.
//
// Experts are known when the router is done. The first product waits for that. The second one
// begins when the first one has, and has its weights under way before that one ends.
#pragma once
#include "abi_experts.h"
#include "common.cuh"

enum Goal : u32 {
  GOAL_ROWS,  // products of rows of x by one matrix
  GOAL_PUSHED,  // the same of a single row, whose outputs go to all ranks (row_push.cuh)
  GOAL_UPS,  // of rows by the experts they chose: an output for each choice
  GOAL_DOWNS,  // of these by the same experts, added up: an output for each row
};

#if ACT != 0 && ARCH >= 90
template <Goal GOAL>
struct Chosen {
  static constexpr bool EXPERTS = GOAL == GOAL_UPS || GOAL == GOAL_DOWNS;

  const float* routes;  // As in RouteRows; of experts alone.
  const u32 of_row;  // Choices of a row.
  const u32 rows;  // of x
  const u32 slices;  // of a matrix' outputs, of a tile each
  const u32* experts = nullptr;  // of all choices, in shared memory

  // A tile's slice of outputs, times one choice.
  struct Part {
    u32 slice, choice, expert;
  };

  __device__ u32 parts() const { return GOAL == GOAL_DOWNS ? of_row : 1; }
  __device__ u32 tiles() const {
    return slices * (GOAL == GOAL_UPS ? rows * of_row : GOAL == GOAL_DOWNS ? rows / of_row : 1);
  }
  __device__ u32 choices() const { return GOAL == GOAL_UPS ? rows * of_row : rows; }

  // By the whole block, whose shared memory `to` has room for all choices.
  __device__ void find(u32* to) {
    if (GOAL == GOAL_UPS) begin();
    for (u32 i = threadIdx.x; i < choices(); i += blockDim.x)
      to[i] = (u32)__ldcg(routes + i / of_row * 2 * of_row + i % of_row);
    __syncthreads();
    experts = to;
  }

  __device__ Part part(u32 tile, u32 index) const {
    if constexpr (!EXPERTS) return {tile, 0, 0};
    const u32 of = tile / slices, choice = GOAL == GOAL_UPS ? of : of * of_row + index;
    // Behind the last tile it is the last choice again: nobody stores that.
    const u32 there = min(choice, choices() - 1);
    return {tile % slices, there, experts[there]};
  }
  // The row of the step, and of x, that a choice belongs to.
  __device__ u32 row(const Part& p) const { return p.choice / of_row; }
  __device__ u32 row_of_x(const Part& p) const { return GOAL == GOAL_UPS ? row(p) : p.choice; }
  __device__ float weight(const Part& p) const {
    return __ldcg(routes + (row(p) * 2 + 1) * of_row + p.choice % of_row);
  }
};
#endif

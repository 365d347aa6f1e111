// The parameters of kernels for mixtures of experts (experts.cu, experts_few.cu, experts_small.cu), and
// the sizes that the host counts with. abi.h says what holds for all of it.
#pragma once
#include "abi_ops.h"

constexpr u32 MAX_EXPERTS = 1024;
constexpr u32 MAX_EXPERT_GROUPS = 64;
// Rows that a block of route_rows routes.
constexpr u32 ROUTE_ROWS = 4;
// Tiles of the two kernels on tensor cores: choices, outputs (gates and ups together), stages.
constexpr u32 NARROW_ROWS = 16;
constexpr u32 NARROW_OUTPUTS = 64;
constexpr u32 NARROW_STAGES = 4;
constexpr u32 NARROW_THREADS = 128;
constexpr u32 WIDE_ROWS = 64;
constexpr u32 WIDE_OUTPUTS = 128;
constexpr u32 WIDE_STAGES = 3;
constexpr u32 WIDE_THREADS = 256;
// Inputs of a stage, and elements between the ends of its rows.
constexpr u32 EXPERT_SLICE = 64;
constexpr u32 EXPERT_PADDING = 8;
// Rows and columns of the plain kernel's tile.
constexpr u32 EXPERT_PLAIN_TILE = 16;

// Choices of one expert that a block multiplies together: entries of the order.
struct ExpertTile {
  u32 expert, first, count;
};
static_assert(sizeof(ExpertTile) == 3 * 4, "tiles lie one behind the other");

struct RouteRows {
  DEVICE(const float) logits;  // [rows, experts]
  DEVICE(const float) bias;  // [experts], or null
  DEVICE(const float) choice_bias;  // [experts], added to scores where experts are chosen; or null
  DEVICE(float) routes;  // [rows, 2, top_k]: numbers of experts, then weights
  u32 rows, experts, top_k;
  u32 renormalise;  // Weights are divided by the sum of those chosen.
  RouteScore score;
  // Experts are chosen out of the best groups of neighbours; 0: out of all. With a choice bias the
  // two best of a group count, else the best one.
  u32 groups, top_groups;
  float scale;  // Of weights.
};

struct GroupRows {
  DEVICE(const float) routes;  // As in RouteRows.
  DEVICE(u32) order;  // [choices], by expert
  DEVICE(ExpertTile) tiles;
  DEVICE(u32) tile_count;  // One word
  u32 choices, top_k, experts;
  u32 tile_rows;  // Choices of a tile at most.
};

// The kernels experts_up_* (x has a row for each row) and experts_down_* (one for each choice).
struct MultiplyExperts {
  DEVICE(const act) x;  // [rows or choices, inputs]
  DEVICE(const act) w;  // [experts, outputs, inputs]
  DEVICE(const float) bias;  // [experts, outputs], or null
  DEVICE(act) out;  // [choices, outputs / 2 or outputs]
  DEVICE(const u32) order;
  DEVICE(const ExpertTile) tiles;
  DEVICE(const u32) tile_count;
  u32 top_k;
  u32 outputs;  // Of one expert, gates and ups together.
  u32 inputs;
  Activation kind;
};

struct CombineExperts {
  DEVICE(const float) routes;  // As in RouteRows.
  DEVICE(const act) parts;  // [choices, width]
  DEVICE(act) out;  // [rows, width]
  u32 top_k, width;
};

// Few choices of an expert (few_rows.cuh): threads, and choices of an item at most.
constexpr u32 FEW_WARPS = 8;
constexpr u32 FEW_THREADS = 32 * FEW_WARPS;
constexpr u32 FEW_CHOICES = 16;
// Outputs of an item, gates and ups together.
constexpr u32 FEW_OUTPUTS = 16;
// Plain weights: inputs of a slot of a warp's ring, its bytes, slots of a ring.
constexpr u32 FEW_INPUTS = 64;
constexpr u32 FEW_SLOT_BYTES = FEW_OUTPUTS * FEW_INPUTS * 2;
constexpr u32 FEW_SLOTS = 5;
// The warps' sums of two items, for each eight choices of an item.
constexpr u32 FEW_SUMS_BYTES = 2 * FEW_WARPS * 4 * 32 * 4;
constexpr u32 FEW_SHARED_BYTES = 2 * FEW_SUMS_BYTES + FEW_WARPS * FEW_SLOTS * FEW_SLOT_BYTES;
// Counters of a mixture: slices of an item's outputs, and one of the router's blocks.
constexpr u32 FEW_TICKETS = 4096;

// As MultiplyExperts, for few choices of each expert; with a sum, each row's parts by their weights
// in the order of its choices.
struct FewExperts {
  DEVICE(const act) x;  // [rows or choices, inputs]
  DEVICE(const act) w;  // [experts, outputs, inputs]; not where they are codes
  DEVICE(const float) bias;  // [experts, outputs], or null
  DEVICE(act) out;  // [choices, outputs / 2 or outputs]
  DEVICE(const u32) order;
  // Null: one tile, whose choices are the rows.
  DEVICE(const ExpertTile) tiles;
  DEVICE(const u32) tile_count;
  DEVICE(const float) routes;  // As in RouteRows.
  DEVICE(act) sum;  // [rows, outputs], or null
  DEVICE(u32) tickets;  // [slices], 0 between launches
  u32 rows;
  u32 top_k;  // Choices of a row of x.
  u32 choices;  // Of a row.
  u32 outputs;  // Of one expert, gates and ups together.
  u32 inputs;
  u32 gated;
  u32 pieces;  // Of FEW_CHOICES choices, in a tile.
  Activation kind;
};

// route_rows and group_rows behind the router's product, in one.
struct RouteFew {
  FewExperts product;  // Of the router; `x` has `rows` rows.
  RouteRows route;
  GroupRows group;
};

// Choices of all rows that the kernels of few rows take at most.
constexpr u32 SMALL_CHOICES = 64;

// The router's product of a few rows, to `route.logits`, and the choice behind it.
struct RouteSmall {
  SmallGemm product;
  RouteRows route;
  DEVICE(u32) ticket;  // Counts blocks; 0 between launches.
};

struct AddGated {
  DEVICE(const float) gate;  // [width]
  DEVICE(const act) x;  // [rows, width]
  DEVICE(const act) delta;  // [rows, width]
  DEVICE(act) out;  // [rows, width], in place
  u32 width;
};

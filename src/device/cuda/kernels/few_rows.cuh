// Products of experts for few choices of each, where streaming the weights that are met is all
// there is to do: what experts_few.cu and coded_experts_few.cu are made of. Half types.
//
// An item is a tile of up to 16 choices of an expert x 16 rows of its W (gated: eight gates and
// their ups). Items lie in a row, tile by tile, and each block has an equal run of them, so that
// all multiprocessors end together whatever was chosen. The eight warps of a block share an item's
// inputs, slot by slot in turn. Each warp has a ring of slots of its own, which cp.async fills some
// slots ahead, over the ends of items: nobody waits for another warp but where an item's sums are
// added up, in the order of the warps. mma m16n8k16 has W as its left operand.
//
// Down products end with the sum over a row's choices: the last warp that is done with a slice of
// 16 outputs, by a counter, adds up the parts of all rows there, in the order of choices. So every
// sum has one order, and neither company nor the number of rows changes a bit.
#pragma once
#include "abi_codes.h"
#include "activation.cuh"
#include "mma.cuh"

#if ACT != 0
// Where a warp is: a slot of an item.
struct FewPlace {
  u32 item, block;  // `block`: of the inputs.
  u32 expert, first, count;  // The item's choices.
  u32 slice;
  u32 low, high;  // This lane's rows of W.
};

template <u32 NT>
struct FewTiles {
  static constexpr u32 SUMS = FEW_WARPS * NT * 4 * 32;  // of an item

  const FewExperts& c;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 height = c.gated ? FEW_OUTPUTS / 2 : FEW_OUTPUTS;
  const u32 heights = c.gated ? c.outputs / 2 : c.outputs;
  const u32 slices = (heights + height - 1) / height;
  u32 tiles, from, to;  // items of this block
  float* sums;
  float* logits = nullptr;  // Where sums go in place of `out`.
  const float *factor = nullptr, *steps = nullptr;

  __device__ FewTiles(const FewExperts& c, u8* shared)
      : c(c), sums(reinterpret_cast<float*>(shared)) {}

  // This block's items. Which tiles there are, the kernel before says.
  __device__ void take_share() {
    tiles = c.tiles ? *c.tile_count * c.pieces : 1;
    const u64 items = (u64)tiles * slices;
    from = items * blockIdx.x / gridDim.x;
    to = items * (blockIdx.x + 1) / gridDim.x;
  }

  // Row `r` of 16 of an expert's slice. Beyond the last output it is the last again: nobody stores
  // it.
  __device__ u32 row(u32 slice, u32 r) const {
    return min(slice * height + r % height, heights - 1) + r / height * heights;
  }
  __device__ u32 choice_of(u32 place) const { return c.order ? c.order[place] : place; }
  // The row of x of a choice.
  __device__ u32 row_of(u32 choice) const { return c.top_k == 1 ? choice : choice / c.top_k; }

  __device__ void enter(FewPlace& p) const {
    if (p.item >= to) return;
    const u32 tile = p.item / slices;
    ExpertTile t = {0, 0, c.rows};
    if (c.tiles) t = c.tiles[tile / c.pieces];
    const u32 skipped = tile % c.pieces * FEW_CHOICES;
    p.slice = p.item % slices;
    p.expert = t.expert;
    p.first = t.first + skipped;
    p.count = t.count > skipped ? min(t.count - skipped, FEW_CHOICES) : 0;
    p.low = t.expert * c.outputs + row(p.slice, lane / 4);
    p.high = t.expert * c.outputs + row(p.slice, lane / 4 + 8);
  }
  // The first slot of this warp, of items whose inputs are so many; beyond the last item: none.
  __device__ FewPlace start(u32 blocks) const {
    FewPlace p = {};
    p.item = warp < blocks ? from : to;
    p.block = warp;
    enter(p);
    return p;
  }
  __device__ void next(FewPlace& p, u32 blocks) const {
    p.block += FEW_WARPS;
    if (p.block < blocks) return;
    p.block = warp;
    p.item++;
    enter(p);
  }

  // An item's end: the warps' shares are added in order. Two items in a row have different places
  // for their sums: whoever writes there has met those who read the ones of the item before.
  __device__ void finish(const FewPlace& p, const float (&acc)[NT][4]) const {
    float* const own = sums + (p.item & 1) * SUMS;
#pragma unroll
    for (u32 n = 0; n < NT; n++) {
#pragma unroll
      for (u32 e = 0; e < 4; e++) own[((warp * NT + n) * 4 + e) * 32 + lane] = acc[n][e];
    }

    // What it ends with is loaded while others multiply.
    const u32 r = threadIdx.x % height, column = threadIdx.x / height;
    const u32 output = p.slice * height + r;
    const bool some = column < p.count && output < heights;
    const u32 choice = some ? choice_of(p.first + column) : 0;
    float scale[2] = {1.f, 1.f}, bias[2] = {};
    if (some) {
      const float step = steps ? steps[row_of(choice)] : 1.f;
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        if (i == 1 && !c.gated) break;
        const u32 of_w = p.expert * c.outputs + output + i * heights;
        scale[i] = step * (factor ? factor[of_w] : 1.f);
        if (c.bias) bias[i] = c.bias[of_w];
      }
    }
    __syncthreads();
    if (some) {
      const float one = scale[0] * sum_of(own, r, column) + bias[0];
      const u64 at = (u64)choice * heights + output;
      if (logits) logits[at] = one;
      else if (!c.gated) c.out[at] = from_f32<act>(ungated(one));
      else
        c.out[at] = from_f32<act>(
            activate_gated(one, scale[1] * sum_of(own, r + 8, column) + bias[1], c.kind));
    }
    if (c.sum) arrive(p.slice);
  }

  // Without a gate there is no other activation.
  __device__ float ungated(float x) const {
    return c.kind == ACTIVATION_RELU_SQUARED ? fmaxf(x, 0.f) * fmaxf(x, 0.f) : x;
  }

  __device__ static float sum_of(const float* own, u32 r, u32 column) {
    const u32 at = (column / 8 * 4 + r / 8 * 2 + column % 2) * 32 + r % 8 * 4 + column % 8 / 2;
    float all = 0.f;
#pragma unroll
    for (u32 w = 0; w < FEW_WARPS; w++) all += own[w * NT * 128 + at];
    return all;
  }

  // This warp has written its parts of a slice. The last of all warps adds them up.
  __device__ void arrive(u32 slice) const {
    __threadfence();
    __syncwarp();
    u32 before = 0;
    if (lane == 0) before = atomicAdd(c.tickets + slice, 1u);
    before = __shfl_sync(~0u, before, 0);
    if (before + 1 != tiles * FEW_WARPS) return;

    __threadfence();
    for (u32 i = lane; i < c.rows * FEW_OUTPUTS; i += 32) {
      const u32 r = i / FEW_OUTPUTS, output = slice * FEW_OUTPUTS + i % FEW_OUTPUTS;
      if (output >= heights) continue;
      const float* weight = c.routes + (u64)r * 2 * c.choices + c.choices;
      const act* parts = c.out + (u64)r * c.choices * heights + output;
      float sum = 0.f;
#pragma unroll 4
      for (u32 j = 0; j < c.choices; j++) {
        // Written by other multiprocessors.
        act part;
        part.bits = __ldcg(&parts[(u64)j * heights].bits);
        sum += weight[j] * to_f32(part);
      }
      c.sum[(u64)r * heights + output] = from_f32<act>(sum);
    }
    if (lane == 0) c.tickets[slice] = 0;
  }
};
#endif

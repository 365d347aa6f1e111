// Experts of plain weights for few choices of each (few_rows.cuh), and the router's product with
// what follows it in one launch. Half types, inputs a multiple of 8.
//
// A slot are 64 inputs of 16 rows of W, 2 KiB, whose pieces each lane copies for itself. Which
// inputs a lane feeds is free as long as both operands agree, so it takes 8 neighbours of a row. x
// comes through L1. Two blocks fit a multiprocessor: 128 KiB of weights under way. Bytes: weights
// of the experts that are met, once for each 16 choices; floor = bytes / bandwidth.
//
// The router's weights depend on nobody: they are copied before the kernel before has ended. Its
// last block, by a counter, chooses and groups.
#include "few_rows.cuh"
#include "routes.cuh"

#if ACT != 0
template <u32 NT>
struct FewPlain : FewTiles<NT> {
  using Base = FewTiles<NT>;
  using Base::c;
  using Base::lane;
  using Base::warp;

  const u32 blocks = (c.inputs + FEW_INPUTS - 1) / FEW_INPUTS;
  u8* const ring;  // this lane's places of the warp's slots
  const u32 ring_address;

  __device__ FewPlain(const FewExperts& few, u8* shared)
      : Base(few, shared),
        ring(shared + 2 * FEW_SUMS_BYTES + warp * FEW_SLOTS * FEW_SLOT_BYTES + lane * 16),
        ring_address(shared_address(ring)) {}

  // Pieces of rows r and r + 8, of the first and the second 32 inputs.
  __device__ void fetch(FewPlace& ahead, u32 slot) const {
    if (ahead.item < Base::to) {
      const u32 k = ahead.block * FEW_INPUTS + lane % 4 * 8;
      const u32 to = ring_address + slot * FEW_SLOT_BYTES;
#pragma unroll
      for (u32 j = 0; j < 2; j++) {
        const bool valid = k + 32 * j < c.inputs;
        const u32 at = valid ? k + 32 * j : 0;
        copy_async(to + j * 1024, c.w + (u64)ahead.low * c.inputs + at, valid);
        copy_async(to + j * 1024 + 512, c.w + (u64)ahead.high * c.inputs + at, valid);
      }
      Base::next(ahead, blocks);
    }
    commit();
  }

  // The first slots.
  __device__ FewPlace fill() const {
    FewPlace ahead = Base::start(blocks);
    for (u32 slot = 0; slot < FEW_SLOTS - 1; slot++) fetch(ahead, slot);
    return ahead;
  }

  __device__ void multiply_all(FewPlace ahead) const {
    u32 slot = 0;
    for (u32 item = Base::from; item < Base::to; item++) {
      FewPlace here = {};
      here.item = item;
      Base::enter(here);
      const act* x[NT];
      bool some[NT];
#pragma unroll
      for (u32 n = 0; n < NT; n++) {
        const u32 column = n * 8 + lane / 4;
        some[n] = column < here.count;
        const u32 row = some[n] ? Base::row_of(Base::choice_of(here.first + column)) : 0;
        x[n] = c.x + (u64)row * c.inputs + lane % 4 * 8;
      }

      float acc[NT][4] = {};
      for (u32 block = warp; block < blocks; block += FEW_WARPS) {
        const u32 k = block * FEW_INPUTS;
        uint4 right[NT][2];
#pragma unroll
        for (u32 n = 0; n < NT; n++) {
#pragma unroll
          for (u32 j = 0; j < 2; j++) {
            const bool valid = some[n] && k + lane % 4 * 8 + 32 * j < c.inputs;
            right[n][j] = valid ? *reinterpret_cast<const uint4*>(x[n] + k + 32 * j)
                                : uint4{0, 0, 0, 0};
          }
        }
        wait<FEW_SLOTS - 2>();
        fetch(ahead, slot == 0 ? FEW_SLOTS - 1 : slot - 1);
#pragma unroll
        for (u32 j = 0; j < 2; j++) {
          const u8* from = ring + slot * FEW_SLOT_BYTES + j * 1024;
          const uint4 low = *reinterpret_cast<const uint4*>(from);
          const uint4 high = *reinterpret_cast<const uint4*>(from + 512);
          const u32 one[4] = {low.x, high.x, low.y, high.y};
          const u32 two[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
          for (u32 n = 0; n < NT; n++) {
            multiply(acc[n], one, right[n][j].x, right[n][j].y);
            multiply(acc[n], two, right[n][j].z, right[n][j].w);
          }
        }
        if (++slot == FEW_SLOTS) slot = 0;
      }
      Base::finish(here, acc);
    }
  }
};

template <u32 NT>
__device__ void few(const FewExperts& a, u8* shared) {
  FewPlain<NT> tiles(a, shared);
  begin();
  tiles.take_share();
  tiles.multiply_all(tiles.fill());
}

template <u32 NT>
__device__ void route(const RouteFew& a, u8* shared) {
  FewPlain<NT> tiles(a.product, shared);
  tiles.logits = const_cast<float*>(a.route.logits);
  tiles.take_share();
  const FewPlace ahead = tiles.fill();
  begin();
  tiles.multiply_all(ahead);
  if (!is_last(a.product.tickets)) return;

  // Slots that were copied are used, and the others stay empty.
  RouteScratch* const of_warps = reinterpret_cast<RouteScratch*>(shared);
  for (u32 r = threadIdx.x / 32; r < a.route.rows; r += FEW_WARPS)
    choose(a.route, r, of_warps[threadIdx.x / 32]);
  __syncthreads();
  group<FEW_THREADS>(a.group, *reinterpret_cast<GroupScratch*>(shared));
}

extern __shared__ __align__(128) u8 dynamic_shared[];

#define FEW few<1>(a, dynamic_shared)
#define ROUTE route<1>(a, dynamic_shared)
#else
// f32 has no code here: the device never launches these for it.
#define FEW (void)a
#define ROUTE (void)a
#endif

#define ENTRY(NAME, STRUCT, BODY) \
  __global__ void __launch_bounds__(FEW_THREADS, 2) NAME(const STRUCT a) { BODY; }

// Rows beyond eight have kernels of their own, of tiles.
ENTRY(experts_few_8, FewExperts, FEW)
ENTRY(route_few_8, RouteFew, ROUTE)

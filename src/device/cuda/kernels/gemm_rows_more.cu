// y = end(x W^T + b) for 65 to 1024 rows of x of a half type on Hopper, where the library is
// slower: of few rows because the weights' bytes are still much of what moves, of many because
// gates and ups need no launch behind. The usual ends alone: a bias, and of gates and ups SiLU.
//
// As gemm_rows.cu: x is the left operand of wgmma, W^T the right one, so that a tile may be of any
// multiple of 16 outputs, and tiles are about as many as multiprocessors. Here a warpgroup has 64
// rows and all of a tile's outputs, two of them a block. Of more than 128 rows neighbours of the
// grid have the same tiles and other rows: gated two of them are a cluster, of which each copies
// half of W to both (multicast). A stage is free when both have read it. Where tiles are few a
// cluster of blocks shares a tile's inputs and adds up through distributed shared memory, in the
// order of its blocks.
//
// A box of x has as many rows as there are (to a multiple of 8): zeros that are filled in behind
// the last one take longer than rows. What shared memory has there makes rows that nobody writes.
//
// Bytes: W once, and out of L2 again, and x for each tile. Floor: bytes of W / bandwidth, or FLOPs.
// Tried: x copied once for two tiles; shares that add up in global memory; clusters of four; as
// fast, or slower. W of later stages fetched to L2; slower. Of 2048 rows and more the card is at
// its limit of power, and the library's products take 2 % less, with the launch behind them.
#include "abi_codes.h"
#include "gemm_rows.cuh"

#if ARCH == 90 && ACT != 0
extern __shared__ __align__(128) u8 dynamic_shared[];

// N outputs of a tile.
template <u32 N>
struct Product {
  static constexpr u32 GROUPS = 2, THREADS = GROUPS * WARPGROUP;
  static constexpr u32 X_BYTES = MORE_ROWS_OF_BLOCK * PANEL_ROW_BYTES;
  static constexpr u32 W_BYTES = N * PANEL_ROW_BYTES, STAGE = W_BYTES + X_BYTES;
  static constexpr u32 STAGES = MORE_ROWS_RING_BYTES / STAGE;
  static constexpr u32 EIGHTS = N / 8;  // of outputs: four sums of a thread each
  static constexpr u32 EIGHT_BYTES = WARPGROUP * 16;
  static_assert(N % 16 == 0 && N <= THREADS && THREADS + 32 == MORE_ROWS_THREADS, "tiles");
  static_assert(MORE_ROWS_OF_BLOCK == GROUPS * 64, "a warpgroup has 64 rows");
  static_assert(GROUPS * EIGHTS * EIGHT_BYTES <= STAGES * STAGE, "sums take the place of stages");

  // Behind the stages.
  struct Rest {
    u64 full[STAGES], empty[STAGES];
    float bias[N];
  };
  static_assert(sizeof(Rest) + 1024 <= MORE_ROWS_REST_BYTES, "room behind the stages");

  const MoreRowsGemm& c;
  const u32 heights = c.gated ? c.outputs / 2 : c.outputs;
  const u32 height = c.gated ? N / 2 : N;  // outputs of a tile
  const u32 share = blockIdx.x % c.shares;
  // Blocks, or clusters of shares, `below` of which have the rows of the same tiles.
  const u32 place = blockIdx.x / c.shares, places = gridDim.x / c.shares;
  const u32 first_row = place % c.below * c.block_rows;
  const u32 rows = min(c.rows - min(first_row, c.rows), c.block_rows);
  const u32 tiles = (heights + height - 1) / height;
  const u32 first_tile = place / c.below, step = places / c.below;
  const u32 from = c.units * share / c.shares, to = c.units * (share + 1) / c.shares;
  const u32 of_tile = to - from;
  const u32 count = first_tile < tiles ? (tiles - 1 - first_tile) / step + 1 : 0;
  u32 ring, full, empty;  // addresses in shared memory
  Rest* rest;

  __device__ Product(const MoreRowsGemm& c) : c(c) {}

  // ---- The thread that copies ----

  __device__ static constexpr u32 stages() { return STAGES; }

  __device__ void fetch_weights(const RowsCursor<Product>& at) const {
    const u32 barrier = full + at.stage * 8, to = ring + at.stage * STAGE;
    const u32 first = at.tile * height, column = at.unit * PANEL_COLUMNS;
    barrier_expect(barrier, W_BYTES + c.block_rows * PANEL_ROW_BYTES);
    if (c.pairs) {
      // One half to both blocks.
      const u32 half = cluster_block(), eight = first / 8 + half * (N / 32);
      copy_eights_to(3, to + half * (W_BYTES / 2), &c.w, column, eight, barrier);
    } else if (c.gated) {
      copy_eights(to, &c.w, column, first / 8, barrier);
    } else {
      copy_box(to, &c.w, column, first, barrier);
    }
  }

  __device__ void fetch_inputs(const RowsCursor<Product>& at) const {
    const u32 to = ring + at.stage * STAGE + W_BYTES;
    copy_box(to, &c.x, at.unit * PANEL_COLUMNS, first_row, full + at.stage * 8);
  }

  __device__ void produce() const { copy_stages(*this, begin); }

  // ---- The warpgroups that multiply ----

  // Of a warp by name, so that branches on it are none of threads.
  const u32 group = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);

  // A tile's products, from this stage and phase on. Those of a stage begin before those of the one
  // before are done.
  __device__ void add_stages(u32& stage, u32& phase, float (&acc)[N / 2]) const {
    u32 before = stage;
#pragma unroll 1
    for (u32 unit = 0; unit < of_tile; unit++) {
      barrier_wait(full + stage * 8, phase);
      const u32 at = ring + stage * STAGE;
      const u64 left = describe(at + W_BYTES + group * (X_BYTES / GROUPS), 16);
      const u64 right = describe(at, 16);
      ready();
#pragma unroll
      for (u32 s = 0; s < 4; s++)
        multiply_shared(acc, left + s * 2, right + s * 2, unit != 0 || s != 0);
      submit();
      finish<1>();
      if (unit != 0) leave(before);
      before = stage;
      if (++stage == STAGES) stage = 0, phase ^= 1;
    }
    finish<0>();
    hold(acc);
    leave(before);
  }
  // What comes next into a stage comes to both blocks of a pair.
  __device__ void leave(u32 stage) const {
    leave_stage(empty, stage);
    if (c.pairs && threadIdx.x % 32 == 0) barrier_arrive_at(empty + stage * 8, cluster_block() ^ 1);
  }

  __device__ void consume() const {
    u32 stage = 0, phase = 0;
    for (u32 n = 0, tile = first_tile; n < count; n++, tile += step) {
      const float bias = bias_of(tile);
      float acc[N / 2];
#pragma unroll
      for (u32 i = 0; i < N / 2; i++) acc[i] = 0.f;
      add_stages(stage, phase, acc);
      end(n, tile, bias, acc);
    }
  }

  // ---- The end ----

  // Of the thread's row of a tile of W, loaded long before.
  __device__ float bias_of(u32 tile) const {
    if (!c.bias) return 0.f;
    const u32 i = threadIdx.x % N;
    const u32 output = tile * height + (c.gated ? i / 16 * 8 + i % 8 : i);
    return c.bias[min(output, heights - 1) + (c.gated && i / 8 % 2 == 1 ? heights : 0)];
  }

  // Of a tile's n-th end: biases to shared memory, then by two eights of outputs, which of a gated
  // tile are the gates and the ups of eight.
  __device__ void end(u32 n, u32 tile, float bias, const float (&acc)[N / 2]) const {
    // Of the tile before nobody reads any more.
    if (n > 0) meet();
    if (threadIdx.x < N) rest->bias[threadIdx.x] = bias;
    meet();
    if (c.shares > 1) leave_sums(acc);
    if (c.gated) write<true>(tile, acc);
    else write<false>(tile, acc);
  }

  // Sums by eights of outputs, to where other shares find them. There is one tile for a cluster:
  // nobody multiplies any more, and sums take the place of stages.
  __device__ void leave_sums(const float (&acc)[N / 2]) const {
#pragma unroll
    for (u32 e = 0; e < EIGHTS; e++)
      store_shared(place_of_sums(e), __float_as_uint(acc[4 * e]), __float_as_uint(acc[4 * e + 1]),
                   __float_as_uint(acc[4 * e + 2]), __float_as_uint(acc[4 * e + 3]));
    meet_cluster();
  }
  __device__ u32 place_of_sums(u32 eight) const {
    return ring + (group * EIGHTS + eight) * EIGHT_BYTES + threadIdx.x % WARPGROUP * 16;
  }
  // Of an eight of outputs over all shares, in their order.
  __device__ void add_up(u32 eight, float (&sums)[4]) const {
    add_of_blocks(place_of_sums(eight), c.shares, sums);
  }

  // What shares have added up each of them writes in part.
  template <bool GATED>
  __device__ void write(u32 tile, const float (&acc)[N / 2]) const {
    if (c.shares == 1) {
#pragma unroll
      for (u32 e = 0; e < EIGHTS; e += 2) write_two<GATED>(tile, e, acc + 4 * e, acc + 4 * e + 4);
      return;
    }
#pragma unroll 1
    for (u32 e = share * 2; e < EIGHTS; e += c.shares * 2) {
      float some[4] = {}, more[4] = {};
      add_up(e, some);
      add_up(e + 1, more);
      write_two<GATED>(tile, e, some, more);
    }
  }

  // Two outputs of each eight, or gated two of both, of two rows.
  template <bool GATED>
  __device__ void write_two(u32 tile, u32 e, const float* some, const float* more) const {
    const u32 i = e * 8 + threadIdx.x % 4 * 2;
    const u32 first = group * 64 + threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
      const u32 row = first + half * 8;
      if (row >= rows) break;
      float low[2], high[2];
#pragma unroll
      for (u32 j = 0; j < 2; j++) {
        low[j] = some[2 * half + j] + rest->bias[i + j];
        high[j] = more[2 * half + j] + rest->bias[i + j + 8];
      }
      act* const y = c.y + (u64)(first_row + row) * heights;
      write_two_of_eights<GATED>(y, tile * height, e, heights, low, high);
    }
  }

  // The warps that multiply.
  static __device__ void meet() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

  __device__ void run() {
    ring = (shared_address(dynamic_shared) + 1023) / 1024 * 1024;
    u8* const behind = dynamic_shared + (ring - shared_address(dynamic_shared)) + STAGES * STAGE;
    rest = reinterpret_cast<Rest*>(behind);
    full = shared_address(rest->full);
    empty = shared_address(rest->empty);
    start_ring(full, empty, STAGES, GROUPS * 4 * (c.pairs ? 2 : 1));
    if (c.pairs) meet_cluster();
    if (group == GROUPS) {
      if (threadIdx.x == THREADS) produce();
      __syncwarp();
      // As those that leave their sums.
      if (c.shares > 1) meet_cluster();
    } else {
      begin();
      consume();
    }
    // Others may still read sums here.
    if (c.shares > 1 || c.pairs) meet_cluster();
  }
};

#define BODY(N) Product<N>(a).run()
#else
// The device never launches these where they have no code.
#define BODY(N) (void)a
#endif

#define ENTRY(N)                                                   \
  __global__ void __launch_bounds__(MORE_ROWS_THREADS, 1)          \
      gemm_rows_more_##N(const __grid_constant__ MoreRowsGemm a) { \
    BODY(N);                                                       \
  }

ENTRY(64)
ENTRY(80)
ENTRY(96)
ENTRY(112)
ENTRY(128)
ENTRY(160)
ENTRY(192)
ENTRY(224)
ENTRY(256)

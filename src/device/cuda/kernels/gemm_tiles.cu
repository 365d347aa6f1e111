// y = end(x W^T + b) for some rows of x on Hopper, where the weights' bytes are nearly everything:
// W and x of half types, up to 16 rows, or both codes of E4M3, up to 32, whose sums are multiplied
// by a factor of each output and one of each row. gemm_rows.cu has more rows, and of those here
// what gemm_rows.rs finds faster there. Bias, activation and the product of gate and up are in the
// end.
//
// W is the left operand of wgmma and x^T the right one, both out of shared memory, where tensor
// maps have put them: nothing is unpacked or turned. A tile is 128 outputs for all rows (gated half
// as many, and their ups: eights of both take turns, so that a thread has a gate and its up). A
// stage holds 128 bytes of each of its rows and of each row of x. One thread copies, some stages
// ahead and over the ends of tiles; weights before the kernel before has ended. Where tiles are
// few, a cluster of blocks shares a tile's inputs and adds up through distributed shared memory, in
// the order of its blocks.
//
// The sums of E4M3 within tensor cores have fewer bits than f32: no more than 128 products are left
// to them.
//
// Bytes: W once, and out of L2 x for each tile, an eighth or a quarter as many. Floor: bytes of W /
// bandwidth.
#include "abi_codes.h"
#include "activation.cuh"
#include "bulk.cuh"
#include "cluster.cuh"
#include "warpgroup.cuh"

#if ARCH == 90 && ACT != 0
extern __shared__ __align__(128) u8 dynamic_shared[];

template <bool BYTES, u32 COLUMNS>
struct Tile {
  static constexpr u32 OUTPUTS = TILED_OUTPUTS;
  static constexpr u32 W_BYTES = OUTPUTS * PANEL_ROW_BYTES;
  static constexpr u32 STAGE = W_BYTES + COLUMNS * PANEL_ROW_BYTES;
  static constexpr u32 STAGES = TILED_RING_BYTES / STAGE;
  static constexpr u32 UNIT = BYTES ? PANEL_ROW_BYTES : PANEL_COLUMNS;  // inputs of a stage
  static constexpr u32 THREADS = OUTPUTS / 64 * WARPGROUP;  // that multiply
  static constexpr int SUMS = COLUMNS / 2;
  static constexpr u32 GROUPS_OF_COLUMNS = COLUMNS / 8;  // four sums of a thread each

  // Behind the stages.
  struct Rest {
    u64 full[STAGES], empty[STAGES];
    float steps[COLUMNS];
  };
  static_assert(sizeof(Rest) + 1024 <= TILED_REST_BYTES, "room behind the stages");

  struct End;

  const TiledGemm& c;
  const bool gated = c.end == CODED_END_GATED;
  const u32 heights = gated ? c.outputs / 2 : c.outputs;
  const u32 height = gated ? OUTPUTS / 2 : OUTPUTS;  // outputs of a tile
  const u32 blocks = cluster_blocks(), rank = blockIdx.x % blocks;
  const u32 tiles = (heights + height - 1) / height;
  const u32 first_tile = blockIdx.x / blocks, step = gridDim.x / blocks;
  const u32 from = c.units * rank / blocks, to = c.units * (rank + 1) / blocks;
  const u32 of_tile = to - from;
  const u32 total = first_tile < tiles ? ((tiles - 1 - first_tile) / step + 1) * of_tile : 0;
  u32 ring, full, empty;  // addresses in shared memory
  Rest* rest;

  __device__ Tile(const TiledGemm& c) : c(c) {}

  // ---- The thread that copies ----

  // What is copied next.
  struct Cursor {
    const Tile& t;
    u32 tile = t.first_tile, unit = t.from;

    __device__ Cursor(const Tile& t) : t(t) {}

    __device__ void advance() {
      if (++unit != t.to) return;
      unit = t.from;
      tile += t.step;
    }

    __device__ void fetch_weights(u32 stage) const {
      const u32 barrier = t.full + stage * 8, place = t.ring + stage * STAGE;
      barrier_expect(barrier, STAGE);
      if (t.gated) copy_eights(place, &t.c.w, unit * UNIT, tile * (t.height / 8), barrier);
      else copy_box(place, &t.c.w, unit * UNIT, tile * t.height, barrier);
    }

    __device__ void fetch_inputs(u32 stage) const {
      const u32 place = t.ring + stage * STAGE + W_BYTES;
      copy_box(place, &t.c.x, unit * UNIT, 0, t.full + stage * 8);
    }
  };

  __device__ void produce() const {
    // Weights depend on nobody.
    const u32 ahead = min(total, STAGES);
    Cursor next(*this);
    for (u32 n = 0; n < ahead; n++, next.advance()) next.fetch_weights(n);
    await();
    // Of E4M3 later, as in gemm_rows.cu.
    if (!BYTES) give_leave();
    Cursor inputs(*this);
    for (u32 n = 0; n < ahead; n++, inputs.advance()) inputs.fetch_inputs(n);

    u32 stage = 0, phase = 0;
    for (u32 n = STAGES; n < total; n++, next.advance()) {
      barrier_wait(empty + stage * 8, phase);
      next.fetch_weights(stage);
      next.fetch_inputs(stage);
      if (++stage == STAGES) stage = 0, phase ^= 1;
    }
  }

  // ---- The warpgroups that multiply ----

  // A stage's products onto the sums.
  __device__ void add_stage(u32 stage, bool fresh, float (&acc)[SUMS]) const {
    const u32 place = ring + stage * STAGE;
    const u64 left = describe(place + threadIdx.x / WARPGROUP * 64 * PANEL_ROW_BYTES, 16);
    const u64 right = describe(place + W_BYTES, 16);
    float part[BYTES ? SUMS : 1];
    ready();
#pragma unroll
    for (u32 s = 0; s < 4; s++) {
      if constexpr (BYTES) multiply_shared<BYTES>(part, left + s * 2, right + s * 2, s != 0);
      else multiply_shared<BYTES>(acc, left + s * 2, right + s * 2, !fresh || s != 0);
    }
    submit();
    finish<0>();
    hold(acc);
    if constexpr (BYTES) {
      hold(part);
#pragma unroll
      for (int i = 0; i < SUMS; i++) acc[i] = fresh ? part[i] : acc[i] + part[i];
    }
  }

  __device__ void consume() const {
    if (threadIdx.x < COLUMNS) {
      const bool scaled = c.steps && threadIdx.x < c.rows;
      rest->steps[threadIdx.x] = scaled ? c.steps[threadIdx.x] : 1.f;
    }
    meet();

    u32 stage = 0, phase = 0;
    for (u32 tile = first_tile; tile < tiles; tile += step) {
      const End end(*this, tile);
      float acc[SUMS];
      for (u32 n = 0; n < of_tile; n++) {
        barrier_wait(full + stage * 8, phase);
        add_stage(stage, n == 0, acc);
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(empty + stage * 8);
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
      if (BYTES && tile + step >= tiles) give_leave();
      if (blocks > 1) {
        add_up(end, acc);
      } else {
#pragma unroll
        for (u32 n = 0; n < GROUPS_OF_COLUMNS; n++) {
          const float sums[4] = {acc[4 * n], acc[4 * n + 1], acc[4 * n + 2], acc[4 * n + 3]};
          end.write(n, sums);
        }
      }
    }
  }

  // The sums of a cluster's blocks, which have one tile; each block writes some of the columns.
  __device__ void add_up(const End& end, const float (&acc)[SUMS]) const {
    // Nobody multiplies any more: sums take the place of stages.
    meet();
    const u32 mine = ring + threadIdx.x * 16;
#pragma unroll
    for (u32 n = 0; n < GROUPS_OF_COLUMNS; n++)
      store_shared(mine + n * THREADS * 16, __float_as_uint(acc[4 * n]),
                   __float_as_uint(acc[4 * n + 1]), __float_as_uint(acc[4 * n + 2]),
                   __float_as_uint(acc[4 * n + 3]));
    meet_cluster();
    for (u32 n = rank; n < GROUPS_OF_COLUMNS; n += blocks) {
      float sums[4] = {};
      add_of_blocks(mine + n * THREADS * 16, blocks, sums);
      end.write(n, sums);
    }
    // Others may still read what lies here.
    meet_cluster();
  }

  // The outputs that a thread has of a tile, and what they are made with, loaded long before.
  struct End {
    const Tile& t;
    u32 output[2];
    float factor[2], bias[2];

    __device__ End(const Tile& t, u32 tile) : t(t) {
      const u32 sixteen = threadIdx.x / 32, r = threadIdx.x % 32 / 4;
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        // Gated: of both halves the same, a gate and its up.
        output[half] = tile * t.height + (t.gated ? sixteen * 8 + r : sixteen * 16 + half * 8 + r);
        const u32 row = min(output[half], t.heights - 1) + (t.gated ? half * t.heights : 0);
        factor[half] = t.c.factor ? t.c.factor[row] : 1.f;
        bias[half] = t.c.bias ? t.c.bias[row] : 0.f;
      }
    }

    // The sums of columns 8 n ..: two of each output.
    __device__ void write(u32 n, const float (&sums)[4]) const {
      const TiledGemm& c = t.c;
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        if ((t.gated && half == 1) || output[half] >= t.heights) break;
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
          const u32 column = n * 8 + threadIdx.x % 4 * 2 + i;
          if (column >= c.rows) continue;
          const float step = t.rest->steps[column];
          const float x = step * factor[half] * sums[2 * half + i] + bias[half];
          const float up = step * factor[1] * sums[2 + i] + bias[1];
          const float y = t.gated ? activate_gated(x, up, c.kind) : activate(x, c.kind);
          const u64 at = (u64)column * t.heights + output[half];
          if (c.end == CODED_END_LOGITS) reinterpret_cast<float*>(c.y)[at] = y;
          else reinterpret_cast<act*>(c.y)[at] = from_f32<act>(y);
        }
      }
    }
  };

  // The warps that multiply.
  __device__ static void meet() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

  __device__ void run() {
    ring = (shared_address(dynamic_shared) + 1023) / 1024 * 1024;
    u8* const behind = dynamic_shared + (ring - shared_address(dynamic_shared)) + STAGES * STAGE;
    rest = reinterpret_cast<Rest*>(behind);
    full = shared_address(rest->full);
    empty = shared_address(rest->empty);
    // The first copy of x would wait for its map, too.
    if (threadIdx.x == THREADS) fetch_map(&c.w), fetch_map(&c.x);
    start_ring(full, empty, STAGES, THREADS / 32);
    if (threadIdx.x >= THREADS) {
      if (threadIdx.x == THREADS) produce();
      __syncwarp();
      // As often as those that add up.
      if (blocks > 1) meet_cluster(), meet_cluster();
    } else {
      await();
      consume();
    }
  }
};

#define BODY(BYTES, COLUMNS) Tile<BYTES, COLUMNS>(a).run()
#else
// The device never launches these where they have no code.
#define BODY(BYTES, COLUMNS) (void)a
#endif

#define ENTRY(NAME, BYTES, COLUMNS)                      \
  __global__ void __launch_bounds__(TILED_THREADS, 2)    \
      NAME(const __grid_constant__ TiledGemm a) {        \
    BODY(BYTES, COLUMNS);                                \
  }

ENTRY(gemm_tiles_16, false, 16)
ENTRY(gemm_tiles_e4m3_16, true, 16)
ENTRY(gemm_tiles_e4m3_32, true, 32)

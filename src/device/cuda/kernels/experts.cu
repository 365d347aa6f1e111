// A mixture of experts: choose, group by expert, multiply, add up. Choice c = r * top_k + j is the
// j-th expert of row r; every result lies at its choice, so what another row chose, and the order
// in which atomics group choices, changes no bit.
//
//   route_rows       a warp per row: scores of the router's f32 logits, the best top_k, if asked
//                    for out of the best groups
//   group_rows       one block: how many choices fell on each expert, where they start, which they
//                    are, and tiles of at most `tile_rows` of them
//   experts_up_*     a tile of choices x a tile of columns of its expert's gate and up; act(gate) *
//                    up in registers, one launch for all experts
//   experts_down_*   the same without a gate, from choices to choices, or from rows with relu
//                    squared
//   combine_experts  each row's parts by their weights, in the order of j
//   add_gated        the expert that all rows share
//
// Where experts have few choices each, experts_few.cu takes the place of most of it.
//
// The grid of experts_* is for the worst case, a tile and more for each expert, because nothing
// on the host knows the step's choices; blocks beyond the tiles that there are exit. Half types
// multiply by mma m16n8k16 with tiles that come by cp.async into a ring of stages: 16 choices x 64
// outputs, 4 stages of 10 KiB (weight streaming: 4 blocks an SM keep 96 KiB of weights in flight),
// and 64 x 128 in 3 stages of 27 KiB where experts get many rows. Bytes: each weight that is met
// once per tile of choices, from L2 after the first. FLOPs: 2 x choices x outputs x inputs, tiles
// that are not full waste the rest. f32, and inputs that are no multiple of 8, take a plain kernel.
#include "abi_experts.h"
#include "activation.cuh"
#include "mma.cuh"
#include "routes.cuh"

__global__ void __launch_bounds__(32 * ROUTE_ROWS) route_rows(const RouteRows a) {
  begin();
  __shared__ RouteScratch scratch[ROUTE_ROWS];
  const u32 warp = threadIdx.x / 32, r = blockIdx.x * ROUTE_ROWS + warp;
  if (r < a.rows) choose(a, r, scratch[warp]);
}

__global__ void __launch_bounds__(MAX_EXPERTS) group_rows(const GroupRows a) {
  begin();
  __shared__ GroupScratch scratch;
  group<MAX_EXPERTS>(a, scratch);
}

// Everything that does not change from block to block, and the block's tile.
struct ExpertTiles : MultiplyExperts {
  const ExpertTile* tile;

  // The row of x of a choice; where x has a row for each choice, top_k is 1.
  template <bool GATED>
  __device__ __forceinline__ u32 row_of(u32 choice) const {
    if (GATED) return choice / top_k;
    return top_k == 1 ? choice : choice / top_k;
  }

  // Without a gate there is no other activation: all of them would cost registers.
  __device__ __forceinline__ float ungated(float x) const {
    return kind == ACTIVATION_RELU_SQUARED ? fmaxf(x, 0.f) * fmaxf(x, 0.f) : x;
  }
};

#if ACT != 0
#define SLICE EXPERT_SLICE  // inputs of a stage

// BM choices x BN rows of W, by WM x WN warps.
template <int BM, int BN, int WM, int WN, int STAGES, bool GATED>
struct Grouped {
  static constexpr int THREADS = 32 * WM * WN;
  // Elements of a row in shared memory: no bank conflicts.
  static constexpr int PAD = SLICE + EXPERT_PADDING;
  static constexpr int STAGE = (BM + BN) * PAD;
  static constexpr int MT = BM / WM / 16, NT = BN / WN / 8;
  // A warp's columns: gates, and the ups that belong to them.
  static constexpr int COLUMNS = GATED ? BN / WN / 2 : BN / WN;

  // Start copying `SLICE` inputs from `k` on; what is not there becomes zeros.
  static __device__ void fetch(const ExpertTiles& c, const u32* choice, u32 count, u32 k,
                               act* stage) {
    const u32 limit = GATED ? c.outputs / 2 : c.outputs;
    const act* w = c.w + (u64)c.tile->expert * c.outputs * c.inputs;
#pragma unroll
    for (u32 n = threadIdx.x; n < (BM + BN) * (SLICE / 8); n += THREADS) {
      const u32 row = n / (SLICE / 8), at = k + n % (SLICE / 8) * 8;
      bool valid = at < c.inputs;
      const act* from = c.x;
      if (row < BM) {
        valid = valid && row < count;
        if (valid) from = c.x + (u64)c.template row_of<GATED>(choice[row]) * c.inputs + at;
      } else {
        const u32 i = row - BM, warp = i / (BN / WN), inside = i % (BN / WN);
        const u32 column = (blockIdx.x * WN + warp) * COLUMNS + inside % COLUMNS;
        const u32 output = column + (inside < COLUMNS ? 0 : limit);
        valid = valid && column < limit;
        if (valid) from = w + (u64)output * c.inputs + at;
      }
      copy_async(shared_address(stage + row * PAD + n % (SLICE / 8) * 8), from, valid);
    }
  }

  static __device__ void run(const ExpertTiles& c, act* shared) {
    __shared__ u32 choice[BM];
    const u32 count = c.tile->count;
    if (threadIdx.x < BM)
      choice[threadIdx.x] = threadIdx.x < count ? c.order[c.tile->first + threadIdx.x] : 0;
    __syncthreads();
    const u32 lane = threadIdx.x % 32, wm = threadIdx.x / 32 % WM, wn = threadIdx.x / 32 / WM;
    const u32 steps = (c.inputs + SLICE - 1) / SLICE;
    float sum[MT][NT][4] = {};
#pragma unroll
    for (u32 t = 0; t < STAGES - 1; t++) {
      if (t < steps) fetch(c, choice, count, t * SLICE, shared + t * STAGE);
      commit();
    }
    for (u32 t = 0; t < steps; t++) {
      wait<STAGES - 2>();
      // All have the stage, and all are done with the one that is filled next.
      __syncthreads();
      const u32 ahead = t + STAGES - 1;
      if (ahead < steps) fetch(c, choice, count, ahead * SLICE, shared + ahead % STAGES * STAGE);
      commit();
      const act* x = shared + t % STAGES * STAGE;
      const act* w = x + BM * PAD;
      const u32 xs = shared_address(x + (wm * MT * 16 + lane % 16) * PAD + lane / 16 * 8);
      const u32 ws = shared_address(w + (wn * NT * 8 + lane / 16 * 8 + lane % 8) * PAD +
                                    lane / 8 % 2 * 8);
#pragma unroll
      for (int k = 0; k < SLICE / 16; k++) {
        u32 a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) load_matrices(a[m], xs + (m * 16 * PAD + k * 16) * 2);
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
          u32 b[4];
          load_matrices(b, ws + (n * 8 * PAD + k * 16) * 2);
#pragma unroll
          for (int m = 0; m < MT; m++) {
            multiply(sum[m][n], a[m], b[0], b[1]);
            multiply(sum[m][n + 1], a[m], b[2], b[3]);
          }
        }
      }
    }
    write(c, choice, count, sum, lane, wm, wn);
  }

  static __device__ void write(const ExpertTiles& c, const u32* choice, u32 count,
                               float (&sum)[MT][NT][4], u32 lane, u32 wm, u32 wn) {
    constexpr int OUT = COLUMNS / 8;  // tiles of columns that are written
    const u32 width = GATED ? c.outputs / 2 : c.outputs;
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const u32 r = (wm * MT + m) * 16 + half * 8 + lane / 4;
        if (r >= count) continue;
        act* row = c.out + (u64)choice[r] * width;
        const float* bias = c.bias ? c.bias + (u64)c.tile->expert * c.outputs : nullptr;
        const auto value = [&](u32 output, bool there, float sum) {
          return sum + (bias && there ? bias[output] : 0.f);
        };
#pragma unroll
        for (int n = 0; n < OUT; n++) {
          const u32 column = (blockIdx.x * WN + wn) * COLUMNS + n * 8 + lane % 4 * 2;
          const bool one = column < width, two = column + 1 < width;
          float low = value(column, one, sum[m][n][2 * half]);
          float high = value(column + 1, two, sum[m][n][2 * half + 1]);
          if constexpr (GATED) {
            const float up = value(width + column, one, sum[m][n + OUT][2 * half]);
            low = activate_gated(low, up, c.kind);
            const float next = value(width + column + 1, two, sum[m][n + OUT][2 * half + 1]);
            high = activate_gated(high, next, c.kind);
          } else {
            low = c.ungated(low);
            high = c.ungated(high);
          }
          if (column + 1 < width && width % 2 == 0) {
            *reinterpret_cast<u32*>(row + column) = pack(low, high);
          } else {
            if (column < width) row[column] = from_f32<act>(low);
            if (column + 1 < width) row[column + 1] = from_f32<act>(high);
          }
        }
      }
    }
  }
};
#endif

// Any type and shape: TILE choices x TILE columns at a time, a thread per result.
template <bool GATED>
__device__ void plain(const ExpertTiles& c) {
  constexpr u32 TILE = EXPERT_PLAIN_TILE;
  __shared__ float xs[TILE][TILE + 1], ws[2][TILE][TILE + 1];
  const u32 tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
  const u32 count = c.tile->count, width = GATED ? c.outputs / 2 : c.outputs;
  const u32 column = blockIdx.x * TILE + tx, loaded = blockIdx.x * TILE + ty;
  const act* w = c.w + (u64)c.tile->expert * c.outputs * c.inputs;
  for (u32 first = 0; first < count; first += TILE) {
    const bool valid = first + ty < count;
    const u32 choice = valid ? c.order[c.tile->first + first + ty] : 0;
    const act* x = c.x + (u64)c.template row_of<GATED>(choice) * c.inputs;
    float gate = 0.f, up = 0.f;
    for (u32 k = 0; k < c.inputs; k += TILE) {
      const bool inside = k + tx < c.inputs, known = inside && loaded < width;
      xs[ty][tx] = inside && valid ? to_f32(x[k + tx]) : 0.f;
      ws[0][ty][tx] = known ? to_f32(w[(u64)loaded * c.inputs + k + tx]) : 0.f;
      if (GATED) ws[1][ty][tx] = known ? to_f32(w[(u64)(width + loaded) * c.inputs + k + tx]) : 0.f;
      __syncthreads();
#pragma unroll
      for (int j = 0; j < TILE; j++) {
        gate += xs[ty][j] * ws[0][tx][j];
        if (GATED) up += xs[ty][j] * ws[1][tx][j];
      }
      __syncthreads();
    }
    if (!valid || column >= width) continue;
    if (c.bias) {
      const float* bias = c.bias + (u64)c.tile->expert * c.outputs;
      gate += bias[column];
      if (GATED) up += bias[width + column];
    }
    c.out[(u64)choice * width + column] =
        from_f32<act>(GATED ? activate_gated(gate, up, c.kind) : c.ungated(gate));
  }
}

extern __shared__ __align__(16) u8 dynamic_shared[];

#define TILED(BM, BN, WM, WN, STAGES, GATED) \
  Grouped<BM, BN, WM, WN, STAGES, GATED>::run(call, reinterpret_cast<act*>(dynamic_shared))
#if ACT != 0
#define NARROW(GATED) TILED(NARROW_ROWS, NARROW_OUTPUTS, 1, 4, NARROW_STAGES, GATED)
#define WIDE(GATED) TILED(WIDE_ROWS, WIDE_OUTPUTS, 2, 4, WIDE_STAGES, GATED)
#else
// f32 has no code here: the device never launches these for it.
#define NARROW(GATED) (void)call
#define WIDE(GATED) (void)call
#endif
#define PLAIN(GATED) plain<GATED>(call)

#define ENTRY(NAME, THREADS, BODY, GATED)                                    \
  __global__ void __launch_bounds__(THREADS) NAME(const MultiplyExperts a) { \
    begin();                                                                 \
    if (blockIdx.y >= *a.tile_count) return;                                 \
    const ExpertTiles call = {a, a.tiles + blockIdx.y};                             \
    BODY(GATED);                                                             \
  }

ENTRY(experts_up_narrow, NARROW_THREADS, NARROW, true)
ENTRY(experts_up_wide, WIDE_THREADS, WIDE, true)
ENTRY(experts_up_plain, EXPERT_PLAIN_TILE * EXPERT_PLAIN_TILE, PLAIN, true)
ENTRY(experts_down_narrow, NARROW_THREADS, NARROW, false)
ENTRY(experts_down_wide, WIDE_THREADS, WIDE, false)
ENTRY(experts_down_plain, EXPERT_PLAIN_TILE * EXPERT_PLAIN_TILE, PLAIN, false)

// out[r] = sum over j of weight * parts[r, j]: f32 sums, rounded once.
__global__ void combine_experts(const CombineExperts a) {
  begin();
  const u32 r = blockIdx.x, top_k = a.top_k, width = a.width;
  const float* weight = a.routes + (u64)r * 2 * top_k + top_k;
  const act* from = a.parts + (u64)r * top_k * width;
  act* to = a.out + (u64)r * width;
  const u32 thread = blockIdx.y * blockDim.x + threadIdx.x, threads = gridDim.y * blockDim.x;
  if (width % 8 == 0) {
    for (u32 i = thread * 8; i < width; i += threads * 8) {
      float sum[8] = {};
      for (u32 j = 0; j < top_k; j++) {
        float part[8];
        load8(from + (u64)j * width + i, part);
#pragma unroll
        for (int n = 0; n < 8; n++) sum[n] += weight[j] * part[n];
      }
      store8(to + i, sum);
    }
  } else {
    for (u32 i = thread; i < width; i += threads) {
      float sum = 0.f;
      for (u32 j = 0; j < top_k; j++) sum += weight[j] * to_f32(from[(u64)j * width + i]);
      to[i] = from_f32<act>(sum);
    }
  }
}

// out[r] += sigmoid(x[r] . gate) * delta[r].
__global__ void add_gated(const AddGated a) {
  begin();
  __shared__ float scratch[32];
  const u64 row = (u64)blockIdx.x * a.width;
  float dot = 0.f;
  for (u32 i = threadIdx.x; i < a.width; i += blockDim.x) dot += to_f32(a.x[row + i]) * a.gate[i];
  const float share = 1.f / (1.f + expf(-block_sum(dot, scratch)));
  for (u32 i = threadIdx.x; i < a.width; i += blockDim.x)
    a.out[row + i] = from_f32<act>(to_f32(a.out[row + i]) + share * to_f32(a.delta[row + i]));
}

// Attention of vision towers on tensor cores, for half types: each row over all rows of its span,
// an image or a window of it; q, k and v lie in one row, there are no pages. Heads are a multiple
// of 8 up to 128 wide; the tile is of 64, 80, 96 or 128, and what a head lacks of it is zeros.
//
// Grid (tiles, heads). The host cuts spans into tiles of rows (SpanTile), which see one range of
// keys. A warp has 16 rows: their q as operands in registers, scores of 64 keys, the online
// softmax, the sum of values. K and V of 64 keys come by cp.async into a ring of two stages (45 KiB
// at 80).
//
//   short  four warps, 64 rows: windows.
//   long   eight warps, 128 rows: whole images, whose keys are read half as often from L2.
//
// FLOPs: 4 x rows x keys x dim of the tile. Bytes: K and V of the span for each tile of rows, from
// L2; a picture of 1024 x 1024 has 5476 patches, whose K and V are 1.7 MB a head. Bound of long: as
// of `chunk` in attention_mma.cu. A tile of 128 x 64 at 80 takes mma.sync 1040 clocks at its six
// tenths of the peak of wgmma, and the softmax 590 of instructions and 512 of exponentials beside
// them. What would be next: wgmma, with V in panels of 16 columns, for 80 is no multiple of 64.
#include "abi_vision.h"
#include "attention_tile.cuh"

// f32 has no code here: the device never launches these for it.
#if ACT != 0
template <int D, int WARPS>
struct SpanRows {
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int PIECES = D / 8;
  static constexpr int TILES = KEYS / 8;
  using Operands = OperandTile<D>;

  u32 lane, warp;
  u32 q[D / 16][4];
  float o[D / 8][4];
  float row_max[2], row_sum[2];

  // A thread has two rows, relative to the tile.
  __device__ u32 row(int half) const { return warp * 16 + lane / 4 + half * 8; }

  __device__ void load_q(const AttendSpans& a, const SpanTile& tile) {
    lane = threadIdx.x % 32;
    warp = threadIdx.x / 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = row(half);
      const u64 at = (u64)(tile.first + min(r, tile.count - 1)) * 3 * a.heads + blockIdx.y;
      const act* from = a.qkv + at * a.dim;
#pragma unroll
      for (int s = 0; s < D / 16; s++) {
#pragma unroll
        for (int high = 0; high < 2; high++) {
          const u32 i = Operands::offset(lane, s, high);
          q[s][2 * high + half] = i < a.dim ? *reinterpret_cast<const u32*>(from + i) : 0;
        }
      }
      row_max[half] = LOWEST;
      row_sum[half] = 0.f;
    }
#pragma unroll
    for (int t = 0; t < D / 8; t++) o[t][0] = o[t][1] = o[t][2] = o[t][3] = 0.f;
  }

  // Start copying K and V of the keys from `first` on; those at `end` and beyond become zeros.
  __device__ static void fetch(const AttendSpans& a, u32 first, u32 end, u32 stage) {
    const u64 heads = (u64)a.heads * a.dim;
    const act* keys = a.qkv + heads + (u64)blockIdx.y * a.dim;
    for (u32 n = threadIdx.x; n < KEYS * PIECES; n += THREADS) {
      const u32 key = n / PIECES, piece = n % PIECES;
      const bool valid = first + key < end && piece * 8 < a.dim;
      const act* from = keys + (u64)min(first + key, end - 1) * 3 * heads;
      if (piece * 8 < a.dim) from += piece * 8;
      const u32 to = stage + Operands::at(key, piece);
      copy_async(to, from, valid);
      copy_async(to + Operands::BYTES, from + heads, valid);
    }
  }

  // Scores times `scale` (above 0) become weights; what there was shrinks.
  __device__ void online_softmax(float scale, float (&s)[TILES][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float peak = -INFINITY;
#pragma unroll
      for (int n = 0; n < TILES; n++)
        peak = fmaxf(peak, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
      peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
      peak = fmaxf(row_max[half], peak * scale);
      if (__any_sync(~0u, peak > row_max[half])) {
        const float shrink = exp2_fast(row_max[half] - peak);
        row_max[half] = peak;
        row_sum[half] *= shrink;
#pragma unroll
        for (int t = 0; t < D / 8; t++) {
          o[t][2 * half] *= shrink;
          o[t][2 * half + 1] *= shrink;
        }
      }
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          s[n][i] = exp2_fast(fmaf(s[n][i], scale, -peak));
          row_sum[half] += s[n][i];
        }
      }
    }
  }

  // K and V at `stage` are of keys of which so many count.
  __device__ void add_tile(float scale, u32 stage, u32 count) {
    float s[TILES][4] = {};
    Operands::multiply_keys(stage, 0, lane, q, s);
    // The last tile alone: elsewhere the softmax is what keeps tensor cores waiting.
    if (count < KEYS) {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (n * 8 + lane % 4 * 2 + i % 2 >= count) s[n][i] = -INFINITY;
      }
    }
    online_softmax(scale, s);

    u32 p[TILES / 2][4];
#pragma unroll
    for (int k = 0; k < TILES / 2; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float* pair = &s[2 * k + i / 2][i % 2 * 2];
        p[k][i] = pack(pair[0], pair[1]);
      }
    }
    Operands::multiply_values(stage + Operands::BYTES, 0, lane, p, o);
  }

  __device__ void write(const AttendSpans& a, const SpanTile& tile) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = row_sum[half];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      if (row(half) >= tile.count) continue;
      act* out = a.out + ((u64)(tile.first + row(half)) * a.heads + blockIdx.y) * a.dim;
      const float inverse = 1.f / total;
#pragma unroll
      for (int t = 0; t < D / 8; t++) {
        const u32 i = Operands::column(lane, t, 0);
        if (i >= a.dim) continue;
        const u32 both = pack_act(o[t][2 * half] * inverse, o[t][2 * half + 1] * inverse);
        *reinterpret_cast<u32*>(out + i) = both;
      }
    }
  }

  __device__ void run(const AttendSpans& a) {
    const SpanTile tile = a.tiles[blockIdx.x];
    const u32 shared = shared_address(dynamic_shared);
    load_q(a, tile);
    fetch(a, tile.begin, tile.end, shared);
    commit();
    const float scale = a.scale * LOG2E;
    u32 stage = 0;
    for (u32 first = tile.begin; first < tile.end; first += KEYS, stage ^= 1) {
      if (first + KEYS < tile.end)
        fetch(a, first + KEYS, tile.end, shared + (stage ^ 1) * Operands::STAGE);
      commit();
      wait<1>();
      __syncthreads();
      add_tile(scale, shared + stage * Operands::STAGE, tile.end - first);
      // All are done with the stage that is filled next.
      __syncthreads();
    }
    write(a, tile);
  }
};

#define RUN(D, WARPS) \
  SpanRows<D, WARPS> rows; \
  rows.run(a)
#else
#define RUN(D, WARPS) (void)a
#endif

// As many blocks fit a multiprocessor as sums of so many columns leave them the registers: one's
// softmax runs beside another's products, and windows, which are a tile each, are copies and waits.
#define HEAD_SIZE(D, SHORT_BLOCKS, LONG_BLOCKS)                                           \
  __global__ void __launch_bounds__(2 * SHORT_SPAN_ROWS, SHORT_BLOCKS)                    \
      spans_short_##D(const AttendSpans a) {                                              \
    begin();                                                                              \
    RUN(D, SHORT_SPAN_ROWS / 16);                                                         \
  }                                                                                       \
  __global__ void __launch_bounds__(2 * LONG_SPAN_ROWS, LONG_BLOCKS)                      \
      spans_long_##D(const AttendSpans a) {                                               \
    begin();                                                                              \
    RUN(D, LONG_SPAN_ROWS / 16);                                                          \
  }

HEAD_SIZE(64, 1, 2)
HEAD_SIZE(80, 4, 2)
HEAD_SIZE(96, 4, 2)
HEAD_SIZE(128, 3, 1)

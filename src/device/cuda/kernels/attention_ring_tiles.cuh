// What attention_ring_sm90.cu multiplies: tiles of keys in swizzled panels against up to eight
// packed rows, or up to sixteen. Four warps, each with 16 of a tile's 64 keys.
#pragma once
#include "attention_tile.cuh"

#if ACT != 0 && ARCH == 90
// K or V of a tile, as boxes leave them: panels of 64 elements, 128 bytes of each key, whose pieces
// of 16 bytes are swizzled by the key, so that ldmatrix has no conflicts.
template <int D>
struct PanelTile {
  static constexpr int PIECES = D / 8;
  static constexpr float UNIT = 1.f;
  static constexpr bool OWN_SCALE = false;
  static constexpr u32 PANEL = KEYS * 128;
  static constexpr u32 BYTES = D / 64 * PANEL;

  // Of the first of the two elements that register `high` of step `step` of q holds.
  static __device__ u32 offset(u32 lane, u32 step, u32 high) {
    return step * 16 + high * 8 + lane % 4 * 2;
  }
  // Of piece `piece`, an even number, or of the one behind it, in a row: `turned` is 16 times the
  // row's number, the lowest bit flipped for the latter.
  static __device__ u32 piece_at(u32 turned, u32 piece) {
    return (turned ^ piece % 8 * 16) + piece / 8 * PANEL;
  }

  template <int NT>
  static __device__ void multiply_keys(u32 keys, u32 row, u32 lane, const u32 (&q)[D / 16][4],
                                       float (&s)[NT][4]) {
    const u32 matrix = lane / 8, turned = (matrix % 2 ^ lane % 8) * 16;
    const u32 start = keys + (row + matrix / 2 * 8 + lane % 8) * 128;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
#pragma unroll
      for (int n = 0; n < NT; n += 2) {
        u32 b[4];
        load_matrices(b, start + piece_at(turned, 2 * k) + n * 8 * 128);
        multiply(s[n], q[k], b[0], b[1]);
        multiply(s[n + 1], q[k], b[2], b[3]);
      }
    }
  }

  template <int KT>
  static __device__ void multiply_values(u32 values, u32 row, u32 lane, const u32 (&p)[KT][4],
                                         float (&o)[D / 8][4]) {
    const u32 matrix = lane / 8, turned = (matrix / 2 ^ lane % 8) * 16;
    const u32 start = values + (row + matrix % 2 * 8 + lane % 8) * 128;
#pragma unroll
    for (int k = 0; k < KT; k++) {
#pragma unroll
      for (int t = 0; t < D / 8; t += 2) {
        u32 b[4];
        load_transposed(b, start + piece_at(turned, t) + k * 16 * 128);
        multiply(o[t], p[k], b[0], b[1]);
        multiply(o[t + 1], p[k], b[2], b[3]);
      }
    }
  }
};

// What is merged: sums, maxima and sums of weights of RING_MERGED_ROWS rows of each warp.
template <int D>
struct Merged {
  static constexpr u32 ROW = D + 4, ROWS = SPLIT_THREADS / 32 * RING_MERGED_ROWS;
  float sums[ROWS][ROW];
  float maxima[ROWS], weights[ROWS];
};

__device__ __forceinline__ u32 transpose_matrix(u32 x) {
  u32 y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// At most eight packed rows: K q^T and V^T p^T, in which they are the eight columns. Half the
// products and registers of sixteen.
template <int D>
struct NarrowTile {
  typedef PanelTile<D> Panels;
  static constexpr int STEPS = D / 16;
  static constexpr u32 ROWS = RING_NARROW_ROWS;
  // Each warp reads its own of a tile's keys.
  static constexpr bool READS_ALL_KEYS = false;

  u32 lane, warp;
  u32 q[STEPS][2];
  float o[STEPS][4];
  float s[4];
  u32 p[2];
  float row_max[2], row_sum[2];
  u32 sees[2], seen_to[2];  // the keys that this thread's two columns see

  __device__ void begin(const PagedAttention& c, const WorkItem* item, u32 count) {
    lane = threadIdx.x % 32;
    warp = threadIdx.x / 32;
    const u32 kv = KV_HEAD, group = c.heads / c.kv_heads;
    // Rows beyond the last are the first one again: nobody reads what becomes of them.
    const u32 r = lane / 4, packed = item->begin + (r < count ? r : 0);
    load_q(c.qkv + (u64)(item->first_row + packed / group) * c.row_width +
           (u64)(kv * group + packed % group) * D);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const u32 column = lane % 4 * 2 + i;
      const u32 token = (item->begin + (column < count ? column : 0)) / group;
      const SeenKeys keys(c, item->first_row + token);
      sees[i] = keys.from;
      seen_to[i] = keys.to;
    }
    clear();
  }

  // Of rows of one token, `pitch` elements apart, all of which see these keys.
  __device__ void begin_turned(const act* rows, u32 pitch, u32 count, const SeenKeys& keys) {
    lane = threadIdx.x % 32;
    warp = threadIdx.x / 32;
    const u32 r = lane / 4;
    load_q(rows + (r < count ? r : 0) * pitch);
    sees[0] = sees[1] = keys.from;
    seen_to[0] = seen_to[1] = keys.to;
    clear();
  }

  __device__ void load_q(const act* from) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
      for (int high = 0; high < 2; high++)
        q[k][high] = *reinterpret_cast<const u32*>(from + Panels::offset(lane, k, high));
    }
  }

  __device__ void clear() {
    row_max[0] = row_max[1] = LOWEST;
    row_sum[0] = row_sum[1] = 0.f;
#pragma unroll
    for (int t = 0; t < STEPS; t++) o[t][0] = o[t][1] = o[t][2] = o[t][3] = 0.f;
  }

  __device__ void scores(const PagedAttention& c, u32 keys, u32 first, u32 end, bool mask) {
    const u32 matrix = lane / 8, turned = (matrix / 2 ^ lane % 8) * 16;
    const u32 start = keys + (warp * 16 + matrix % 2 * 8 + lane % 8) * 128;
    // Two sums take turns: neither waits for its own last product.
    float odd[4] = {};
    s[0] = s[1] = s[2] = s[3] = 0.f;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
      u32 a[4];
      load_matrices(a, start + Panels::piece_at(turned, 2 * k));
      multiply(k % 2 ? odd : s, a, q[k][0], q[k][1]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float x = (s[i] + odd[i]) * c.scale;
      if (c.softcap != 0.f) x = c.softcap * tanh_fast(x / c.softcap);
      s[i] = x * LOG2E;
      if (mask) {
        const u32 key = first + warp * 16 + lane / 4 + i / 2 * 8;
        const bool seen = key < end && key < seen_to[i % 2] && key >= sees[i % 2];
        if (!seen) s[i] = -INFINITY;
      }
    }
  }

  // Scores become weights, and these an operand.
  __device__ void weigh() {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      float peak = fmaxf(row_max[j], fmaxf(s[j], s[2 + j]));
#pragma unroll
      for (int d = 4; d < 32; d *= 2) peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, d));
      // Most tiles have no score above all before: then no sum shrinks.
      if (__any_sync(~0u, peak > row_max[j])) {
        const float shrink = exp2_fast(row_max[j] - peak);
        row_max[j] = peak;
        row_sum[j] *= shrink;
#pragma unroll
        for (int t = 0; t < STEPS; t++) {
          o[t][j] *= shrink;
          o[t][2 + j] *= shrink;
        }
      }
      s[j] = exp2_fast(s[j] - peak);
      s[2 + j] = exp2_fast(s[2 + j] - peak);
      row_sum[j] += s[j] + s[2 + j];
    }
    p[0] = transpose_matrix(pack(s[0], s[1]));
    p[1] = transpose_matrix(pack(s[2], s[3]));
  }

  __device__ void add_values(u32 values) {
    const u32 matrix = lane / 8, turned = (matrix % 2 ^ lane % 8) * 16;
    const u32 start = values + (warp * 16 + matrix / 2 * 8 + lane % 8) * 128;
#pragma unroll
    for (int t = 0; t < STEPS; t++) {
      u32 a[4];
      load_transposed(a, start + Panels::piece_at(turned, 2 * t));
      multiply(o[t], a, p[0], p[1]);
    }
  }

  // A column's weights lie with eight threads.
  __device__ void sum_rows() {
#pragma unroll
    for (int j = 0; j < 2; j++) {
#pragma unroll
      for (int d = 4; d < 32; d *= 2) row_sum[j] += __shfl_xor_sync(~0u, row_sum[j], d);
    }
  }

  // Rows from `begin` on, to be merged.
  __device__ void leave(Merged<D>& m, u32 begin) const {
    if (lane % 4 * 2 / RING_MERGED_ROWS != begin / RING_MERGED_ROWS) return;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const u32 r = warp * RING_MERGED_ROWS + lane % 4 * 2 % RING_MERGED_ROWS + j;
#pragma unroll
      for (int t = 0; t < STEPS; t++) {
        m.sums[r][t * 16 + lane / 4] = o[t][j];
        m.sums[r][t * 16 + 8 + lane / 4] = o[t][2 + j];
      }
      if (lane < 4) {
        m.maxima[r] = row_max[j];
        m.weights[r] = row_sum[j];
      }
    }
  }
};

// Up to sixteen: the tile of attention_mma.cu over panels.
template <int D>
struct WideTile : Tile<PanelTile<D>, D, 1, SPLIT_THREADS / 32> {
  typedef Tile<PanelTile<D>, D, 1, SPLIT_THREADS / 32> Base;
  static constexpr u32 ROWS = SPLIT_ROWS;
  static constexpr bool READS_ALL_KEYS = false;
  float s[Base::NT][4];

  __device__ void begin(const PagedAttention& c, const WorkItem* item, u32 count) {
    this->begin_item(c, item, count);
  }
  __device__ void scores(const PagedAttention& c, u32 keys, u32 first, u32 end, bool mask) {
    Base::scores(c, keys, first, end, mask, s);
  }
  __device__ void weigh() { this->online_softmax(s); }
  __device__ void add_values(u32 values) { this->gather_values(values, s); }

  __device__ void leave(Merged<D>& m, u32 begin) const {
    const u32 row = this->lane / 4;
    const bool high = begin >= 8;
    if (row / RING_MERGED_ROWS != begin % 8 / RING_MERGED_ROWS) return;
    const u32 r = this->wn * RING_MERGED_ROWS + row % RING_MERGED_ROWS;
#pragma unroll
    for (int t = 0; t < D / 8; t++)
      *reinterpret_cast<float2*>(&m.sums[r][t * 8 + this->lane % 4 * 2]) =
          high ? make_float2(this->o[t][2], this->o[t][3])
               : make_float2(this->o[t][0], this->o[t][1]);
    if (this->lane % 4 == 0) {
      m.maxima[r] = high ? this->row_max[1] : this->row_max[0];
      m.weights[r] = high ? this->row_sum[1] : this->row_sum[0];
    }
  }
};
#endif

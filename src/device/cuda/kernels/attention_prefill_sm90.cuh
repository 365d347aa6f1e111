// Prompts on Hopper by wgmma, whatever lies in pages: scores and values of a tile out of shared
// memory, the online softmax between them, the result, for the 64 packed rows of a warpgroup.
// attention_prefill_sm90.cu has pages of the activations' type, attention_prefill_fp8_sm90.cu those
// of eight bits.
#pragma once
#include "attention_mma.cuh"
#include "warpgroup.cuh"

#if ARCH == 90 && ACT != 0
// Four lanes' rows of four become columns: x[i] is what lane i of the four had at this lane's
// place.
__device__ __forceinline__ void turn_quad(u32 (&x)[4]) {
  const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const u32 got = __shfl_xor_sync(~0u, odd ? x[i] : x[i + 1], 1);
    if (odd) x[i] = got;
    else x[i + 1] = got;
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const u32 got = __shfl_xor_sync(~0u, high ? x[i] : x[i + 2], 2);
    if (high) x[i] = got;
    else x[i + 2] = got;
  }
}

// OWN_SCALE: rows of q were brought to a size of their own, scores have a scale by row. HOLDS_Q:
// each thread keeps its part of Q in registers, else each product reads it out of shared memory.
template <int D, int ROWS, int KEYS, bool OWN_SCALE, bool HOLDS_Q>
struct PromptTile {
  // K and V: eights of rows, of each its panels.
  static constexpr u32 EIGHT = D / PANEL_COLUMNS * PANEL_EIGHT_BYTES;
  static constexpr u32 ROW_PANEL = ROWS * PANEL_ROW_BYTES;
  static constexpr u32 TILE = KEYS * D * 2;  // bytes of a K or a V
  static constexpr int STEPS = D / 16;  // of the inner dimension of scores
  static constexpr u32 NOWHERE = ~0u;

  u32 lane, row0;  // of this warp's 16 rows
  u32 place[2];  // of this thread's two packed rows in the output, in units of 16 bytes
  u32 held[HOLDS_Q ? STEPS : 1][4];
  float s[KEYS / 2];
  float o[D / 2];
  u32 p[KEYS / 16][4];
  float row_max[2], row_sum[2];
  float own_scale[2];
  u32 sees[2], seen_to[2];  // the keys that the two packed rows of this thread see

  // Where 16-byte piece `piece` of a key lies in a K or a V.
  __device__ static u32 place_of(u32 key, u32 piece) {
    return key / 8 * EIGHT + swizzled(key % 8, piece, 8);
  }

  __device__ u32 row(int half) const { return row0 + lane / 4 + half * 8; }

  // Nothing is summed yet: of weights, and of values.
  __device__ void clear_weights() {
    row_max[0] = row_max[1] = LOWEST;
    row_sum[0] = row_sum[1] = 0.f;
  }
  __device__ void clear_values() {
#pragma unroll
    for (int i = 0; i < D / 2; i++) o[i] = 0.f;
  }

  // q of packed row r; the last one's for those beyond it.
  __device__ static const act* row_of_q(const PagedAttention& c, const WorkItem& item, u32 kv,
                                        u32 r) {
    const u32 group = c.heads / c.kv_heads;
    const u64 width = c.row_width;
    const u32 packed = item.begin + min(r, item.count - 1);
    const u64 token = item.first_row + packed / group;
    return c.qkv + token * width + (u64)(kv * group + packed % group) * D;
  }

  // Of this warp's rows, once all of Q is in shared memory.
  __device__ void hold_q(u32 q) {
    if constexpr (HOLDS_Q) {
#pragma unroll
      for (int k = 0; k < STEPS; k++)
        load_matrices(held[k], q + swizzled(row0 + lane % 16, 2 * k + lane / 16, ROWS));
    }
  }

  // s = Q K, in flight; addresses in shared memory.
  __device__ void start_scores(u32 q, u32 keys) {
    const u64 a = describe(q + row0 / 64 * 64 * PANEL_ROW_BYTES, 16);
    const u64 b = describe(keys, 16, EIGHT);
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
      // Four steps of the inner dimension fill a row of a panel.
      const u32 column = k % 4 * 32;
      const u64 b_step = b + (k / 4 * PANEL_EIGHT_BYTES + column) / 16;
      if constexpr (HOLDS_Q) multiply_inner(s, held[k], b_step, k > 0);
      else multiply_shared(s, a + (k / 4 * ROW_PANEL + column) / 16, b_step, k > 0);
    }
    submit();
  }

  // o += weights * V, in flight.
  __device__ void start_values(u32 values) {
    const u64 b = describe(values, PANEL_EIGHT_BYTES, EIGHT);
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) multiply_registers(o, p[k], b + 2 * k * EIGHT / 16, 1);
    submit();
  }

  // The products that add values have ended.
  __device__ void finish_values() {
    finish<0>();
    hold(o);
  }

  __device__ float scale(const PagedAttention& c, int half) const {
    if constexpr (OWN_SCALE) return own_scale[half];
    else return c.scale;
  }

  // One step of the online softmax over a tile that starts at key `first`: scores become weights.
  // The sums so far shrink by what is returned.
  __device__ float2 online_softmax(const PagedAttention& c, u32 first, bool mask) {
    float factor[2] = {scale(c, 0) * LOG2E, scale(c, 1) * LOG2E};
    if (c.softcap != 0.f) {
#pragma unroll
      for (int i = 0; i < KEYS / 2; i++)
        s[i] = tanh_fast(s[i] * (scale(c, i / 2 % 2) / c.softcap));
      factor[0] = factor[1] = c.softcap * LOG2E;
    }
    if (mask) {
#pragma unroll
      for (int i = 0; i < KEYS / 2; i++) {
        const u32 key = first + i / 4 * 8 + lane % 4 * 2 + i % 2, half = i / 2 % 2;
        if (key >= seen_to[half] || key < sees[half]) s[i] = -INFINITY;
      }
    }
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float peak = -INFINITY;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
        peak = fmaxf(peak, fmaxf(s[4 * n + 2 * half], s[4 * n + 2 * half + 1]));
      peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
      peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
      peak = fmaxf(row_max[half], peak * factor[half]);
      shrink[half] = exp2_fast(row_max[half] - peak);
      row_max[half] = peak;
      float sum = 0.f;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 4 * n + 2 * half; i < 4 * n + 2 * half + 2; i++)
          s[i] = exp2_fast(fmaf(s[i], factor[half], -peak));
        sum += s[4 * n + 2 * half] + s[4 * n + 2 * half + 1];
      }
      row_sum[half] = row_sum[half] * shrink[half] + sum;
    }
    return make_float2(shrink[0], shrink[1]);
  }

  // The sums so far shrink, the weights become the left operand of the next product. Most tiles of
  // a prompt hold no larger score than those before them.
  __device__ void prepare_values(float2 shrink) {
    if (__any_sync(~0u, shrink.x != 1.f || shrink.y != 1.f)) {
#pragma unroll
      for (int i = 0; i < D / 2; i++) o[i] *= i / 2 % 2 ? shrink.y : shrink.x;
    }
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) p[k][i] = pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
    }
  }

  // Where the rows of an item go.
  __device__ void aim(const PagedAttention& c, const WorkItem& item, u32 kv) {
    const u32 group = c.heads / c.kv_heads;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = row(half), packed = item.begin + r, token = item.first_row + packed / group;
      const u32 at = (token * c.heads + kv * group + packed % group) * (D / 8);
      place[half] = r < item.count ? at : NOWHERE;
    }
  }

  // What the result of an item needs beside its values: the next one's weights may have begun.
  struct Ended {
    u32 place[2];
    float scale[2];
  };
  __device__ Ended end(const PagedAttention& c) const {
    Ended ended;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = row_sum[half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const u32 head = place[half] / (D / 8) % c.heads;
      ended.place[half] = place[half];
      ended.scale[half] = c.value_scale / (sum + weight_of_sink(c, head, row_max[half]));
    }
    return ended;
  }

  // Lanes turn their pairs of columns into eights: 16 bytes each, 64 of a row.
  __device__ void write(const PagedAttention& c, const Ended& ended) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      uint4* const to = reinterpret_cast<uint4*>(c.out) + ended.place[half] + lane % 4;
      const float scale = ended.scale[half];
#pragma unroll
      for (int n = 0; n < D / 8; n += 4) {
        u32 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float* pair = &o[(n + i) * 4 + 2 * half];
          x[i] = pack_act(pair[0] * scale, pair[1] * scale);
        }
        turn_quad(x);
        if (ended.place[half] != NOWHERE) to[n] = make_uint4(x[0], x[1], x[2], x[3]);
      }
    }
  }
};
#endif

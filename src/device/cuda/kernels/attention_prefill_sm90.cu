// Paged causal attention over prompts on Hopper, for half types and head sizes 64, 128 and 256: the
// chunks of attention_mma.cu by wgmma. Same work list, any page size, window and soft cap.
//
// A block has 128 packed rows (token r / group, head r % group), two warpgroups with 64 each, and
// goes through tiles of 128 keys (64 where the head size is 256: registers). Q, K and V lie in
// shared memory in swizzled panels (warpgroup.cuh), K and V in two stages each, brought by cp.async
// because a page is shorter than a tile. A round computes the scores of the next tile and, in
// flight beside them, the values of this one; the softmax of the next tile runs under the latter.
// One barrier a round: it hands over the next K and this V, and frees the K and the V before.
//
// Shared memory at 128: Q 32 KiB, four tiles of 32 KiB. Registers: O 64, scores 64, weights 32 a
// thread. FLOPs: 4 x rows x keys x dim; the tensor cores need 2048 clocks for both groups' round of
// 128 x 128 x 128, the exponentials 1024 beside them. Bytes: K and V once per 128 packed rows, from
// L2. Measured on an H200: 410-450 TFLOP/s from 4096 tokens on (ci/runs). What lies between that
// and the floor: both groups do their softmax at the same time, for the barrier keeps them in step;
// groups that take turns, with K and V handed over by mbarriers, are the next step.
#include "attention_mma.cuh"
#include "warpgroup.cuh"

#if ARCH == 90 && ACT != 0
#define ROWS PROMPT_ROWS
#define THREADS CHUNK_THREADS
#define PLACES 4

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Off by a few 1e-7 whatever x: 1 - 2 / (1 + e^2x), without tanhf's branches.
__device__ __forceinline__ float tanh_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.f + exp2_fast(2.f * LOG2E * x)));
  return 1.f - 2.f * y;
}

template <int D>
struct Prompt {
  static constexpr int KEYS = D == 256 ? PROMPT_KEYS_OF_256 : PROMPT_KEYS;
  static constexpr int PIECES = D / 8;  // of 16 bytes, in a row
  static constexpr u32 KEY_PANEL = KEYS * PANEL_ROW_BYTES;
  static constexpr u32 ROW_PANEL = ROWS * PANEL_ROW_BYTES;
  static constexpr u32 TILE = KEYS * D * 2;  // bytes of a K or a V
  static constexpr int WIDTH = D < 128 ? D : 128;  // columns of O by one instruction
  static constexpr int WIDTHS = D / WIDTH;

  u32 lane, row0;  // of this warp's 16 rows
  u32 q, keys, values;  // addresses in shared memory; stage s of K is at keys + s * TILE
  float s[KEYS / 2];
  float o[WIDTHS][WIDTH / 2];
  u32 p[KEYS / 16][4];
  float row_max[2], row_sum[2];
  u32 at[2];  // positions of the two packed rows of this thread

  __device__ u32 row(int half) const { return row0 + lane / 4 + half * 8; }

  __device__ void load_q(const PagedAttention& c, const WorkItem* item, u32 kv, u32 group) {
    const u64 width = (u64)(c.heads + 2 * c.kv_heads) * D;
    const u32 count = item->count;
#pragma unroll
    for (int i = 0; i < ROWS * PIECES / THREADS; i++) {
      const u32 n = i * THREADS + threadIdx.x, r = n / PIECES, piece = n % PIECES;
      const u32 packed = item->begin + min(r, count - 1);
      const u64 token = item->first_row + packed / group;
      const act* from = c.qkv + token * width + (u64)(kv * group + packed % group) * D;
      copy_async(q + swizzled(r, piece, ROWS), from + piece * 8, true);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 packed = item->begin + min(row(half), count - 1);
      at[half] = c.position[item->first_row + packed / group];
    }
#pragma unroll
    for (int w = 0; w < WIDTHS; w++) {
#pragma unroll
      for (int i = 0; i < WIDTH / 2; i++) o[w][i] = 0.f;
    }
    row_max[0] = row_max[1] = LOWEST;
    row_sum[0] = row_sum[1] = 0.f;
  }

  // Where the K of key `first + threadIdx.x` of this block's head lies, in units of 16 bytes from
  // the pool's start; keys beyond the range are the last one again.
  __device__ static u32 locate(const PagedAttention& c, const u32* table, u32 kv, u32 first,
                               u32 end) {
    const u32 key = min(first + threadIdx.x % KEYS, end - 1);
    const u32 inside = kv * c.page_size + key % c.page_size;
    return (2 * c.kv_heads * c.page_size * table[key / c.page_size] + inside) * PIECES;
  }

  // Start copying the K (V: `skip` elements on) of a tile. Keys beyond the range are the last one
  // again, and masked.
  __device__ static void fetch(const PagedAttention& c, const u32* places, u64 skip, u32 to) {
#pragma unroll
    for (int i = 0; i < KEYS * PIECES / THREADS; i++) {
      const u32 n = i * THREADS + threadIdx.x, r = n / PIECES, piece = n % PIECES;
      const act* from = c.pool + skip + ((u64)places[r] + piece) * 8;
      copy_async(to + swizzled(r, piece, KEYS), from, true);
    }
  }

  // s = Q K of a stage, in flight.
  __device__ void start_scores(u32 stage) {
    const u64 a = describe(q + row0 / 64 * 64 * PANEL_ROW_BYTES, 16);
    const u64 b = describe(keys + stage * TILE, 16);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      // Four steps of the inner dimension fill a row of a panel.
      const u32 column = k % 4 * 32;
      multiply_shared(s, a + (k / 4 * ROW_PANEL + column) / 16,
                      b + (k / 4 * KEY_PANEL + column) / 16, k > 0);
    }
    submit();
  }

  // o += weights * V of a stage, in flight.
  __device__ void start_values(u32 stage) {
    const u64 b = describe(values + stage * TILE, KEY_PANEL);
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
#pragma unroll
      for (int w = 0; w < WIDTHS; w++) {
        const u32 at = k * 16 * PANEL_ROW_BYTES + w * (WIDTH / PANEL_COLUMNS) * KEY_PANEL;
        multiply_registers(o[w], p[k], b + at / 16, 1);
      }
    }
    submit();
  }

  // One step of the online softmax over a tile that starts at key `first`: scores become weights.
  // The sums so far shrink by what is returned.
  __device__ float2 online_softmax(const PagedAttention& c, u32 first, u32 end, bool mask) {
    float factor = c.scale * LOG2E;
    if (c.softcap != 0.f) {
#pragma unroll
      for (int i = 0; i < KEYS / 2; i++) s[i] = tanh_fast(s[i] * (c.scale / c.softcap));
      factor = c.softcap * LOG2E;
    }
    if (mask) {
#pragma unroll
      for (int i = 0; i < KEYS / 2; i++) {
        const u32 key = first + i / 4 * 8 + lane % 4 * 2 + i % 2, mine = at[i / 2 % 2];
        const bool seen = key < end && key <= mine && (c.window == 0 || mine - key < c.window);
        if (!seen) s[i] = -INFINITY;
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
      peak = fmaxf(row_max[half], peak * factor);
      shrink[half] = exp2_fast(row_max[half] - peak);
      row_max[half] = peak;
      float sum = 0.f;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 4 * n + 2 * half; i < 4 * n + 2 * half + 2; i++) {
          s[i] = exp2_fast(fmaf(s[i], factor, -peak));
          sum += s[i];
        }
      }
      row_sum[half] = row_sum[half] * shrink[half] + sum;
    }
    return make_float2(shrink[0], shrink[1]);
  }

  // The end of a round, for the whole block: its values are added, the next K and this V are there,
  // and nobody needs this K and the V before. It stands at the top of the next round, where no
  // compiler moves the wait for the values above the softmax that is to hide it.
  __device__ void sync_stage() {
    finish<0>();
#pragma unroll
    for (int w = 0; w < WIDTHS; w++) hold(o[w]);
    wait<0>();
    publish();
    __syncthreads();
  }

  // The sums so far shrink, the weights become the left operand of the next product.
  __device__ void prepare_values(float2 shrink) {
#pragma unroll
    for (int w = 0; w < WIDTHS; w++) {
#pragma unroll
      for (int i = 0; i < WIDTH / 2; i++) o[w][i] *= i / 2 % 2 ? shrink.y : shrink.x;
    }
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) p[k][i] = pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
    }
  }

  __device__ void run(const PagedAttention& c, const WorkItem* item) {
    __shared__ u32 places[PLACES][KEYS];
    lane = threadIdx.x % 32;
    row0 = threadIdx.x / 32 * 16;
    constexpr u32 ALIGNMENT = PROMPT_ALIGNMENT;
    q = (shared_address(dynamic_shared) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    keys = q + ROWS * D * 2;
    values = keys + PROMPT_STAGES * TILE;
    const u32 kv = blockIdx.y, group = c.heads / c.kv_heads;
    const u32* table = row_of(c.slots, item->slot) + c.slots.pages;
    const u64 slab = (u64)c.kv_heads * c.page_size * D;
    load_q(c, item, kv, group);
    // Positions grow with the packed row: the first sees the fewest keys.
    u32 from = item->keys_from;
    const u32 to = item->keys_to;
    const u32 lowest = c.position[item->first_row + item->begin / group];
    if (c.window != 0 && lowest + 1 > c.window) from = max(from, lowest + 1 - c.window);
    const u32 tiles = (to - from + KEYS - 1) / KEYS;
    // The fewest keys that a row of this warp sees.
    const u32 least = __shfl_sync(~0u, at[0], 0) + 1;
    auto masked = [&](u32 t) { return from + (t + 1) * KEYS > min(least, to) || c.window != 0; };

    if (threadIdx.x < KEYS) {
      places[0][threadIdx.x] = locate(c, table, kv, from, to);
      places[1][threadIdx.x] = locate(c, table, kv, from + KEYS, to);
      places[2][threadIdx.x] = locate(c, table, kv, from + 2 * KEYS, to);
    }
    __syncthreads();
    fetch(c, places[0], 0, keys);
    commit();
    if (tiles > 1) fetch(c, places[1], 0, keys + TILE);
    fetch(c, places[0], slab, values);
    commit();
    wait<1>();
    publish();
    __syncthreads();
    ready();
    start_scores(0);
    finish<0>();
    hold(s);
    float2 shrink = online_softmax(c, from, to, masked(0));
    u32 t = 0;
    for (; t + 1 < tiles; t++) {
      sync_stage();
      if (t + 2 < tiles) fetch(c, places[(t + 2) % PLACES], 0, keys + t % 2 * TILE);
      fetch(c, places[(t + 1) % PLACES], slab, values + (t + 1) % 2 * TILE);
      commit();
      u32 place = 0;
      const bool look = t + 3 < tiles && threadIdx.x < KEYS;
      if (look) place = locate(c, table, kv, from + (t + 3) * KEYS, to);
      prepare_values(shrink);
      ready();
      start_scores((t + 1) % 2);
      start_values(t % 2);
      if (look) places[(t + 3) % PLACES][threadIdx.x] = place;
      finish<1>();
      hold(s);
      shrink = online_softmax(c, from + (t + 1) * KEYS, to, masked(t + 1));
    }
    sync_stage();
    prepare_values(shrink);
    ready();
    start_values(t % 2);
    finish<0>();
#pragma unroll
    for (int w = 0; w < WIDTHS; w++) hold(o[w]);
  }

  __device__ void write(const PagedAttention& c, const WorkItem* item) {
    const u32 kv = blockIdx.y, group = c.heads / c.kv_heads;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 1);
      row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 2);
      const u32 r = row(half);
      if (r >= item->count) continue;
      const u32 packed = item->begin + r;
      const u64 token = item->first_row + packed / group;
      act* to = c.out + (token * c.heads + kv * group + packed % group) * D + lane % 4 * 2;
      const float scale = 1.f / row_sum[half];
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        const float* pair = &o[n * 8 / WIDTH][n * 8 % WIDTH / 2 + 2 * half];
        *reinterpret_cast<u32*>(to + n * 8) = pack(pair[0] * scale, pair[1] * scale);
      }
    }
  }
};

#define PROMPT(D)                                 \
  const WorkItem* item = call.items + blockIdx.x; \
  Prompt<D> prompt;                               \
  prompt.run(call, item);                         \
  prompt.write(call, item)
#else
// The device never launches these where they have no code.
#define PROMPT(D) (void)call
#define THREADS CHUNK_THREADS
#endif

ENTRY(prompt, PROMPT, 64, THREADS, 1)
ENTRY(prompt, PROMPT, 128, THREADS, 1)
ENTRY(prompt, PROMPT, 256, THREADS, 1)

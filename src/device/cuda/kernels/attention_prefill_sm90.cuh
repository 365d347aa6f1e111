// Prompts on Hopper by wgmma, whatever lies in pages: scores and values of a tile out of shared
// memory, the online softmax between them, the result. attention_prefill_sm90.cu has the plan of it
// and the pages of the activations' type, attention_prefill_fp8_sm90.cu those of eight bits.
#pragma once
#include "attention_mma.cuh"
#include "warpgroup.cuh"

#if ARCH == 90 && ACT != 0
#define ROWS PROMPT_ROWS
#define THREADS CHUNK_THREADS
#define PLACES 4

// OWN_SCALE: rows of q were brought to a size of their own, scores have a scale by row.
template <int D, bool OWN_SCALE>
struct PromptTile {
  static constexpr int KEYS = D == 256 ? PROMPT_KEYS_OF_256 : PROMPT_KEYS;
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
  float own_scale[2];
  u32 sees[2], seen_to[2];  // the keys that the two packed rows of this thread see

  __device__ u32 row(int half) const { return row0 + lane / 4 + half * 8; }

  // Places in the block and in shared memory; nothing is summed yet.
  __device__ void begin_item(const PagedAttention& c, const WorkItem* item) {
    lane = threadIdx.x % 32;
    row0 = threadIdx.x / 32 * 16;
    constexpr u32 ALIGNMENT = PROMPT_ALIGNMENT;
    q = (shared_address(dynamic_shared) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    keys = q + ROWS * D * 2;
    values = keys + PROMPT_STAGES * TILE;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 packed = item->begin + min(row(half), item->count - 1);
      const SeenKeys keys(c, item->first_row + packed / (c.heads / c.kv_heads));
      sees[half] = keys.from;
      seen_to[half] = keys.to;
    }
#pragma unroll
    for (int w = 0; w < WIDTHS; w++) {
#pragma unroll
      for (int i = 0; i < WIDTH / 2; i++) o[w][i] = 0.f;
    }
    row_max[0] = row_max[1] = LOWEST;
    row_sum[0] = row_sum[1] = 0.f;
  }

  // q of packed row r; the last one's for those beyond it.
  __device__ static const act* row_of_q(const PagedAttention& c, const WorkItem* item, u32 r) {
    const u32 kv = blockIdx.y, group = c.heads / c.kv_heads;
    const u64 width = c.row_width;
    const u32 packed = item->begin + min(r, item->count - 1);
    const u64 token = item->first_row + packed / group;
    return c.qkv + token * width + (u64)(kv * group + packed % group) * D;
  }

  // Where the K of key `first + threadIdx.x` of this block's head lies, in units of 16 bytes from
  // the pool's start; keys beyond the range are the last one again.
  template <int PIECES>
  __device__ static u32 locate(const PagedAttention& c, const u32* table, u32 first, u32 end) {
    const u32 key = min(first + threadIdx.x % KEYS, end - 1);
    const u32 inside = blockIdx.y * c.page_size + key % c.page_size;
    return (2 * c.kv_heads * c.page_size * table[key / c.page_size] + inside) * PIECES;
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

  __device__ float scale(const PagedAttention& c, int half) const {
    if constexpr (OWN_SCALE) return own_scale[half];
    else return c.scale;
  }

  // One step of the online softmax over a tile that starts at key `first`: scores become weights.
  // The sums so far shrink by what is returned.
  __device__ float2 online_softmax(const PagedAttention& c, u32 first, u32 end, bool mask) {
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
        const bool seen = key < end && key < seen_to[half] && key >= sees[half];
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
      peak = fmaxf(row_max[half], peak * factor[half]);
      shrink[half] = exp2_fast(row_max[half] - peak);
      row_max[half] = peak;
      float sum = 0.f;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 4 * n + 2 * half; i < 4 * n + 2 * half + 2; i++) {
          s[i] = exp2_fast(fmaf(s[i], factor[half], -peak));
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

  // After the last round: the values of its stage.
  __device__ void finish_values(float2 shrink, u32 stage) {
    sync_stage();
    prepare_values(shrink);
    ready();
    start_values(stage);
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
      const float sink = weight_of_sink(c, kv * group + packed % group, row_max[half]);
      const float scale = c.value_scale / (row_sum[half] + sink);
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        const float* pair = &o[n * 8 / WIDTH][n * 8 % WIDTH / 2 + 2 * half];
        *reinterpret_cast<u32*>(to + n * 8) = pack_act(pair[0] * scale, pair[1] * scale);
      }
    }
  }
};

// The keys of an item that its rows see, and which of them all rows of this warp see.
struct PromptRange {
  u32 from, to, least;

  // `seen_to` is of the calling thread's first row.
  __device__ PromptRange(const PagedAttention& c, const WorkItem* item, u32 seen_to) {
    from = item->keys_from;
    to = item->keys_to;
    // No later row sees earlier keys, or ends before the first one.
    const SeenKeys first(c, item->first_row + item->begin / (c.heads / c.kv_heads));
    from = max(from, first.from);
    least = __shfl_sync(~0u, seen_to, 0);
  }
  __device__ bool masked(const PagedAttention& c, u32 end) const {
    return end > min(least, to) || (c.window | c.chunk) != 0;
  }
};

#define PROMPT(D)                                 \
  begin();                                        \
  const WorkItem* item = call.items + blockIdx.x; \
  Prompt<D> prompt;                               \
  prompt.run(call, item);                         \
  prompt.write(call, item)
#else
// The device never launches these where they have no code.
#define PROMPT(D) (void)call
#define THREADS CHUNK_THREADS
#endif

// The kernels of a file that has a `Prompt`.
#define PROMPTS(NAME)                  \
  ENTRY(NAME, PROMPT, 64, THREADS, 1)  \
  ENTRY(NAME, PROMPT, 128, THREADS, 1) \
  ENTRY(NAME, PROMPT, 256, THREADS, 1)

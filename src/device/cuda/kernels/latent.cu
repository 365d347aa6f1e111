// Around attention over latent vectors, and its simple form (attention_latent.cu has the tiles):
//
//   heads_*              out[r, h] = W_h x[r, h]: the matrices of K into q, those of V out of sums.
//                        heads_few and heads_many multiply by mma m16n8k16, 16 or 64 rows x 64
//                        outputs of a head, 64 inputs a stage; heads_plain is for f32 and for
//                        widths that are no multiple of 8. All add up inputs in one order, so that
//                        the number of rows changes no bit of a row.
//   store_latent         norm the front of a latent vector, rotate its end, write both to a page;
//                        rotate the ends of q's heads. A block for the vector, one for each 16
//                        heads.
//   attend_latent_rows   causal over pages, any widths up to 640, every element type. Block of four
//                        warps per (token row, head); each warp walks every fourth key with its own
//                        online softmax, a lane has every 32nd element.
//
// Bytes of heads_*: W once per tile of rows (from L2 after the first), x once per tile of outputs.
#include "abi_latent.h"
#include "mma.cuh"

#define LOG2E 1.4426950408889634f
#define LOWEST -1e30f

__global__ void __launch_bounds__(HEADS_THREADS) heads_plain(const MultiplyHeads a) {
  begin();
  const u64 row = (u64)blockIdx.x * a.heads + blockIdx.y;
  const act* x = a.x + row * a.x_dim;
  for (u32 o = threadIdx.x; o < a.outputs; o += HEADS_THREADS) {
    const act* w = a.w + ((u64)blockIdx.y * a.outputs + o) * a.inputs;
    float sum = 0.f;
    for (u32 i = 0; i < a.inputs; i++) sum += to_f32(x[i]) * to_f32(w[i]);
    a.out[row * a.out_dim + o] = from_f32<act>(sum);
  }
}

#if ACT != 0
// A tile of 16 WM rows x 64 outputs of a head, by WM warps along rows and 4 / WM along outputs.
template <int WM, int STAGES>
__device__ __forceinline__ void multiply_tile(const MultiplyHeads& a) {
  constexpr u32 WN = 4 / WM, ROWS = 16 * WM, NT = HEADS_OUTPUTS / 8 / WN;
  constexpr u32 PITCH = (HEADS_SLICE + 8) * 2, PIECES = HEADS_SLICE / 8;
  constexpr u32 STAGE = (ROWS + HEADS_OUTPUTS) * PITCH;
  __shared__ __align__(16) u8 tiles[STAGES * STAGE];
  const u32 shared = shared_address(tiles);
  const u32 lane = threadIdx.x % 32, wm = threadIdx.x / 32 % WM, wn = threadIdx.x / 32 / WM;
  const u32 row_tiles = (a.rows + ROWS - 1) / ROWS, head = blockIdx.y;
  const u32 first = blockIdx.x % row_tiles * ROWS, output = blockIdx.x / row_tiles * HEADS_OUTPUTS;
  const u32 slices = (a.inputs + HEADS_SLICE - 1) / HEADS_SLICE;

  // x, then W; what is beyond either is zeros.
  const auto fetch = [&](u32 slice) {
    const u32 stage = shared + slice % STAGES * STAGE;
#pragma unroll
    for (u32 n = threadIdx.x; n < (ROWS + HEADS_OUTPUTS) * PIECES; n += HEADS_THREADS) {
      const u32 line = n / PIECES, k = slice * HEADS_SLICE + n % PIECES * 8;
      const bool is_x = line < ROWS;
      const u32 at = is_x ? first + line : output + line - ROWS;
      const bool valid = k < a.inputs && at < (is_x ? a.rows : a.outputs);
      const act* from = is_x ? a.x + ((u64)at * a.heads + head) * a.x_dim
                             : a.w + ((u64)head * a.outputs + at) * a.inputs;
      copy_async(stage + line * PITCH + n % PIECES * 16, valid ? from + k : a.x, valid);
    }
  };

  float sums[NT][4] = {};
#pragma unroll
  for (u32 s = 0; s + 1 < STAGES; s++) {
    if (s < slices) fetch(s);
    commit();
  }
  for (u32 s = 0; s < slices; s++) {
    wait<STAGES - 2>();
    __syncthreads();
    if (s + STAGES - 1 < slices) fetch(s + STAGES - 1);
    commit();

    const u32 stage = shared + s % STAGES * STAGE, matrix = lane / 8;
    const u32 x = stage + (wm * 16 + matrix % 2 * 8 + lane % 8) * PITCH + matrix / 2 * 16;
    const u32 w = stage + (ROWS + wn * NT * 8 + matrix / 2 * 8 + lane % 8) * PITCH +
                  matrix % 2 * 16;
#pragma unroll
    for (u32 k = 0; k < HEADS_SLICE / 16; k++) {
      u32 rows[4];
      load_matrices(rows, x + k * 32);
#pragma unroll
      for (u32 n = 0; n < NT; n += 2) {
        u32 b[4];
        load_matrices(b, w + n * 8 * PITCH + k * 32);
        multiply(sums[n], rows, b[0], b[1]);
        multiply(sums[n + 1], rows, b[2], b[3]);
      }
    }
  }

#pragma unroll
  for (u32 half = 0; half < 2; half++) {
    const u32 r = first + wm * 16 + half * 8 + lane / 4;
    if (r >= a.rows) continue;
    act* to = a.out + ((u64)r * a.heads + head) * a.out_dim;
#pragma unroll
    for (u32 n = 0; n < NT; n++) {
      const u32 o = output + (wn * NT + n) * 8 + lane % 4 * 2;
      if (o < a.outputs)
        *reinterpret_cast<u32*>(to + o) = pack_act(sums[n][2 * half], sums[n][2 * half + 1]);
    }
  }
}
#define MULTIPLY(WM, STAGES) multiply_tile<WM, STAGES>(a)
#else
#define MULTIPLY(WM, STAGES) (void)a
#endif

// f32 has no code here: the device never launches these for it.
__global__ void __launch_bounds__(HEADS_THREADS) heads_few(const MultiplyHeads a) {
  begin();
  MULTIPLY(1, 4);
}
__global__ void __launch_bounds__(HEADS_THREADS) heads_many(const MultiplyHeads a) {
  begin();
  MULTIPLY(4, 2);
}

// The end of a vector, rotated: elements i and i + half.
__device__ __forceinline__ void rotate(const StoreLatent& a, const act* from, act* to,
                                       const float* cosine, const float* sine, u32 i) {
  const float low = to_f32(from[i]), high = to_f32(from[a.half + i]);
  to[i] = from_f32<act>(low * cosine[i] - high * sine[i]);
  to[a.half + i] = from_f32<act>(high * cosine[i] + low * sine[i]);
}

__global__ void __launch_bounds__(LATENT_THREADS) store_latent(const StoreLatent a) {
  begin();
  __shared__ float cosine[LATENT_MAX_PAIRS], sine[LATENT_MAX_PAIRS], scratch[32];
  const u32 row = blockIdx.x, at = a.position[row], slot = a.slot_of[row];
  if (slot == NO_SLOT) return;
  const u32 half = a.half, rank = a.rank, width = rank + 2 * half;
  for (u32 i = threadIdx.x; i < half; i += LATENT_THREADS) {
    float s, c;
    sincosf((float)at * a.inverse_frequency[i], &s, &c);
    sine[i] = s * a.magnitude;
    cosine[i] = c * a.magnitude;
  }
  __syncthreads();

  if (blockIdx.y > 0) {
    const u32 first = (blockIdx.y - 1) * LATENT_STORE_HEADS;
    const u32 last = min(first + LATENT_STORE_HEADS, a.heads), dim = a.nope + 2 * half;
    for (u32 n = threadIdx.x; n < (last - first) * half; n += LATENT_THREADS) {
      const u64 head = (u64)row * a.heads + first + n / half;
      rotate(a, a.q + head * dim + a.nope, a.queries + head * width + rank, cosine, sine, n % half);
    }
    return;
  }
  const act* latent = a.latent + (u64)row * width;
  const u32 page = row_of(a.slots, slot)[a.slots.pages + at / a.page_size];
  act* to = a.pool + ((u64)page * a.page_size + at % a.page_size) * width;
  float own = 0.f;
  for (u32 i = threadIdx.x; i < rank; i += LATENT_THREADS)
    own += to_f32(latent[i]) * to_f32(latent[i]);
  const float scale = 1.f / sqrtf(sum_of_block(own, scratch) / rank + a.eps);
  for (u32 i = threadIdx.x; i < rank; i += LATENT_THREADS) {
    const float weight = a.weight[i] + (a.kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f);
    to[i] = from_f32<act>(to_f32(latent[i]) * scale * weight);
  }
  for (u32 i = threadIdx.x; i < half; i += LATENT_THREADS)
    rotate(a, latent + rank, to + rank, cosine, sine, i);
}

__global__ void __launch_bounds__(LATENT_THREADS) attend_latent_rows(const AttendLatent a) {
  begin();
  constexpr u32 WARPS = LATENT_THREADS / 32, PER_LANE = LATENT_MAX_WIDTH / 32;
  __shared__ float partial[WARPS][LATENT_MAX_WIDTH], highest[WARPS], total[WARPS];
  const u32 row = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (a.slot_of[row] == NO_SLOT) return;
  const u32* table = row_of(a.slots, a.slot_of[row]) + a.slots.pages;
  const u32 last = a.position[row];
  const act* q = a.queries + ((u64)row * a.heads + head) * a.width;

  float query[PER_LANE], sum[PER_LANE] = {}, row_max = LOWEST, row_sum = 0.f;
#pragma unroll
  for (u32 i = 0; i < PER_LANE; i++)
    query[i] = i * 32 + lane < a.width ? to_f32(q[i * 32 + lane]) : 0.f;
  for (u32 key = warp; key <= last; key += WARPS) {
    const u64 place = (u64)table[key / a.page_size] * a.page_size + key % a.page_size;
    const act* vector = a.pool + place * a.width;
    float x[PER_LANE], score = 0.f;
#pragma unroll
    for (u32 i = 0; i < PER_LANE; i++) {
      x[i] = i * 32 + lane < a.width ? to_f32(vector[i * 32 + lane]) : 0.f;
      score += query[i] * x[i];
    }
    score = warp_sum(score) * a.scale * LOG2E;
    const float peak = fmaxf(row_max, score), shrink = exp2f(row_max - peak);
    const float weight = exp2f(score - peak);
    row_max = peak;
    row_sum = row_sum * shrink + weight;
#pragma unroll
    for (u32 i = 0; i < PER_LANE; i++) sum[i] = sum[i] * shrink + weight * x[i];
  }

#pragma unroll
  for (u32 i = 0; i < PER_LANE; i++) partial[warp][i * 32 + lane] = sum[i];
  if (lane == 0) {
    highest[warp] = row_max;
    total[warp] = row_sum;
  }
  __syncthreads();
  float peak = LOWEST, all = 0.f;
#pragma unroll
  for (u32 w = 0; w < WARPS; w++) peak = fmaxf(peak, highest[w]);
#pragma unroll
  for (u32 w = 0; w < WARPS; w++) all += total[w] * exp2f(highest[w] - peak);
  act* out = a.out + ((u64)row * a.heads + head) * a.rank;
  for (u32 i = threadIdx.x; i < a.rank; i += LATENT_THREADS) {
    float merged = 0.f;
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) merged += partial[w][i] * exp2f(highest[w] - peak);
    out[i] = from_f32<act>(merged / all);
  }
}

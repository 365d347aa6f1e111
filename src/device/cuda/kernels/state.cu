// Layers that keep a state of each sequence: a short convolution, the gated delta rule, and the
// gates behind. All in f32 inside; a row's bits depend on its sequence alone, so that chunks and
// company change none. (Sequences that feed RULE_TOKENS tokens of a step or more go through the
// delta rule in chunks.cu, in half types.)
//
// short_convolution: a thread for each row and channel. The inputs before a row are rows of the
// same step, the slot's tail, or zeros before position 0. A sequence with one row (every one of a
// decode step) moves its tail on at once, since no other thread reads that channel; behind steps
// with chunks `convolution_tails` does it, once all rows were read. Tails behind the rows before
// are spares, which nobody reads meanwhile. Bytes: x and out once, tails in and out.
//
// delta_rule: rows of a matrix do not meet, so a block of four warps has 32 of them, eight in the
// registers of each warp with a lane for each run of columns, and walks through the sequence's rows
// of the step. The matrix is read and written once whatever the step feeds: a decode step moves
// 2 x 4 x value_dim x key_dim bytes per head and is bound by that (a draft writes a spare, half as
// much again); its loads are 512 neighbouring bytes per warp and row at 128 columns, eight in
// flight. A prompt is bound by latency, one token after the other: two sums over a warp are in the
// way from token to token (about 200 cycles), and what a token reads is fetched while the one
// before is computed. Grid (sequences, heads x blocks of rows); in recorded steps (token rows,
// ...), since a recording fits every step of its size. Limits: 256 columns.
#include "state_rows.cuh"

// ---- Convolution ----

// How many rows in front of row r belong to the same sequence, as far as taps reach.
__device__ __forceinline__ u32 rows_before(const u32* slot_of, u32 r, u32 slot, u32 most) {
  u32 count = 0;
  while (count < most && count < r && slot_of[r - 1 - count] == slot) count++;
  return count;
}

// A channel's last inputs.
struct Tail {
  act* first;
  u32 width;
  __device__ act& operator[](u32 i) const { return first[(u64)i * width]; }
};

// The slot's own, or one of its spares: the one behind it by so many.
__device__ __forceinline__ Tail tail_of(const ShortConvolution& a, u32 slot, u32 channel,
                                        u32 spare = 0) {
  const u64 entry = slot * a.slot_bytes + spare * a.entry_bytes;
  return {reinterpret_cast<act*>(a.tails + entry) + channel, a.width};
}

// The inputs up to row r become `to`, where `from` is the tail in front of the step; `before` rows
// of the step are in front of row r. The two may be the same: places are read before they are
// written, as what moves comes from further behind.
__device__ __forceinline__ void move_tail(const ShortConvolution& a, u32 r, u32 channel, u32 before,
                                          Tail from, Tail to) {
  const u32 kept = a.taps - 1;
  for (u32 i = 0; i < kept; i++) {
    const u32 back = kept - 1 - i;
    to[i] = back <= before ? a.x[(u64)(r - back) * a.stride + channel] : from[i + 1 + before];
  }
}

__global__ void short_convolution(const ShortConvolution a) {
  begin();
  const u32 r = blockIdx.x, channel = blockIdx.y * blockDim.x + threadIdx.x;
  if (channel >= a.width) return;
  const u32 slot = a.slot_of[r], at = a.position[r], kept = a.taps - 1;
  act* out = a.out + (u64)r * a.width + channel;
  if (slot == NO_SLOT) {
    *out = from_f32<act>(0.f);
    return;
  }

  const u32 nth = rows_before(a.slot_of, r, slot, max(kept, a.spares)), before = min(nth, kept);
  const Tail tail = tail_of(a, slot, channel);
  const float* weight = a.weight + (u64)channel * a.taps;
  float sum = a.bias ? a.bias[channel] : 0.f;
#pragma unroll 4
  for (u32 tap = 0; tap < a.taps; tap++) {
    const u32 back = kept - tap;
    float x = 0.f;
    if (back <= before) x = to_f32(a.x[(u64)(r - back) * a.stride + channel]);
    else if (back <= at) x = to_f32(tail[kept - (back - before)]);
    sum += weight[tap] * x;
  }
  *out = from_f32<act>(a.silu ? sum * sigmoid(sum) : sum);

  const bool last = r + 1 == a.rows || a.slot_of[r + 1] != slot;
  if (last && before == 0) move_tail(a, r, channel, 0, tail, tail);
  if (!last && nth < a.spares)
    move_tail(a, r, channel, before, tail, tail_of(a, slot, channel, 1 + nth));
}

// Of sequences with several rows in the step; a thread for each row and channel, of which those of
// a sequence's last row have something to do.
__global__ void convolution_tails(const ShortConvolution a) {
  begin();
  const u32 r = blockIdx.x, channel = blockIdx.y * blockDim.x + threadIdx.x;
  const u32 slot = a.slot_of[r];
  const bool last = r + 1 == a.rows || a.slot_of[r + 1] != slot;
  if (channel >= a.width || slot == NO_SLOT || !last) return;
  const u32 before = rows_before(a.slot_of, r, slot, a.taps - 1);
  const Tail tail = tail_of(a, slot, channel);
  if (before > 0) move_tail(a, r, channel, before, tail, tail);
}

// ---- The gated delta rule ----

// What a head reads of a token row.
template <int COLUMNS>
struct Token {
  float q[COLUMNS], k[COLUMNS];
  float v;  // Of the warp's row `lane % 8`.
  float beta, rate;

  // `v_row`: that row of the head, or beyond its last.
  __device__ __forceinline__ void load(const DeltaRule& a, u32 row, u32 head, u32 v_row,
                                       u32 first) {
    const u32 keys = a.key_heads * a.key_dim, values = a.value_heads * a.value_dim;
    const u32 key_head = head / (a.value_heads / a.key_heads);
    const act* mixed = a.mixed + (u64)row * (2 * keys + values);
    const act* const q_row = mixed + key_head * a.key_dim;
    const bool whole = a.key_dim == 32 * COLUMNS && values % COLUMNS == 0;
    load_columns<COLUMNS>(q_row, first, a.key_dim, whole, q);
    load_columns<COLUMNS>(q_row + keys, first, a.key_dim, whole, k);
    v = v_row < a.value_dim ? to_f32(mixed[2 * keys + head * a.value_dim + v_row]) : 0.f;
    const act* rates = a.rates + (u64)row * 2 * a.value_heads + head;
    beta = to_f32(rates[0]);
    rate = to_f32(rates[a.value_heads]);
  }

  // q and k get their lengths; beta becomes the share of an error, rate what is kept.
  __device__ __forceinline__ void prepare(float decay, float rate_bias, float q_scale) {
    float qq = 0.f, kk = 0.f;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) qq += q[c] * q[c], kk += k[c] * k[c];
    qq = warp_sum(qq);
    kk = warp_sum(kk);
    const float q_factor = q_scale / sqrtf(qq + 1e-6f), k_factor = 1.f / sqrtf(kk + 1e-6f);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) q[c] *= q_factor, k[c] *= k_factor;
    beta = sigmoid(beta);
    rate = expf(-decay * softplus(rate + rate_bias));
  }
};

// S = rate S, S += beta (v - S k) k^T: one token. Returns S q of row `lane % 8`.
template <int COLUMNS>
__device__ __forceinline__ float step(float (&s)[ROWS][COLUMNS], const Token<COLUMNS>& token) {
  float dots[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    dots[i] = 0.f;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      s[i][c] *= token.rate;
      dots[i] += s[i][c] * token.k[c];
    }
  }
  const float error = token.beta * (token.v - sums_of_eight(dots));
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const float e = __shfl_sync(~0u, error, i);
    dots[i] = 0.f;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      s[i][c] += e * token.k[c];
      dots[i] += s[i][c] * token.q[c];
    }
  }
  return sums_of_eight(dots);
}

// The rows of the sequence that begins in token row `row`, of eight rows of a head.
template <int COLUMNS>
__device__ __forceinline__ void run(const DeltaRule& a, u32 row, u32 slot, u32 head, u32 v_first) {
  const u32 lane = threadIdx.x % 32, first = lane * COLUMNS, v_row = v_first + lane % ROWS;
  float* const entry = reinterpret_cast<float*>(a.matrices + slot * a.slot_bytes);
  float* const matrix = entry + ((u64)head * a.value_dim + v_first) * a.key_dim;
  const float decay = expf(a.log_decay[head]), rate_bias = a.rate_bias[head];
  const float q_scale = 1.f / sqrtf((float)a.key_dim);

  const bool begins = a.position[row] == 0, whole = a.key_dim == 32 * COLUMNS;
  float s[ROWS][COLUMNS];
#pragma unroll
  for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) s[i][c] = 0.f;
    if (!begins && v_first + i < a.value_dim)
      load_columns<COLUMNS>(matrix + (u64)i * a.key_dim, first, a.key_dim, whole, s[i]);
  }

  // The matrix as it is now, to the sequence's entry or to the one behind it by so many.
  const auto store = [&](u32 behind) {
    float* const there = matrix + behind * (a.entry_bytes / sizeof(float));
#pragma unroll
    for (u32 i = 0; i < ROWS; i++)
      if (v_first + i < a.value_dim)
        store_columns<COLUMNS>(there + (u64)i * a.key_dim, first, a.key_dim, whole, s[i]);
  };

  Token<COLUMNS> token;
  token.load(a, row, head, v_row, first);
  for (u32 nth = 0;; nth++) {
    Token<COLUMNS> next;
    const bool more = row + 1 < a.rows && a.slot_of[row + 1] == slot;
    if (more) next.load(a, row + 1, head, v_row, first);
    token.prepare(decay, rate_bias, q_scale);
    const float y = step<COLUMNS>(s, token);
    if (lane < ROWS && v_row < a.value_dim)
      a.out[((u64)row * a.value_heads + head) * a.value_dim + v_row] = from_f32<act>(y);
    if (!more) break;
    if (nth < a.spares) store(1 + nth);
    token = next;
    row++;
  }

  store(0);
}

template <int COLUMNS>
__device__ __forceinline__ void delta_rule(const DeltaRule& a) {
  if (a.without_chunks && a.records[blockIdx.x].tokens >= RULE_TOKENS) return;
  const u32 row = a.records ? a.records[blockIdx.x].first_row : blockIdx.x;
  const u32 slot = a.slot_of[row];
  const u32 blocks = (a.value_dim + DELTA_BLOCK_ROWS - 1) / DELTA_BLOCK_ROWS;
  const u32 head = blockIdx.y / blocks;
  const u32 v_first = blockIdx.y % blocks * DELTA_BLOCK_ROWS + threadIdx.x / 32 * ROWS;
  if (v_first >= a.value_dim) return;
  if (slot == NO_SLOT) {
    // Rows that only pad the batch hold numbers.
    const u32 v_row = v_first + threadIdx.x % 32;
    if (threadIdx.x % 32 < ROWS && v_row < a.value_dim)
      a.out[((u64)row * a.value_heads + head) * a.value_dim + v_row] = from_f32<act>(0.f);
    return;
  }
  if (!a.records && row > 0 && a.slot_of[row - 1] == slot) return;
  run<COLUMNS>(a, row, slot, head, v_first);
}

// By the columns of a lane: keys of up to 32, 64, 128 and 256 elements.
#define ENTRY(COLUMNS)                                                                          \
  __global__ void __launch_bounds__(DELTA_THREADS) delta_rule_##COLUMNS(const DeltaRule a) {    \
    begin();                                                                                    \
    delta_rule<COLUMNS>(a);                                                                     \
  }
ENTRY(1)
ENTRY(2)
ENTRY(4)
ENTRY(8)

// ---- Gates ----

__device__ __forceinline__ float opened(Gate gate, float z) {
  return gate == GATE_SILU ? z * sigmoid(z) : sigmoid(z);
}

// A block for each part of each row. A thread writes what it alone reads.
__global__ void norm_gated(const NormGated a) {
  __shared__ float scratch[32];
  begin();
  const u32 width = a.width;
  act* x = a.x + ((u64)blockIdx.x * a.parts + blockIdx.y) * width;
  const act* z = a.z + (u64)blockIdx.x * a.stride + a.first + (u64)blockIdx.y * width;
  const bool gate_first = a.order == GATE_ORDER_GATE_FIRST;
  if (!a.weight) {
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
      x[i] = from_f32<act>(to_f32(x[i]) * opened(a.gate, to_f32(z[i])));
    return;
  }

  float squares = 0.f;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    float v = to_f32(x[i]);
    if (gate_first) v *= opened(a.gate, to_f32(z[i]));
    squares += v * v;
  }
  const float scale = 1.f / sqrtf(block_sum(squares, scratch) / width + a.eps);
  const float plus = a.norm == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f;
  const float* weight = a.weight + (u64)blockIdx.y * a.weight_step;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float gate = opened(a.gate, to_f32(z[i])), v = to_f32(x[i]), w = weight[i] + plus;
    x[i] = from_f32<act>(gate_first ? v * gate * scale * w : v * scale * w * gate);
  }
}

template <int N>
__device__ void gate(const GateRows& a) {
  const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (i >= a.width) return;
  const u64 at = (u64)blockIdx.x * a.width + i;
  float x[8], z[8];
  get<N>(a.x + at, x);
  get<N>(a.z + at, z);
#pragma unroll
  for (int j = 0; j < N; j++) x[j] *= sigmoid(z[j]);
  put<N>(a.x + at, x);
}

__global__ void gate_rows(const GateRows a) {
  begin();
  if (a.width % 8 == 0) gate<8>(a);
  else gate<1>(a);
}

// A thread for each column of each row.
__global__ void multiply(const Multiply a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  const u64 row = blockIdx.x;
  const float x = to_f32(a.a[row * a.a_stride + a.a_first + i]);
  const float y = to_f32(a.b[row * a.b_stride + a.b_first + i]);
  a.out[row * a.width + i] = from_f32<act>(x * y);
}

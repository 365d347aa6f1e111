// The selective scan of Mamba 2, token by token in f32; a row's bits depend on its sequence alone,
// so that chunks and company change none. (Sequences that feed RULE_TOKENS tokens of a step or more
// go to chunks.cu, in half types.)
//
// As the delta rule (state.cu): a block of four warps has 32 rows of a head's matrix, eight in the
// registers of each warp with a lane for each run of columns, and walks through the sequence's rows
// of the step. The matrix is read and written once whatever the step feeds: a decode step moves
// 2 x 4 x head_dim x state bytes per head and is bound by that. A prompt is bound by latency: a
// token's row of S is one multiplication and one addition behind the one before, the sum over the
// warp is in nobody's way, and what a token reads is fetched while the one before is computed. Grid
// (sequences, heads x blocks of rows); in recorded steps (token rows, ...). Limits: 256 columns.
#include "state_rows.cuh"

// What a head reads of a token row.
template <int COLUMNS>
struct Token {
  float b[COLUMNS], c[COLUMNS];
  float x;  // Of the warp's row `lane % 8`.
  float rate;

  // `x_row`: that row of the head, or beyond its last.
  __device__ __forceinline__ void load(const SelectiveScan& a, u32 row, u32 head, u32 x_row,
                                       u32 first) {
    const u32 inner = a.heads * a.head_dim, groups = a.groups * a.state;
    const u32 group = head / (a.heads / a.groups);
    const act* mixed = a.mixed + (u64)row * (inner + 2 * groups);
    const act* const b_row = mixed + inner + group * a.state;
    const bool whole = a.state == 32 * COLUMNS && inner % COLUMNS == 0;
    load_columns<COLUMNS>(b_row, first, a.state, whole, b);
    load_columns<COLUMNS>(b_row + groups, first, a.state, whole, c);
    x = x_row < a.head_dim ? to_f32(mixed[head * a.head_dim + x_row]) : 0.f;
    rate = to_f32(a.rates[(u64)row * a.stride + a.first + head]);
  }
};

// S = keep S + step x b^T: one token. Returns S c of row `lane % 8`.
template <int COLUMNS>
__device__ __forceinline__ float advance(float (&s)[ROWS][COLUMNS], const Token<COLUMNS>& token,
                                         float keep, float step) {
  const float taken = step * token.x;
  float dots[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const float own = __shfl_sync(~0u, taken, i);
    dots[i] = 0.f;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      s[i][c] = keep * s[i][c] + own * token.b[c];
      dots[i] += s[i][c] * token.c[c];
    }
  }
  return sums_of_eight(dots);
}

// The rows of the sequence that begins in token row `row`, of eight rows of a head.
template <int COLUMNS>
__device__ __forceinline__ void run(const SelectiveScan& a, u32 row, u32 slot, u32 head,
                                    u32 x_first) {
  const u32 lane = threadIdx.x % 32, first = lane * COLUMNS, x_row = x_first + lane % ROWS;
  float* const entry = reinterpret_cast<float*>(a.matrices + slot * a.slot_bytes);
  float* const matrix = entry + ((u64)head * a.head_dim + x_first) * a.state;
  const float decay = expf(a.log_decay[head]), rate_bias = a.rate_bias[head];
  const float skip = a.skip[head];

  const bool begins = a.position[row] == 0, whole = a.state == 32 * COLUMNS;
  float s[ROWS][COLUMNS];
#pragma unroll
  for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) s[i][c] = 0.f;
    if (!begins && x_first + i < a.head_dim)
      load_columns<COLUMNS>(matrix + (u64)i * a.state, first, a.state, whole, s[i]);
  }

  // The matrix as it is now, to the sequence's entry or to the one behind it by so many.
  const auto store = [&](u32 behind) {
    float* const there = matrix + behind * (a.entry_bytes / sizeof(float));
#pragma unroll
    for (u32 i = 0; i < ROWS; i++)
      if (x_first + i < a.head_dim)
        store_columns<COLUMNS>(there + (u64)i * a.state, first, a.state, whole, s[i]);
  };

  Token<COLUMNS> token;
  token.load(a, row, head, x_row, first);
  for (u32 nth = 0;; nth++) {
    Token<COLUMNS> next;
    const bool more = row + 1 < a.rows && a.slot_of[row + 1] == slot;
    if (more) next.load(a, row + 1, head, x_row, first);
    const float step = softplus(token.rate + rate_bias);
    const float y = advance<COLUMNS>(s, token, expf(-decay * step), step) + skip * token.x;
    if (lane < ROWS && x_row < a.head_dim)
      a.out[((u64)row * a.heads + head) * a.head_dim + x_row] = from_f32<act>(y);
    if (!more) break;
    if (nth < a.spares) store(1 + nth);
    token = next;
    row++;
  }

  store(0);
}

template <int COLUMNS>
__device__ __forceinline__ void scan(const SelectiveScan& a) {
  if (a.without_chunks && a.records[blockIdx.x].tokens >= RULE_TOKENS) return;
  const u32 row = a.records ? a.records[blockIdx.x].first_row : blockIdx.x;
  const u32 slot = a.slot_of[row];
  const u32 blocks = (a.head_dim + DELTA_BLOCK_ROWS - 1) / DELTA_BLOCK_ROWS;
  const u32 head = blockIdx.y / blocks;
  const u32 x_first = blockIdx.y % blocks * DELTA_BLOCK_ROWS + threadIdx.x / 32 * ROWS;
  if (x_first >= a.head_dim) return;
  if (slot == NO_SLOT) {
    // Rows that only pad the batch hold numbers.
    const u32 x_row = x_first + threadIdx.x % 32;
    if (threadIdx.x % 32 < ROWS && x_row < a.head_dim)
      a.out[((u64)row * a.heads + head) * a.head_dim + x_row] = from_f32<act>(0.f);
    return;
  }
  if (!a.records && row > 0 && a.slot_of[row - 1] == slot) return;
  run<COLUMNS>(a, row, slot, head, x_first);
}

// By the columns of a lane: states of up to 32, 64, 128 and 256 elements.
#define ENTRY(COLUMNS)                                                                 \
  __global__ void __launch_bounds__(DELTA_THREADS)                                     \
      selective_scan_##COLUMNS(const SelectiveScan a) {                                \
    begin();                                                                           \
    scan<COLUMNS>(a);                                                                  \
  }
ENTRY(1)
ENTRY(2)
ENTRY(4)
ENTRY(8)

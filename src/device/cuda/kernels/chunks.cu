// Recurrences of prompts, 64 tokens at a time as products of matrices: the gated delta rule
// (state.cu) and the selective scan (scan.cu) of sequences that feed 64 tokens of a step or more.
// Half types, keys (states) of 64 or 128 columns, rows of a matrix a multiple of 16.
//
// With G_t the sum of the logarithms of what is kept up to token t of a chunk, and S the state
// before it, both rules are
//
//   S' = e^G_n S + sum over i of e^(G_n - G_i) u_i k_i^T
//   y_t = e^G_t S q_t + sum over i <= t of e^(G_t - G_i) (k_i . q_t) u_i
//
// The scan has k = B, q = C and u = step x. The delta rule's u solve
// (I + A) U = beta (V - e^G S K), with A_ti = beta_t e^(G_t - G_i) (k_t . k_i) for i < t: blocks of
// 16 tokens one after the other, whose diagonal blocks four warps invert at the same time, in f32.
//
// A block of four warps has 64 rows of a head's matrix, sixteen in the registers of each warp, f32.
// All is computed transposed, [rows of S, tokens]: so sums are at once left operands of the next
// product (mma m16n8k16), and only q, k and the two matrices [tokens, tokens] pass through shared
// memory. What the next chunk reads is on its way meanwhile. Operands are rounded to the
// activations' type, sums and states are f32. Products of a chunk: for 128 columns about 310 mma a
// warp; a token after the other has two sums over a warp in its way, 64 times. Bits depend on how a
// prompt is cut into steps, not on its company.
#include "mma.cuh"
#include "state_rows.cuh"

#if ACT != 0
constexpr u32 TOKENS = RULE_TOKENS;
constexpr u32 WARPS = RULE_THREADS / 32;
constexpr u32 BLOCKS = TOKENS / 16;  // of tokens
constexpr u32 PITCH = TOKENS + 8;  // of matrices [tokens, tokens], and of results

// Where a head's rows of a sequence lie, and its states; strides are of token rows.
struct Head {
  const act *q, *k, *v;
  act* out;
  float* matrix;
  u32 stride, out_stride;
  u32 rows;  // of the matrix, from this block's first on
  u32 tokens;
  bool begins;
};

template <u32 DK, bool DELTA>
struct Chunks {
  static constexpr u32 KEY_PITCH = DK + 8, TILES = DK / 8, KEY_STEPS = DK / 16;

  struct Shared {
    // As they lie in the step; those of the next chunk.
    act k[TOKENS][DK], q[TOKENS][DK], v[TOKENS][RULE_ROWS];
    // With their lengths; results take the place of q.
    act keys[TOKENS][KEY_PITCH], queries[TOKENS][KEY_PITCH];
    // -A and the inverses of I + A's diagonal blocks; e^(G_t - G_i) (k_i . q_t).
    act solve[TOKENS][PITCH], weights[TOKENS][PITCH];
    float diagonal[BLOCKS][16][16];
    float sum[TOKENS], share[TOKENS];  // G; beta, or the step
  };
  static_assert(sizeof(Shared) <= RULE_SHARED_BYTES, "room in shared memory");

  const Head& h;
  Shared& shared;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 r = lane / 4, t = lane % 4;
  const bool active = warp * 16 < h.rows;
  float s[TILES][4];

  __device__ Chunks(const Head& h, u8* memory) : h(h), shared(*reinterpret_cast<Shared*>(memory)) {}

  __device__ void move_state(bool store) {
#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        float2* at = reinterpret_cast<float2*>(h.matrix + (u64)(warp * 16 + r + half * 8) * DK +
                                               n * 8 + 2 * t);
        if (store) {
          if (active) *at = {s[n][2 * half], s[n][2 * half + 1]};
          continue;
        }
        const float2 pair = active && !h.begins ? *at : float2{0.f, 0.f};
        s[n][2 * half] = pair.x, s[n][2 * half + 1] = pair.y;
      }
    }
  }

  // Start copying the tokens from `first` on; zeros beyond the last.
  __device__ void fetch(u32 first) {
    constexpr u32 PIECES = DK / 8, ROW = 2 * PIECES + RULE_ROWS / 8;
    for (u32 n = threadIdx.x; n < TOKENS * ROW; n += RULE_THREADS) {
      const u32 token = n / ROW, piece = n % ROW;
      bool valid = first + token < h.tokens;
      const act* from;
      act* to;
      if (piece < PIECES) {
        from = h.k + piece * 8, to = shared.k[token] + piece * 8;
      } else if (piece < 2 * PIECES) {
        from = h.q + (piece - PIECES) * 8, to = shared.q[token] + (piece - PIECES) * 8;
      } else {
        const u32 row = (piece - 2 * PIECES) * 8;
        valid = valid && row < h.rows;
        from = h.v + row, to = shared.v[token] + row;
      }
      copy_async(shared_address(to), valid ? from + (u64)(first + token) * h.stride : h.k, valid);
    }
    commit();
  }

  // k and q to where products read them; of the delta rule with length 1, q times `q_scale`. Eight
  // lanes have a row.
  __device__ void prepare(float q_scale) {
    constexpr u32 EACH = DK / 64;  // pieces of a lane
    for (u32 n = threadIdx.x / 8; n < 2 * TOKENS; n += RULE_THREADS / 8) {
      const bool of_q = n >= TOKENS;
      const u32 token = n % TOKENS, first = threadIdx.x % 8 * EACH * 8;
      const act* from = (of_q ? shared.q : shared.k)[token] + first;
      act* to = (of_q ? shared.queries : shared.keys)[token] + first;
      float x[EACH][8], squares = 0.f;
#pragma unroll
      for (u32 i = 0; i < EACH; i++) {
        load8(from + i * 8, x[i]);
#pragma unroll
        for (u32 j = 0; j < 8; j++) squares += x[i][j] * x[i][j];
      }
      if (DELTA) {
#pragma unroll
        for (u32 d = 4; d > 0; d /= 2) squares += __shfl_xor_sync(~0u, squares, d);
        const float factor = (of_q ? q_scale : 1.f) / sqrtf(squares + 1e-6f);
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
#pragma unroll
          for (u32 j = 0; j < 8; j++) x[i][j] *= factor;
        }
      }
#pragma unroll
      for (u32 i = 0; i < EACH; i++) store8(to + i * 8, x[i]);
    }
  }

  // By one warp, of tokens 2 lane and the next: `kept` are logarithms.
  __device__ void sum_up(const float (&kept)[2], const float (&share)[2]) {
    float sum = kept[0] + kept[1];
#pragma unroll
    for (u32 d = 1; d < 32; d *= 2) {
      const float below = __shfl_up_sync(~0u, sum, d);
      if (lane >= d) sum += below;
    }
    shared.sum[2 * lane] = sum - kept[1];
    shared.sum[2 * lane + 1] = sum;
    shared.share[2 * lane] = share[0];
    shared.share[2 * lane + 1] = share[1];
  }

  // Right operands of two tiles of eight: rows `row` .. of a matrix, 16 of its columns.
  __device__ void load_right(u32 (&b)[4], const act* matrix, u32 pitch, u32 row, u32 column) const {
    const u32 at = (row + lane / 16 * 8 + lane % 8) * pitch + column + lane / 8 % 2 * 8;
    load_matrices(b, shared_address(matrix + at));
  }

  // A block of 16 x 16 of (queries or keys) keys^T, to `weights` or `solve`.
  __device__ void multiply_tokens(bool of_q, u32 down, u32 across) {
    const act* left = of_q ? shared.queries[0] : shared.keys[0];
    float c[2][4] = {};
#pragma unroll
    for (u32 k = 0; k < KEY_STEPS; k++) {
      u32 a[4], b[4];
      const u32 at = (down * 16 + lane % 16) * KEY_PITCH + k * 16 + lane / 16 * 8;
      load_matrices(a, shared_address(left + at));
      load_right(b, shared.keys[0], KEY_PITCH, across * 16, k * 16);
      multiply(c[0], a, b[0], b[1]);
      multiply(c[1], a, b[2], b[3]);
    }
#pragma unroll
    for (u32 n = 0; n < 2; n++) {
#pragma unroll
      for (u32 e = 0; e < 4; e++) {
        const u32 row = r + e / 2 * 8, column = n * 8 + 2 * t + e % 2;
        const u32 at = down * 16 + row, of = across * 16 + column;
        const float y = c[n][e] * expf(shared.sum[at] - shared.sum[of]);
        if (of_q) shared.weights[at][of] = from_f32<act>(of <= at ? y : 0.f);
        else if (down == across)
          shared.diagonal[down][row][column] = of < at ? shared.share[at] * y : 0.f;
        else shared.solve[at][of] = from_f32<act>(-shared.share[at] * y);
      }
    }
  }

  // The inverse of a diagonal block of I + A by a warp, whose lanes have a column each.
  __device__ void invert(u32 block) {
    if (lane >= 16) return;
    float x[16];
#pragma unroll
    for (u32 row = 0; row < 16; row++) {
      float y = row == lane ? 1.f : 0.f;
#pragma unroll
      for (u32 i = 0; i < row; i++) y -= shared.diagonal[block][row][i] * x[i];
      x[row] = y;
      shared.solve[block * 16 + row][block * 16 + lane] = from_f32<act>(y);
    }
  }

  // Sums as left operands: 16 columns of two tiles.
  __device__ static void as_left(u32 (&a)[4], const float (&low)[4], const float (&high)[4]) {
    a[0] = pack(low[0], low[1]), a[1] = pack(low[2], low[3]);
    a[2] = pack(high[0], high[1]), a[3] = pack(high[2], high[3]);
  }

  // What one of the two tokens of a lane's column pairs has: u before others' part, y before it.
  __device__ void begin_sums(float (&u)[2 * BLOCKS][4], float (&y)[2 * BLOCKS][4], float skip) {
#pragma unroll
    for (u32 n = 0; n < 2 * BLOCKS; n++) {
#pragma unroll
      for (u32 e = 0; e < 4; e++) u[n][e] = y[n][e] = 0.f;
    }
#pragma unroll
    for (u32 k = 0; k < KEY_STEPS; k++) {
      u32 a[4], b[4];
      as_left(a, s[2 * k], s[2 * k + 1]);
#pragma unroll
      for (u32 n = 0; n < BLOCKS; n++) {
        if (DELTA) {
          load_right(b, shared.keys[0], KEY_PITCH, n * 16, k * 16);
          multiply(u[2 * n], a, b[0], b[1]);
          multiply(u[2 * n + 1], a, b[2], b[3]);
        }
        load_right(b, shared.queries[0], KEY_PITCH, n * 16, k * 16);
        multiply(y[2 * n], a, b[0], b[1]);
        multiply(y[2 * n + 1], a, b[2], b[3]);
      }
    }
#pragma unroll
    for (u32 n = 0; n < 2 * BLOCKS; n++) {
#pragma unroll
      for (u32 e = 0; e < 4; e++) {
        const u32 token = n * 8 + 2 * t + e % 2;
        const float kept = expf(shared.sum[token]), share = shared.share[token];
        const float v = to_f32(shared.v[token][warp * 16 + r + e / 2 * 8]);
        u[n][e] = share * (v - kept * u[n][e]);
        y[n][e] = kept * y[n][e] + skip * v;
      }
    }
  }

  // The chunk's u, y and state; `u` and `y` as begin_sums left them.
  __device__ void finish_sums(float (&u)[2 * BLOCKS][4], float (&y)[2 * BLOCKS][4]) {
    const float all = shared.sum[TOKENS - 1], kept = expf(all);
    u32 left[BLOCKS][4], scaled[BLOCKS][4], b[4];
#pragma unroll
    for (u32 j = 0; j < BLOCKS; j++) {
      float(&low)[4] = u[2 * j];
      float(&high)[4] = u[2 * j + 1];
      if (DELTA) {
#pragma unroll
        for (u32 i = 0; i < j; i++) {
          load_right(b, shared.solve[0], PITCH, j * 16, i * 16);
          multiply(low, left[i], b[0], b[1]);
          multiply(high, left[i], b[2], b[3]);
        }
        as_left(left[j], low, high);
        load_right(b, shared.solve[0], PITCH, j * 16, j * 16);
#pragma unroll
        for (u32 e = 0; e < 4; e++) low[e] = high[e] = 0.f;
        multiply(low, left[j], b[0], b[1]);
        multiply(high, left[j], b[2], b[3]);
      }
      as_left(left[j], low, high);
#pragma unroll
      for (u32 i = 0; i <= j; i++) {
        load_right(b, shared.weights[0], PITCH, j * 16, i * 16);
        multiply(y[2 * j], left[i], b[0], b[1]);
        multiply(y[2 * j + 1], left[i], b[2], b[3]);
      }
#pragma unroll
      for (u32 e = 0; e < 4; e++) {
        const u32 token = j * 16 + 2 * t + e % 2;
        low[e] *= expf(all - shared.sum[token]);
        high[e] *= expf(all - shared.sum[token + 8]);
      }
      as_left(scaled[j], low, high);
    }

#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
#pragma unroll
      for (u32 e = 0; e < 4; e++) s[n][e] *= kept;
    }
#pragma unroll
    for (u32 j = 0; j < BLOCKS; j++) {
#pragma unroll
      for (u32 n = 0; n < TILES; n += 2) {
        const act* from = &shared.keys[j * 16 + lane % 16][n * 8 + lane / 16 * 8];
        load_transposed(b, shared_address(from));
        multiply(s[n], scaled[j], b[0], b[1]);
        multiply(s[n + 1], scaled[j], b[2], b[3]);
      }
    }
  }

  // This warp's 16 columns of the results, by way of what held q.
  __device__ void write(const float (&y)[2 * BLOCKS][4], u32 first) {
    act* const results = shared.queries[0] + warp * 16;
#pragma unroll
    for (u32 n = 0; n < 2 * BLOCKS; n++) {
#pragma unroll
      for (u32 e = 0; e < 4; e++)
        results[(n * 8 + 2 * t + e % 2) * PITCH + r + e / 2 * 8] = from_f32<act>(y[n][e]);
    }
    __syncwarp();
    if (!active) return;
#pragma unroll
    for (u32 i = 0; i < TOKENS / 16; i++) {
      const u32 token = i * 16 + lane / 2, part = lane % 2 * 8;
      if (first + token >= h.tokens) break;
      act* to = h.out + (u64)(first + token) * h.out_stride + warp * 16 + part;
      *reinterpret_cast<uint4*>(to) =
          *reinterpret_cast<const uint4*>(results + token * PITCH + part);
    }
  }

  // `gates(token, kept, share)` of a token of the sequence: the logarithm of what is kept, and
  // beta, or the step.
  template <class Gates>
  __device__ void run(Gates gates, float q_scale, float skip) {
    move_state(false);
    fetch(0);
    for (u32 first = 0; first < h.tokens; first += TOKENS) {
      wait<0>();
      // All see what came, and are done with the chunk before.
      __syncthreads();
      prepare(q_scale);
      if (warp == 0) {
        float kept[2] = {}, share[2] = {};
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
          const u32 token = first + 2 * lane + i;
          if (token < h.tokens) gates(token, kept[i], share[i]);
        }
        sum_up(kept, share);
      }
      __syncthreads();

      for (u32 n = warp; n < BLOCKS * (BLOCKS + 1); n += WARPS) {
        // Pairs of blocks on the diagonal and below, of keys and then of queries.
        const bool of_q = n >= BLOCKS * (BLOCKS + 1) / 2;
        u32 across = of_q ? n - BLOCKS * (BLOCKS + 1) / 2 : n, down = 0;
        while (across > down) across -= ++down;
        if (DELTA || of_q) multiply_tokens(of_q, down, across);
      }
      float u[2 * BLOCKS][4], y[2 * BLOCKS][4];
      begin_sums(u, y, skip);
      __syncthreads();
      // Nobody reads this chunk's copies any more.
      if (first + TOKENS < h.tokens) fetch(first + TOKENS);
      if (DELTA) {
        invert(warp);
        __syncthreads();
      }
      finish_sums(u, y);
      write(y, first);
    }
    move_state(true);
  }
};

// The rows of a sequence's state, and which block of them it is.
struct Place {
  u32 head, first;
  __device__ explicit Place(u32 rows) {
    const u32 blocks = (rows + RULE_ROWS - 1) / RULE_ROWS;
    head = blockIdx.y / blocks;
    first = blockIdx.y % blocks * RULE_ROWS;
  }
};

template <u32 DK>
__device__ __forceinline__ void delta(const DeltaRule& a, u8* memory) {
  const StepRecord& record = a.records[blockIdx.x];
  if (record.tokens < RULE_TOKENS) return;
  const u32 row = record.first_row, slot = a.slot_of[row];
  const Place place(a.value_dim);
  const u32 keys = a.key_heads * DK, values = a.value_heads * a.value_dim, head = place.head;
  const u32 column = head * a.value_dim + place.first;
  const act* mixed = a.mixed + (u64)row * (2 * keys + values);
  const act* q = mixed + head / (a.value_heads / a.key_heads) * DK;
  float* entry = reinterpret_cast<float*>(a.matrices + slot * a.slot_bytes);
  const Head h = {q, q + keys, mixed + 2 * keys + column,
                  a.out + (u64)row * values + column, entry + (u64)column * DK,
                  2 * keys + values, values, a.value_dim - place.first, record.tokens,
                  a.position[row] == 0};
  const float decay = expf(a.log_decay[head]), rate_bias = a.rate_bias[head];
  const act* rates = a.rates + (u64)row * 2 * a.value_heads + head;
  const auto gates = [&](u32 token, float& kept, float& share) {
    const act* of_token = rates + (u64)token * 2 * a.value_heads;
    share = sigmoid(to_f32(of_token[0]));
    kept = -decay * softplus(to_f32(of_token[a.value_heads]) + rate_bias);
  };
  Chunks<DK, true>(h, memory).run(gates, 1.f / sqrtf((float)DK), 0.f);
}

template <u32 DK>
__device__ __forceinline__ void scan(const SelectiveScan& a, u8* memory) {
  const StepRecord& record = a.records[blockIdx.x];
  if (record.tokens < RULE_TOKENS) return;
  const u32 row = record.first_row, slot = a.slot_of[row];
  const Place place(a.head_dim);
  const u32 inner = a.heads * a.head_dim, groups = a.groups * DK, head = place.head;
  const u32 column = head * a.head_dim + place.first;
  const act* mixed = a.mixed + (u64)row * (inner + 2 * groups);
  const act* b = mixed + inner + head / (a.heads / a.groups) * DK;
  float* entry = reinterpret_cast<float*>(a.matrices + slot * a.slot_bytes);
  const Head h = {b + groups, b, mixed + column,
                  a.out + (u64)row * inner + column, entry + (u64)column * DK,
                  inner + 2 * groups, inner, a.head_dim - place.first, record.tokens,
                  a.position[row] == 0};
  const float decay = expf(a.log_decay[head]), rate_bias = a.rate_bias[head];
  const act* rates = a.rates + (u64)row * a.stride + a.first + head;
  const auto gates = [&](u32 token, float& kept, float& share) {
    share = softplus(to_f32(rates[(u64)token * a.stride]) + rate_bias);
    kept = -decay * share;
  };
  Chunks<DK, false>(h, memory).run(gates, 1.f, a.skip[head]);
}

extern __shared__ __align__(128) u8 dynamic_shared[];

#define BODY(RULE, COLUMNS) RULE<COLUMNS>(a, dynamic_shared)
#else
// f32 has no code here: the device never launches these for it.
#define BODY(RULE, COLUMNS) (void)a
#endif

#define ENTRY(RULE, COLUMNS, STRUCT)                                                          \
  __global__ void __launch_bounds__(RULE_THREADS) RULE##_chunks_##COLUMNS(const STRUCT a) {  \
    begin();                                                                                  \
    BODY(RULE, COLUMNS);                                                                      \
  }
ENTRY(delta, 64, DeltaRule)
ENTRY(delta, 128, DeltaRule)
ENTRY(scan, 64, SelectiveScan)
ENTRY(scan, 128, SelectiveScan)

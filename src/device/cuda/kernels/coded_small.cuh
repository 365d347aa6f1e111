// y = act(steps (x W^T) + b) for at most 8 rows of x and a W of codes, where the codes' bytes are
// everything: gemm_small_m.cu with another left operand. W streams through shared memory a chunk of
// a row at a time, scales and zeros behind the codes; a lane's 16 bytes of a block become operands
// by masks (codes.cuh). Scales multiply f32 sums, not weights: numbers of codes are exact in half
// types, so the only roundings are those of the sums. Half types, inputs a multiple of 8, compute
// capability 9.0 and later (bulk copies).
//
// A tile is 16 rows of W x all inputs; blocks walk over tiles with the grid's stride, one warp
// copies, eight multiply, each its two blocks of a chunk. First they put x into shared memory, in
// the order of W's codes, while the first codes are on their way; E4M3 by E4M3 rounds it then, each
// row by its own step. Bytes: codes and scales once; floor = bytes / bandwidth. Clocks of a
// multiprocessor for 1 KiB of codes of four bits: 54 at 4.4 TB/s; masks and products take about 40.
//
// E4M3 by E4M3 of a single row: each block makes its norm too, and what comes of it may be added to
// the residual, as gemm_small_m.cu says. A thread holds its inputs and makes codes of them chunk by
// chunk, just before they are met.
//
// Tried (ci/runs/2026-11-30-h200-fp8-one.md): x as f16, masks in place of conversions, sums that
// stay in tensor cores, tiles of fewer rows so that blocks have as many each, and a row's step from
// the largest of the blocks that wrote it: none is faster.
#pragma once
#include "activation.cuh"
#include "coded_row.cuh"
#include "row_push.cuh"
#include "small_experts.cuh"

#if ACT != 0 && ARCH >= 90
// What x is in shared memory: activations, or codes of E4M3 in the order of W's; those of a single
// row, which the block makes, and of its norm.
enum Operand : u32 { OPERAND_ACT, OPERAND_BYTES, OPERAND_ROW, OPERAND_NORMED_ROW };

template <CodeKind KIND, Operand X, Goal GOAL = GOAL_ROWS>
struct Tile {
  static constexpr u32 STEPS = Decode<KIND>::STEPS, PER_WORD = Decode<KIND>::PER_WORD;
  static constexpr u32 INPUTS = STEPS * 16;  // of a block
  static constexpr bool ROUNDED = X != OPERAND_ACT, NORMED = X == OPERAND_NORMED_ROW;
  static constexpr u32 X_BYTES = ROUNDED ? INPUTS : INPUTS * 2;  // of a block of x
  // Codes become numbers that are too large by the same, and the sums of x correct the products:
  // cheaper than to correct every number, zeros with it.
  static constexpr bool BIASED = KIND == CODE_KIND_INT4;
  static constexpr bool PUSHED = GOAL == GOAL_PUSHED, EXPERTS = Chosen<GOAL>::EXPERTS;

  using Row = CodedRow<X == OPERAND_ROW          ? CODED_SMALL_ROW_INPUTS / PIECES
                       : X == OPERAND_NORMED_ROW ? SMALL_M_NORMED_INPUTS / PIECES
                                                 : 0>;
  using Part = typename Chosen<GOAL>::Part;

  const CodedSmall& call;
  const CodedProduct& c = call.product;
  const bool gated = c.end == CODED_END_GATED;
  static constexpr u32 ROWS = SMALL_M_TILE;  // of W in a stage
  const u32 height = gated ? SMALL_M_GATED_TILE : ROWS;  // outputs of a tile
  const u32 outputs = EXPERTS ? c.outputs : c.w.outputs;  // of a matrix
  const u32 heights = gated ? outputs / 2 : outputs;
  Chosen<GOAL> chosen = {call.routes, call.choices, c.rows, (heights + height - 1) / height};
  const u32 tiles = chosen.tiles();
  const u32 chunks = (c.w.blocks + CODE_CHUNK_BLOCKS - 1) / CODE_CHUNK_BLOCKS;  // of a part
  const u32 total =
      blockIdx.x < tiles ? ((tiles - 1 - blockIdx.x) / gridDim.x + 1) * chosen.parts() * chunks : 0;
  // From row to row of a stage: 64 bytes beyond a multiple of 128, so that reads do not conflict.
  const u32 pitch = (c.w.chunk_bytes + 63) / 128 * 128 + 64;
  // A row of x, 64 bytes beyond a multiple of 128.
  const u32 x_pitch = (c.w.blocks * X_BYTES + 63) / 128 * 128 + 64;
  const u32 groups = max(c.w.scales, 1);  // of a block
  // Behind the rows of x, of each group of inputs: the sum of each row's.
  const u32 input_sums = 2 * SMALL_M_SUMS_BYTES + c.rows * x_pitch;
  const u32 before = input_sums + (BIASED ? c.w.blocks * groups * CODED_SMALL_ROWS * 4 : 0);
  const u32 stages =
      min(CODED_SMALL_MOST_STAGES, (CODED_SMALL_SHARED_BYTES - before) / (ROWS * pitch + 16));
  u32 ring, full, empty;  // addresses in shared memory
  float* steps;  // of the rows of x, in shared memory

  __device__ Tile(const CodedSmall& call) : call(call) {}

  // The row of W for row `r` of a part. Gated: the first eight are gates, the others the ups that
  // they are multiplied with. Beyond the last row it is the last again: nobody stores it.
  __device__ u32 output(const Part& part, u32 r) const {
    const u32 row = min(part.slice * height + r % height, heights - 1) + r / height * heights;
    return EXPERTS ? part.expert * outputs + row : row;
  }

  __device__ u32 bytes_of(u32 chunk) const {
    const u32 blocks = chunk_blocks(c.w, chunk);
    return blocks * CODE_BLOCK_BYTES + (1 + c.w.zeros) * scale_bytes(c.w, blocks);
  }

  // By one thread, as gemm_small_m.cu says. Where x is rounded the ring may be full of what is
  // there, but only some stages are on their way at a time: what else is loaded, x before all,
  // waits behind them.
  __device__ void produce() const {
    if (!one_lane()) return;
    u32 stage = 0, phase = 0, copies = 0, late = 0, late_phase = 0;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x)
      for (u32 index = 0; index < chosen.parts(); index++) {
        const Part part = chosen.part(tile, index);
        for (u32 chunk = 0; chunk < chunks; chunk++) {
          if (ROUNDED && copies++ >= CODED_SMALL_UNDER_WAY) {
            barrier_wait(full + late * 8, late_phase);
            if (++late == stages) late = 0, late_phase ^= 1;
          }
          const u32 barrier = full + stage * 8, bytes = bytes_of(chunk);
          barrier_wait(empty + stage * 8, phase ^ 1);
          barrier_expect(barrier, ROWS * bytes);
#pragma unroll
          for (u32 r = 0; r < ROWS; r++) {
            const u64 from = (u64)output(part, r) * c.w.row_bytes + (u64)chunk * c.w.chunk_bytes;
            copy_bulk(ring + (stage * ROWS + r) * pitch, c.w.rows + from, bytes, barrier);
          }
          if (++stage == stages) stage = 0, phase ^= 1;
        }
      }
  }

  // x to shared memory: of each block a lane's words in the order of its steps (bytes: of its
  // codes).
  __device__ void take(u8* xs, float* of_groups, float* scratch, Row& own) const {
    if constexpr (NORMED) return own.norm(xs, scratch);
    begin();
    if (ROUNDED && c.steps) {
      const u32 pieces = c.w.blocks * (INPUTS / 16);
#pragma unroll 2
      for (u32 n = threadIdx.x; n < c.rows * pieces; n += WARPS * 32) {
        *reinterpret_cast<uint4*>(xs + n / pieces * x_pitch + n % pieces * 16) =
            reinterpret_cast<const uint4*>(c.x)[n];
      }
      if (threadIdx.x < c.rows) steps[threadIdx.x] = c.steps[threadIdx.x];
      return meet();
    }
    for (u32 row = 0; row < c.rows; row++) {
      const act* x = c.x + (u64)row * c.w.inputs;
      u8* const to = xs + row * x_pitch;
      if constexpr (ROUNDED) {
        // Of a single row.
        return own.round(x, row, to, scratch);
      } else {
        for (u32 k = threadIdx.x * 8; k < c.w.blocks * INPUTS; k += PIECES) {
          const uint4 raw = inputs_of(x, k, c.w.inputs);
          const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
          u8* at = to + k / INPUTS * X_BYTES + k % INPUTS / 8 * 4;
#pragma unroll
          for (u32 t = 0; t < 4; t++) *reinterpret_cast<u32*>(at + t * STEPS * 8) = words[t];
          if (BIASED) sum_of_group(raw, k, row, of_groups);
        }
      }
    }
    meet();
  }

  // The sum of a group's inputs, eight of which this thread has; the lanes that have the others are
  // its neighbours, and here too.
  __device__ void sum_of_group(const uint4& raw, u32 k, u32 row, float* of_groups) const {
    const Eight<act>& values = *reinterpret_cast<const Eight<act>*>(&raw);
    const u32 lanes = INPUTS / 8 / groups, half = 0xffffu << (threadIdx.x & 16);
    float sum = 0.f;
#pragma unroll
    for (u32 i = 0; i < 8; i++) sum += to_f32(values.v[i]);
    for (u32 d = lanes / 2; d > 0; d /= 2) sum += __shfl_xor_sync(half, sum, d);
    if (k / 8 % lanes == 0) of_groups[k / (lanes * 8) * CODED_SMALL_ROWS + row] = sum;
  }

  // The row of x that is a lane's column; those beyond the rows are the last one again: nobody uses
  // them. Of experts all columns are the part's row, and the first one is used.
  __device__ u32 row_of_x(const Part& part) const {
    return EXPERTS ? chosen.row_of_x(part) : min(threadIdx.x % 32 / 4, c.rows - 1);
  }

  // The right operands of a block: this lane's pairs of each step, of the row of x that is its
  // column. Blocks beyond the last are the last one again: nobody uses them.
  __device__ void load(u32 (&x)[STEPS][2], const u8* xs, u32 block, u32 column) const {
    const u32 lane = threadIdx.x % 32;
    const uint4* from = reinterpret_cast<const uint4*>(
        xs + column * x_pitch + min(block, c.w.blocks - 1) * X_BYTES + lane % 4 * STEPS * 8);
#pragma unroll
    for (u32 i = 0; i < STEPS / 2; i++) {
      const uint4 two = from[i];
      x[2 * i][0] = two.x, x[2 * i][1] = two.y, x[2 * i + 1][0] = two.z, x[2 * i + 1][1] = two.w;
    }
  }

  // A block's bytes of x, for the row that is this lane's column.
  __device__ uint4 load_bytes(const u8* xs, u32 block) const {
    const u32 lane = threadIdx.x % 32, column = min(lane / 4, c.rows - 1);
    const u8* from =
        xs + column * x_pitch + min(block, c.w.blocks - 1) * X_BYTES + lane % 4 * 16;
    return *reinterpret_cast<const uint4*>(from);
  }

  // acc += codes by codes. The sums within tensor cores have fewer bits than f32: only two products
  // of 32 inputs are left to them.
  __device__ void block_of_bytes(const u8* left, u32 b, const uint4& x, float (&acc)[4]) const {
    const u8* codes = left + b * CODE_BLOCK_BYTES + threadIdx.x % 4 * 16;
    const uint4 low = *reinterpret_cast<const uint4*>(codes);
    const uint4 high = *reinterpret_cast<const uint4*>(codes + 8 * pitch);
    float part[4] = {};
    multiply_e4m3(part, low.x, high.x, low.y, high.y, x.x, x.y);
    multiply_e4m3(part, low.z, high.z, low.w, high.w, x.z, x.w);
#pragma unroll
    for (u32 e = 0; e < 4; e++) acc[e] += part[e];
  }

  // c += a b over 32 inputs; lanes may hold any of them, as long as a and b agree.
  __device__ static void multiply_e4m3(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                                       u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }

  // What a lane has of block `b` of a chunk: its 16 bytes of rows r and r + 8, and where their
  // scales and zeros lie.
  struct CodesOfBlock {
    u32 low[4], high[4];
    const u8 *scales, *zeros;
    const Tile& tile;

    __device__ CodesOfBlock(const Tile& tile, const u8* left, u32 b, u32 blocks, u32 of_block)
        : tile(tile) {
      const u8* from = left + b * CODE_BLOCK_BYTES + threadIdx.x % 4 * 16;
      const uint4 one = *reinterpret_cast<const uint4*>(from);
      const uint4 two = *reinterpret_cast<const uint4*>(from + 8 * tile.pitch);
      low[0] = one.x, low[1] = one.y, low[2] = one.z, low[3] = one.w;
      high[0] = two.x, high[1] = two.y, high[2] = two.z, high[3] = two.w;
      scales = left + blocks * CODE_BLOCK_BYTES + b * of_block * sizeof(scale_t);
      zeros = scales + scale_bytes(tile.c.w, blocks);
    }

    // Of the row r (half: r + 8).
    __device__ float get(const u8* from, u32 group, u32 half) const {
      return to_f32(reinterpret_cast<const scale_t*>(from + half * 8 * tile.pitch)[group]);
    }
  };

  // As `block`, of codes with a bias; `sums` are those of this lane's two columns and the block's
  // first group.
  template <u32 SCALES, bool ZEROS>
  __device__ void block_with_bias(const u8* left, u32 b, u32 blocks, const u32 (&x)[STEPS][2],
                                  const float* sums, float (&acc)[4]) const {
    constexpr u32 GROUPS = SCALES == 0 ? 1 : SCALES, PER = STEPS / GROUPS;  // steps of a group
    const CodesOfBlock codes(*this, left, b, blocks, SCALES);
    u32 a[PER_WORD][2], d[PER_WORD][2];
    float part[2][4] = {};
#pragma unroll
    for (u32 s = 0; s < STEPS; s++) {
      const u32 i = s % PER_WORD;
      if (i == 0) {
        Decode<KIND>::with_bias(codes.low[s / PER_WORD], a);
        Decode<KIND>::with_bias(codes.high[s / PER_WORD], d);
      }
      const u32 both[4] = {a[i][0], d[i][0], a[i][1], d[i][1]};
      multiply(part[s % 2], both, x[s][0], x[s][1]);
      if (s % PER != PER - 1) continue;
      const u32 g = s / PER;
      float2 sum;
      if constexpr (EXPERTS) sum.x = sum.y = sums[g * CODED_SMALL_ROWS];
      else sum = *reinterpret_cast<const float2*>(sums + g * CODED_SMALL_ROWS);
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        const float scale = SCALES == 0 ? 1.f : codes.get(codes.scales, g, half);
        float zero = -Decode<KIND>::BIAS;
        if (ZEROS) zero += codes.get(codes.zeros, g, half);
#pragma unroll
        for (u32 column = 0; column < 2; column++) {
          const u32 e = half * 2 + column;
          const float products = PER == 1 ? part[s % 2][e] : part[0][e] + part[1][e];
          acc[e] = fmaf(scale, fmaf(zero, column == 0 ? sum.x : sum.y, products), acc[e]);
          part[0][e] = part[1][e] = 0.f;
        }
      }
    }
  }

  // acc += codes x of block `b` of a chunk; `left` is this lane's place in it, rows r and r + 8.
  template <u32 SCALES, bool ZEROS>
  __device__ void block(const u8* left, u32 b, u32 blocks, const u32 (&x)[STEPS][2],
                        float (&acc)[2][4]) const {
    constexpr u32 PER = SCALES == 0 ? STEPS : STEPS / SCALES;  // steps of a group
    const CodesOfBlock codes(*this, left, b, blocks, SCALES);
    float part[4] = {};
    Zero zero[2];
#pragma unroll
    for (u32 w = 0; w < 4; w++) {
      u32 a[PER_WORD][2], b[PER_WORD][2];
      Decode<KIND>::word(codes.low[w], a, c.w.table);
      Decode<KIND>::word(codes.high[w], b, c.w.table);
#pragma unroll
      for (u32 i = 0; i < PER_WORD; i++) {
        const u32 s = w * PER_WORD + i;
        if (ZEROS) {
          if (s % PER == 0) {
            zero[0] = Zero(codes.get(codes.zeros, s / PER, 0));
            zero[1] = Zero(codes.get(codes.zeros, s / PER, 1));
          }
          a[i][0] = zero[0].add(a[i][0]), a[i][1] = zero[0].add(a[i][1]);
          b[i][0] = zero[1].add(b[i][0]), b[i][1] = zero[1].add(b[i][1]);
        }
        const u32 both[4] = {a[i][0], b[i][0], a[i][1], b[i][1]};
        if (SCALES == 0) {
          multiply(acc[s % 2], both, x[s][0], x[s][1]);
          continue;
        }
        multiply(part, both, x[s][0], x[s][1]);
        if (s % PER != PER - 1) continue;
        const float one = codes.get(codes.scales, s / PER, 0);
        const float two = codes.get(codes.scales, s / PER, 1);
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
          acc[0][e] = fmaf(e < 2 ? one : two, part[e], acc[0][e]);
          part[e] = 0.f;
        }
      }
    }
  }

  // What an output that this thread finishes is made with (gated: the gate, and its up), loaded
  // long before.
  struct End {
    float factor[2], bias[2];
    act before;  // What the output is added to.
    float weight;  // of the choice
  };

  template <u32 SCALES, bool ZEROS>
  __device__ void consume(const u8* shared, u8* xs, const float* of_groups, float* sums,
                          Row& own) const {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u8* const left = shared + lane / 4 * pitch;
    float acc[2][4] = {};
    u32 tile = blockIdx.x, index = 0, chunk = 0, stage = 0, phase = 0;
    u32 turn = 0;  // where sums lie
    float all = 0.f;  // of a row's choices so far
    const u32 number = PUSHED ? number_of_row(call.push) : 0;
    Part part = chosen.part(tile, index);
    End end = end_of(tile, part);
    for (u32 n = 0; n < total; n++) {
      const u32 blocks = chunk_blocks(c.w, chunk), mine = warp * 2;
      const u32 first = chunk * CODE_CHUNK_BLOCKS + mine;
      u32 x[2][STEPS][2];
      uint4 bytes[2];
      if constexpr (ROUNDED) own.encode_next(n, xs);
#pragma unroll
      for (u32 j = 0; j < 2; j++) {
        if constexpr (ROUNDED) bytes[j] = load_bytes(xs, first + j);
        else load(x[j], xs, first + j, row_of_x(part));
      }
      barrier_wait(full + stage * 8, phase);
      const u8* from = left + stage * ROWS * pitch;
#pragma unroll
      for (u32 j = 0; j < 2; j++) {
        // Beyond the row lies what an earlier copy left.
        if (mine + j >= blocks) break;
        if constexpr (ROUNDED) {
          block_of_bytes(from, mine + j, bytes[j], acc[j]);
        } else if constexpr (BIASED) {
          const u32 group = (first + j) * (SCALES == 0 ? 1 : SCALES);
          const u32 row = EXPERTS ? row_of_x(part) : lane % 4 * 2;
          block_with_bias<SCALES, ZEROS>(from, mine + j, blocks, x[j],
                                  of_groups + group * CODED_SMALL_ROWS + row, acc[j]);
        } else {
          block<SCALES, ZEROS>(from, mine + j, blocks, x[j], acc);
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(empty + stage * 8);
      if (++stage == stages) stage = 0, phase ^= 1;
      if (++chunk < chunks) continue;
      chunk = 0;
      finish(part, acc, sums + turn, end, number, all, index);
      turn ^= SMALL_M_SUMS_BYTES / 4;
      if (++index == chosen.parts()) {
        index = 0;
        tile += gridDim.x;
      }
      part = chosen.part(tile, index);
      end = end_of(tile, part);
    }
  }

  __device__ End end_of(u32 tile, const Part& part) const {
    End end = {};
    if (threadIdx.x >= height * 8 || tile >= tiles) return end;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
      if (i == 1 && !gated) break;
      const u32 row = output(part, threadIdx.x % height + i * height);
      end.factor[i] = c.w.factor[row];
      if (c.bias) end.bias[i] = c.bias[row];
    }
    // Converted where it is used: nobody waits for it here.
    if (ROUNDED && !PUSHED && call.residual)
      end.before = call.residual[output(part, threadIdx.x % height)];
    if constexpr (GOAL == GOAL_DOWNS) {
      const u32 output = min(part.slice * height + threadIdx.x % height, heights - 1);
      if (call.residual) end.before = call.residual[(u64)chosen.row(part) * heights + output];
      end.weight = chosen.weight(part);
    }
    return end;
  }

  // Whether there are zeros is asked once, so that a stage is one run of instructions: the masks of
  // a step hide the wait for the product before.
  template <u32 SCALES>
  __device__ void consume_scaled(const u8* shared, u8* xs, const float* of_groups, float* sums,
                                 Row& own) const {
    if (c.w.zeros) consume<SCALES, true>(shared, xs, of_groups, sums, own);
    else consume<SCALES, false>(shared, xs, of_groups, sums, own);
  }

  __device__ void multiply_all(const u8* shared, u8* xs, const float* of_groups, float* sums,
                               Row& own) const {
    if constexpr (ROUNDED) return consume<0, false>(shared, xs, of_groups, sums, own);
    switch (c.w.scales) {
      case 0:
        return consume<0, false>(shared, xs, of_groups, sums, own);
      case 1:
        return consume_scaled<1>(shared, xs, of_groups, sums, own);
      case 2:
        return consume_scaled<2>(shared, xs, of_groups, sums, own);
      case 4:
        return consume_scaled<4>(shared, xs, of_groups, sums, own);
      default:
        if constexpr (STEPS == 8) consume_scaled<8>(shared, xs, of_groups, sums, own);
    }
  }

  // A part's end: the warps' shares are added in order. Two parts in a row have different places
  // for their sums: whoever writes there has met those who read the ones of the part before.
  __device__ void finish(const Part& part, float (&acc)[2][4], float* sums, const End& end,
                         u32 number, float& all, u32 index) const {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int e = 0; e < 4; e++) {
      sums[(warp * 4 + e) * 32 + lane] = acc[0][e] + acc[1][e];
      acc[0][e] = acc[1][e] = 0.f;
    }
    meet();
    const u32 r = threadIdx.x % height, column = threadIdx.x / height;
    const u32 output = part.slice * height + r;
    if (column >= (EXPERTS ? 1 : c.rows) || output >= heights) return;
    const u32 row = EXPERTS ? chosen.row_of_x(part) : column;
    const float step = ROUNDED ? steps[column] : c.steps ? c.steps[row] : 1.f;
    const auto value = [&](u32 i) {
      return step * end.factor[i] * sum_of_shares<WARPS>(sums, r + i * 8, column) + end.bias[i];
    };
    const float y = gated ? activate_gated(value(0), value(1), c.kind) : activate(value(0), c.kind);
    if constexpr (GOAL == GOAL_DOWNS) {
      all = (index == 0 ? 0.f : all) + end.weight * to_f32(from_f32<act>(y));
      if (index + 1 < chosen.parts()) return;
      const act sum = from_f32<act>(all);
      const u64 at = (u64)chosen.row(part) * heights + output;
      if (call.residual) call.residual[at] = from_f32<act>(to_f32(end.before) + to_f32(sum));
      else reinterpret_cast<act*>(c.y)[at] = sum;
      return;
    }
    const u64 at = (u64)(EXPERTS ? part.choice : column) * heights + output;
    if constexpr (PUSHED) push_output(call.push, number, output, from_f32<act>(y));
    else if (ROUNDED && call.residual)
      call.residual[at] = from_f32<act>(to_f32(end.before) + to_f32(from_f32<act>(y)));
    else if (c.end == CODED_END_LOGITS) reinterpret_cast<float*>(c.y)[at] = y;
    else reinterpret_cast<act*>(c.y)[at] = from_f32<act>(y);
  }

  __device__ void run(u8* shared) {
    __shared__ float steps_of_rows[CODED_SMALL_ROWS];
    steps = steps_of_rows;
    ring = shared_address(shared) + before;
    full = ring + stages * ROWS * pitch;
    empty = full + stages * 8;
    start_ring(full, empty, stages, WARPS);
    if constexpr (EXPERTS) {
      __shared__ u32 experts[SMALL_CHOICES];
      chosen.find(experts);
    }
    if (threadIdx.x >= WARPS * 32) {
      produce();
    } else {
      u8* const xs = shared + 2 * SMALL_M_SUMS_BYTES;
      float* const sums = reinterpret_cast<float*>(shared);
      float* const of_groups = reinterpret_cast<float*>(shared + input_sums);
      Row own(call, steps);
      take(xs, of_groups, sums, own);
      multiply_all(shared + before, xs, of_groups, sums, own);
    }
  }
};
#endif

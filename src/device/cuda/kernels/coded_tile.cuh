// A tile of a product whose left operand are codes, on wgmma: what coded_wgmma.cu and
// coded_experts.cu are made of.
#pragma once
#include "activation.cuh"
#include "codes.cuh"
#include "warpgroup.cuh"

#if ARCH == 90 && ACT != 0
extern __shared__ __align__(128) u8 dynamic_shared[];

template <CodeKind KIND, u32 COLUMNS, bool EXPERTS>
struct Tile {
  static constexpr u32 STEPS = Decode<KIND>::STEPS, PER_WORD = Decode<KIND>::PER_WORD;
  static constexpr u32 INPUTS = STEPS * 16;  // of a block of codes
  static constexpr u32 PIECES = INPUTS / 8;  // of 16 bytes, in a row of x
  static constexpr u32 PANEL = COLUMNS * PANEL_ROW_BYTES;
  static constexpr u32 X_BYTES = COLUMNS * INPUTS * 2;
  static constexpr u32 STAGE = X_BYTES + CODED_TILE * CODE_BLOCK_BYTES;
  static constexpr u32 STAGES = COLUMNS == CODED_FEW_ROWS ? CODED_FEW_STAGES : CODED_MANY_STAGES;
  static constexpr int SUMS = COLUMNS / 2;

  const CodedProduct& c;
  const bool gated = c.end == CODED_END_GATED;
  const u32 heights = gated ? c.outputs / 2 : c.outputs;
  const u32 height = gated ? CODED_TILE / 2 : CODED_TILE;  // outputs of a tile
  const u32 tiles = (heights + height - 1) / height;
  const u32 first_column = EXPERTS ? 0 : blockIdx.y * COLUMNS;
  u32 columns = c.rows;  // of all tiles, or of this one
  u32 first_output = 0;  // of the expert
  u32 stages;  // address in shared memory
  const u32* choices;  // of the expert's tile, in shared memory
  float acc[SUMS];

  __device__ Tile(const CodedProduct& c) : c(c) {}

  // The first unit of a block's run; a unit is a block of codes of a tile.
  __device__ u32 start_of(u32 block) const {
    return (u32)((u64)tiles * c.w.blocks * block / gridDim.x);
  }

  // Row `r` of a tile of W. Gated: of each 16 the first eight are gates, the others the ups that
  // they are multiplied with. Beyond the last row it is the last again: nobody stores it.
  __device__ u32 output(u32 tile, u32 r) const {
    if (!gated) return first_output + min(tile * CODED_TILE + r, heights - 1);
    return first_output + min(tile * height + r / 16 * 8 + r % 8, heights - 1) +
           r / 8 % 2 * heights;
  }

  // The row of x of a choice.
  __device__ u32 row_of(u32 column) const {
    const u32 choice = choices[column];
    return gated ? choice / c.top_k : choice;
  }

  // What this thread copies: pieces of every 16th (32nd) row of x, of two rows of W.
  static constexpr u32 X_COPIES = (COLUMNS * PIECES + CODED_THREADS - 1) / CODED_THREADS;
  static constexpr u32 X_ROWS = CODED_THREADS / PIECES;  // from one copy to the next
  const act* x_from[EXPERTS ? X_COPIES : 1];
  const u8* codes_from[2];
  u32 fetch_tile, fetch_block;

  __device__ void start_fetch(u32 unit) {
    const u32 r = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
#pragma unroll
    for (u32 i = 0; i < (EXPERTS ? X_COPIES : 1); i++) {
      const u32 column = first_column + r + i * X_ROWS;
      const u32 row = EXPERTS && column < columns ? row_of(column) : column;
      x_from[i] = c.x + (u64)row * c.w.inputs + piece * 8;
    }
    fetch_tile = unit / c.w.blocks;
    fetch_block = unit % c.w.blocks;
    point_at_codes();
  }

  __device__ void point_at_codes() {
#pragma unroll
    for (u32 i = 0; i < 2; i++)
      codes_from[i] = c.w.rows + (u64)output(fetch_tile, threadIdx.x / 4 + i * 64) * c.w.row_bytes +
                      threadIdx.x % 4 * 16;
  }

  // Start copying a unit's codes, four threads a row.
  __device__ void fetch_codes(u32 stage) const {
    const u32 to = stages + stage * STAGE + X_BYTES + threadIdx.x * 16;
    const u32 at = block_at(c.w, fetch_block);
#pragma unroll
    for (u32 i = 0; i < 2; i++) copy_async(to + i * CODED_THREADS * 16, codes_from[i] + at, true);
  }

  // Start copying a unit's rows of x.
  __device__ void fetch_x(u32 stage) const {
    const u32 r = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
    const u32 to = stages + stage * STAGE + swizzled(r, piece, COLUMNS);
    const u32 first = fetch_block * INPUTS;
    const bool inside = first + piece * 8 < c.w.inputs;
    const act* from = x_from[0] + first;
#pragma unroll
    for (u32 i = 0; i < X_COPIES; i++) {
      const u32 column = r + i * X_ROWS;
      if (COLUMNS % X_ROWS != 0 && column >= COLUMNS) break;
      const bool valid = inside && first_column + column < columns;
      if (EXPERTS) from = x_from[i] + first;
      // Rows of a panel that are 8 n apart are swizzled alike.
      copy_async(to + i * X_ROWS * PANEL_ROW_BYTES, valid ? from : c.x, valid);
      from += (u64)X_ROWS * c.w.inputs;
    }
  }

  __device__ void advance_fetch() {
    if (++fetch_block < c.w.blocks) return;
    fetch_block = 0;
    fetch_tile++;
    point_at_codes();
  }

  // This lane's row (half: 8 rows on) of a tile.
  __device__ u32 own_row(u32 half) const {
    return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + half * 8;
  }

  // Sums of block `at` of a tile's codes, its scales taken; `own` are this lane's two rows.
  template <u32 SCALES>
  __device__ void block(const u8* const (&own)[2], u32 at, u32 stage) {
    constexpr u32 PER = SCALES == 0 ? STEPS : STEPS / SCALES;  // steps of a group
    const u8* codes = dynamic_shared + (stages - shared_address(dynamic_shared)) + stage * STAGE +
                      X_BYTES + threadIdx.x % 4 * 16;
    const uint4 low = *reinterpret_cast<const uint4*>(codes + own_row(0) * CODE_BLOCK_BYTES);
    const uint4 high = *reinterpret_cast<const uint4*>(codes + own_row(1) * CODE_BLOCK_BYTES);
    const u32 lows[4] = {low.x, low.y, low.z, low.w}, highs[4] = {high.x, high.y, high.z, high.w};
    const u64 right = describe(stages + stage * STAGE, 16);
    float scale[SCALES == 0 ? 1 : SCALES][2];
    Zero zero[SCALES == 0 ? 1 : SCALES][2];
    if constexpr (SCALES != 0) {
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        const u8* from = own[half] + scale_at(c.w, at, 0, false);
        const scale_t* scales = reinterpret_cast<const scale_t*>(from);
        from = own[half] + scale_at(c.w, at, 0, true);
        const scale_t* zeros = reinterpret_cast<const scale_t*>(from);
#pragma unroll
        for (u32 g = 0; g < SCALES; g++) {
          scale[g][half] = to_f32(scales[g]);
          if (c.w.zeros) zero[g][half] = Zero(to_f32(zeros[g]));
        }
      }
    }
    float part[SCALES == 0 ? 1 : SUMS];
    u32 left[STEPS][4];
#pragma unroll
    for (u32 w = 0; w < 4; w++) {
      u32 a[PER_WORD][2], b[PER_WORD][2];
      Decode<KIND>::word(lows[w], a, c.w.table);
      Decode<KIND>::word(highs[w], b, c.w.table);
#pragma unroll
      for (u32 i = 0; i < PER_WORD; i++) {
        const u32 s = w * PER_WORD + i;
        left[s][0] = a[i][0], left[s][1] = b[i][0], left[s][2] = a[i][1], left[s][3] = b[i][1];
        if (SCALES != 0 && c.w.zeros) {
#pragma unroll
          for (u32 e = 0; e < 4; e++) left[s][e] = zero[s / PER][e % 2].add(left[s][e]);
        }
      }
    }
#pragma unroll
    for (u32 g = 0; g < STEPS / PER; g++) {
      ready();
#pragma unroll
      for (u32 s = g * PER; s < (g + 1) * PER; s++) {
        const u64 b = right + (s / 4 * PANEL + s % 4 * 32) / 16;
        if constexpr (SCALES == 0) multiply_inner(acc, left[s], b, 1);
        else multiply_inner(part, left[s], b, s > g * PER);
      }
      submit();
      finish<0>();
      if constexpr (SCALES == 0) {
        hold(acc);
      } else {
        hold(part);
#pragma unroll
        for (int i = 0; i < SUMS; i++) acc[i] = fmaf(scale[g][i / 2 % 2], part[i], acc[i]);
      }
    }
  }

  __device__ void multiply_block(const u8* const (&own)[2], u32 at, u32 stage) {
    switch (c.w.scales) {
      case 0:
        return block<0>(own, at, stage);
      case 1:
        return block<1>(own, at, stage);
      case 2:
        return block<2>(own, at, stage);
      case 4:
        return block<4>(own, at, stage);
      default:
        if constexpr (STEPS == 8) return block<8>(own, at, stage);
    }
  }

  __device__ float* part_of(u32 block, bool last) const {
    const u64 place = ((u64)blockIdx.y * gridDim.x + block) * 2 + last;
    return c.partial + place * SUMS * CODED_THREADS + threadIdx.x;
  }

  // The run has come to the end of its part of a tile.
  __device__ void end(u32 tile, u32 from, u32 to) {
    const u32 begin = tile * c.w.blocks, end = begin + c.w.blocks;
    if (!EXPERTS && (from > begin || to < end)) {
      float* mine = part_of(blockIdx.x, from <= begin);
#pragma unroll
      for (int i = 0; i < SUMS; i++) mine[i * CODED_THREADS] = acc[i];
      __threadfence();
      __syncthreads();
      // The blocks whose runs meet this tile.
      u32 first = (u32)((u64)begin * gridDim.x / (tiles * (u64)c.w.blocks));
      while (first > 0 && start_of(first) > begin) first--;
      while (start_of(first + 1) <= begin) first++;
      u32 last = first;
      while (start_of(last + 1) < end) last++;
      __shared__ bool is_last;
      if (threadIdx.x == 0) {
        u32* arrivals = c.arrivals + blockIdx.y * tiles + tile;
        is_last = atomicAdd(arrivals, 1) == last - first;
        if (is_last) *arrivals = 0;
      }
      __syncthreads();
      if (!is_last) return;
      __threadfence();
#pragma unroll
      for (int i = 0; i < SUMS; i++) acc[i] = 0.f;
      for (u32 block = first; block <= last; block++) {
        const float* part = part_of(block, start_of(block) <= begin);
#pragma unroll
        for (int i = 0; i < SUMS; i++) acc[i] += __ldcg(part + i * CODED_THREADS);
      }
    }
    write(tile);
  }

  __device__ void write(u32 tile) const {
    const u32 lane = threadIdx.x % 32, base = threadIdx.x / 32 * 16 + lane / 4;
    const u32 beyond = gated ? tile * height + base / 16 * 8 + base % 8 : tile * CODED_TILE + base;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
      if (gated && half == 1) break;
      const u32 output = beyond + half * 8;
      if (output >= heights) continue;
      const float* factors = c.w.factor + first_output;
      const float factor = factors[output], bias = c.bias ? c.bias[output] : 0.f;
      const float up_factor = gated ? factors[heights + output] : 0.f;
      const float up_bias = gated && c.bias ? c.bias[heights + output] : 0.f;
#pragma unroll
      for (u32 n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
          const u32 column = first_column + n * 8 + lane % 4 * 2 + i;
          if (column >= columns) continue;
          const float step = c.steps ? c.steps[EXPERTS ? row_of(column) : column] : 1.f;
          float y = activate(step * factor * acc[4 * n + 2 * half + i] + bias, c.kind);
          if (gated) y *= step * up_factor * acc[4 * n + 2 + i] + up_bias;
          const u64 at = (u64)(EXPERTS ? choices[column] : column) * heights + output;
          if (c.end == CODED_END_LOGITS) reinterpret_cast<float*>(c.y)[at] = y;
          else reinterpret_cast<act*>(c.y)[at] = from_f32<act>(y);
        }
      }
    }
  }

  __device__ void run(u8* shared) {
    stages = (shared_address(shared) + 1023) / 1024 * 1024;
    u32 from, to;
    if constexpr (EXPERTS) {
      // Which expert it is, the kernel before says.
      begin();
      if (blockIdx.y >= *c.expert_tile_count) return;
      const ExpertTile& tile = c.expert_tiles[blockIdx.y];
      __shared__ u32 of_tile[COLUMNS];
      columns = tile.count;
      first_output = tile.expert * c.outputs;
      if (threadIdx.x < COLUMNS)
        of_tile[threadIdx.x] = threadIdx.x < columns ? c.order[tile.first + threadIdx.x] : 0;
      choices = of_tile;
      __syncthreads();
      from = blockIdx.x * c.w.blocks, to = from + c.w.blocks;
    } else {
      from = start_of(blockIdx.x), to = start_of(blockIdx.x + 1);
    }
    if (from >= to) {
      if constexpr (!EXPERTS) begin();
      return;
    }
    // Weights depend on nobody.
    start_fetch(from);
    for (u32 s = 0; s + 1 < STAGES; s++) {
      if (from + s < to) fetch_codes(s);
      advance_fetch();
    }
    if constexpr (!EXPERTS) begin();
    start_fetch(from);
    for (u32 s = 0; s + 1 < STAGES; s++) {
      if (from + s < to) fetch_x(s);
      commit();
      advance_fetch();
    }
#pragma unroll
    for (int i = 0; i < SUMS; i++) acc[i] = 0.f;
    u32 part = from;  // Where the part of this tile began.
    u32 tile = from / c.w.blocks, at = from % c.w.blocks, stage = 0, next_stage = STAGES - 1;
    const u8* own[2];
    const auto point = [&] {
#pragma unroll
      for (u32 half = 0; half < 2; half++)
        own[half] = c.w.rows + (u64)output(tile, own_row(half)) * c.w.row_bytes;
    };
    point();
    for (u32 unit = from; unit < to; unit++) {
      wait<STAGES - 2>();
      publish();
      __syncthreads();
      if (unit + STAGES - 1 < to) {
        fetch_codes(next_stage);
        fetch_x(next_stage);
        advance_fetch();
      }
      commit();
      multiply_block(own, at, stage);
      if (++stage == STAGES) stage = 0;
      if (++next_stage == STAGES) next_stage = 0;
      const bool is_end = ++at == c.w.blocks;
      if (unit + 1 < to && !is_end) continue;
      end(tile, part, unit + 1);
      part = unit + 1;
      at = 0;
      tile++;
      if (unit + 1 < to) point();
#pragma unroll
      for (int i = 0; i < SUMS; i++) acc[i] = 0.f;
    }
  }
};

#define CODED(KIND, COLUMNS, EXPERTS) Tile<KIND, COLUMNS, EXPERTS>(a).run(dynamic_shared)
#else
// The device never launches these where they have no code.
#define CODED(KIND, COLUMNS, EXPERTS) (void)a
#endif

#define CODED_ENTRY(NAME, KIND, COLUMNS, EXPERTS)                                   \
  __global__ void __launch_bounds__(CODED_THREADS, CODED_BLOCKS_PER_MULTIPROCESSOR) \
      NAME(const CodedProduct a) {                                                  \
    CODED(KIND, COLUMNS, EXPERTS);                                                  \
  }

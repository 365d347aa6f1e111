// A tile of a product whose left operand are codes, on wgmma: what coded_wgmma.cu and
// coded_experts.cu are made of.
#pragma once
#include "activation.cuh"
#include "bulk.cuh"
#include "cluster.cuh"
#include "codes.cuh"
#include "warpgroup.cuh"

#if ARCH == 90 && ACT != 0
extern __shared__ __align__(128) u8 dynamic_shared[];

// The work of a block: 256 outputs, four warpgroups of 64, for COLUMNS rows of x over its share of
// the inputs; a cluster's blocks have one share each and add up their sums through distributed
// shared memory, in the order of the blocks.
//
// A unit is a block of codes of each output, with its inputs. One thread has units copied some
// stages ahead by tensor maps (x of experts, whose rows are gathered, all threads by cp.async).
// Tensor cores and arithmetic overlap within a warp: a unit has parts of two steps, and while one
// part's products run, the codes of the next become operands.
template <CodeKind KIND, u32 COLUMNS, bool EXPERTS>
struct Tile {
  static constexpr u32 STEPS = Decode<KIND>::STEPS, PER_WORD = Decode<KIND>::PER_WORD;
  static constexpr u32 PARTS = STEPS / 2;
  static constexpr u32 INPUTS = STEPS * 16;  // of a unit
  static constexpr u32 PIECES = INPUTS / 8;  // of 16 bytes, in a row of x
  static constexpr u32 PANEL = COLUMNS * PANEL_ROW_BYTES;
  static constexpr u32 X_BYTES = COLUMNS * INPUTS * 2, CODE_BYTES = CODED_TILE * CODE_BLOCK_BYTES;
  static constexpr u32 STAGE = X_BYTES + CODE_BYTES;
  static constexpr u32 STAGES = COLUMNS == CODED_FEW_ROWS ? CODED_FEW_STAGES : CODED_MANY_STAGES;
  static constexpr u32 WARPS = CODED_THREADS / 32;
  static constexpr int SUMS = COLUMNS / 2;
  static constexpr u32 GROUPS_OF_COLUMNS = COLUMNS / 8;  // four sums of a thread each
  // What a thread copies of an expert's unit of x: pieces of every X_ROWS-th row.
  static constexpr u32 X_ROWS = CODED_THREADS / PIECES;
  static constexpr u32 X_COPIES = (COLUMNS + X_ROWS - 1) / X_ROWS;

  // Behind the stages: factors and biases of the tile's rows, and the barriers.
  struct Rest {
    float factors[CODED_TILE], biases[CODED_TILE];
    u64 full[STAGES], empty[STAGES];
    u32 choices[COLUMNS];
    scale_t one;
  };
  static_assert(sizeof(Rest) + 1024 <= CODED_REST_BYTES, "room behind the stages");

  const CodedTiles& t;
  const CodedProduct& c = t.product;
  const bool gated = c.end == CODED_END_GATED;
  const u32 heights = gated ? c.outputs / 2 : c.outputs;
  const u32 height = gated ? CODED_TILE / 2 : CODED_TILE;  // outputs of a tile
  const u32 blocks = cluster_blocks(), rank = blockIdx.x % blocks;
  const u32 first = blockIdx.x / blocks * height;  // output
  const u32 from = uniform(c.w.blocks * rank / blocks);  // units
  const u32 to = uniform(c.w.blocks * (rank + 1) / blocks);
  const u32 first_column = EXPERTS ? 0 : blockIdx.y * COLUMNS;
  // This lane's rows of the tile; gated: the gate and the up that it is multiplied with. A tile's
  // gates come before its ups.
  const u32 row = threadIdx.x / 32 * (gated ? 8 : 16) + threadIdx.x % 32 / 4;
  const u32 next_row = row + (gated ? CODED_TILE / 2 : 8);
  u32 columns = c.rows;  // of all tiles, or of this one
  u32 first_output = 0;  // of the expert
  u32 stages;  // address in shared memory
  Rest* rest;
  u32 full, empty;  // addresses of the barriers
  // Where the scales of this lane's rows are counted from; without scales, a 1.
  const u8* scales_of[2];
  // The pieces of x that this thread copies, by 16 bytes.
  u32 x_from[EXPERTS ? X_COPIES : 1];
  float acc[SUMS];

  __device__ Tile(const CodedTiles& t) : t(t) {}

  __device__ static u32 uniform(u32 x) { return __shfl_sync(~0u, x, 0); }

  // Row `r` of the tile, in W. Beyond the last output it is the last again: nobody stores it.
  __device__ u32 output(u32 r) const {
    return first_output + min(first + r % height, heights - 1) + r / height * heights;
  }

  // The row of x of a choice.
  __device__ u32 row_of(u32 column) const {
    const u32 choice = rest->choices[column];
    return c.top_k == 1 ? choice : choice / c.top_k;
  }

  __device__ void point_at_x() {
    const u32 r = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
#pragma unroll
    for (u32 i = 0; i < (EXPERTS ? X_COPIES : 1); i++) {
      const u32 column = r + i * X_ROWS;
      x_from[i] = (column < columns ? row_of(column) : 0) * (c.w.inputs / 8) + piece;
    }
  }

  // Start copying a unit's codes, and say what the stage's barrier is to wait for. By one thread.
  __device__ void fetch_codes(u32 stage, u32 unit) const {
    const u32 to = stages + stage * STAGE + X_BYTES, barrier = full + stage * 8;
    const u32 column = block_at(c.w, unit);
    barrier_expect(barrier, EXPERTS ? CODE_BYTES : STAGE);
    copy_box(to, &t.codes, column, first_output + first, barrier);
    const u32 second = gated ? first_output + heights + first : first_output + first + height / 2;
    copy_box(to + CODE_BYTES / 2, &t.codes, column, second, barrier);
  }

  // And its rows of x, into panels; zeros beyond the rows and the inputs.
  __device__ void fetch_x(u32 stage, u32 unit) const {
    const u32 to = stages + stage * STAGE;
#pragma unroll
    for (u32 panel = 0; panel < INPUTS / PANEL_COLUMNS; panel++)
      copy_box(to + panel * PANEL, &t.inputs, unit * INPUTS + panel * PANEL_COLUMNS, first_column,
               full + stage * 8);
  }

  // The same of an expert, by all threads.
  __device__ void gather_x(u32 stage, u32 unit) const {
    const u32 r = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
    const u32 to = stages + stage * STAGE + swizzled(r, piece, COLUMNS);
    const bool inside = unit * INPUTS + piece * 8 < c.w.inputs;
    const u8* x = reinterpret_cast<const u8*>(c.x + unit * INPUTS);
#pragma unroll
    for (u32 i = 0; i < X_COPIES; i++) {
      const u32 column = r + i * X_ROWS;
      if (COLUMNS % X_ROWS != 0 && column >= COLUMNS) break;
      const bool valid = inside && column < columns;
      // Rows of a panel that are 8 n apart are swizzled alike.
      copy_async(to + i * X_ROWS * PANEL_ROW_BYTES,
                 valid ? x + (u64)x_from[i] * 16 : reinterpret_cast<const u8*>(c.x), valid);
    }
  }

  // This warp's copies of an expert's unit are there.
  __device__ void arrive_with_x(u32 stage) const {
    wait<STAGES - 3>();
    publish();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(full + stage * 8);
  }

  // Scales or zeros of a unit's groups `first` .., for this lane's two rows.
  template <u32 N>
  __device__ void load(scale_t (&to)[N][2], u32 unit, u32 first, bool zeros) const {
    // Not by a condition: behind a branch at this place ptxas has each product wait for the last.
    const u32 at = scale_at(c.w, unit, first, zeros) * min(c.w.scales, 1);
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
#pragma unroll
      for (u32 g = 0; g < N; g++)
        to[g][half] = reinterpret_cast<const scale_t*>(scales_of[half] + at)[g];
    }
  }

  // All units. SCALES of each: 1 (or none, which are taken for 1), 2, 4, 8.
  template <u32 SCALES>
  __device__ void multiply_all() {
    // Parts of a group, or groups of a part.
    constexpr u32 SPAN = SCALES < PARTS ? PARTS / SCALES : 1;
    constexpr u32 GROUPS = SCALES > PARTS ? 2 : 1, PER = 2 / GROUPS;
#pragma unroll
    for (int i = 0; i < SUMS; i++) acc[i] = 0.f;
    float part[SUMS] = {};
    // Of `part`: loaded when its products begin, used when they are done.
    const scale_t none = from_f32<scale_t>(0.f);
    scale_t scale[1][2] = {{none, none}};
    scale_t zeros[GROUPS][2];
    u32 left[2][2][4];
    u32 stage = 0, phase = 0;
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) zeros[g][0] = zeros[g][1] = none;
    if (c.w.zeros) load(zeros, from, 0, true);

    // The group before is done, and added to the sums.
    const auto settle = [&] {
      finish<0>();
      hold(part);
      const float low = to_f32(scale[0][0]), high = to_f32(scale[0][1]);
#pragma unroll
      for (int i = 0; i < SUMS; i++) acc[i] = fmaf(i / 2 % 2 == 0 ? low : high, part[i], acc[i]);
    };

    for (u32 unit = from; unit < to; unit++) {
      barrier_wait(full + stage * 8, phase);
      const u32 codes = stages + stage * STAGE + X_BYTES + threadIdx.x % 4 * 16;
      u32 lows[4], highs[4];
      load_shared(lows, codes + row * CODE_BLOCK_BYTES);
      load_shared(highs, codes + next_row * CODE_BLOCK_BYTES);
      const u64 right = describe(stages + stage * STAGE, 16);

#pragma unroll
      for (u32 p = 0; p < PARTS; p++) {
        const bool fresh = p % SPAN == 0;
        const u32 group = p / SPAN * GROUPS;
        // These registers are free again: only the last part's products may be under way.
        u32(&operands)[2][4] = left[p % 2];
        finish<1>();
#pragma unroll
        for (u32 s = 0; s < 2; s++) {
          const u32 word = (p * 2 + s) / PER_WORD, i = s % PER_WORD;
          u32 a[PER_WORD][2], b[PER_WORD][2];
          Decode<KIND>::word(lows[word], a, c.w.table);
          Decode<KIND>::word(highs[word], b, c.w.table);
          u32(&to)[4] = operands[s];
          to[0] = a[i][0], to[1] = b[i][0], to[2] = a[i][1], to[3] = b[i][1];
          if (c.w.zeros) {
#pragma unroll
            for (u32 e = 0; e < 4; e++) to[e] = Zero(to_f32(zeros[s / PER][e % 2])).add(to[e]);
          }
        }
        if (c.w.zeros && (p + 1) % SPAN == 0) {
          if (p + 1 < PARTS) load(zeros, unit, group + GROUPS, true);
          else if (unit + 1 < to) load(zeros, unit + 1, 0, true);
        }

#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) {
          if (fresh) {
            settle();
            load(scale, unit, group + g, false);
          }
          if (p == 0 && g == 0) {
            // The products of the unit before are done.
            const u32 before = stage == 0 ? STAGES - 1 : stage - 1;
            if (unit != from && threadIdx.x % 32 == 0) barrier_arrive(empty + before * 8);
            refill(unit, stage < 2 ? stage + STAGES - 2 : stage - 2, stage < 2 ? phase ^ 1 : phase);
            if (EXPERTS && unit + 1 < to) arrive_with_x(stage + 1 == STAGES ? 0 : stage + 1);
          }
          ready();
#pragma unroll
          for (u32 s = g * PER; s < (g + 1) * PER; s++) {
            const u32 step = p * 2 + s;
            const u64 b = right + (step / 4 * PANEL + step % 4 * 32) / 16;
            multiply_inner(part, operands[s], b, !(fresh && s == g * PER));
          }
          submit();
        }
      }
      if (++stage == STAGES) stage = 0, phase ^= 1;
    }
    settle();
  }

  // The unit that takes the place of the second before `unit`, once all warps are done with that
  // one.
  __device__ void refill(u32 unit, u32 stage, u32 phase) const {
    const u32 next = unit - 2 + STAGES;
    const bool some = unit - from >= 2 && next < to;
    if (some && (EXPERTS || threadIdx.x == 0)) {
      barrier_wait(empty + stage * 8, phase);
      if (threadIdx.x == 0) fetch_codes(stage, next);
      if (EXPERTS) gather_x(stage, next);
      else fetch_x(stage, next);
    }
    if (EXPERTS) commit();
    else __syncwarp();
  }

  __device__ void multiply() {
    switch (c.w.scales) {
      case 2:
        return multiply_all<2>();
      case 4:
        return multiply_all<4>();
      case 8:
        if constexpr (STEPS == 8) multiply_all<8>();
        return;
      default:
        return multiply_all<1>();
    }
  }

  // The sums of a cluster's blocks, each of which writes some of the columns.
  __device__ void add_up() const {
    // Nobody multiplies any more: sums take the place of stages.
    __syncthreads();
    const u32 mine = stages + threadIdx.x * 16;
#pragma unroll
    for (u32 n = 0; n < GROUPS_OF_COLUMNS; n++)
      store_shared(mine + n * CODED_THREADS * 16, __float_as_uint(acc[4 * n]),
                   __float_as_uint(acc[4 * n + 1]), __float_as_uint(acc[4 * n + 2]),
                   __float_as_uint(acc[4 * n + 3]));
    meet_cluster();
    for (u32 n = rank; n < GROUPS_OF_COLUMNS; n += blocks) {
      float sums[4] = {};
      add_of_blocks(mine + n * CODED_THREADS * 16, blocks, sums);
      write(n, sums);
    }
    // Others may still read what lies here.
    meet_cluster();
  }

  // This lane's four sums of columns 8 n ..: two of `row`, two of `next_row`.
  __device__ void write(u32 n, const float (&sums)[4]) const {
    const float up_factor = rest->factors[next_row], up_bias = rest->biases[next_row];
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
      if (gated && half == 1) break;
      const u32 r = half == 0 ? row : next_row, output = first + r;
      if (output >= heights) continue;
      const float factor = rest->factors[r], bias = rest->biases[r];
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        const u32 column = first_column + n * 8 + threadIdx.x % 4 * 2 + i;
        if (column >= columns) continue;
        const float step = c.steps ? c.steps[EXPERTS ? row_of(column) : column] : 1.f;
        const float gate = step * factor * sums[2 * half + i] + bias;
        const float up = step * up_factor * sums[2 + i] + up_bias;
        const float y = gated ? activate_gated(gate, up, c.kind) : activate(gate, c.kind);
        const u64 at = (u64)(EXPERTS ? rest->choices[column] : column) * heights + output;
        if (c.end == CODED_END_LOGITS) reinterpret_cast<float*>(c.y)[at] = y;
        else reinterpret_cast<act*>(c.y)[at] = from_f32<act>(y);
      }
    }
  }

  __device__ void run() {
    stages = (shared_address(dynamic_shared) + 1023) / 1024 * 1024;
    u8* const behind = dynamic_shared + (stages - shared_address(dynamic_shared)) + STAGES * STAGE;
    rest = reinterpret_cast<Rest*>(behind);
    full = shared_address(rest->full);
    empty = shared_address(rest->empty);
    if (threadIdx.x == 0) {
      init_ring(full, empty, STAGES, WARPS, EXPERTS ? WARPS : 0);
      rest->one = from_f32<scale_t>(1.f);
    }
    if constexpr (EXPERTS) {
      // Which expert it is, the kernel before says.
      begin();
      if (blockIdx.y >= *c.expert_tile_count) return;
      const ExpertTile& choice = c.expert_tiles[blockIdx.y];
      columns = choice.count;
      first_output = choice.expert * c.outputs;
      if (threadIdx.x < COLUMNS)
        rest->choices[threadIdx.x] =
            threadIdx.x < columns ? c.order[choice.first + threadIdx.x] : 0;
    }
    __syncthreads();
    if constexpr (EXPERTS) point_at_x();

    // Weights depend on nobody.
    if (threadIdx.x == 0)
      for (u32 s = 0; s < STAGES && from + s < to; s++) fetch_codes(s, from + s);
    const u8* one = reinterpret_cast<const u8*>(&rest->one);
    scales_of[0] = c.w.scales == 0 ? one : c.w.rows + (u64)output(row) * c.w.row_bytes;
    scales_of[1] = c.w.scales == 0 ? one : c.w.rows + (u64)output(next_row) * c.w.row_bytes;
    float factor = 0.f, bias = 0.f;
    if (threadIdx.x < CODED_TILE) {
      factor = c.w.factor[output(threadIdx.x)];
      if (c.bias) bias = c.bias[output(threadIdx.x)];
    }

    if constexpr (EXPERTS) {
      for (u32 s = 0; s < STAGES; s++) {
        if (from + s < to) gather_x(s, from + s);
        commit();
      }
      arrive_with_x(0);
    } else {
      begin();
      if (threadIdx.x == 0)
        for (u32 s = 0; s < STAGES && from + s < to; s++) fetch_x(s, from + s);
      __syncwarp();
    }
    if (threadIdx.x < CODED_TILE) {
      rest->factors[threadIdx.x] = factor;
      rest->biases[threadIdx.x] = bias;
    }
    multiply();
    add_up();
  }
};

#define CODED(KIND, COLUMNS, EXPERTS) Tile<KIND, COLUMNS, EXPERTS>(a).run()
#else
// The device never launches these where they have no code.
#define CODED(KIND, COLUMNS, EXPERTS) (void)a
#endif

#define CODED_ENTRY(NAME, KIND, COLUMNS, EXPERTS)     \
  __global__ void __launch_bounds__(CODED_THREADS, 1) \
      NAME(const __grid_constant__ CodedTiles a) {    \
    CODED(KIND, COLUMNS, EXPERTS);                    \
  }

// y = end(x W^T + b) for 5 to 64 rows of x on Hopper, where the weights' bytes are most of what
// moves: W and x of half types, or both codes of E4M3 (of up to 32 rows narrow tiles alone, others
// are gemm_tiles'), whose sums are multiplied by a factor of each output and one of each row. Bias,
// activation and the product of gate and up are in the end.
//
// x is the left operand of wgmma, its rows one tile of 64, and W^T the right one: a tile of W may
// be any multiple of 16 outputs, so that the tiles of a product are about as many as blocks. x lies
// in front of W in a stage: where it has fewer rows, those behind it are W's, whose products nobody
// takes.
// Both lie in shared memory as tensor maps put them. Two warpgroups have half of a tile's outputs
// each, or (narrow tiles) each second stage, and add up in the end. Where tiles are few all the
// same, a cluster of blocks shares a tile's inputs and adds up through distributed shared memory,
// in the order of its blocks.
//
// A stage holds 128 bytes of each of its rows of x and of W. One thread copies, some stages ahead
// and over the ends of tiles; weights before the kernel before has ended. The sums of E4M3 within
// tensor cores have fewer bits than f32: no more than 128 products are left to them.
//
// The kernel behind gets leave late: when a block has copied all that it will, or (E4M3, which has
// launches between products that round) multiplied it. The ring of the product behind would take
// bandwidth from blocks that are not done, and it is full long before its x is there.
//
// Of half types a norm between two products may take no launch: the first one adds its sums to the
// residual, and leaves that times the norm's weight and, block by block, the squares of its rows;
// the second one multiplies its sums of a row by what the norm would have multiplied the row by,
// which warps of their own make meanwhile. An element is rounded once, as by the norm.
//
// Bytes: W once, and out of L2 x for each tile. Floor: bytes of W / bandwidth. Tried: x copied once
// for several blocks of a cluster, a part of its rows by each (multicast); as fast, or slower.
#include "abi_codes.h"
#include "gemm_rows.cuh"

#if ARCH == 90 && ACT != 0
extern __shared__ __align__(128) u8 dynamic_shared[];

// Which ends a kernel has. Of half types each usual one has kernels of its own: a third of the code
// of all, of which multiprocessors hold that of several kernels, and fetch what they lack anew in
// each launch.
enum Ends { ALL_ENDS, OTHER_ENDS, PLAIN_END, GATED_END, RESIDUAL_END };

// N outputs of a warpgroup; ACROSS warpgroups side by side, TURNS that take turns with stages.
template <bool BYTES, u32 N, u32 ACROSS, u32 TURNS, Ends ENDS>
struct Product {
  static constexpr u32 OUTPUTS = N * ACROSS, THREADS = ACROSS * TURNS * WARPGROUP;
  static constexpr u32 W_BYTES = OUTPUTS * PANEL_ROW_BYTES;
  static constexpr u32 UNIT = BYTES ? PANEL_ROW_BYTES : PANEL_COLUMNS;  // inputs of a stage
  static constexpr u32 EIGHTS = N / 8;  // of outputs of a warpgroup: four sums of a thread each
  static constexpr u32 ALL_EIGHTS = EIGHTS * ACROSS, EIGHT_BYTES = WARPGROUP * 16;
  static constexpr u32 TURNED_PITCH = 24;  // of 16 sums: few lanes wait for each other
  // Outputs at a time: of E4M3 registers for their sums are there twice.
  static constexpr u32 PART = BYTES && N > 64 ? N / 2 : N;
  // Those that multiply and those that make scales.
  static constexpr u32 SCALED = THREADS + 32 * ROWS_DIVIDING;
  static_assert(N % 16 == 0 && THREADS + 32 == ROWS_THREADS, "tiles");
  // With the eight rows of x that there are at least: what wgmma reads of a stage lies within.
  static_assert(OUTPUTS + 8 >= ROWS_MOST, "rows behind those of x");

  // Behind the stages.
  struct Rest {
    u64 full[ROWS_STAGES_MOST], empty[ROWS_STAGES_MOST];
    float steps[ROWS_MOST];
    float factor[OUTPUTS], bias[OUTPUTS];
    float turned[THREADS / 32][16 * TURNED_PITCH];
  };
  static_assert(sizeof(Rest) + 1024 <= ROWS_REST_BYTES, "room behind the stages");

  const RowsGemm& c;
  static constexpr bool FIXED = ENDS != ALL_ENDS && ENDS != OTHER_ENDS;
  const bool gated = FIXED ? ENDS == GATED_END : c.end == CODED_END_GATED;
  const u32 heights = gated ? c.outputs / 2 : c.outputs;
  const u32 height = gated ? OUTPUTS / 2 : OUTPUTS;  // outputs of a tile
  const u32 share = blockIdx.x % c.shares;
  const u32 tiles = (heights + height - 1) / height;
  const u32 first_tile = blockIdx.x / c.shares, step = gridDim.x / c.shares;
  const u32 from = c.units * share / c.shares, to = c.units * (share + 1) / c.shares;
  const u32 of_tile = to - from;
  const u32 count = first_tile < tiles ? (tiles - 1 - first_tile) / step + 1 : 0;
  u32 ring, full, empty;  // addresses in shared memory
  Rest* rest;

  __device__ Product(const RowsGemm& c) : c(c) {}

  // ---- The thread that copies ----

  __device__ u32 stages() const { return c.stages; }

  __device__ void fetch_weights(const RowsCursor<Product>& at) const {
    const u32 barrier = full + at.stage * 8;
    const u32 place = ring + at.stage * c.stage_bytes + c.x_bytes;
    barrier_expect(barrier, c.stage_bytes);
    if (gated) copy_eights(place, &c.w, at.unit * UNIT, at.tile * (height / 8), barrier);
    else copy_box(place, &c.w, at.unit * UNIT, at.tile * height, barrier);
  }

  __device__ void fetch_inputs(const RowsCursor<Product>& at) const {
    const u32 place = ring + at.stage * c.stage_bytes;
    copy_box(place, &c.x, at.unit * UNIT, 0, full + at.stage * 8);
  }

  __device__ void produce() const {
    copy_stages(*this, await);
    if (!BYTES) give_leave();
  }

  // ---- The warpgroups that multiply ----

  // Of a warp by name, so that branches on it are none of threads.
  const u32 group = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);
  const u32 across = group % ACROSS, turn = TURNS == 1 ? 0 : group / ACROSS;

  // Where a warpgroup is in the ring.
  struct Place {
    u32 stage, phase;
    __device__ void advance(u32 stages) {
      stage += TURNS;
      if (stage >= stages) stage -= stages, phase ^= 1;
    }
  };

  // A stage's products of PART outputs from output `first` on begin.
  __device__ void multiply(u32 stage, u32 first, float (&sums)[PART / 2], bool fresh) const {
    const u32 place = ring + stage * c.stage_bytes;
    const u64 left = describe(place, 16);
    const u64 right = describe(place + c.x_bytes + (across * N + first) * PANEL_ROW_BYTES, 16);
    ready();
#pragma unroll
    for (u32 s = 0; s < 4; s++)
      multiply_shared<BYTES>(sums, left + s * 2, right + s * 2, !fresh || s != 0);
    submit();
  }
  // A tile's products. Of half types those of a stage begin before those of the one before are
  // done.
  __device__ void add_stages(Place& at, float (&acc)[N / 2]) const {
    if (of_tile <= turn) return;
    u32 before = at.stage;
#pragma unroll 1
    for (u32 unit = turn; unit < of_tile; unit += TURNS) {
      barrier_wait(full + at.stage * 8, at.phase);
      if constexpr (BYTES) {
#pragma unroll
        for (u32 first = 0; first < N; first += PART) {
          float part[PART / 2];
          multiply(at.stage, first, part, true);
          finish<0>();
          hold(part);
#pragma unroll
          for (u32 i = 0; i < PART / 2; i++) acc[first / 2 + i] += part[i];
        }
        leave_stage(empty, at.stage);
      } else {
        multiply(at.stage, 0, acc, false);
        finish<1>();
        if (unit != turn) leave_stage(empty, before);
        before = at.stage;
      }
      at.advance(c.stages);
    }
    finish<0>();
    hold(acc);
    if (!BYTES) leave_stage(empty, before);
  }

  __device__ void consume() const {
    if (ENDS != RESIDUAL_END && threadIdx.x < ROWS_MOST && !scales()) {
      const bool scaled = c.steps && threadIdx.x < c.rows;
      rest->steps[threadIdx.x] = scaled ? c.steps[threadIdx.x] : 1.f;
    }

    Place at{turn, 0};
    for (u32 n = 0, tile = first_tile; n < count; n++, tile += step) {
      const Scale scale = scale_of(tile);
      Residual before;
      if constexpr (ENDS == RESIDUAL_END) before = residual_of(tile, own_eights().first);
      float acc[N / 2];
#pragma unroll
      for (u32 i = 0; i < N / 2; i++) acc[i] = 0.f;
      add_stages(at, acc);
      if (BYTES && n == count - 1) give_leave();
      end(n, tile, scale, before, acc);
    }
  }

  // ---- The warps behind the one that copies, where x is still to be divided ----

  __device__ bool scales() const {
    return (ENDS == PLAIN_END || ENDS == GATED_END) && c.squares_of_x;
  }

  // Nobody waits for it before the end.
  __device__ void make_scales() const {
    await();
    scale_rows(c, threadIdx.x / 32 - THREADS / 32 - 1, rest->steps);
    asm volatile("bar.arrive 2, %0;" ::"n"(SCALED) : "memory");
  }
  static __device__ void meet_scaled() {
    asm volatile("bar.sync 2, %0;" ::"n"(SCALED) : "memory");
  }

  // ---- The end ----

  // What the thread's row of a tile of W ends with, loaded long before. The factor is the norm's
  // weight where there is a residual.
  struct Scale {
    float factor, bias;
  };
  __device__ Scale scale_of(u32 tile) const {
    const u32 i = threadIdx.x % OUTPUTS;
    const u32 output = tile * height + (gated ? i / 16 * 8 + i % 8 : i);
    const u32 row = min(output, heights - 1) + (gated && i / 8 % 2 == 1 ? heights : 0);
    const float bias = c.bias ? c.bias[row] : 0.f;
    if (ENDS == RESIDUAL_END)
      return {c.norm_weight[row] + (c.norm_kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f), bias};
    return {c.factor ? c.factor[row] : 1.f, bias};
  }

  // What is added to: two outputs of each of two eights, of two rows. Those of a thread's first
  // eights are loaded long before.
  struct Residual {
    u32 pairs[2][2];
  };
  __device__ u64 place_of_pair(u32 tile, u32 e, u32 half, u32 eight) const {
    const u32 output = tile * height + (e + eight) * 8 + threadIdx.x % 4 * 2;
    return (u64)(first_row() + half * 8) * heights + output;
  }
  __device__ bool has_pair(u32 tile, u32 e, u32 half, u32 eight) const {
    const u32 output = tile * height + (e + eight) * 8 + threadIdx.x % 4 * 2;
    return first_row() + half * 8 < c.rows && e < ALL_EIGHTS && output < heights;
  }
  __device__ Residual residual_of(u32 tile, u32 e) const {
    Residual all;
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
      const act* const from = c.residual + place_of_pair(tile, e, n / 2, n % 2);
      const bool has = has_pair(tile, e, n / 2, n % 2);
      all.pairs[n / 2][n % 2] = has ? *reinterpret_cast<const u32*>(from) : 0;
    }
    return all;
  }

  // Sums by eights of outputs, to where the block keeps those of all its warpgroups. There is one
  // tile for a cluster: nobody multiplies any more, and sums take the place of stages.
  __device__ void leave_sums(const float (&acc)[N / 2]) const {
    const u32 mine = place_of_sums(group * EIGHTS);
    if (has_rows()) {
#pragma unroll
      for (u32 e = 0; e < EIGHTS; e++)
        store_shared(mine + e * EIGHT_BYTES, __float_as_uint(acc[4 * e]),
                     __float_as_uint(acc[4 * e + 1]), __float_as_uint(acc[4 * e + 2]),
                     __float_as_uint(acc[4 * e + 3]));
    }
    if (c.shares > 1) meet_cluster();
    else meet();
  }
  // Whether the warp's 16 rows begin among those of x.
  __device__ bool has_rows() const { return threadIdx.x % WARPGROUP / 32 * 16 < c.rows; }
  __device__ u32 place_of_sums(u32 eight) const {
    return ring + eight * EIGHT_BYTES + threadIdx.x % WARPGROUP * 16;
  }

  // The sums of two eights of outputs over all shares and turns, in their order. Those of two
  // shares are on their way at once: what lies in another block takes long to come.
  __device__ void add_up(u32 eight, float (&some)[4], float (&more)[4]) const {
#pragma unroll 1
    for (u32 other = 0; other < c.shares; other += 2) {
      float4 parts[2][TURNS][2] = {};
#pragma unroll
      for (u32 o = 0; o < 2; o++) {
        if (other + o == c.shares) break;
#pragma unroll
        for (u32 t = 0; t < TURNS; t++) {
#pragma unroll
          for (u32 e = 0; e < 2; e++)
            parts[o][t][e] = load_of_block(place_of_sums(t * ALL_EIGHTS + eight + e), other + o);
        }
      }
#pragma unroll
      for (u32 o = 0; o < 2; o++) {
#pragma unroll
        for (u32 t = 0; t < TURNS; t++) add_to(some, parts[o][t][0]), add_to(more, parts[o][t][1]);
      }
    }
  }

  // Of a tile's n-th end: what it ends with to shared memory, then by two eights of outputs, which
  // of a gated tile are the gates and the ups of eight. The usual ends have code of their own,
  // straight out of registers: chains of several microseconds otherwise.
  __device__ void end(u32 n, u32 tile, Scale scale, const Residual& before,
                      const float (&acc)[N / 2]) const {
    // Of the tile before nobody reads any more.
    if (n > 0) meet();
    if (threadIdx.x < OUTPUTS) {
      rest->factor[threadIdx.x] = scale.factor;
      rest->bias[threadIdx.x] = scale.bias;
    }
    if (n == 0 && scales()) meet_scaled();
    else meet();
    if (TURNS > 1 || c.shares > 1) leave_sums(acc);
    if constexpr (ENDS == RESIDUAL_END) return end_residual(tile, before);
    if (!has_rows()) return;

    if constexpr (ENDS == PLAIN_END) return end_usual<false>(tile, acc);
    if constexpr (ENDS == GATED_END) return end_usual<true>(tile, acc);
    if constexpr (ENDS == ALL_ENDS) {
      const Activation usual = gated ? ACTIVATION_SILU_GATED : ACTIVATION_NONE;
      const bool others = heights % 2 == 1 || c.end == CODED_END_LOGITS || c.kind != usual;
      if (!others && gated) return end_usual<true>(tile, acc);
      if (!others) return end_usual<false>(tile, acc);
    }
    if constexpr (ENDS == ALL_ENDS || ENDS == OTHER_ENDS) end_others(tile, acc);
  }

  // Sums that all have are ended by each share and each warpgroup in part, else a warpgroup ends
  // its own: the first eight, the one behind the last, and how many to the next two.
  struct Eights {
    u32 first, last, next;
  };
  __device__ Eights own_eights() const {
    constexpr u32 GROUPS = ACROSS * TURNS;
    if (TURNS == 1 && c.shares == 1) return {across * EIGHTS, (across + 1) * EIGHTS, 2};
    return {(share * GROUPS + group) * 2, ALL_EIGHTS, c.shares * GROUPS * 2};
  }

  template <bool GATED>
  __device__ void end_usual(u32 tile, const float (&acc)[N / 2]) const {
    if (TURNS == 1 && c.shares == 1) {
#pragma unroll
      for (u32 e = 0; e < EIGHTS; e += 2)
        write_usual<GATED>(tile, across * EIGHTS + e, acc + 4 * e, acc + 4 * e + 4);
      return;
    }
    const Eights own = own_eights();
#pragma unroll 1
    for (u32 e = own.first; e < own.last; e += own.next) {
      float some[4] = {}, more[4] = {};
      add_up(e, some, more);
      write_usual<GATED>(tile, e, some, more);
    }
  }

  // Sums of a cluster, or of turns, to the residual, what the product behind reads of it and the
  // sums of its squares.
  __device__ void end_residual(u32 tile, Residual before) const {
    // Nobody turns sums round here: [warpgroup, row].
    float(*const squares)[ROWS_MOST] = reinterpret_cast<float(*)[ROWS_MOST]>(rest->turned[0]);
    const Eights own = own_eights();
    float own_squares[2] = {};
    if (has_rows()) {
#pragma unroll 1
      for (u32 e = own.first; e < own.last; e += own.next) {
        add_to_residual(tile, e, before, own_squares);
        before = residual_of(tile, e + own.next);
      }
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        own_squares[half] += __shfl_xor_sync(~0u, own_squares[half], 1);
        own_squares[half] += __shfl_xor_sync(~0u, own_squares[half], 2);
        if (threadIdx.x % 4 == 0) squares[group][first_row() + half * 8] = own_squares[half];
      }
    }
    meet();
    if (threadIdx.x < c.rows) {
      float sum = 0.f;
#pragma unroll
      for (u32 g = 0; g < ACROSS * TURNS; g++) sum += squares[g][threadIdx.x];
      c.squares[blockIdx.x * ROWS_MOST + threadIdx.x] = sum;
    }
  }
  __device__ void add_to_residual(u32 tile, u32 e, const Residual& before,
                                  float (&squares)[2]) const {
    float sums[2][4] = {};
    add_up(e, sums[0], sums[1]);
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
      const u32 half = n / 2, eight = n % 2, i = (e + eight) * 8 + threadIdx.x % 4 * 2;
      if (!has_pair(tile, e, half, eight)) continue;
      const act* const old = reinterpret_cast<const act*>(&before.pairs[half][eight]);
      float x[2], y[2];
#pragma unroll
      for (u32 j = 0; j < 2; j++) {
        const float sum = sums[eight][2 * half + j] + rest->bias[i + j];
        x[j] = to_f32(from_f32<act>(to_f32(old[j]) + to_f32(from_f32<act>(sum))));
        y[j] = x[j] * rest->factor[i + j];
        squares[half] = fmaf(x[j], x[j], squares[half]);
      }
      const u64 at = place_of_pair(tile, e, half, eight);
      *reinterpret_cast<u32*>(c.residual + at) = pack_act(x[0], x[1]);
      *reinterpret_cast<u32*>(reinterpret_cast<act*>(c.y) + at) = pack_act(y[0], y[1]);
    }
  }
  // The first of the two rows of which the thread has sums.
  static __device__ u32 first_row() {
    return threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 32 / 4;
  }

  // Two outputs of each eight, or gated two of both, of two rows.
  template <bool GATED>
  __device__ void write_usual(u32 tile, u32 e, const float* some, const float* more) const {
    const u32 i = e * 8 + threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
      const u32 row = first_row() + half * 8;
      if (row >= c.rows) break;
      float low[2], high[2];
#pragma unroll
      for (u32 j = 0; j < 2; j++) {
        low[j] = scaled(row, i + j, some[2 * half + j]);
        high[j] = scaled(row, i + j + 8, more[2 * half + j]);
      }
      act* const y = reinterpret_cast<act*>(c.y) + (u64)row * heights;
      write_two_of_eights<GATED>(y, tile * height, e, heights, low, high);
    }
  }
  __device__ float scaled(u32 row, u32 i, float sum) const {
    return rest->steps[row] * rest->factor[i] * sum + rest->bias[i];
  }

  // Other activations, outputs that are odd, logits: by rows, in little code.
  __device__ void end_others(u32 tile, const float (&acc)[N / 2]) const {
    const bool all = TURNS > 1 || c.shares > 1;
    const Eights own = own_eights();
#pragma unroll 1
    for (u32 e = own.first; e < own.last; e += own.next) {
      if (all) {
        float some[4] = {}, more[4] = {};
        add_up(e, some, more);
        turn_round<EIGHTS>(some, more);
      } else {
        turn_round_own<0>(e - across * EIGHTS, acc);
      }
      __syncwarp();
      write(tile, e);
      __syncwarp();
    }
  }

  // A warp's sums of two eights to rows of 16 outputs. WHICH keeps the compiler from making one
  // place of several, whose sums it would then have to keep in local memory.
  template <u32 WHICH>
  __device__ void turn_round(const float* some, const float* more) const {
    const u32 lane = threadIdx.x % 32;
    const u32 to = shared_address(rest->turned[threadIdx.x / 32]) +
                   (lane / 4 * TURNED_PITCH + lane % 4 * 2) * 4;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
      const u32 row = to + half * 8 * TURNED_PITCH * 4;
      store_two<WHICH>(row, some[2 * half], some[2 * half + 1]);
      store_two<WHICH>(row + 32, more[2 * half], more[2 * half + 1]);
    }
  }
  template <u32 WHICH>
  static __device__ void store_two(u32 to, float a, float b) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2}; // %3" ::"r"(to), "f"(a), "f"(b), "n"(WHICH)
                 : "memory");
  }
  template <u32 I>
  __device__ void turn_round_own(u32 e, const float (&acc)[N / 2]) const {
    if (e == I) turn_round<I>(acc + 4 * I, acc + 4 * I + 4);
    if constexpr (I + 2 < EIGHTS) turn_round_own<I + 2>(e, acc);
  }

  // Of these a thread ends eight outputs of a row, or gated four.
  __device__ void write(u32 tile, u32 e) const {
    const u32 lane = threadIdx.x % 32, side = lane % 2, width = gated ? 4 : 8;
    const u32 row = threadIdx.x % WARPGROUP / 32 * 16 + lane / 2;
    float* const sums = rest->turned[threadIdx.x / 32] + lane / 2 * TURNED_PITCH + side * width;
    const u32 first = e * 8 + side * width;
    if (row >= c.rows) return;
    float y[8];
    if (gated) {
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        const float up = scaled(row, first + i + 8, sums[i + 8]);
        y[i] = activate_gated(scaled(row, first + i, sums[i]), up, c.kind);
        y[i + 4] = 0.f;
      }
    } else {
      if (c.kind != ACTIVATION_NONE) {
#pragma unroll 1
        for (u32 i = 0; i < 8; i++)
          sums[i] = activate(scaled(row, first + i, sums[i]), c.kind);
      }
#pragma unroll
      for (u32 i = 0; i < 8; i++)
        y[i] = c.kind == ACTIVATION_NONE ? scaled(row, first + i, sums[i]) : sums[i];
    }

    const u32 output = tile * height + (gated ? e * 4 : e * 8) + side * width;
    const u64 at = (u64)row * heights + output;
    if (c.end != CODED_END_LOGITS && heights % 8 == 0) {
      if (output >= heights) return;
      u32 pairs[4];
#pragma unroll
      for (u32 i = 0; i < 4; i++) pairs[i] = pack_act(y[2 * i], y[2 * i + 1]);
      act* to = reinterpret_cast<act*>(c.y) + at;
      if (gated) *reinterpret_cast<uint2*>(to) = {pairs[0], pairs[1]};
      else *reinterpret_cast<uint4*>(to) = {pairs[0], pairs[1], pairs[2], pairs[3]};
      return;
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      if (i >= width || output + i >= heights) break;
      if (c.end == CODED_END_LOGITS) reinterpret_cast<float*>(c.y)[at + i] = y[i];
      else reinterpret_cast<act*>(c.y)[at + i] = from_f32<act>(y[i]);
    }
  }

  // The warps that multiply.
  static __device__ void meet() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

  __device__ void run() {
    ring = (shared_address(dynamic_shared) + 1023) / 1024 * 1024;
    u8* const behind = dynamic_shared + (ring - shared_address(dynamic_shared));
    rest = reinterpret_cast<Rest*>(behind + c.stages * c.stage_bytes);
    full = shared_address(rest->full);
    empty = shared_address(rest->empty);
    // The first copy of x would wait for its map, too.
    if (threadIdx.x == THREADS) fetch_map(&c.w), fetch_map(&c.x);
    start_ring(full, empty, c.stages, ACROSS * 4);
    if (group >= ACROSS * TURNS) {
      if (threadIdx.x == THREADS) produce();
      if constexpr (ENDS == PLAIN_END || ENDS == GATED_END) {
        if (threadIdx.x >= THREADS + 32) make_scales();
      }
      __syncwarp();
      // As those that leave their sums.
      if (c.shares > 1) meet_cluster();
    } else {
      await();
      consume();
    }
    // Others may still read sums here.
    if (c.shares > 1) meet_cluster();
  }
};

#define BODY(BYTES, N, ACROSS, TURNS, ENDS) Product<BYTES, N, ACROSS, TURNS, ENDS>(a).run()
#else
// The device never launches these where they have no code.
#define BODY(BYTES, N, ACROSS, TURNS, ENDS) (void)a
#endif

// So few registers that a norm's block of 512 threads finds a place beside, and its launch can wait
// there for this one to end.
#define KERNEL(NAME, BYTES, N, ACROSS, TURNS, ENDS)                                     \
  __global__ void __maxnreg__(136) gemm_rows_##NAME(const __grid_constant__ RowsGemm a) { \
    BODY(BYTES, N, ACROSS, TURNS, ENDS);                                                \
  }
#define ENTRY(NAME, N, ACROSS, TURNS)                      \
  KERNEL(NAME, false, N, ACROSS, TURNS, OTHER_ENDS)        \
  KERNEL(plain_##NAME, false, N, ACROSS, TURNS, PLAIN_END) \
  KERNEL(gated_##NAME, false, N, ACROSS, TURNS, GATED_END) \
  KERNEL(e4m3_##NAME, true, N, ACROSS, TURNS, ALL_ENDS)

ENTRY(64, 64, 1, 2)
ENTRY(80, 80, 1, 2)
ENTRY(96, 96, 1, 2)
ENTRY(128, 64, 2, 1)
ENTRY(160, 80, 2, 1)
ENTRY(192, 96, 2, 1)
ENTRY(224, 112, 2, 1)
ENTRY(256, 128, 2, 1)
KERNEL(residual_64, false, 64, 1, 2, RESIDUAL_END)
KERNEL(residual_80, false, 80, 1, 2, RESIDUAL_END)
KERNEL(residual_96, false, 96, 1, 2, RESIDUAL_END)

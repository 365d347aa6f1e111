// The sum over ranks of a row-parallel product, the residual it goes to and the norm behind it, in
// one kernel: sum_ranks (ranks.cu) and add_norm (norm.cu) one behind the other, to the same bits,
// for messages that one launch pushes (exchange.cuh). What it saves of the two is a launch, the
// sum's way to memory and back, and a wait: residual and weights are here before the other ranks'
// parts are.
//
// A block has whole rows, and of each a thread eight columns, or two times eight where a row is
// wider than the block. Bytes over each link as of sum_ranks; in memory three times the rows
// (product, residual in and out) and the norm.
//
// Floor: that of sum_ranks, about 3.4 us for a row, and about 1 us for two sums over the block.
#include "exchange.cuh"
#include "e4m3.cuh"
#include "norm_columns.cuh"

#define WARPS (EXCHANGE_THREADS / 32)

// Rows of this block. GROUPS: how many times eight columns of a row each thread has.
template <u32 GROUPS>
struct NormedRows {
  static constexpr u32 EACH = Vector<act>::EACH;
  // Pieces that hold eight columns of each thread; of a row; rows that a block can have.
  static constexpr u32 PARTS = 8 / EACH;
  static constexpr u32 PIECES = GROUPS * PARTS;
  static constexpr u32 ROWS = EXCHANGE_PIECES / PIECES;

  const SumAddNorm& a;
  const AddNorm& norm = a.norm;
  // Every gridDim.x-th row.
  const u32 rows = blockIdx.x < a.rows ? (a.rows - 1 - blockIdx.x) / gridDim.x + 1 : 0;
  const u32 pieces = rows * PIECES;
  float weight[GROUPS][8];
  Vector<act> residual[EXCHANGE_PIECES];

  __device__ NormedRows(const SumAddNorm& a) : a(a) {
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
#pragma unroll
      for (int j = 0; j < 8; j++) weight[group][j] = 0.f;
      if (inside(group)) load8(norm.weight + column(group), weight[group]);
#pragma unroll
      for (int j = 0; j < 8; j++)
        weight[group][j] += norm.kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f;
    }
  }

  __device__ u32 column(u32 group) const { return (group * EXCHANGE_THREADS + threadIdx.x) * 8; }
  __device__ bool inside(u32 group) const { return column(group) < norm.width; }
  __device__ u64 row(u32 of_block) const { return blockIdx.x + of_block * gridDim.x; }
  // Which row of the block, and which columns of it, its n-th piece has.
  static __device__ u32 row_of(u32 n) { return n / PIECES; }
  static __device__ u32 group_of(u32 n) { return n % PIECES / PARTS; }

  // This thread's share of the n-th piece; 0 beyond the row's end.
  __device__ Vector<act> load(const act* x, u32 n) const {
    Vector<act> share;
    share.raw = {0, 0, 0, 0};
    const u64 at = row(row_of(n)) * norm.width + column(group_of(n)) + n % PARTS * EACH;
    if (n < pieces && inside(group_of(n))) share.raw = *reinterpret_cast<const uint4*>(x + at);
    return share;
  }

  __device__ void load_residual() {
#pragma unroll
    for (u32 n = 0; n < EXCHANGE_PIECES; n++) residual[n] = load(norm.residual, n);
  }

  // The residual with the sum of all ranks' n-th piece, into eight columns.
  __device__ void add(const Exchange& exchange, u32 n, float (&v)[8]) const {
    const Vector<act> delta = sum_of_ranks<act>(exchange, n).rounded();
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
      const float sum = to_f32(residual[n].v[i]) + to_f32(delta.v[i]);
      v[n % PARTS * EACH + i] = to_f32(from_f32<act>(sum));
    }
  }

  // The r-th row, to its end. `squares` and `largest` are places of its own.
  __device__ void run(const Exchange& exchange, u32 r, float* squares, float* largest) const {
    const u64 begin = row(r) * norm.width;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float none[8] = {};
    float v[GROUPS][8];
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
#pragma unroll
      for (u32 part = 0; part < PARTS; part++)
        add(exchange, r * PIECES + group * PARTS + part, v[group]);
      if (inside(group)) store8(norm.residual + begin + column(group), v[group]);
      // In the order of add_norm, whose threads have eight columns each.
      const float own = warp_sum(inside(group) ? squares_of(v[group], 0.f) : 0.f);
      if (lane == 0) squares[group * WARPS + warp] = own;
    }
    __syncthreads();
    const float sum = warp_sum(lane < GROUPS * WARPS ? squares[lane] : 0.f);
    const float scale = norm_scale(sum, norm.width, norm.eps);

    float most = 0.f;
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
      normed(v[group], 0.f, scale, weight[group], none);
      if (!inside(group)) continue;
      most = fmaxf(most, largest_of(v[group]));
      store8(norm.out + begin + column(group), v[group]);
    }
    if (norm.steps) round(row(r), v, largest_of_block(most, largest));
  }

  // What products make of a row, whose largest |x| is `most`.
  __device__ void round(u64 row, const float (&v)[GROUPS][8], float most) const {
    const float step = e4m3_step(most), inverse = 1.f / step;
    u8* const bytes = norm.bytes ? norm.bytes + row * norm.padded_width : 0;
    act* const codes = norm.codes ? norm.codes + row * norm.width : 0;
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++)
      put_rounded(v[group], column(group), norm.width, 0.f, step, inverse, codes, bytes,
                  norm.padded_width);
    if (threadIdx.x == 0) norm.steps[row] = step;
  }
};

template <u32 GROUPS>
__device__ __forceinline__ void sum_add_norm_of(const SumAddNorm& a) {
  using Rows = NormedRows<GROUPS>;
  __shared__ float squares[Rows::ROWS][32], largest[Rows::ROWS][32];
  Rows own(a);
  if (a.ahead) give_leave();
  await();
  own.load_residual();
  Exchange exchange(a.all);
  const auto give = [&](u32 n) { return own.load(own.norm.delta, n).raw; };
  if (!exchange.run(own.pieces, give)) return;
  if (!a.ahead) give_leave();

#pragma unroll
  for (u32 r = 0; r < Rows::ROWS; r++)
    if (r < own.rows) own.run(exchange, r, squares[r], largest[r]);
}

__global__ void __launch_bounds__(EXCHANGE_THREADS, 1) sum_add_norm(
    const __grid_constant__ SumAddNorm a) {
  if (a.norm.width <= NORMED_COLUMNS / 2) sum_add_norm_of<1>(a);
  else sum_add_norm_of<2>(a);
}

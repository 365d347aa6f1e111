// The sum over ranks of a row-parallel product of many rows, the residual it goes to and the norm
// behind it, each rank for its share of the rows: to the bits of sum_ranks_direct (ranks.cu) and
// add_norm (norm.cu) one behind the other. Ranks meet and tell each other where their tensors lie
// (exchange.cuh); each then sums its rows out of all ranks' memory, adds them to its own residual,
// and writes what follows into all ranks' memory: the norm, or of it only the codes that products
// round it to; of the residual nothing, where it is read by the next such sum alone.
//
// Bytes over each link and direction, of x's bytes, for two ranks: 1/2 to read, and to write 1/4
// for the codes of half types (1/2 for the norm, as many more for the residual), where
// sum_ranks_direct has 1; and the norm's own bytes only once for all ranks, under way meanwhile.
//
// A block has a row at a time, of which a thread has eight columns, or two times eight where a row
// is wider; two blocks on a multiprocessor, one waits while the other's row is under way.
#include "exchange.cuh"
#include "e4m3.cuh"
#include "norm_columns.cuh"

#define WARPS (EXCHANGE_THREADS / 32)

// Tensors whose places ranks tell each other; null: that rank wants none of it.
enum Told : u32 { DELTA, RESIDUAL, OUT, BYTES, STEPS, TENSORS };

__device__ __forceinline__ Eight<act> load_own(const act* p) {
  return *reinterpret_cast<const Eight<act>*>(p);
}
// Of other GPUs: not out of this multiprocessor's own cache.
__device__ __forceinline__ Eight<act> load_far(const act* p) {
  Eight<act> x;
#pragma unroll
  for (u32 i = 0; i < sizeof x / 16; i++)
    reinterpret_cast<uint4*>(&x)[i] = __ldcg(reinterpret_cast<const uint4*>(p) + i);
  return x;
}

// GROUPS: how many times eight columns of a row each thread has.
template <u32 GROUPS>
struct RowShare {
  const SumAddNormRows& a;
  const Places<TENSORS>& places;
  const AddNorm& norm = a.norm;
  const u32 ranks = a.all.ranks;

  static __device__ u32 column(u32 group) { return (group * EXCHANGE_THREADS + threadIdx.x) * 8; }
  __device__ bool inside(u32 group) const { return column(group) < norm.width; }
  template <class T>
  __device__ T* tensor(Told which, u32 rank) const {
    return reinterpret_cast<T*>(places.of[which][rank]);
  }

  // The residual with the sum of all ranks' rows, added up in their order.
  __device__ void sum(u64 row, float (&v)[GROUPS][8]) const {
    const u64 begin = row * norm.width;
    Eight<act> residual[GROUPS];
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++)
      if (inside(group))
        residual[group] = load_own(norm.residual + begin + column(group));
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++)
#pragma unroll
      for (u32 j = 0; j < 8; j++) v[group][j] = 0.f;
    for (u32 first = 0; first < ranks; first += 2) {
      Eight<act> parts[2][GROUPS];
#pragma unroll
      for (u32 i = 0; i < 2; i++)
#pragma unroll
        for (u32 group = 0; group < GROUPS; group++)
          if (first + i < ranks && inside(group))
            parts[i][group] = load_far(tensor<const act>(DELTA, first + i) + begin + column(group));
#pragma unroll
      for (u32 i = 0; i < 2; i++)
#pragma unroll
        for (u32 group = 0; group < GROUPS; group++) {
          if (first + i >= ranks || !inside(group)) continue;
#pragma unroll
          for (u32 j = 0; j < 8; j++) {
            const float part = to_f32(parts[i][group].v[j]);
            v[group][j] = first + i == 0 ? part : v[group][j] + part;
          }
        }
    }

#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
      if (!inside(group)) continue;
#pragma unroll
      for (u32 j = 0; j < 8; j++) {
        const float delta = to_f32(from_f32<act>(v[group][j]));
        v[group][j] = to_f32(from_f32<act>(to_f32(residual[group].v[j]) + delta));
      }
    }
  }

  // Eight columns of a row to whoever wants them.
  __device__ void give(Told which, u64 row, u32 group, const float (&v)[8]) const {
    for (u32 to = 0; to < ranks; to++) {
      act* const x = tensor<act>(which, to);
      if (x && inside(group)) store8(x + row * norm.width + column(group), v);
    }
  }

  // To its end. `squares` and `largest` are places that nobody else uses until the row after the
  // next one.
  __device__ void run(u64 row, bool rounds, float* squares, float* largest) const {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float none[8] = {};
    float v[GROUPS][8];
    sum(row, v);
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
      give(RESIDUAL, row, group, v[group]);
      // In the order of add_norm, whose threads have eight columns each.
      const float own = warp_sum(inside(group) ? squares_of(v[group], 0.f) : 0.f);
      if (lane == 0) squares[group * WARPS + warp] = own;
    }
    __syncthreads();
    const float all = warp_sum(lane < GROUPS * WARPS ? squares[lane] : 0.f);
    const float scale = norm_scale(all, norm.width, norm.eps);

    float most = 0.f;
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
      float weight[8] = {};
      if (inside(group)) load8(norm.weight + column(group), weight);
#pragma unroll
      for (int j = 0; j < 8; j++) weight[j] += norm.kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f;
      normed(v[group], 0.f, scale, weight, none);
      give(OUT, row, group, v[group]);
      if (inside(group)) most = fmaxf(most, largest_of(v[group]));
    }
    if (rounds) round(row, v, largest_of_block(most, largest));
  }

  // What products make of a row, whose largest |x| is `most`, to whoever wants it.
  __device__ void round(u64 row, const float (&v)[GROUPS][8], float most) const {
    const float step = e4m3_step(most), inverse = 1.f / step;
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
      u32 pair[4];
      encode_pairs(v[group], step, inverse, pair);
      const u32 i = column(group);
      const uint2 piece = e4m3_piece(pair, i);
      for (u32 to = 0; to < ranks; to++) {
        u8* const bytes = tensor<u8>(BYTES, to);
        if (bytes && i < norm.padded_width) put_piece(piece, i, bytes + row * norm.padded_width);
      }
    }
    if (threadIdx.x < ranks) {
      float* const steps = tensor<float>(STEPS, threadIdx.x);
      if (steps) steps[row] = step;
    }
  }
};

template <u32 GROUPS>
__device__ __forceinline__ void sum_add_norm_rows_of(const SumAddNormRows& a,
                                                     const Places<TENSORS>& places) {
  __shared__ float squares[2][32], largest[2][32];
  const RowShare<GROUPS> share = {a, places};
  bool rounds = false;
  for (u32 to = 0; to < a.all.ranks; to++) rounds |= places.of[BYTES][to] != 0;

  const u32 rows = (a.rows + a.all.ranks - 1) / a.all.ranks;
  const u32 first = rows * a.all.rank, last = min(a.rows, first + rows);
  u32 n = 0;
  for (u32 row = first + blockIdx.x; row < last; row += gridDim.x, n ^= 1)
    share.run(row, rounds, squares[n], largest[n]);
}

__global__ void __launch_bounds__(EXCHANGE_THREADS, 2) sum_add_norm_rows(
    const __grid_constant__ SumAddNormRows a) {
  __shared__ Places<TENSORS> places;
  begin_apart();
  Meeting meeting(a.all);
  const u64 own[TENSORS] = {(u64)a.norm.delta, a.whole ? (u64)a.norm.residual : 0,
                            (u64)a.norm.out, (u64)a.norm.bytes, (u64)a.norm.steps};
  if (!meeting.begin(own, places)) return;
  // Its own rows a rank always keeps.
  if (threadIdx.x == 0) places.of[RESIDUAL][a.all.rank] = (u64)a.norm.residual;
  __syncthreads();

  if (a.norm.width <= NORMED_COLUMNS / 2) sum_add_norm_rows_of<1>(a, places);
  else sum_add_norm_rows_of<2>(a, places);
  meeting.end();
}

// What ranks of a model do together: sums and rows side by side, over memory that each rank's GPU
// lets the others write to (abi_ranks.h), whether by NVLink, PCIe or because it is the same GPU.
// ranks_norm.cu, ranks_pushed.cu and ranks_rows.cu have the sum that a norm follows.
//
// *Pushed* (sum_ranks, gather_ranks; exchange.cuh): every rank pushes x to all others and adds up
// for itself, in the order of ranks, so all get the same bits. Bytes over each link and direction:
// those of x, times ranks - 1 out of each GPU.
//
// *Direct* (sum_ranks_direct, gather_ranks_direct): ranks meet, tell each other where x lies, and
// meet again at the end. In between each sums its share of x out of all ranks' memory and writes it
// into all ranks' memory: twice the bytes of x over the number of ranks in and out of each GPU,
// times ranks - 1. For large messages, because many pieces cost many fences.
//
// Floors: bytes / 450 GB/s (NVLink of an H100 or H200); about 4 us for a few KiB: a write, its
// fence and its flag to the other GPU, and the poll there.
#include "exchange.cuh"

// Pieces of this block: every gridDim.x-th.
__device__ __forceinline__ u32 pieces_of_block(u64 vectors) {
  const u64 pieces = (vectors + EXCHANGE_THREADS - 1) / EXCHANGE_THREADS;
  return blockIdx.x < pieces ? (u32)((pieces - 1 - blockIdx.x) / gridDim.x + 1) : 0;
}

// Which 16 bytes this thread has of the block's n-th piece.
__device__ __forceinline__ u64 vector_of(u32 n) {
  return ((u64)n * gridDim.x + blockIdx.x) * EXCHANGE_THREADS + threadIdx.x;
}

template <class T>
__device__ __forceinline__ void sum(const SumRanks& a) {
  constexpr u32 EACH = Vector<T>::EACH;
  T* const x = reinterpret_cast<T*>(a.x);
  const auto give = [&](u32 n) { return Vector<T>::load(x, vector_of(n), a.count).raw; };
  Exchange exchange(a.all);
  const u32 pieces = pieces_of_block((a.count + EACH - 1) / EACH);
  if (!exchange.run(pieces, give)) return;

#pragma unroll
  for (u32 n = 0; n < EXCHANGE_PIECES; n++) {
    if (n >= pieces) break;
    sum_of_ranks<T>(exchange, n).rounded().store(x, vector_of(n), a.count);
  }
}

__global__ void __launch_bounds__(EXCHANGE_THREADS, 1) sum_ranks(
    const __grid_constant__ SumRanks a) {
  begin_apart();
  sum<act>(a);
}

__global__ void __launch_bounds__(EXCHANGE_THREADS, 1) sum_ranks_f32(
    const __grid_constant__ SumRanks a) {
  begin_apart();
  sum<float>(a);
}

// Vectors of a thread that are under way at once.
#define UNDER_WAY 4

__global__ void __launch_bounds__(EXCHANGE_THREADS, 1) sum_ranks_direct(
    const __grid_constant__ SumRanks a) {
  constexpr u32 EACH = Vector<act>::EACH;
  __shared__ Places<1> places;
  begin_apart();
  Meeting meeting(a.all);
  if (!meeting.begin({(u64)a.x}, places)) return;

  // Every rank's share, of whole vectors.
  const u64 vectors = (a.count + EACH - 1) / EACH;
  const u64 share = (vectors + a.all.ranks - 1) / a.all.ranks;
  const u64 last = min(vectors, share * (a.all.rank + 1));
  const u64 step = (u64)gridDim.x * EXCHANGE_THREADS;
  const u64 first = share * a.all.rank + (u64)blockIdx.x * EXCHANGE_THREADS + threadIdx.x;
  for (u64 at = first; at < last; at += step * UNDER_WAY) {
    Sums<act> sums[UNDER_WAY];
    for (u32 from = 0; from < a.all.ranks; from++) {
      const act* const x = reinterpret_cast<const act*>(places.of[0][from]);
      Vector<act> parts[UNDER_WAY];
#pragma unroll
      for (u32 i = 0; i < UNDER_WAY; i++)
        if (at + i * step < last) parts[i] = Vector<act>::load_far(x, at + i * step, a.count);
#pragma unroll
      for (u32 i = 0; i < UNDER_WAY; i++) {
        if (from == 0) sums[i].set(parts[i]);
        else sums[i].add(parts[i]);
      }
    }
    for (u32 to = 0; to < a.all.ranks; to++) {
      act* const x = reinterpret_cast<act*>(places.of[0][to]);
#pragma unroll
      for (u32 i = 0; i < UNDER_WAY; i++)
        if (at + i * step < last) sums[i].rounded().store(x, at + i * step, a.count);
    }
  }
  meeting.end();
}

// Where an element of a part goes in the whole; columns behind its end go nowhere.
__device__ __forceinline__ void put(float* whole, const GatherRanks& a, u32 from, u64 at, float x) {
  const u32 row = (u32)at / a.width, column = from * a.width + (u32)at % a.width;
  if (column < a.all_width) whole[(u64)row * a.all_width + column] = x;
}

__global__ void __launch_bounds__(EXCHANGE_THREADS, 1) gather_ranks(
    const __grid_constant__ GatherRanks a) {
  begin_apart();
  const u64 count = (u64)a.rows * a.width;
  const auto vector = [&](u32 n) { return a.first + vector_of(n); };
  const auto give = [&](u32 n) { return Vector<float>::load(a.part, vector(n), count).raw; };
  Exchange exchange(a.all);
  const u32 pieces = pieces_of_block(a.vectors);
  if (!exchange.run(pieces, give)) return;

#pragma unroll
  for (u32 n = 0; n < EXCHANGE_PIECES; n++) {
    if (n >= pieces) break;
    for (u32 from = 0; from < a.all.ranks; from++) {
      Vector<float> values;
      values.raw = exchange.of(from, n);
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        const u64 at = vector(n) * 4 + i;
        if (vector_of(n) < a.vectors && at < count) put(a.whole, a, from, at, values.v[i]);
      }
    }
  }
}

__global__ void __launch_bounds__(EXCHANGE_THREADS, 1) gather_ranks_direct(
    const __grid_constant__ GatherRanks a) {
  __shared__ Places<1> places;
  begin_apart();
  Meeting meeting(a.all);
  if (!meeting.begin({(u64)a.whole}, places)) return;

  const u64 count = (u64)a.rows * a.width;
  const u64 step = (u64)gridDim.x * EXCHANGE_THREADS;
  for (u64 at = (u64)blockIdx.x * EXCHANGE_THREADS + threadIdx.x; at < count; at += step) {
    const float x = a.part[at];
    for (u32 to = 0; to < a.all.ranks; to++)
      put(reinterpret_cast<float*>(places.of[0][to]), a, a.all.rank, at, x);
  }
  meeting.end();
}

// What ranks of a model do together: sums and rows side by side, over memory that each rank's GPU
// lets the others write to (abi_ranks.h), whether by NVLink, PCIe or because it is the same GPU.
//
// A piece is 16 bytes of each of a block's threads. Its block pushes it into the mailboxes of all
// other ranks, which poll nothing but their own memory; the sum is made in the order of ranks by
// every rank for itself, so all get the same bits. Blocks only wait for the same block of the other
// ranks, and push before they wait: a rank that is late makes the others wait, not fail. Pieces are
// half of EXCHANGE_SLOTS ahead of what is taken, so that links are busy while sums are made.
//
// Bytes over each link and direction: those of x for two ranks, which is the least there is; (ranks
// - 1) times as many from each GPU for more. Floor: bytes / 450 GB/s (NVLink of an H100 or H200),
// about 4 us for a few KiB: a write, its fence and its flag to the other GPU, and the poll there.
#include "abi_ranks.h"

// How long a rank is waited for, in ns: steps of other ranks are no longer than the host allows.
#define PATIENCE 60000000000ull
#define LEAD (EXCHANGE_SLOTS / 2)

__device__ __forceinline__ u32 load_acquire(const u32* p) {
  u32 x;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}
__device__ __forceinline__ void store_release(u32* p, u32 x) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}
__device__ __forceinline__ u64 now_ns() {
  u64 t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

struct Mailbox {
  u8* base;
  u32 ranks;

  __device__ uint4* piece(u32 from, u32 sequence) const {
    const u64 block = (u64)from * EXCHANGE_BLOCKS + blockIdx.x;
    const u64 at = (block * EXCHANGE_SLOTS + sequence % EXCHANGE_SLOTS) * EXCHANGE_PIECE_BYTES;
    return reinterpret_cast<uint4*>(base + at) + threadIdx.x;
  }
  __device__ u32* counts() const {
    const u64 pieces = (u64)ranks * EXCHANGE_BLOCKS * EXCHANGE_SLOTS * EXCHANGE_PIECE_BYTES;
    return reinterpret_cast<u32*>(base + pieces);
  }
  __device__ u32* arrived(u32 from) const { return counts() + from * EXCHANGE_BLOCKS + blockIdx.x; }
  __device__ u32* taken(u32 by) const { return arrived(ranks + by); }
  __device__ u32* sequence() const { return arrived(2 * ranks); }
};

// The pieces of a block, from all ranks to all.
struct Exchange {
  const Ranks& all;
  const u32 rank = all.rank, ranks = all.ranks;
  const Mailbox own = box(rank);
  // Each of the first threads speaks with the rank of its number.
  const bool speaks = threadIdx.x < ranks && threadIdx.x != rank;

  __device__ Exchange(const Ranks& all) : all(all) {}

  __device__ Mailbox box(u32 of) const { return {all.mailbox[of], ranks}; }

  // Until a count has come to `least`; false where nobody is to wait any more.
  __device__ bool wait(const u32* count, u32 least) const {
    const u64 began = now_ns();
    for (u32 n = 1; (int)(load_acquire(count) - least) < 0; n++) {
      if (n % 1024 != 0) continue;
      if (load_acquire(all.stop) != 0) return false;
      if (now_ns() - began > PATIENCE) {
        store_release(all.stop, 2 + rank);
        return false;
      }
    }
    return true;
  }

  // This thread's share of a piece, of every rank.
  struct Parts {
    const Exchange& all;
    uint4 mine;
    u32 sequence;

    // Others wrote it: not out of this multiprocessor's own cache.
    __device__ uint4 of(u32 rank) const {
      return rank == all.rank ? mine : __ldcg(all.own.piece(rank, sequence));
    }
  };

  // All pieces of this block: `give(n)` is this thread's share of its n-th, `take(n, parts)` gets
  // those of all ranks.
  template <class Give, class Take>
  __device__ void run(u32 pieces, const Give& give, const Take& take) const {
    const u32 before = *own.sequence();
    bool goes_on = true;
    for (u32 n = 0; n < pieces + LEAD; n++) {
      if (n < pieces) {
        const u32 now = before + n;
        if (speaks) goes_on = wait(own.taken(threadIdx.x), now + 1 - EXCHANGE_SLOTS);
        if (!__syncthreads_and(goes_on)) return;
        const uint4 mine = give(n);
        for (u32 to = 0; to < ranks; to++)
          if (to != rank) *box(to).piece(rank, now) = mine;
        __syncthreads();
        if (speaks) store_release(box(threadIdx.x).arrived(rank), now + 1);
      }
      if (n < LEAD) continue;

      const u32 due = before + n - LEAD;
      if (speaks) goes_on = wait(own.arrived(threadIdx.x), due + 1);
      if (!__syncthreads_and(goes_on)) return;
      take(n - LEAD, Parts{*this, give(n - LEAD), due});
      __syncthreads();
      if (speaks) store_release(box(threadIdx.x).taken(rank), due + 1);
    }
    if (threadIdx.x == 0) *own.sequence() = before + pieces;
  }
};

// Pieces of this block: every gridDim.x-th.
__device__ __forceinline__ u32 pieces_of_block(u64 vectors) {
  const u64 pieces = (vectors + EXCHANGE_THREADS - 1) / EXCHANGE_THREADS;
  return blockIdx.x < pieces ? (u32)((pieces - 1 - blockIdx.x) / gridDim.x + 1) : 0;
}

// Which 16 bytes this thread has of the block's n-th piece.
__device__ __forceinline__ u64 vector_of(u32 n) {
  return ((u64)n * gridDim.x + blockIdx.x) * EXCHANGE_THREADS + threadIdx.x;
}

// 16 bytes of T, those that lie within `count`.
template <class T>
union Vector {
  static constexpr u32 EACH = 16 / sizeof(T);
  uint4 raw;
  T v[EACH];

  __device__ Vector() {}
  __device__ static Vector load(const T* from, u64 at, u64 count) {
    Vector x;
    x.raw = {0, 0, 0, 0};
    if ((at + 1) * EACH <= count) x.raw = reinterpret_cast<const uint4*>(from)[at];
    else
      for (u32 i = 0; i < EACH && at * EACH + i < count; i++) x.v[i] = from[at * EACH + i];
    return x;
  }
  __device__ void store(T* to, u64 at, u64 count) const {
    if ((at + 1) * EACH <= count) reinterpret_cast<uint4*>(to)[at] = raw;
    else
      for (u32 i = 0; i < EACH && at * EACH + i < count; i++) to[at * EACH + i] = v[i];
  }
};

template <class T>
__device__ __forceinline__ void sum(const SumRanks& a) {
  constexpr u32 EACH = Vector<T>::EACH;
  T* const x = reinterpret_cast<T*>(a.x);
  const auto give = [&](u32 n) { return Vector<T>::load(x, vector_of(n), a.count).raw; };
  const auto take = [&](u32 n, const Exchange::Parts& parts) {
    float sums[EACH] = {};
    for (u32 from = 0; from < a.all.ranks; from++) {
      Vector<T> other;
      other.raw = parts.of(from);
#pragma unroll
      for (u32 i = 0; i < EACH; i++)
        sums[i] = from == 0 ? to_f32(other.v[i]) : sums[i] + to_f32(other.v[i]);
    }
    Vector<T> all;
#pragma unroll
    for (u32 i = 0; i < EACH; i++) all.v[i] = from_f32<T>(sums[i]);
    all.store(x, vector_of(n), a.count);
  };
  Exchange(a.all).run(pieces_of_block((a.count + EACH - 1) / EACH), give, take);
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

__global__ void __launch_bounds__(EXCHANGE_THREADS, 1) gather_ranks(
    const __grid_constant__ GatherRanks a) {
  begin_apart();
  const u64 count = (u64)a.rows * a.width;
  const auto give = [&](u32 n) { return Vector<float>::load(a.part, vector_of(n), count).raw; };
  const auto take = [&](u32 n, const Exchange::Parts& parts) {
    for (u32 from = 0; from < a.all.ranks; from++) {
      Vector<float> values;
      values.raw = parts.of(from);
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        const u64 at = vector_of(n) * 4 + i;
        const u32 row = at / a.width, column = from * a.width + at % a.width;
        if (at < count && column < a.all_width)
          a.whole[(u64)row * a.all_width + column] = values.v[i];
      }
    }
  };
  Exchange(a.all).run(pieces_of_block((count + 3) / 4), give, take);
}

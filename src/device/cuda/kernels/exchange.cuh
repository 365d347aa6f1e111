// How ranks exchange through mailboxes and meet before they touch each other's memory, for the
// kernels that do (ranks.cu, ranks_norm.cu, ranks_rows.cu; ranks_pushed.cu waits for words): blocks
// wait for the same block of the other ranks only, and push before they wait, so that a rank that
// is late makes the others wait, not fail. abi_ranks.h says how the memory lies.
//
// A piece is 16 bytes of each of a block's threads. The block pushes up to EXCHANGE_PIECES of them
// into the mailboxes of all other ranks, which poll nothing but their own memory. Nobody
// acknowledges: who has a block's pieces of one exchange knows that this block has taken those of
// the exchange before, and EXCHANGE_SLOTS is enough for two. It does, because a block reads its
// pieces before its kernel ends, and the next exchange begins behind that end (begin_apart).
#pragma once
#include "abi_ranks.h"

// How long a rank is waited for, in ns: steps of other ranks are no longer than the host allows.
#define PATIENCE 60000000000ull

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

  // This block's of `from`.
  __device__ u64 place(u32 from) const { return (u64)from * EXCHANGE_BLOCKS + blockIdx.x; }
  __device__ u64 meeting_place(u32 with) const { return (u64)with * MEETING_BLOCKS + blockIdx.x; }
  __device__ uint4* piece(u32 from, u32 sequence) const {
    const u64 slot = place(from) * EXCHANGE_SLOTS + sequence % EXCHANGE_SLOTS;
    return reinterpret_cast<uint4*>(base + slot * EXCHANGE_PIECE_BYTES) + threadIdx.x;
  }
  __device__ u64* addresses() const {
    const u64 pieces = (u64)ranks * EXCHANGE_BLOCKS * EXCHANGE_SLOTS * EXCHANGE_PIECE_BYTES;
    return reinterpret_cast<u64*>(base + pieces);
  }
  // MEETING_PLACES of them.
  __device__ u64* address(u32 from) const {
    return addresses() + meeting_place(from) * MEETING_PLACES;
  }
  __device__ u32* counts() const {
    return reinterpret_cast<u32*>(addresses() + (u64)ranks * MEETING_BLOCKS * MEETING_PLACES);
  }
  __device__ u32* counts_of_meetings() const {
    return counts() + (u64)(ranks + 1) * EXCHANGE_BLOCKS;
  }
  __device__ u32* arrived(u32 from) const { return counts() + place(from); }
  __device__ u32* met(u32 with) const { return counts_of_meetings() + meeting_place(with); }
  // Of this block's own pieces, and of its meetings.
  __device__ u32* sequence() const { return counts() + place(ranks); }
  __device__ u32* meetings() const { return counts_of_meetings() + meeting_place(ranks); }
};

struct Group {
  const Ranks& all;
  const u32 rank = all.rank, ranks = all.ranks;
  const Mailbox own = box(rank);
  // Each of the first threads speaks with the rank of its number.
  const bool speaks = threadIdx.x < ranks && threadIdx.x != rank;

  __device__ Group(const Ranks& all) : all(all) {}

  __device__ Mailbox box(u32 of) const { return {all.mailbox[of], ranks}; }

  // Until a count has come to `least`; false where nobody is to wait any more.
  __device__ bool wait(const u32* count, u32 least) const {
    const u64 began = now_ns();
    for (u32 n = 1; (int)(load_acquire(count) - least) < 0; n++)
      if (n % 1024 == 0 && gives_up(began)) return false;
    return true;
  }

  // Nobody is to wait any more; this rank says so where it has waited for too long.
  __device__ bool gives_up(u64 began) const {
    if (load_acquire(all.stop) != 0) return true;
    if (now_ns() - began <= PATIENCE) return false;
    store_release(all.stop, 2 + rank);
    return true;
  }
};

// Where tensors of all ranks lie.
template <u32 TENSORS>
struct Places {
  u64 of[TENSORS][MOST_RANKS];
};

// Blocks of the same number come together, before and after they touch each other's memory.
struct Meeting : Group {
  u32 before;

  __device__ Meeting(const Ranks& all) : Group(all) {}

  // Tells where tensors of this rank lie and learns, in shared memory, where those of the others
  // do; false: nobody is to wait.
  template <u32 TENSORS>
  __device__ bool begin(const u64 (&tensors)[TENSORS], Places<TENSORS>& places) {
    static_assert(TENSORS <= MEETING_PLACES, "more tensors than places");
    before = *own.meetings();
    bool goes_on = true;
    if (threadIdx.x == rank)
#pragma unroll
      for (u32 n = 0; n < TENSORS; n++) places.of[n][rank] = tensors[n];
    if (speaks) {
#pragma unroll
      for (u32 n = 0; n < TENSORS; n++) box(threadIdx.x).address(rank)[n] = tensors[n];
      goes_on = come(before + 1);
      const volatile u64* const theirs = own.address(threadIdx.x);
#pragma unroll
      for (u32 n = 0; n < TENSORS; n++) places.of[n][threadIdx.x] = theirs[n];
    }
    return __syncthreads_and(goes_on);
  }

  // All ranks' blocks of this number have read and written what they do.
  __device__ void end() {
    __syncthreads();
    if (speaks) come(before + 2);
    if (threadIdx.x == 0) *own.meetings() = before + 2;
  }

  __device__ bool come(u32 time) const {
    store_release(box(threadIdx.x).met(rank), time);
    return wait(own.met(threadIdx.x), time);
  }
};

// The pieces of a block, from all ranks to all.
struct Exchange : Group {
  uint4 mine[EXCHANGE_PIECES];
  u32 before, pieces;

  __device__ Exchange(const Ranks& all) : Group(all) {}

  // `give(n)` is this thread's share of its block's n-th piece. False: nobody is to wait.
  template <class Give>
  __device__ bool run(u32 of_block, const Give& give) {
    before = *own.sequence();
    pieces = of_block;
#pragma unroll
    for (u32 n = 0; n < EXCHANGE_PIECES; n++) {
      if (n >= pieces) break;
      mine[n] = give(n);
      for (u32 to = 0; to < ranks; to++)
        if (to != rank) *box(to).piece(rank, before + n) = mine[n];
    }
    __syncthreads();
    bool goes_on = true;
    if (speaks) {
      store_release(box(threadIdx.x).arrived(rank), before + pieces);
      goes_on = wait(own.arrived(threadIdx.x), before + pieces);
    }
    if (!__syncthreads_and(goes_on)) return false;
    if (threadIdx.x == 0) *own.sequence() = before + pieces;
    return true;
  }

  // This thread's share of the n-th piece of a rank. Others wrote it: not out of this
  // multiprocessor's own cache.
  __device__ uint4 of(u32 from, u32 n) const {
    return from == rank ? mine[n] : __ldcg(own.piece(from, before + n));
  }
};

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
#pragma unroll
      for (u32 i = 0; i < EACH; i++)
        if (at * EACH + i < count) x.v[i] = from[at * EACH + i];
    return x;
  }
  // Out of memory that other GPUs write: not out of this multiprocessor's own cache.
  __device__ static Vector load_far(const T* from, u64 at, u64 count) {
    if ((at + 1) * EACH > count) return load(from, at, count);
    Vector x;
    x.raw = __ldcg(reinterpret_cast<const uint4*>(from) + at);
    return x;
  }
  __device__ void store(T* to, u64 at, u64 count) const {
    if ((at + 1) * EACH <= count) reinterpret_cast<uint4*>(to)[at] = raw;
    else
#pragma unroll
      for (u32 i = 0; i < EACH; i++)
        if (at * EACH + i < count) to[at * EACH + i] = v[i];
  }
};

// Sums of 16 bytes of T, in f32.
template <class T>
struct Sums {
  static constexpr u32 EACH = Vector<T>::EACH;
  float x[EACH];

  __device__ void set(const Vector<T>& first) {
#pragma unroll
    for (u32 i = 0; i < EACH; i++) x[i] = to_f32(first.v[i]);
  }
  __device__ void add(const Vector<T>& other) {
#pragma unroll
    for (u32 i = 0; i < EACH; i++) x[i] += to_f32(other.v[i]);
  }
  __device__ Vector<T> rounded() const {
    Vector<T> all;
#pragma unroll
    for (u32 i = 0; i < EACH; i++) all.v[i] = from_f32<T>(x[i]);
    return all;
  }
};

// The n-th piece of all ranks, added up in their order; so many are under way at once.
#define PARTS_UNDER_WAY 4
template <class T>
__device__ __forceinline__ Sums<T> sum_of_ranks(const Exchange& exchange, u32 n) {
  Sums<T> sums;
  for (u32 first = 0; first < exchange.ranks; first += PARTS_UNDER_WAY) {
    Vector<T> parts[PARTS_UNDER_WAY];
#pragma unroll
    for (u32 i = 0; i < PARTS_UNDER_WAY; i++)
      if (first + i < exchange.ranks) parts[i].raw = exchange.of(first + i, n);
#pragma unroll
    for (u32 i = 0; i < PARTS_UNDER_WAY; i++) {
      if (first + i == 0) sums.set(parts[i]);
      else if (first + i < exchange.ranks) sums.add(parts[i]);
    }
  }
  return sums;
}

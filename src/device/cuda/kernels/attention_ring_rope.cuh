// Single tokens whose q and k attention_ring_sm90.cu rotates itself, without a launch of rope_store
// in front: each block q's heads of its item, and the one block of a sequence and KV head that has
// the newest key that key too. It takes the newest K and V from qkv, uses them from there and
// stores them to their page, whatever of them its copies brought. So no key of a page depends on
// the kernel in front, and all of them are copied while that still runs.
#pragma once
#include "attention_ring_tiles.cuh"
#include "rope.cuh"

#if ACT != 0 && ARCH == 90
// Of an item's token, in shared memory: q's heads and the newest K and V, rotated.
template <int D>
struct Turned {
  // Rows of q lie so that a warp reads its fragments without conflicts.
  static constexpr u32 PITCH = D + 8;
  act q[SPLIT_ROWS * PITCH];
  act k[D], v[D];
  float cosine[D / 2], sine[D / 2];
};

constexpr u32 NO_KEY = ~0u;

// What an item's rotation goes by, read before the kernel waits. `newest`: the position of the
// token, if the item has its key; else NO_KEY.
struct TurnOf {
  u32 newest;
  float growth;
  act* page;  // Where the newest K goes; null without one.
};

template <int D>
__device__ __forceinline__ TurnOf begin_turn(const RopeStore& a, const WorkItem* item, u32 at,
                                             Turned<D>& to) {
  TurnOf own;
  const bool has = at >= item->keys_from && at < item->keys_to;
  own.newest = has ? at : NO_KEY;
  own.page = nullptr;
  if (has) {
    const u32 number = row_of(a.slots, item->slot)[a.slots.pages + at / a.page_size];
    const u64 head = (u64)2 * a.kv_heads * number + KV_HEAD;
    own.page = reinterpret_cast<act*>(a.pool) + (head * a.page_size + at % a.page_size) * D;
  }
  for (u32 i = threadIdx.x; i < a.half; i += SPLIT_THREADS)
    angle_of(a, item->first_row, at, i, to.sine + i, to.cosine + i);
  own.growth = growth_at(a, at);
  return own;
}

__device__ __forceinline__ void grow(float (&x)[8], float by) {
#pragma unroll
  for (int j = 0; j < 8; j++) x[j] *= by;
}

template <class T>
__device__ __forceinline__ void copy_eight(T* to, const T* from) {
  *reinterpret_cast<Eight<T>*>(to) = *reinterpret_cast<const Eight<T>*>(from);
}

// The token's heads of q, as rows 0..count, and its K behind them; its V by the block's last
// threads. All blocks do all of it: that is as fast as to ask.
template <int D>
__device__ __forceinline__ void take_token(const RopeStore& a, const WorkItem* item, u32 count,
                                           const TurnOf& own, Turned<D>& to) {
  const u32 kv = KV_HEAD, group = a.heads / a.kv_heads, half = a.half;
  const u32 pairs = half / 8, rest = (D - 2 * half) / 8;
  const act* row = a.qkv + (u64)item->first_row * (a.heads + 2 * a.kv_heads) * D;
  const act* q = row + (kv * group + item->begin) * D;
  const act* k = row + (a.heads + kv) * D;
  const u32 i = (SPLIT_THREADS - 1 - threadIdx.x) * 8;
  if (i < D) copy_eight(to.v + i, k + a.kv_heads * D + i);
  for (u32 n = threadIdx.x; n < (count + 1) * pairs; n += SPLIT_THREADS) {
    const u32 r = n / pairs, i = n % pairs * 8;
    const act* x = (r < count ? q + r * D : k) + i;
    act* y = (r < count ? to.q + r * Turned<D>::PITCH : to.k) + i;
    const float growth = r < count ? own.growth : 1.f;
    float low[8], high[8];
    load8(x, low);
    load8(x + half, high);
    turn<8>(low, high, to.cosine + i, to.sine + i);
    grow(low, growth);
    grow(high, growth);
    store8(y, low);
    store8(y + half, high);
  }
  // What is not rotated.
  for (u32 n = threadIdx.x; n < (count + 1) * rest; n += SPLIT_THREADS) {
    const u32 r = n / rest, i = 2 * half + n % rest * 8;
    float x[8];
    load8((r < count ? q + r * D : k) + i, x);
    grow(x, r < count ? own.growth : 1.f);
    store8((r < count ? to.q + r * Turned<D>::PITCH : to.k) + i, x);
  }
}

// The newest K and V to their page, when nobody waits for this block any more.
template <int D>
__device__ __forceinline__ void store_token(const RopeStore& a, const TurnOf& own,
                                            const Turned<D>& from) {
  const u32 n = threadIdx.x * 8;
  if (!own.page || n >= 2 * D) return;
  if (n < D) copy_eight(own.page + n, from.k + n);
  else copy_eight(own.page + (u64)a.kv_heads * a.page_size * D + n - D, from.v + n - D);
}

// The newest key, at position `at`, or NO_KEY; its K and V in shared memory.
template <int D>
struct Newest {
  u32 at;
  const act *k, *v;

  // Its K or V, which is `row`, in place of what was copied of it to the tile at `tile` that begins
  // with key `first`. By the warp that has its key: true there.
  __device__ __forceinline__ bool put(u32 tile, u32 first, const act* row) const {
    const u32 key = at - first, lane = threadIdx.x % 32;
    if (at == NO_KEY || key / 16 != threadIdx.x / 32) return false;
    if (lane < D / 8) {
      const uint4 x = *reinterpret_cast<const uint4*>(row + lane * 8);
      const u32 to = tile + lane / 8 * PanelTile<D>::PANEL + key * 128 + (lane ^ key) % 8 * 16;
      store_shared(to, x.x, x.y, x.z, x.w);
    }
    __syncwarp();
    return true;
  }
};
#endif

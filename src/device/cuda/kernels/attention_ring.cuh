// What attention_ring_sm90.cu and attention_shared_sm90.cu have in common: the ring of slots that a
// warp has boxes of keys copied to, and the walk of packed rows over it.
#pragma once
#include "bulk.cuh"
// KV heads first: of one sequence with a short context a few blocks of each head have items, and
// all of those find a place while the kernel in front still runs. In the other order the last of
// them came 2 us late (ci/runs/2026-11-30-h200-small.md).
#define KV_HEAD blockIdx.x
#define FIRST_ITEM blockIdx.y
#include "attention_ring_rope.cuh"

#if ACT != 0 && ARCH == 90
#define RING_WARPS (SPLIT_THREADS / 32)

// The warps that multiply.
struct Multipliers {
  static __device__ __forceinline__ void meet() {
    asm volatile("bar.sync 1, %0;" ::"n"(SPLIT_THREADS) : "memory");
  }
};

template <int D>
struct Ring {
  static constexpr u32 SLOTS = D == 64 ? RING_SLOTS_OF_64 : RING_SLOTS;
  static constexpr u32 SLOT_BYTES = PanelTile<D>::BYTES;

  u32 first, full, empty, slot, phase;
  __device__ u32 bytes() const { return first + slot * SLOT_BYTES; }
  __device__ u32 filled() const { return full + slot * 8; }
  __device__ u32 freed() const { return empty + slot * 8; }
  __device__ void next() {
    if (++slot == SLOTS) {
      slot = 0;
      phase ^= 1;
    }
  }
};

// The keys of an item by boxes. The first one may begin before the first key that a row sees: it
// is masked, and on the same page.
struct Boxes {
  u32 from, to, count;
  __device__ Boxes(const KeyRange& range) {
    to = range.to;
    from = min(range.from / RING_BOX_KEYS * RING_BOX_KEYS, to);
    count = (to - from + RING_BOX_KEYS - 1) / RING_BOX_KEYS;
  }
  // The page of a box; of those beyond the last that of the last.
  __device__ u32 page(const PagedAttention& c, const u32* table, u32 box) const {
    return table[(from + min(box, count - 1) * RING_BOX_KEYS) / c.page_size];
  }
};

// Copies an item: lane l of the first boxes * panels one panel of a box. Pages of 32 boxes lie with
// the lanes, those of the next 32 come meanwhile. `waits`: the kernel has not yet waited; what
// earlier steps wrote comes before.
template <int D>
__device__ __forceinline__ void copy_item(const TensorMap& pool, const PagedAttention& c,
                                          const WorkItem* item, Ring<D>& ring, bool& waits) {
  constexpr u32 PANELS = D / 64, BOXES = KEYS / RING_BOX_KEYS;
  const u32 lane = threadIdx.x % 32, mine = lane / PANELS % BOXES, panel = lane % PANELS;
  const u32* table = row_of(c.slots, item->slot) + c.slots.pages;
  const KeyRange range(c, item);
  const Boxes boxes(range);
  if (boxes.count == 0) return;
  const u32 slab = c.kv_heads * c.page_size;
  u32 page = boxes.page(c, table, lane), ahead = 0;
  for (u32 box = 0; box < boxes.count; box += BOXES) {
    if (box % 32 == 0) {
      if (box > 0) page = ahead;
      ahead = boxes.page(c, table, box + 32 + lane);
    }
    const u32 first = boxes.from + box * RING_BOX_KEYS;
    if (waits && min(first + KEYS, boxes.to) > range.fresh) {
      await();
      waits = false;
    }
    const u32 n = min(BOXES, boxes.count - box);
    const u32 inside = (first + mine * RING_BOX_KEYS) % c.page_size;
    const u32 row = (2 * __shfl_sync(~0u, page, (box + mine) % 32) * c.kv_heads + KV_HEAD) *
                        c.page_size + inside;
#pragma unroll
    for (u32 value = 0; value < 2; value++) {
      if (lane == 0) {
        barrier_wait(ring.freed(), ring.phase ^ 1);
        barrier_expect(ring.filled(), n * RING_BOX_KEYS * D * 2);
      }
      __syncwarp();
      const u32 to = ring.bytes() + panel * PanelTile<D>::PANEL + mine * RING_BOX_KEYS * 128;
      if (lane < n * PANELS)
        copy_box(to, &pool, panel * 64, row + value * slab, ring.filled());
      ring.next();
    }
  }
}

template <int D>
__device__ __forceinline__ void copy_items(const TensorMap& pool, const PagedAttention& c,
                                           Ring<D> ring, bool waits) {
  for (u32 i = FIRST_ITEM, next = 0;; i = next) {
    const WorkItem* item = c.items + i;
    const u32 word = item->count;
    next = word / NEXT_ITEM;
    if (word % NEXT_ITEM == 0) return;
    copy_item<D>(pool, c, item, ring, waits);
    if (next == 0) return;
  }
}

// The V of keys from `end` of the tile on becomes zeros, whatever lies there: a weight of 0 times
// NaN is NaN. Of a quarter of the keys, this warp's.
template <int D>
__device__ void clear_values(u32 values, u32 warp, u32 lane, u32 end) {
  for (u32 key = max(warp * 16, end); key < warp * 16 + 16; key++) {
    for (u32 piece = lane; piece < D / 8; piece += 32)
      store_shared(values + piece / 8 * PanelTile<D>::PANEL + key * 128 + piece % 8 * 16, 0, 0, 0,
                   0);
  }
  __syncwarp();
}

// The rows of `t` against the keys of an item. The newest one, where the item has it, comes from
// shared memory.
template <int D, class Rows>
__device__ __forceinline__ void attend_keys(const PagedAttention& c, const KeyRange& range,
                                            const Newest<D>& newest, Rows& t, Ring<D>& ring) {
  const Boxes boxes(range);
  // `stored`: stores come before the copy that fills the slot again.
  auto release = [&](bool stored) {
    if (stored) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncwarp();
    if (t.lane == 0) barrier_arrive(ring.freed());
    ring.next();
  };
  for (u32 first = boxes.from; first < boxes.to; first += KEYS) {
    barrier_wait(ring.filled(), ring.phase);
    const bool puts = newest.put(ring.bytes(), first, newest.k);
    t.scores(c, ring.bytes(), first, boxes.to, range.masked(c, first));
    release(puts);
    t.weigh();
    barrier_wait(ring.filled(), ring.phase);
    const bool cut = first + KEYS > boxes.to;
    if (cut) {
      clear_values<D>(ring.bytes(), threadIdx.x / 32, t.lane, boxes.to - first);
      if constexpr (Rows::READS_ALL_KEYS) {
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        Multipliers::meet();
      }
    }
    newest.put(ring.bytes(), first, newest.v);
    t.add_values(ring.bytes());
    release(cut || puts);
  }
  t.sum_rows();
}

// What a block has in shared memory: the ring, aligned, then what its warps merge, then a rotated
// token, where there is one.
template <int D>
struct Shared {
  u32 skip;
  Ring<D> ring;

  __device__ Shared(u64* barriers) {
    constexpr u32 SLOTS = Ring<D>::SLOTS;
    const u32 shared = shared_address(dynamic_shared), full = shared_address(barriers);
    skip = (RING_ALIGNMENT - shared % RING_ALIGNMENT) % RING_ALIGNMENT;
    ring = {shared + skip, full, full + SLOTS * 8, 0, 0};
    start_ring(ring.full, ring.empty, SLOTS, RING_WARPS);
  }
  __device__ Merged<D>& merged() const {
    u8* behind = dynamic_shared + skip + Ring<D>::SLOTS * Ring<D>::SLOT_BYTES;
    return *reinterpret_cast<Merged<D>*>(behind);
  }
  __device__ Turned<D>& turned() const { return *reinterpret_cast<Turned<D>*>(&merged() + 1); }
};
#endif

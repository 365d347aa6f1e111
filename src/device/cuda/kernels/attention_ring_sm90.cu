// Attention of single tokens over pages on Hopper, for half types, head sizes 64, 128 and 256, and
// pages of a multiple of 16 tokens: the split kernel of attention_mma.cu with the same work list,
// windows and caps, and the same parts. Other pages and head sizes stay there.
//
// A warp of its own walks over the block's items and has the GPU copy their K and V by boxes of 16
// keys x 128 bytes (bulk.cuh) into a ring of slots, a tile of 64 keys of K or V each: as deep as
// shared memory allows and across the ends of items, whatever the four warps that multiply are at.
// Each of those has 16 keys of a tile and no meeting but for the slots' barriers until an item
// ends. K is free again before the weights are known.
//
// Shared memory: 96 KiB of slots up to head size 128, so that two blocks on a multiprocessor have
// some 160 KiB in flight at any time, where 34 would cover the latency of HBM; 192 KiB of one block
// at 256. Bytes: K and V once per KV head, the floor. Of attention_mma.cu's design three blocks
// with a tile in flight each take 15 % longer at 64 x 2048 keys of Llama 8B (140 and 123 us, the
// floor 121) and 18 % at 64 x 540 (43 and 36 us, 32): addresses of 16 bytes each take the warps'
// time, and a tile's copy waits for the tile before.
//
// ring_turn_* also do what rope_store does, for steps of single tokens of up to eight q heads a KV
// head: 4 us a layer less at 1 x 512 of Llama 8B, 2 to 3 of many streams. Tried and taken back
// (ci/runs/2026-11-30-h200-turn.md): parts of a sequence joined by clusters of eight blocks, of
// which not as many fit the card; the first item rehearsed before the wait; the leave given later.
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
// NaN is NaN. Of this warp's keys, which no other reads.
template <int D>
__device__ void clear_values(u32 values, u32 warp, u32 lane, u32 end) {
  for (u32 key = max(warp * 16, end); key < warp * 16 + 16; key++) {
    for (u32 piece = lane; piece < D / 8; piece += 32)
      store_shared(values + piece / 8 * PanelTile<D>::PANEL + key * 128 + piece % 8 * 16, 0, 0, 0,
                   0);
  }
  __syncwarp();
}

// The warps have the same rows and different keys: merge, and write the output or a part of it.
template <int D>
__device__ void merge_rows(const PagedAttention& c, const WorkItem* item, u32 count, u32 begin,
                           const Merged<D>& m) {
  const u32 kv = KV_HEAD, group = c.heads / c.kv_heads;
  const u32 rows = min(count - begin, RING_MERGED_ROWS);
  for (u32 n = threadIdx.x; n < rows * (D / 4); n += SPLIT_THREADS) {
    const u32 r = n / (D / 4), d = n % (D / 4) * 4;
    float peak = LOWEST, all = 0.f;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
    for (u32 w = 0; w < RING_WARPS; w++) peak = fmaxf(peak, m.maxima[w * RING_MERGED_ROWS + r]);
#pragma unroll
    for (u32 w = 0; w < RING_WARPS; w++) {
      const u32 at = w * RING_MERGED_ROWS + r;
      const float share = exp2_fast(m.maxima[at] - peak);
      all += m.weights[at] * share;
      add_scaled(sum, *reinterpret_cast<const float4*>(&m.sums[at][d]), share);
    }
    const u32 packed = item->begin + begin + r;
    if (item->part == NO_PART) {
      const u64 token = item->first_row + packed / group;
      const u32 head = kv * group + packed % group;
      const float unit = c.value_scale / (all + weight_of_sink(c, head, peak));
      store4(c.out + (token * c.heads + head) * D + d, sum, unit);
    } else {
      const u64 pieces = item->part + item->piece;
      const u64 part = (pieces * c.kv_heads + kv) * SPLIT_ROWS + begin + r;
      *reinterpret_cast<float4*>(c.parts + part * D + d) = sum;
      if (d == 0) c.statistics[part] = make_float2(peak, all);
    }
  }
}

template <int D, class Rows>
__device__ __forceinline__ void merge(const PagedAttention& c, const WorkItem* item, u32 count,
                                      const Rows& t, Merged<D>& m) {
#pragma unroll 1
  for (u32 begin = 0; begin < count; begin += RING_MERGED_ROWS) {
    if (begin > 0) Multipliers::meet();
    t.leave(m, begin);
    Multipliers::meet();
    merge_rows<D>(c, item, count, begin, m);
  }
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
    if (cut) clear_values<D>(ring.bytes(), threadIdx.x / 32, t.lane, boxes.to - first);
    newest.put(ring.bytes(), first, newest.v);
    t.add_values(ring.bytes());
    release(cut || puts);
  }
  t.sum_rows();
}

// An item whose q, K and V lie where rope_store left them.
template <int D, class Rows>
__device__ __forceinline__ void attend_apart(const PagedAttention& c, const WorkItem* item,
                                             u32 count, const KeyRange& range, Ring<D>& ring,
                                             Merged<D>& merged) {
  Rows t;
  t.begin(c, item, count);
  attend_keys<D>(c, range, Newest<D>{NO_KEY, nullptr, nullptr}, t, ring);
  merge<D>(c, item, count, t, merged);
}

// Above its wait the kernel reads what the step's first kernel wrote, and keys of earlier steps.
template <int D>
__device__ __forceinline__ void attend_items(const RingAttention& call, Ring<D> ring,
                                             Merged<D>& merged) {
  const PagedAttention& c = call.attention;
  bool first = true;
  for (u32 i = FIRST_ITEM, next = 0;; i = next, first = false) {
    const WorkItem* item = c.items + i;
    const u32 word = item->count, count = word % NEXT_ITEM;
    next = word / NEXT_ITEM;
    if (count == 0) {
      // The kernel is not done before the one before it: one block waits at least.
      if (first && FIRST_ITEM == 0) await();
      return;
    }
    if (first) await();
    const KeyRange range(c, item);
    if (count <= NarrowTile<D>::ROWS)
      attend_apart<D, NarrowTile<D>>(c, item, count, range, ring, merged);
    else attend_apart<D, WideTile<D>>(c, item, count, range, ring, merged);
    if (last_to_arrive<Multipliers>(c, item)) join<D>(c, item, count, c.value_scale);
    if (next == 0) return;
    Multipliers::meet();
  }
}

// The same of single tokens that are rotated here. All that does not depend on the kernel in front
// is read before the wait, and stays in registers: behind it memory is busy with the weights that
// the kernel behind has come for.
template <int D>
__device__ __forceinline__ void turn_items(const RingTurn& call, Ring<D> ring, Merged<D>& merged,
                                           Turned<D>& turned) {
  const PagedAttention& c = call.attention;
  bool first = true;
  for (u32 i = FIRST_ITEM, next = 0;; i = next, first = false) {
    const WorkItem held = c.items[i];
    const WorkItem* item = &held;
    const u32 count = held.count % NEXT_ITEM;
    next = held.count / NEXT_ITEM;
    if (count == 0) {
      if (first && FIRST_ITEM == 0) await();
      return;
    }
    const KeyRange range(c, item);
    const SeenKeys seen(c, held.first_row);
    const TurnOf turn = begin_turn<D>(call.rope, item, range.fresh, turned);
    Multipliers::meet();
    if (first) await();
    take_token<D>(call.rope, item, count, turn, turned);
    Multipliers::meet();

    NarrowTile<D> t;
    t.begin_turned(turned.q, Turned<D>::PITCH, count, seen);
    attend_keys<D>(c, range, Newest<D>{turn.newest, turned.k, turned.v}, t, ring);
    merge<D>(c, item, count, t, merged);
    if (last_to_arrive<Multipliers>(c, item)) join<D>(c, item, count, c.value_scale);
    store_token<D>(call.rope, turn, turned);
    if (next == 0) return;
    Multipliers::meet();
  }
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

template <int D>
__device__ __forceinline__ void attend_by_ring(const RingAttention& call) {
  __shared__ __align__(8) u64 barriers[2 * Ring<D>::SLOTS];
  give_leave();
  const Shared<D> shared(barriers);
  if (threadIdx.x >= SPLIT_THREADS) copy_items<D>(call.pool, call.attention, shared.ring, true);
  else attend_items<D>(call, shared.ring, shared.merged());
}

template <int D>
__device__ __forceinline__ void turn_by_ring(const RingTurn& call) {
  __shared__ __align__(8) u64 barriers[2 * Ring<D>::SLOTS];
  give_leave();
  const Shared<D> shared(barriers);
  if (threadIdx.x >= SPLIT_THREADS) copy_items<D>(call.pool, call.attention, shared.ring, false);
  else turn_items<D>(call, shared.ring, shared.merged(), shared.turned());
}
#define BODY(ATTEND) ATTEND(call)
#else
#define BODY(ATTEND) (void)call
#endif

#define RING_ENTRY(NAME, D, BLOCKS, PARAMETERS, ATTEND)     \
  __global__ void __launch_bounds__(RING_THREADS, BLOCKS)   \
      NAME##_##D(const __grid_constant__ PARAMETERS call) { \
    BODY(ATTEND);                                           \
  }
#define RING_ENTRIES(D, BLOCKS)                                 \
  RING_ENTRY(ring, D, BLOCKS, RingAttention, attend_by_ring<D>) \
  RING_ENTRY(ring_turn, D, BLOCKS, RingTurn, turn_by_ring<D>)

RING_ENTRIES(64, 2)
RING_ENTRIES(128, 2)
RING_ENTRIES(256, 1)

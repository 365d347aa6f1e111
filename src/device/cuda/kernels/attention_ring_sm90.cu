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
#include "attention_ring.cuh"

#if ACT != 0 && ARCH == 90
// Head sizes that have a kernel for keys that sequences share: their parts are joined here.
template <int D>
constexpr bool SHARES = D <= 128;

// The warps have the same rows and different keys: merge, and write the output or a part of it.
template <int D, bool SHARED>
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
      if constexpr (SHARED) add_shared<D>(c, item, begin + r, d / 4, peak, all, sum);
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

template <int D, bool SHARED, class Rows>
__device__ __forceinline__ void merge(const PagedAttention& c, const WorkItem* item, u32 count,
                                      const Rows& t, Merged<D>& m) {
#pragma unroll 1
  for (u32 begin = 0; begin < count; begin += RING_MERGED_ROWS) {
    if (begin > 0) Multipliers::meet();
    t.leave(m, begin);
    Multipliers::meet();
    merge_rows<D, SHARED>(c, item, count, begin, m);
  }
}

// An item whose q, K and V lie where rope_store left them.
template <int D, class Rows>
__device__ __forceinline__ void attend_apart(const PagedAttention& c, const WorkItem* item,
                                             u32 count, const KeyRange& range, Ring<D>& ring,
                                             Merged<D>& merged) {
  Rows t;
  t.begin(c, item, count);
  attend_keys<D>(c, range, Newest<D>{NO_KEY, nullptr, nullptr}, t, ring);
  merge<D, SHARES<D>>(c, item, count, t, merged);
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
    if (last_to_arrive<Multipliers>(c, item)) join<D, SHARES<D>>(c, item, count, c.value_scale);
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
    merge<D, false>(c, item, count, t, merged);
    if (last_to_arrive<Multipliers>(c, item)) join<D>(c, item, count, c.value_scale);
    store_token<D>(call.rope, turn, turned);
    if (next == 0) return;
    Multipliers::meet();
  }
}

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

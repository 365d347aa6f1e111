// Attention of single tokens over keys that several sequences share, a prompt's beginning that the
// prefix cache gave to all of them: read once per SHARED_ROWS packed rows, not once per sequence.
// On Hopper, for half types, head sizes 64 and 128, and pages of a multiple of 16 tokens.
//
// It comes in front of attention_ring_sm90.cu, has that kernel's ring of boxes, and leaves a part
// for each stretch of shared keys: the weighted sums of all rows of an item. That kernel attends to
// the keys that a sequence has for itself and joins those parts to its own.
//
// The four warps multiply as a warpgroup, by wgmma: each has 16 of the packed rows, of any
// sequences, against all 64 keys of a tile, so no rows are merged. Bytes: K and V once per KV head
// and item. Tensor cores: 512 clocks a tile, where it takes some 1700 to come from HBM. On an H200
// 46 us for 16 sequences of Llama 8B that share 31 900 keys (131 MB, the floor 27), 71 by mma.sync,
// whose four warps each read all of a tile out of shared memory
// (ci/runs/2026-11-30-h200-shared.md).
#include "attention_ring.cuh"
#include "warpgroup.cuh"

#if ACT != 0 && ARCH == 90
template <int D>
struct SharedTile : Tile<PanelTile<D>, D, SPLIT_THREADS / 32, 1> {
  typedef Tile<PanelTile<D>, D, SPLIT_THREADS / 32, 1> Base;
  static constexpr bool READS_ALL_KEYS = true;
  static constexpr u32 PANEL = PanelTile<D>::PANEL;
  static_assert(SPLIT_THREADS == WARPGROUP && SHARED_ROWS == 64, "rows of wgmma");
  float s[Base::NT][4];

  __device__ void begin(const PagedAttention& c, const WorkItem* item, u32 count) {
    this->place_warp();
    const WorkItem* members = c.items + item->members;
    this->load_rows(c, 0, count, [&](u32 n) { return members[n].first_row; });
    this->clear();
  }

  __device__ void scores(const PagedAttention& c, u32 keys, u32 first, u32 end, bool mask) {
    float(&sums)[Base::NT * 4] = reinterpret_cast<float(&)[Base::NT * 4]>(s);
    const u64 b = describe(keys, 16);
    ready();
#pragma unroll
    for (int k = 0; k < D / 16; k++)
      multiply_inner(sums, this->q[k], b + (k / 4 * PANEL + k % 4 * 32) / 16, k > 0);
    submit();
    finish<0>();
    hold(sums);
    this->finish_scores(c, first, end, mask, s);
  }
  __device__ void weigh() { this->online_softmax(s); }
  __device__ void add_values(u32 values) {
    float(&sums)[D / 2] = reinterpret_cast<float(&)[D / 2]>(this->o);
    u32 p[Base::NT / 2][4];
    this->weights(s, p);
    const u64 b = describe(values, PANEL);
    hold(sums);
    ready();
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
      multiply_registers(sums, p[k], b + k * 2 * PANEL_EIGHT_BYTES / 16, 1);
    submit();
    finish<0>();
    hold(sums);
  }

  // The rows' sums, maxima and sums of weights, as a part.
  __device__ void leave(const PagedAttention& c, const WorkItem* item, u32 count) const {
    const u32 first = item->part + item->piece * (SHARED_ROWS / SPLIT_ROWS);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = this->row(half);
      if (r >= count) continue;
      const u64 part = (u64)(first + r / SPLIT_ROWS) * c.kv_heads + KV_HEAD;
      const u64 at = part * SPLIT_ROWS + r % SPLIT_ROWS;
      float* to = c.parts + at * D + this->lane % 4 * 2;
#pragma unroll
      for (int t = 0; t < D / 8; t++)
        *reinterpret_cast<float2*>(to + t * 8) =
            make_float2(this->o[t][2 * half], this->o[t][2 * half + 1]);
      if (this->lane % 4 == 0)
        c.statistics[at] = make_float2(this->row_max[half], this->row_sum[half]);
    }
  }
};

// Above its wait the kernel reads what the step's first kernel wrote, and keys of earlier steps: no
// key that is shared is of this one.
template <int D>
__device__ __forceinline__ void attend_items(const PagedAttention& c, Ring<D> ring) {
  const Newest<D> nobody{NO_KEY, nullptr, nullptr};
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
    SharedTile<D> t;
    t.begin(c, item, count);
    attend_keys<D>(c, KeyRange(c, item), nobody, t, ring);
    t.leave(c, item, count);
    if (next == 0) return;
  }
}

template <int D>
__device__ __forceinline__ void attend_shared(const RingAttention& call) {
  __shared__ __align__(8) u64 barriers[2 * Ring<D>::SLOTS];
  give_leave();
  const Shared<D> shared(barriers);
  if (threadIdx.x >= SPLIT_THREADS) copy_items<D>(call.pool, call.attention, shared.ring, true);
  else attend_items<D>(call.attention, shared.ring);
}
#define BODY(D) attend_shared<D>(call)
#else
#define BODY(D) (void)call
#endif

#define SHARED_ENTRY(D)                                   \
  __global__ void __launch_bounds__(RING_THREADS, 2)      \
      shared_##D(const __grid_constant__ RingAttention call) { \
    BODY(D);                                              \
  }

SHARED_ENTRY(64)
SHARED_ENTRY(128)

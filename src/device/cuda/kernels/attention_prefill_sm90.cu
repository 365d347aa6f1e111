// Paged causal attention over prompts on Hopper, for half types and head sizes 64, 128 and 256: the
// chunks of attention_mma.cu by wgmma. Same work list, any page size, window and soft cap.
//
// A block has 128 packed rows (token r / group, head r % group), two warpgroups with 64 each, and
// goes through tiles of 128 keys (64 where the head size is 256: registers). Q, K and V lie in
// shared memory in swizzled panels (warpgroup.cuh), K and V in two stages each, brought by cp.async
// because a page is shorter than a tile. A round computes the scores of the next tile and, in
// flight beside them, the values of this one; the softmax of the next tile runs under the latter.
// One barrier a round: it hands over the next K and this V, and frees the K and the V before.
//
// Shared memory at 128: Q 32 KiB, four tiles of 32 KiB. Registers: O 64, scores 64, weights 32 a
// thread. FLOPs: 4 x rows x keys x dim; the tensor cores need 2048 clocks for both groups' round of
// 128 x 128 x 128, the exponentials 1024 beside them. Bytes: K and V once per 128 packed rows, from
// L2. Measured on an H200: 410-450 TFLOP/s from 4096 tokens on (ci/runs). What lies between that
// and the floor: both groups do their softmax at the same time, for the barrier keeps them in step;
// groups that take turns, with K and V handed over by mbarriers, are the next step.
#include "attention_prefill_sm90.cuh"

#if ARCH == 90 && ACT != 0
template <int D>
struct Prompt : PromptTile<D, false> {
  typedef PromptTile<D, false> Base;
  using Base::KEYS;
  using Base::TILE;
  static constexpr int PIECES = D / 8;  // of 16 bytes, in a row

  __device__ void load_q(const PagedAttention& c, const WorkItem* item) {
#pragma unroll
    for (int i = 0; i < ROWS * PIECES / THREADS; i++) {
      const u32 n = i * THREADS + threadIdx.x, r = n / PIECES, piece = n % PIECES;
      copy_async(this->q + swizzled(r, piece, ROWS), Base::row_of_q(c, item, r) + piece * 8, true);
    }
  }

  // Start copying the K (V: `skip` bytes on) of a tile. Keys beyond the range are the last one
  // again, and masked.
  __device__ static void fetch(const PagedAttention& c, const u32* places, u64 skip, u32 to) {
    const u8* pool = reinterpret_cast<const u8*>(c.pool) + skip;
#pragma unroll
    for (int i = 0; i < KEYS * PIECES / THREADS; i++) {
      const u32 n = i * THREADS + threadIdx.x, r = n / PIECES, piece = n % PIECES;
      copy_async(to + swizzled(r, piece, KEYS), pool + ((u64)places[r] + piece) * 16, true);
    }
  }

  __device__ void run(const PagedAttention& c, const WorkItem* item) {
    __shared__ u32 places[PLACES][KEYS];
    const u32* table = row_of(c.slots, item->slot) + c.slots.pages;
    const u64 slab = (u64)c.kv_heads * c.page_size * (2 * D);
    this->begin_item(c, item);
    load_q(c, item);
    const PromptRange range(c, item, this->seen_to[0]);
    const u32 from = range.from, to = range.to, tiles = (to - from + KEYS - 1) / KEYS;
    const u32 keys = this->keys, values = this->values;

    if (threadIdx.x < KEYS) {
#pragma unroll
      for (u32 t = 0; t < 3; t++)
        places[t][threadIdx.x] = Base::template locate<PIECES>(c, table, from + t * KEYS, to);
    }
    __syncthreads();
    fetch(c, places[0], 0, keys);
    commit();
    if (tiles > 1) fetch(c, places[1], 0, keys + TILE);
    fetch(c, places[0], slab, values);
    commit();
    wait<1>();
    publish();
    __syncthreads();
    ready();
    this->start_scores(0);
    finish<0>();
    hold(this->s);
    float2 shrink = this->online_softmax(c, from, to, range.masked(c, from + KEYS));
    u32 t = 0;
    for (; t + 1 < tiles; t++) {
      this->sync_stage();
      if (t + 2 < tiles) fetch(c, places[(t + 2) % PLACES], 0, keys + t % 2 * TILE);
      fetch(c, places[(t + 1) % PLACES], slab, values + (t + 1) % 2 * TILE);
      commit();
      u32 place = 0;
      const bool look = t + 3 < tiles && threadIdx.x < KEYS;
      if (look) place = Base::template locate<PIECES>(c, table, from + (t + 3) * KEYS, to);
      this->prepare_values(shrink);
      ready();
      this->start_scores((t + 1) % 2);
      this->start_values(t % 2);
      if (look) places[(t + 3) % PLACES][threadIdx.x] = place;
      finish<1>();
      hold(this->s);
      const u32 next = from + (t + 1) * KEYS;
      shrink = this->online_softmax(c, next, to, range.masked(c, next + KEYS));
    }
    this->finish_values(shrink, t % 2);
  }
};
#endif

PROMPTS(prompt)

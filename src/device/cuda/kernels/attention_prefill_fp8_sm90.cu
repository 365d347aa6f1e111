// Paged causal attention over prompts on Hopper over pages of eight bits, head sizes 64, 128 and
// 256: the kernel of attention_prefill_sm90.cu, whose tiles become f16 on their way to shared
// memory. Q and the weights are f16 too (a row of a bfloat16 q by a power of two of its own,
// RowUnit), the scale of K is part of the scores', that of V multiplies the result.
//
// A thread copies pieces of the K two tiles on and the V one tile on to 32 KiB beside the stages
// (fp8_pages.cuh), and turns them into operands in the next round, while the tensor cores have that
// round's scores and values: at 128 a thread converts 128 numbers in some 160 instructions, 320 of
// the 2048 clocks that the products need of each scheduler. Shared memory at 128: Q 32 KiB, four
// tiles of 32 KiB, two of 16 KiB; at 256: 64, four of 32, two of 16 KiB. FLOPs are those of 16-bit
// pages; bytes half of theirs, once per 128 packed rows, from L2.
#define F16_OPERANDS
#include "attention_prefill_sm90.cuh"
#include "fp8_pages.cuh"

#if ARCH == 90 && ACT != 0
template <int D>
struct Prompt : PromptTile<D, true> {
  typedef PromptTile<D, true> Base;
  using Base::KEYS;
  using Base::TILE;
  typedef RawTile<D, KEYS, THREADS> Raw;
  static constexpr int Q_PIECES = D / 8;  // of 16 bytes, in a row of q

  // Q as operands. The factors of its rows go to `factors`.
  __device__ void load_q(const PagedAttention& c, const WorkItem* item, float* factors) {
#pragma unroll
    for (int i = 0; i < ROWS * Q_PIECES / THREADS; i++) {
      const u32 n = i * THREADS + threadIdx.x, r = n / Q_PIECES, piece = n % Q_PIECES;
      const uint4* from = reinterpret_cast<const uint4*>(Base::row_of_q(c, item, r));
      uint4 x = from[piece];
#if ACT == 2
      u32 top = larger(larger(larger(larger(0, x.x), x.y), x.z), x.w);
#pragma unroll
      for (int d = Q_PIECES / 2; d > 0; d /= 2) top = max(top, __shfl_xor_sync(~0u, top, d));
      const RowUnit unit(top);
      x = make_uint4(unit.divide(x.x), unit.divide(x.y), unit.divide(x.z), unit.divide(x.w));
      if (piece == 0) factors[r] = unit.factor;
#endif
      store_shared(this->q + swizzled(r, piece, ROWS), x.x, x.y, x.z, x.w);
    }
  }

  // The scales of this thread's rows, once all factors are there.
  __device__ void set_scales(const PagedAttention& c, const float* factors) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      this->own_scale[half] = c.scale;
#if ACT == 2
      this->own_scale[half] *= factors[this->row(half)];
#endif
    }
  }

  // What this thread copied of a K or a V becomes operands at `to`.
  __device__ static void convert(bool e5m2, u32 raw, u32 to) {
    auto at = [&](u32 key, u32 piece) { return to + swizzled(key, piece, KEYS); };
    if (e5m2) Raw::template convert<E5m2>(raw, at);
    else Raw::template convert<E4m3>(raw, at);
  }

  __device__ void run(const PagedAttention& c, const WorkItem* item) {
    __shared__ u32 places[PLACES][KEYS];
    __shared__ float factors[ROWS];
    const u32* table = row_of(c.slots, item->slot) + c.slots.pages;
    const u8* pool = reinterpret_cast<const u8*>(c.pool);
    const u64 slab = (u64)c.kv_heads * c.page_size * D;
    const bool e5m2 = c.kv == KV_TYPE_E5M2;
    this->begin_item(c, item);
    const PromptRange range(c, item, this->seen_to[0]);
    const u32 from = range.from, to = range.to, tiles = (to - from + KEYS - 1) / KEYS;
    const u32 keys = this->keys, values = this->values;
    const u32 raw_keys = values + PROMPT_STAGES * TILE, raw_values = raw_keys + Raw::BYTES;
    auto fetch_keys = [&](u32 t) {
      if (t < tiles) Raw::fetch(pool, places[t % PLACES], raw_keys);
    };
    auto fetch_values = [&](u32 t) {
      if (t < tiles) Raw::fetch(pool + slab, places[t % PLACES], raw_values);
    };

    if (threadIdx.x < KEYS) {
#pragma unroll
      for (u32 t = 0; t < PLACES; t++)
        places[t][threadIdx.x] =
            Base::template locate<Raw::PIECES>(c, table, from + t * KEYS, to);
    }
    __syncthreads();
    fetch_keys(0);
    fetch_values(0);
    commit();
    load_q(c, item, factors);
    wait<0>();
    convert(e5m2, raw_keys, keys);
    convert(e5m2, raw_values, values);
    fetch_keys(1);
    fetch_values(1);
    commit();
    publish();
    __syncthreads();
    set_scales(c, factors);
    ready();
    this->start_scores(0);
    if (tiles > 1) {
      wait<0>();
      convert(e5m2, raw_keys, keys + TILE);
      fetch_keys(2);
      commit();
    }
    finish<0>();
    hold(this->s);
    float2 shrink = this->online_softmax(c, from, to, range.masked(c, from + KEYS));
    u32 t = 0;
    for (; t + 1 < tiles; t++) {
      this->sync_stage();
      u32 place = 0;
      const bool look = t + 4 < tiles && threadIdx.x < KEYS;
      if (look) place = Base::template locate<Raw::PIECES>(c, table, from + (t + 4) * KEYS, to);
      this->prepare_values(shrink);
      ready();
      this->start_scores((t + 1) % 2);
      this->start_values(t % 2);
      // Beside these: the V of the next round and the K of the one after it.
      convert(e5m2, raw_values, values + (t + 1) % 2 * TILE);
      if (t + 2 < tiles) convert(e5m2, raw_keys, keys + t % 2 * TILE);
      fetch_keys(t + 3);
      fetch_values(t + 2);
      commit();
      if (look) places[t % PLACES][threadIdx.x] = place;
      finish<1>();
      hold(this->s);
      const u32 next = from + (t + 1) * KEYS;
      shrink = this->online_softmax(c, next, to, range.masked(c, next + KEYS));
    }
    this->finish_values(shrink, t % 2);
  }
};
#endif

PROMPTS(prompt_fp8)

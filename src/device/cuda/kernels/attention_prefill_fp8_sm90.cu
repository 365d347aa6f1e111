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

#define THREADS CHUNK_THREADS
#define PLACES 4
#define ROWS PROMPT_ROWS

#if ARCH == 90 && ACT != 0
template <int D>
struct Prompt : PromptTile<D, ROWS, D == 256 ? PROMPT_KEYS_OF_256 : PROMPT_KEYS, true, false> {
  static constexpr int KEYS = D == 256 ? PROMPT_KEYS_OF_256 : PROMPT_KEYS;
  typedef PromptTile<D, ROWS, KEYS, true, false> Base;
  using Base::TILE;
  typedef RawTile<D, KEYS, THREADS> Raw;
  static constexpr int Q_PIECES = D / 8;  // of 16 bytes, in a row of q

  u32 q, keys, values;  // addresses in shared memory; stage s of K is at keys + s * TILE
  // The keys of the item that its rows see, and those that all rows of this warp see.
  u32 from, to, least;

  // Places in the block and in shared memory, and what rows see; nothing is summed yet.
  __device__ void begin_item(const PagedAttention& c, const WorkItem& item) {
    this->lane = threadIdx.x % 32;
    this->row0 = threadIdx.x / 32 * 16;
    this->aim(c, item, blockIdx.y);
    this->clear_weights();
    this->clear_values();
    constexpr u32 ALIGNMENT = PROMPT_ALIGNMENT;
    q = (shared_address(dynamic_shared) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    keys = q + ROWS * D * 2;
    values = keys + PROMPT_STAGES * TILE;
    const u32 group = c.heads / c.kv_heads;
    to = item.keys_to;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 packed = item.begin + min(this->row(half), item.count - 1);
      const SeenKeys seen(c, item.first_row + packed / group);
      this->sees[half] = seen.from;
      this->seen_to[half] = min(seen.to, to);
    }
    // No later row sees earlier keys, or ends before the first one.
    from = max(item.keys_from, SeenKeys(c, item.first_row + item.begin / group).from);
    least = __shfl_sync(~0u, this->seen_to[0], 0);
  }
  __device__ bool masked(const PagedAttention& c, u32 end) const {
    return end > least || (c.window | c.chunk) != 0;
  }

  // Where the K of key `first + threadIdx.x` of this block's head lies, in units of 16 bytes from
  // the pool's start; keys beyond the range are the last one again.
  __device__ u32 locate(const PagedAttention& c, const u32* table, u32 t) const {
    const u32 key = min(from + t * KEYS + threadIdx.x % KEYS, to - 1);
    const u32 inside = blockIdx.y * c.page_size + key % c.page_size;
    return (2 * c.kv_heads * c.page_size * table[key / c.page_size] + inside) * Raw::PIECES;
  }

  // The end of a round, for the whole block: its values are added, the next K and this V are there,
  // and nobody needs this K and the V before. It stands at the top of the next round, where no
  // compiler moves the wait for the values above the softmax that is to hide it.
  __device__ void sync_stage() {
    this->finish_values();
    wait<0>();
    publish();
    __syncthreads();
  }

  // Q as operands. The factors of its rows go to `factors`.
  __device__ void load_q(const PagedAttention& c, const WorkItem& item, float* factors) {
#pragma unroll
    for (int i = 0; i < ROWS * Q_PIECES / THREADS; i++) {
      const u32 n = i * THREADS + threadIdx.x, r = n / Q_PIECES, piece = n % Q_PIECES;
      const uint4* from = reinterpret_cast<const uint4*>(Base::row_of_q(c, item, blockIdx.y, r));
      uint4 x = from[piece];
#if ACT == 2
      u32 top = larger(larger(larger(larger(0, x.x), x.y), x.z), x.w);
#pragma unroll
      for (int d = Q_PIECES / 2; d > 0; d /= 2) top = max(top, __shfl_xor_sync(~0u, top, d));
      const RowUnit unit(top);
      x = make_uint4(unit.divide(x.x), unit.divide(x.y), unit.divide(x.z), unit.divide(x.w));
      if (piece == 0) factors[r] = unit.factor;
#endif
      store_shared(q + swizzled(r, piece, ROWS), x.x, x.y, x.z, x.w);
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
    auto at = [&](u32 key, u32 piece) { return to + Base::place_of(key, piece); };
    if (e5m2) Raw::template convert<E5m2>(raw, at);
    else Raw::template convert<E4m3>(raw, at);
  }

  __device__ void run(const PagedAttention& c, const WorkItem& item) {
    __shared__ u32 places[PLACES][KEYS];
    __shared__ float factors[ROWS];
    const u32* table = row_of(c.slots, item.slot) + c.slots.pages;
    const u8* pool = reinterpret_cast<const u8*>(c.pool);
    const u64 slab = (u64)c.kv_heads * c.page_size * D;
    const bool e5m2 = c.kv == KV_TYPE_E5M2;
    begin_item(c, item);
    const u32 tiles = (to - from + KEYS - 1) / KEYS;
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
        places[t][threadIdx.x] = locate(c, table, t);
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
    this->start_scores(q, keys);
    if (tiles > 1) {
      wait<0>();
      convert(e5m2, raw_keys, keys + TILE);
      fetch_keys(2);
      commit();
    }
    finish<0>();
    hold(this->s);
    float2 shrink = this->online_softmax(c, from, masked(c, from + KEYS));
    u32 t = 0;
    for (; t + 1 < tiles; t++) {
      sync_stage();
      u32 place = 0;
      const bool look = t + 4 < tiles && threadIdx.x < KEYS;
      if (look) place = locate(c, table, t + 4);
      this->prepare_values(shrink);
      ready();
      this->start_scores(q, keys + (t + 1) % 2 * TILE);
      this->start_values(values + t % 2 * TILE);
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
      shrink = this->online_softmax(c, next, masked(c, next + KEYS));
    }
    sync_stage();
    this->prepare_values(shrink);
    ready();
    this->start_values(values + t % 2 * TILE);
    this->finish_values();
  }
};

#define PROMPT(D)                                \
  begin();                                       \
  const WorkItem item = call.items[blockIdx.x];  \
  Prompt<D> prompt;                              \
  prompt.run(call, item);                        \
  prompt.write(call, prompt.end(call))
#else
// The device never launches these where they have no code.
#define PROMPT(D) (void)call
#endif

ENTRY(prompt_fp8, PROMPT, 64, THREADS, 1)
ENTRY(prompt_fp8, PROMPT, 128, THREADS, 1)
ENTRY(prompt_fp8, PROMPT, 256, THREADS, 1)

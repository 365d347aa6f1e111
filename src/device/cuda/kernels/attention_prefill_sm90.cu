// Paged causal attention over prompts on Hopper, for half types and head sizes 64, 128 and 256: the
// chunks of attention_mma.cu by wgmma. Same work list, any window and soft cap; pages of a multiple
// of 8 tokens.
//
// A block has 128 packed rows (token r / group, head r % group) at a time, two warpgroups with 64
// each (192 and three at head size 64), and goes through tiles of 128 keys (80 at 256: registers),
// the last one first. One more warpgroup, with few registers, feeds them: three of its warps have
// tensor maps copy K and V, piece by piece of a page, into stages of swizzled panels
// (warpgroup.cuh), the fourth gathers Q and what its rows see. Barriers in shared memory hand
// stages over and back, so nobody waits for the whole block, and the next item's Q and tiles come
// while this one ends.
//
// A warpgroup has the scores of the next tile and, behind them, the values of this one in flight;
// the softmax of the next tile runs under the latter, and under the other warpgroups' products:
// they issue theirs in turn.
//
// As many blocks as the card has multiprocessors share the items of all heads, dealt longest first,
// there and back: who has more in one round has less in the next. Heads of an item are neighbours
// in that order; all items of a head one after the other took 1.6 times as long.
//
// Behind the end of a sequence pages hold anything, and a weight of 0 times NaN is NaN: the warps
// that copy wait for the last V, and write zeros there.
//
// Shared memory: Q and the stages, 160 KiB at 128, 152 at 64, 224 at 256. Registers at 128: O 64,
// scores 64, weights 32 a thread. FLOPs: 4 x rows x keys x dim; at 128 the tensor cores need 2048
// clocks for both groups' round of 128 x 128 x 128, the exponentials 1024 beside them. Bytes: K and
// V once per 128 packed rows, from L2: 64 KiB a round.
//
// Measured on an H200 (1 x 8192, 32/8 heads, pages of 16): 645 TFLOP/s without any copies, 564 with
// pages of 128. A box of 16 rows is 2 KiB, and a warp starts one in some 70 ns: one warp alone kept
// that at 474, two at 513, three at 518 (2048 tokens after 14 336: 449, 519, 552). Two warps with
// cp.async instead: 273. Another stage: no difference (ci/runs/2026-11-30-h200-prompts.md). Next: a
// cluster of two blocks with one K and V for both, which halves what L2 gives.
#include "abi_codes.h"
#include "attention_prefill_sm90.cuh"
#include "bulk.cuh"

#if ARCH == 90 && ACT != 0
// At a barrier of two warpgroups: one waits, the other lets it go on.
__device__ __forceinline__ void wait_turn(u32 barrier) {
  asm volatile("bar.sync %0, 256;" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void give_turn(u32 barrier) {
  asm volatile("bar.arrive %0, 256;" ::"r"(barrier) : "memory");
}
template <int N>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int D>
struct Prompt {
  static constexpr u32 GROUPS = D == 64 ? MAPPED_GROUPS_OF_64 : MAPPED_GROUPS;
  static constexpr u32 ROWS = GROUPS * MAPPED_ROWS_OF_GROUP;
  static constexpr int KEYS = D == 256 ? MAPPED_KEYS_OF_256 : MAPPED_KEYS;
  static constexpr u32 STAGES = D == 64 ? MAPPED_STAGES_OF_64 : MAPPED_STAGES;
  typedef PromptTile<D, ROWS, KEYS, false> Rows;
  static constexpr u32 PANELS = D / PANEL_COLUMNS;
  static constexpr u32 PIECES = D / 8;  // of 16 bytes, in a row
  // Warps that copy K and V, each every third piece of a tile, and a lane's copies of a tile where
  // pieces of pages are shortest.
  static constexpr u32 COPIERS = 3;
  static constexpr u32 COPIES = (KEYS / 8 * PANELS + 32 * COPIERS - 1) / (32 * COPIERS);
  static constexpr u32 WARPS = GROUPS * WARPGROUP / 32;  // that multiply
  // Registers of a thread that feeds and of one that multiplies: all of a multiprocessor together.
  static constexpr int FEEDING = GROUPS == 2 ? 40 : 32, MULTIPLYING = GROUPS == 2 ? 232 : 160;
  static_assert(WARPGROUP * (FEEDING + GROUPS * MULTIPLYING) <= 65536, "registers");
  static_assert(WARPGROUP == MAPPED_THREADS_OF_GROUP, "threads of a block");

  // An item, for those who multiply.
  struct Given {
    WorkItem item;
    u32 kv, from;
    u32 sees[ROWS], seen_to[ROWS];
  };
  // The barriers, one behind the other.
  enum : u32 {
    FULL_Q,
    EMPTY_Q,
    TAIL,
    FULL_KEYS = TAIL + COPIERS,
    EMPTY_KEYS = FULL_KEYS + STAGES,
    FULL_VALUES = EMPTY_KEYS + STAGES,
    EMPTY_VALUES = FULL_VALUES + STAGES,
    BARRIERS = EMPTY_VALUES + STAGES
  };

  const PromptAttention& a;
  const PagedAttention& c;
  Given& given;
  u32 barriers, q, keys, values;  // addresses in shared memory

  __device__ Prompt(const PromptAttention& a, Given& given, u64 (&all)[BARRIERS])
      : a(a), c(a.pages), given(given), barriers(shared_address(all)) {
    constexpr u32 ALIGNMENT = PROMPT_ALIGNMENT;
    q = (shared_address(dynamic_shared) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    keys = q + ROWS * D * 2;
    values = keys + STAGES * Rows::TILE;
  }

  __device__ u32 barrier(u32 which) const { return barriers + which * 8; }

  // By one thread, before anybody waits for any of them.
  __device__ void init() const {
    barrier_init(barrier(FULL_Q), 32);
    barrier_init(barrier(EMPTY_Q), WARPS);
    for (u32 i = 0; i < COPIERS; i++) barrier_init(barrier(TAIL + i), 1);
    init_ring(barrier(FULL_KEYS), barrier(EMPTY_KEYS), STAGES, WARPS, COPIERS - 1);
    init_ring(barrier(FULL_VALUES), barrier(EMPTY_VALUES), STAGES, WARPS, COPIERS - 1);
  }

  // The block's items, one after the other.
  struct Deal {
    const PromptAttention& a;
    u32 round = 0;

    __device__ Deal(const PromptAttention& a) : a(a) {}
    __device__ u32 at() const {
      return round * gridDim.x + (round & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    }
    __device__ bool more() const { return at() < a.items * a.pages.kv_heads; }
    __device__ void next() { round++; }
    __device__ u32 item() const { return at() / a.pages.kv_heads; }
    __device__ u32 kv() const { return at() % a.pages.kv_heads; }
  };

  // The first key of an item that any of its rows sees, from the start of its piece on. No later
  // row sees earlier keys.
  __device__ u32 first_of(const WorkItem& item) const {
    u32 first = item.keys_from;
    if ((c.window | c.chunk) != 0) {
      const SeenKeys seen(c, item.first_row + item.begin / (c.heads / c.kv_heads));
      first = max(first, seen.from);
    }
    return first / a.piece * a.piece;
  }
  __device__ static u32 tiles_of(const WorkItem& item, u32 from) {
    return (item.keys_to - from + KEYS - 1) / KEYS;
  }

  // ---- The warps that copy K and V ----

  __device__ static u32 copier() { return threadIdx.x / 32; }

  // The piece of a tile, and the panel, of this lane's copy `i`.
  __device__ static u32 piece_of(u32 i) {
    return (threadIdx.x % 32 + 32 * i) / PANELS * COPIERS + copier();
  }
  __device__ static u32 panel_of(u32 i) { return (threadIdx.x % 32 + 32 * i) % PANELS; }

  // Where in the pool a lane's copies of a tile begin: rows of K.
  struct Places {
    u32 row[COPIES];
  };

  __device__ Places locate(const u32* table, u32 kv, u32 first, u32 to) const {
    Places places;
#pragma unroll
    for (u32 i = 0; i < COPIES; i++) {
      const u32 key = min(first + piece_of(i) * a.piece, to - 1);
      const u32 page = table[key / c.page_size];
      places.row[i] = (2 * c.kv_heads * page + kv) * c.page_size + key % c.page_size;
    }
    return places;
  }

  // Copy this warp's share of the `count` first keys of a tile to `to`, from `skip` rows of the
  // pool on.
  __device__ void copy_tile(const Places& places, u32 skip, u32 count, u32 to, u32 full) const {
    const u32 pieces = (count + a.piece - 1) / a.piece;
    const u32 mine = (pieces + COPIERS - 1 - copier()) / COPIERS;
    if (threadIdx.x % 32 == 0) barrier_expect(full, mine * PANELS * a.piece * PANEL_ROW_BYTES);
    __syncwarp();
#pragma unroll
    for (u32 i = 0; i < COPIES; i++) {
      const u32 piece = piece_of(i), panel = panel_of(i);
      const u32 place = to + panel * Rows::KEY_PANEL + piece * a.piece * PANEL_ROW_BYTES;
      if (piece < pieces)
        copy_box(place, &a.map, panel * PANEL_COLUMNS, places.row[i] + skip, full);
    }
  }

  // Zeros in this warp's rows of a V behind the `count` first ones.
  __device__ void clear_behind(u32 count, u32 values) const {
    for (u32 n = count * 8 + threadIdx.x % 32; n < KEYS * 8; n += 32) {
      if (n / 8 / a.piece % COPIERS != copier()) continue;
#pragma unroll
      for (u32 panel = 0; panel < PANELS; panel++)
        store_shared(values + panel * Rows::KEY_PANEL + n * 16, 0, 0, 0, 0);
    }
    publish();
  }

  __device__ void copy_tiles() const {
    u32 n_keys = 0, n_values = 0, n_tails = 0;
    const u32 slab = c.kv_heads * c.page_size;
    for (Deal deal(a); deal.more(); deal.next()) {
      const WorkItem item = c.items[deal.item()];
      const u32 kv = deal.kv(), from = first_of(item), to = item.keys_to;
      const u32* table = row_of(c.slots, item.slot) + c.slots.pages;
      auto count_of = [&](u32 t) { return min((u32)KEYS, to - (from + t * KEYS)); };

      auto copy_keys = [&](const Places& places, u32 t) {
        const u32 stage = n_keys % STAGES;
        barrier_wait(barrier(EMPTY_KEYS + stage), n_keys / STAGES % 2 ^ 1);
        n_keys++;
        const u32 place = keys + stage * Rows::TILE;
        copy_tile(places, 0, count_of(t), place, barrier(FULL_KEYS + stage));
      };
      auto copy_values = [&](const Places& places, u32 t) {
        const u32 stage = n_values % STAGES, place = values + stage * Rows::TILE;
        const u32 count = count_of(t), full = barrier(FULL_VALUES + stage);
        barrier_wait(barrier(EMPTY_VALUES + stage), n_values / STAGES % 2 ^ 1);
        n_values++;
        if (count == KEYS) return copy_tile(places, slab, count, place, full);
        const u32 tail = barrier(TAIL + copier());
        copy_tile(places, slab, count, place, tail);
        barrier_wait(tail, n_tails++ % 2);
        clear_behind(count, place);
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(full);
      };

      u32 t = tiles_of(item, from) - 1;
      Places places = locate(table, kv, from + t * KEYS, to);
      copy_keys(places, t);
      for (; t > 0; t--) {
        const Places before = locate(table, kv, from + (t - 1) * KEYS, to);
        copy_keys(before, t - 1);
        copy_values(places, t);
        places = before;
      }
      copy_values(places, 0);
    }
  }

  // ---- The warp that gathers Q ----

  __device__ void gather() const {
    const u32 lane = threadIdx.x % 32, group = c.heads / c.kv_heads;
    constexpr u32 OWN = ROWS / 32, AT_ONCE = 32 / PIECES;  // rows of a lane, of the warp
    u32 n = 0;
    for (Deal deal(a); deal.more(); deal.next(), n++) {
      const WorkItem item = c.items[deal.item()];
      const u32 kv = deal.kv(), from = first_of(item);
      // Packed rows beyond the item's are its last one again.
      auto packed_of = [&](u32 r) { return item.begin + min(r, item.count - 1); };
      // Where a lane's rows begin in q, in units of 16 bytes.
      u32 places[OWN];
#pragma unroll
      for (u32 own = 0; own < OWN; own++) {
        const u32 packed = packed_of(own * 32 + lane), token = item.first_row + packed / group;
        places[own] = token * (c.row_width / 8) + (kv * group + packed % group) * PIECES;
      }
      barrier_wait(barrier(EMPTY_Q), n % 2 ^ 1);
#pragma unroll
      for (u32 own = 0; own < OWN; own++) {
#pragma unroll 4
        for (u32 i = 0; i < 32; i += AT_ONCE) {
          const u32 r = i + lane / PIECES, piece = lane % PIECES;
          const u64 place = __shfl_sync(~0u, places[own], r) + piece;
          copy_async(q + swizzled(own * 32 + r, piece, ROWS), c.qkv + place * 8, true);
        }
      }
      commit();
      for (u32 r = lane; r < ROWS; r += 32) {
        const SeenKeys seen(c, item.first_row + packed_of(r) / group);
        given.sees[r] = seen.from;
        given.seen_to[r] = min(seen.to, item.keys_to);
      }
      if (lane == 0) {
        given.item = item;
        given.kv = kv;
        given.from = from;
      }
      wait<0>();
      publish();
      barrier_arrive(barrier(FULL_Q));
    }
  }

  // ---- The warpgroups that multiply ----

  // This warp needs no more what `empty` stands for.
  __device__ static void release(u32 empty) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(empty);
  }

  // Which keys the rows see, as it was given.
  __device__ void take(Rows& rows) const {
    rows.kv = given.kv;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      rows.sees[half] = given.sees[rows.row(half)];
      rows.seen_to[half] = given.seen_to[rows.row(half)];
    }
    rows.clear();
  }

  __device__ void multiply() const {
    const u32 thread = threadIdx.x - WARPGROUP;
    const u32 group = __shfl_sync(~0u, thread / WARPGROUP, 0);
    Rows rows;
    rows.lane = thread % 32;
    rows.row0 = thread / 32 * 16;
    u32 n_keys = 0, n_values = 0, n = 0;

    auto stage_of = [&](u32 n, u32 full) {
      barrier_wait(barrier(full + n % STAGES), n / STAGES % 2);
      return n % STAGES;
    };
    auto start_scores = [&] {
      const u32 stage = stage_of(n_keys, FULL_KEYS);
      wait_turn(1 + group);
      ready();
      rows.start_scores(q, keys + stage * Rows::TILE);
    };
    auto start_values = [&] {
      const u32 stage = stage_of(n_values, FULL_VALUES);
      ready();
      rows.start_values(values + stage * Rows::TILE);
    };
    auto next_turn = [&] { give_turn(1 + (group + 1) % GROUPS); };

    // The first warpgroup begins. All have as many turns.
    if (group == GROUPS - 1) next_turn();
    for (Deal deal(a); deal.more(); deal.next(), n++) {
      barrier_wait(barrier(FULL_Q), n % 2);
      const WorkItem item = given.item;
      const u32 from = given.from;
      take(rows);
      // Keys that all rows of this warp see: no later row sees earlier keys, or ends before.
      const u32 most_from = __shfl_sync(~0u, rows.sees[1], 31);
      const u32 least_to = __shfl_sync(~0u, rows.seen_to[0], 0);
      auto softmax = [&](u32 t) {
        hold(rows.s);
        release(barrier(EMPTY_KEYS + n_keys++ % STAGES));
        if (t == 0) release(barrier(EMPTY_Q));
        const u32 first = from + t * KEYS;
        return rows.online_softmax(c, first, first < most_from || first + KEYS > least_to);
      };

      u32 t = tiles_of(item, from) - 1;
      const u32 last = t;
      start_scores();
      next_turn();
      finish<0>();
      float2 shrink = softmax(t);
      // The wait for values stands at the top of a round, where no compiler moves it above the
      // softmax that is to hide it.
      for (;; t--) {
        rows.finish_values();
        if (t < last) release(barrier(EMPTY_VALUES + n_values++ % STAGES));
        rows.prepare_values(shrink);
        if (t == 0) break;
        start_scores();
        start_values();
        next_turn();
        finish<1>();
        shrink = softmax(t - 1);
      }
      start_values();
      rows.finish_values();
      release(barrier(EMPTY_VALUES + n_values++ % STAGES));
      rows.write(c, item);
    }
  }

  __device__ void run() const {
    if (threadIdx.x == 0) init();
    begin();
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
      give_registers<FEEDING>();
      if (copier() < COPIERS) copy_tiles();
      else gather();
    } else {
      take_registers<MULTIPLYING>();
      multiply();
    }
  }
};

#define PROMPT(D)                                \
  __shared__ Prompt<D>::Given given;             \
  __shared__ u64 barriers[Prompt<D>::BARRIERS];  \
  const Prompt<D> prompt(call, given, barriers); \
  prompt.run()
#else
// The device never launches these where they have no code.
#define PROMPT(D) (void)call
#endif

#define MAPPED(D, GROUPS)                                                      \
  __global__ void __launch_bounds__((GROUPS + 1) * MAPPED_THREADS_OF_GROUP, 1) \
      prompt_##D(const __grid_constant__ PromptAttention call) {               \
    PROMPT(D);                                                                 \
  }

MAPPED(64, MAPPED_GROUPS_OF_64)
MAPPED(128, MAPPED_GROUPS)
MAPPED(256, MAPPED_GROUPS)

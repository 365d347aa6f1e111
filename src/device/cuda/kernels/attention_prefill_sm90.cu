// Paged causal attention over prompts on Hopper, for half types and head sizes 64, 128 and 256: the
// chunks of attention_mma.cu by wgmma. Same work list, any window and soft cap; pages of a multiple
// of 8 tokens.
//
// A block has 128 packed rows (token r / group, head r % group) at a time, two warpgroups with 64
// each (192 and three at head size 64), and goes through tiles of 128 keys (80 at 256: registers),
// the last one first. One more warpgroup, with few registers, feeds them: two of its warps have a
// tensor map copy K and V, a page's piece with all its columns at a time, into stages of eights of
// rows, two gather Q and what its rows see, each of every other warpgroup's rows. Barriers in
// shared memory hand stages over and back, so nobody waits for the whole block, and the next item's
// Q and tiles come while this one ends. Items and pages are looked up while the kernel before still
// runs.
//
// A warpgroup has the scores of the next tile and, behind them, the values of this one in flight;
// the softmax of the next tile runs under the latter, and under the other warpgroups' products:
// they issue theirs in turn. So it is from an item's last tile to the next one's first.
//
// As many blocks as the card has multiprocessors share the items of all heads, dealt longest first,
// there and back: who has more in one round has less in the next. Heads of an item are neighbours
// in that order; all items of a head one after the other took 1.6 times as long.
//
// Where hardly any rows are missing, clusters of two blocks take items of twice as many rows. Each
// block copies every other piece of K and V, to both (multicast): half the boxes, and half of what
// L2 gives. A stage is free when the warps of both blocks have read it. A V whose end is cleared
// each copies for itself.
//
// Behind the end of a sequence pages hold anything, and a weight of 0 times NaN is NaN: the warps
// that copy wait for the last V, and write zeros there.
//
// Shared memory: Q of two items and the stages, 192 KiB at 128, 176 at 64; of one, 224 at 256.
// Registers at 128: O 64, scores 64, weights 32 a thread, and Q 32, which each product would read
// out of shared memory again (at 256 it finds no room: with a quarter of it 7 % slower). A number
// that a round needs and that does not stay in a register costs 3 %. FLOPs: 4 x rows x keys x dim;
// at 128 the tensor cores need 2048 clocks for both groups' round of 128 x 128 x 128, the
// exponentials 1024 beside them. Bytes: K and V once per 128 or 256 packed rows, from L2: 64 KiB a
// round.
//
// Measured on an H200 (1 x 8192, 32/8 heads, pages of 16): 645 TFLOP/s without copies; 521 where
// one warp copies, 559 two, 547 three, 589 two of each block of a cluster (2048 tokens after 14336:
// 512, 506, 537, 583). A warp starts a box in some 70 ns. Two warps with cp.async instead: 273.
// Another stage, L2 by 128 bytes: no difference. Three warpgroups of rows, tiles of 80 keys: 560.
// To pass by tiles that none of a warpgroup's rows sees: 7 % slower.
// (ci/runs/2026-11-30-h200-prompts.md, -prompts2.md and -prompts3.md.) Long prompts draw 700 W:
// what saves power is next.
#include "abi_codes.h"
#include "attention_prefill_sm90.cuh"
#include "bulk.cuh"
#include "cluster.cuh"

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
  typedef PromptTile<D, ROWS, KEYS, false, D == 128> Rows;
  static constexpr u32 Q_BYTES = ROWS * D * 2;
  static constexpr u32 PIECES = D / 8;  // of 16 bytes, in a row
  static constexpr u32 QS = D == 256 ? MAPPED_QUERIES_OF_256 : MAPPED_QUERIES;
  static constexpr u32 COPIERS = 2, GATHERERS = 2;  // warps that copy K and V, those for Q
  static constexpr u32 WARPS = GROUPS * WARPGROUP / 32;  // that multiply
  // Registers of a thread that feeds and of one that multiplies: all of a multiprocessor together.
  static constexpr int FEEDING = GROUPS == 2 ? 40 : 32, MULTIPLYING = GROUPS == 2 ? 232 : 160;
  static_assert(WARPGROUP * (FEEDING + GROUPS * MULTIPLYING) <= 65536, "registers");
  static_assert(WARPGROUP == MAPPED_THREADS_OF_GROUP, "threads of a block");

  // An item, for a warpgroup that multiplies.
  struct Given {
    WorkItem item;
    u32 kv, from;
    u32 sees[MAPPED_ROWS_OF_GROUP], seen_to[MAPPED_ROWS_OF_GROUP];
  };
  // The barriers, one behind the other. Q of an item has some for each warpgroup's rows.
  enum : u32 {
    FULL_Q,
    EMPTY_Q = FULL_Q + QS * GROUPS,
    TAIL = EMPTY_Q + QS * GROUPS,
    FULL_KEYS,
    EMPTY_KEYS = FULL_KEYS + STAGES,
    FULL_VALUES = EMPTY_KEYS + STAGES,
    EMPTY_VALUES = FULL_VALUES + STAGES,
    BARRIERS = EMPTY_VALUES + STAGES
  };

  const PromptAttention& a;
  const PagedAttention& c;
  Given (&given)[QS * GROUPS];
  u32 blocks, block;  // of the cluster, and which of them
  u32 barriers, q, keys, values;  // addresses in shared memory

  __device__ Prompt(const PromptAttention& a, Given (&given)[QS * GROUPS], u64 (&all)[BARRIERS])
      : a(a), c(a.pages), given(given), barriers(shared_address(all)) {
    blocks = cluster_blocks();
    block = cluster_block();
    constexpr u32 ALIGNMENT = PROMPT_ALIGNMENT;
    q = (shared_address(dynamic_shared) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    keys = q + QS * Q_BYTES;
    values = keys + STAGES * Rows::TILE;
  }

  __device__ u32 barrier(u32 which) const { return barriers + which * 8; }

  // By one thread, before anybody waits for any of them.
  __device__ void init() const {
    for (u32 i = 0; i < QS * GROUPS; i++) {
      barrier_init(barrier(FULL_Q + i), 32);
      barrier_init(barrier(EMPTY_Q + i), WARPGROUP);
    }
    barrier_init(barrier(TAIL), COPIERS);
    const u32 warps = WARPS * blocks;
    init_ring(barrier(FULL_KEYS), barrier(EMPTY_KEYS), STAGES, warps, COPIERS - 1);
    init_ring(barrier(FULL_VALUES), barrier(EMPTY_VALUES), STAGES, warps, COPIERS - 1);
  }

  // The cluster's items, one after the other.
  struct Deal {
    const PromptAttention& a;
    const u32 clusters, cluster;
    u32 round = 0;

    __device__ Deal(const Prompt& p)
        : a(p.a), clusters(gridDim.x / p.blocks), cluster(blockIdx.x / p.blocks) {}
    __device__ u32 at() const {
      return round * clusters + (round & 1 ? clusters - 1 - cluster : cluster);
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

  // The packed rows of an item that are this block's, perhaps none; its keys are all the same.
  __device__ WorkItem share_of(WorkItem item) const {
    const u32 before = block * ROWS;
    item.begin += before;
    item.count = item.count > before ? min(item.count - before, ROWS) : 0;
    return item;
  }

  // ---- The warps that copy K and V ----

  __device__ static u32 copier() { return threadIdx.x / 32; }

  // The piece of a tile that is this lane's: neighbours' are of the blocks of a cluster in turn.
  __device__ u32 piece() const {
    const u32 lane = threadIdx.x % 32;
    return blocks == 1 ? lane * COPIERS + copier()
                       : (lane / 2 * COPIERS + copier()) * 2 + lane % 2;
  }

  // Where in the pool this lane's piece of a tile begins: an eight of rows of K.
  __device__ u32 locate(const u32* table, u32 kv, u32 first, u32 to) const {
    const u32 key = min(first + piece() * a.piece, to - 1);
    const u32 page = table[key / c.page_size];
    return ((2 * c.kv_heads * page + kv) * c.page_size + key % c.page_size) / 8;
  }

  // Copy this warp's pieces of the `count` first keys of a tile to `to`, from `eight` on. With
  // `share` those of this block go to all of the cluster, and the others come from there.
  __device__ void copy_tile(u32 eight, u32 count, u32 to, u32 full, bool share) const {
    const u32 pieces = (count + a.piece - 1) / a.piece, piece = this->piece();
    const u32 bytes = a.piece * D * 2, lane = threadIdx.x % 32;
    const u32 mine = __popc(__ballot_sync(~0u, piece < pieces));
    if (lane == 0) barrier_expect(full, mine * bytes);
    __syncwarp();
    if (piece >= pieces) return;
    if (!share || blocks == 1) copy_eights(to + piece * bytes, &a.map, 0, eight, full);
    else if (lane % 2 == block)
      copy_eights_to(3, to + piece * bytes, &a.map, 0, eight, full);
  }

  // Zeros in a V behind the `count` first rows.
  __device__ static void clear_behind(u32 count, u32 values) {
    for (u32 n = count * PIECES + threadIdx.x; n < KEYS * PIECES; n += 32 * COPIERS)
      store_shared(values + Rows::place_of(n / PIECES, n % PIECES), 0, 0, 0, 0);
    publish();
  }

  __device__ void copy_tiles() const {
    u32 n_keys = 0, n_values = 0, n_tails = 0;
    const u32 slab = c.kv_heads * c.page_size / 8;
    for (Deal deal(*this); deal.more(); deal.next()) {
      const WorkItem item = c.items[deal.item()];
      const u32 kv = deal.kv(), from = first_of(item), to = item.keys_to;
      const u32* table = row_of(c.slots, item.slot) + c.slots.pages;
      auto count_of = [&](u32 t) { return min((u32)KEYS, to - (from + t * KEYS)); };

      auto copy_keys = [&](u32 eight, u32 t) {
        const u32 stage = n_keys % STAGES;
        barrier_wait(barrier(EMPTY_KEYS + stage), n_keys / STAGES % 2 ^ 1);
        n_keys++;
        const u32 place = keys + stage * Rows::TILE;
        copy_tile(eight, count_of(t), place, barrier(FULL_KEYS + stage), true);
      };
      auto copy_values = [&](u32 eight, u32 t) {
        const u32 stage = n_values % STAGES, place = values + stage * Rows::TILE;
        const u32 count = count_of(t), full = barrier(FULL_VALUES + stage);
        barrier_wait(barrier(EMPTY_VALUES + stage), n_values / STAGES % 2 ^ 1);
        n_values++;
        if (count == KEYS) return copy_tile(eight + slab, count, place, full, true);
        const u32 tail = barrier(TAIL);
        copy_tile(eight + slab, count, place, tail, false);
        barrier_wait(tail, n_tails++ % 2);
        clear_behind(count, place);
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(full);
      };

      u32 t = tiles_of(item, from) - 1;
      u32 eight = locate(table, kv, from + t * KEYS, to);
      if (n_keys == 0) await();
      copy_keys(eight, t);
      for (; t > 0; t--) {
        const u32 before = locate(table, kv, from + (t - 1) * KEYS, to);
        copy_keys(before, t - 1);
        copy_values(eight, t);
        eight = before;
      }
      copy_values(eight, 0);
    }
  }

  // Which barrier hands over a warpgroup's rows of item `n`, and where they are given.
  __device__ static u32 part_of(u32 n, u32 group) { return n % QS * GROUPS + group; }

  // ---- The warps that gather Q ----

  // Each gathers the rows of every other warpgroup, which may begin before the others have theirs.
  __device__ void gather() const {
    u32 n = 0;
    for (Deal deal(*this); deal.more(); deal.next(), n++) {
      const WorkItem item = c.items[deal.item()];
      for (u32 group = copier() - COPIERS; group < GROUPS; group += GATHERERS)
        gather_rows(item, deal.kv(), n, group);
    }
  }

  // Q of a warpgroup's rows of item number `n`, and what they see.
  __device__ void gather_rows(const WorkItem& item, u32 kv, u32 n, u32 warpgroup) const {
    const u32 lane = threadIdx.x % 32, group = c.heads / c.kv_heads;
    constexpr u32 OWN = MAPPED_ROWS_OF_GROUP / 32, AT_ONCE = 32 / PIECES;  // rows of a lane, warp
    const u32 row0 = warpgroup * MAPPED_ROWS_OF_GROUP;
    // Packed rows beyond the item's are its last one again.
    const u32 last = item.begin + item.count - 1;
    auto packed_of = [&](u32 r) { return min(item.begin + block * ROWS + row0 + r, last); };
    // Where a lane's rows begin in q, in units of 16 bytes.
    u32 places[OWN];
#pragma unroll
    for (u32 own = 0; own < OWN; own++) {
      const u32 packed = packed_of(own * 32 + lane), token = item.first_row + packed / group;
      places[own] = token * (c.row_width / 8) + (kv * group + packed % group) * PIECES;
    }
    if (n == 0) await();
    const u32 part = part_of(n, warpgroup);
    barrier_wait(barrier(EMPTY_Q + part), n / QS % 2 ^ 1);
    const u32 place_of_q = q + n % QS * Q_BYTES;
#pragma unroll
    for (u32 own = 0; own < OWN; own++) {
#pragma unroll 4
      for (u32 i = 0; i < 32; i += AT_ONCE) {
        const u32 r = i + lane / PIECES, piece = lane % PIECES;
        const u64 place = __shfl_sync(~0u, places[own], r) + piece;
        const u32 to = place_of_q + swizzled(row0 + own * 32 + r, piece, ROWS);
        copy_async(to, c.qkv + place * 8, true);
      }
    }
    commit();
    Given& it = given[part];
    for (u32 r = lane; r < MAPPED_ROWS_OF_GROUP; r += 32) {
      const SeenKeys seen(c, item.first_row + packed_of(r) / group);
      it.sees[r] = seen.from;
      it.seen_to[r] = min(seen.to, item.keys_to);
    }
    if (lane == 0) {
      it.item = share_of(item);
      it.kv = kv;
      it.from = first_of(item);
    }
    wait<0>();
    publish();
    barrier_arrive(barrier(FULL_Q + part));
  }

  // ---- The warpgroups that multiply ----

  // This warp needs a stage no more, which blocks of the cluster fill together.
  __device__ void release_stage(u32 empty) const {
    __syncwarp();
    const u32 lane = threadIdx.x % 32;
    if (blocks == 1 && lane == 0) barrier_arrive(empty);
    if (blocks > 1 && lane < blocks) barrier_arrive_at(empty, lane);
  }

  // An item that this warp has begun, and the tile in hand: its tiles go from the last one to the
  // first.
  struct Begun {
    u32 from, first;  // keys, of the item and of the tile
  };

  // Item `n`, and which keys its rows see, as it was given.
  __device__ Begun take(u32 n, u32 group, Rows& rows) const {
    const Given& it = given[part_of(n, group)];
    barrier_wait(barrier(FULL_Q + part_of(n, group)), n / QS % 2);
    rows.aim(c, it.item, it.kv);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = rows.row(half) % MAPPED_ROWS_OF_GROUP;
      rows.sees[half] = it.sees[r];
      rows.seen_to[half] = it.seen_to[r];
    }
    rows.clear_weights();
    rows.hold_q(q + n % QS * Q_BYTES);
    const u32 last = tiles_of(it.item, it.from) - 1;
    return {it.from, it.from + last * KEYS};
  }

  __device__ void multiply() const {
    const u32 thread = threadIdx.x - WARPGROUP;
    const u32 group = __shfl_sync(~0u, thread / WARPGROUP, 0);
    Rows rows;
    rows.lane = thread % 32;
    rows.row0 = thread / 32 * 16;
    Deal deal(*this);
    u32 n_keys = 0;  // tiles whose scores are there; values are one behind
    Begun begun = take(0, group, rows);

    auto stage_of = [&](u32 n, u32 full) {
      barrier_wait(barrier(full + n % STAGES), n / STAGES % 2);
      return n % STAGES;
    };
    auto start_scores = [&] {
      const u32 stage = stage_of(n_keys, FULL_KEYS);
      wait_turn(1 + group);
      ready();
      rows.start_scores(q + deal.round % QS * Q_BYTES, keys + stage * Rows::TILE);
    };
    auto start_values = [&] {
      const u32 stage = stage_of(n_keys - 1, FULL_VALUES);
      ready();
      rows.start_values(values + stage * Rows::TILE);
    };
    auto next_turn = [&] { give_turn(1 + (group + 1) % GROUPS); };
    auto softmax = [&] {
      hold(rows.s);
      release_stage(barrier(EMPTY_KEYS + n_keys++ % STAGES));
      // Each lane for what it read: racecheck knows of no lane that speaks for its warp.
      if (begun.first == begun.from) barrier_arrive(barrier(EMPTY_Q + part_of(deal.round, group)));
      // No later row sees earlier keys, or ends before. What the whole warp sees would not stay in
      // registers.
      const bool some = begun.first < rows.sees[1] || begun.first + KEYS > rows.seen_to[0];
      return rows.online_softmax(c, begun.first, __any_sync(~0u, some));
    };
    auto release_values = [&](u32 n) { release_stage(barrier(EMPTY_VALUES + n % STAGES)); };

    // The first warpgroup begins. All have as many turns.
    if (group == GROUPS - 1) next_turn();
    rows.clear_values();
    start_scores();
    next_turn();
    finish<0>();
    float2 shrink = softmax();
    typename Rows::Ended ended;
    bool ends = false;  // the round before
    for (;;) {
      // The wait for values stands at the top of a round, where no compiler moves it above the
      // softmax that is to hide it.
      rows.finish_values();
      if (n_keys > 1) release_values(n_keys - 2);
      if (ends) {
        rows.write(c, ended);
        rows.clear_values();
      }
      rows.prepare_values(shrink);
      ends = begun.first == begun.from;
      // Behind the last tile of an item come the scores of the next item's first.
      if (ends) {
        deal.next();
        ended = rows.end(c);
        if (!deal.more()) break;
        begun = take(deal.round, group, rows);
      } else {
        begun.first -= KEYS;
      }
      start_scores();
      start_values();
      next_turn();
      finish<1>();
      shrink = softmax();
    }
    start_values();
    rows.finish_values();
    release_values(n_keys - 1);
    rows.write(c, ended);
  }

  __device__ void run() const {
    if (threadIdx.x == 0) init();
    __syncthreads();
    if (blocks > 1) meet_cluster();
    if (threadIdx.x < WARPGROUP) {
      give_registers<FEEDING>();
      if (copier() < COPIERS) copy_tiles();
      else gather();
    } else {
      take_registers<MULTIPLYING>();
      begin();
      multiply();
    }
    // Nobody leaves to whom others still copy.
    __syncwarp();
    if (blocks > 1) meet_cluster();
  }
};

#define PROMPT(D)                                                       \
  __shared__ Prompt<D>::Given given[Prompt<D>::QS * Prompt<D>::GROUPS]; \
  __shared__ u64 barriers[Prompt<D>::BARRIERS];                         \
  const Prompt<D> prompt(call, given, barriers);                        \
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

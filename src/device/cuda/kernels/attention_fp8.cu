// Paged causal attention on tensor cores over pages of eight bits: the kernels of attention_mma.cu
// with its work list, for the same head sizes, page sizes, windows and caps. Products are those of
// f16, which holds every E4M3 and E5M2: q and the weights become f16 (a row of a bfloat16 q by a
// power of two of its own, RowUnit), K and V as they are. The scale of K is part of the scores',
// that of V multiplies the result.
//
//   split  single tokens. Tiles lie in shared memory as bytes and become f16 in registers, each
//          once: a block reads half the bytes of attention_mma.cu and keeps as many in flight
//          (three stages of 16 KiB at 128, three blocks on a Hopper SM). A thread's fragments of K
//          are neighbours: four elements are one step of 16 of the inner product, since its order
//          is free as long as q has the same (`offset`). V comes by ldmatrix as if two bytes were
//          one element: a register then has two keys of two columns, even columns make one tile of
//          the result and odd ones the next (`column`). Pieces of 16 bytes are swizzled so that
//          neither read has conflicts. Bytes: K and V once per KV head, the floor. Beside them 128
//          numbers of a key and head cost 64 conversions (E4M3; E5M2 64 permutations, before
//          Hopper's generation some 110 shifts and masks) for 32 lanes, and 32 permutations for V:
//          a third of the issue slots that HBM leaves.
//   chunk  prompts. A tile becomes f16 in shared memory while the one before is multiplied, as all
//          eight warps read all of it. Where there is wgmma, attention_prefill_fp8_sm90.cu has
//          them.
#define F16_OPERANDS
#include "attention_tile.cuh"
#include "fp8_pages.cuh"

// f32 has no code here: the device never launches these for it.
#if ACT != 0
// K and V as bytes in shared memory.
template <int D, class Kv>
struct BytePages {
  static constexpr int PIECES = D / 16;
  static constexpr float UNIT = Kv::UNIT;
  static constexpr bool OWN_SCALE = true;
  // 16 bytes of K at once; else four, and rows an odd number of pieces apart.
  static constexpr bool WIDE = D % 64 == 0;
  static constexpr u32 PITCH = WIDE ? D : (PIECES | 1) * 16;
  static constexpr u32 BYTES = KEYS * PITCH;
  static constexpr u32 STAGE = 2 * BYTES;

  // Eight keys' pieces of one number lie in eight different 16 bytes of 128, and four pieces of a
  // key beside those of the next.
  static __device__ u32 at(u32 key, u32 piece) {
    if (WIDE) piece ^= D == 64 ? key / 2 % 4 : key % 2 * 4 + key / 2 % 4;
    return key * PITCH + piece * 16;
  }
  static __device__ u32 offset(u32 lane, u32 step, u32 high) {
    if (WIDE) return step / 4 * 64 + lane % 4 * 16 + step % 4 * 4 + high * 2;
    return step * 16 + lane % 4 * 4 + high * 2;
  }
  static __device__ u32 column(u32 lane, u32 t, u32 i) {
    return t / 2 * 16 + lane % 4 * 4 + i * 2 + t % 2;
  }

  template <int NT>
  static __device__ void multiply_keys(u32 keys, u32 row, u32 lane, const u32 (&q)[D / 16][4],
                                       float (&s)[NT][4]) {
    constexpr int VECTOR = WIDE ? 4 : 1;
#pragma unroll
    for (int k = 0; k < D / 16; k += VECTOR) {
      u32 x[NT][4];
#pragma unroll
      for (int n = 0; n < NT; n++) {
        const u32 key = row + n * 8 + lane / 4;
        if (WIDE) load_shared(x[n], keys + at(key, k + lane % 4));
        else x[n][0] = load_shared(keys + at(key, k) + lane % 4 * 4);
      }
      // Sums of different keys take turns: none waits for its own last product.
#pragma unroll
      for (int i = 0; i < VECTOR; i++) {
#pragma unroll
        for (int n = 0; n < NT; n++) {
          u32 low, high;
          Kv::pairs(x[n][i], low, high);
          multiply(s[n], q[k + i], low, high);
        }
      }
    }
  }

  template <int KT>
  static __device__ void multiply_values(u32 values, u32 row, u32 lane, const u32 (&p)[KT][4],
                                         float (&o)[D / 8][4]) {
    const u32 matrix = lane / 8;
#pragma unroll
    for (int k = 0; k < KT; k++) {
      const u32 key = row + k * 16 + matrix % 2 * 8 + lane % 8;
#pragma unroll
      for (int j = 0; j < PIECES; j += 2) {
        // Keys 0..8 and 8..16 of piece j, then of the next, if there is one.
        u32 x[4];
        load_transposed(x, values + at(key, min(j + matrix / 2, PIECES - 1)));
#pragma unroll
        for (int i = 0; i < 2; i++) {
          if (j + i == PIECES) break;
          u32 even[2], odd[2];
          Kv::pairs(__byte_perm(x[2 * i], 0, 0x3120), even[0], odd[0]);
          Kv::pairs(__byte_perm(x[2 * i + 1], 0, 0x3120), even[1], odd[1]);
          multiply(o[2 * (j + i)], p[k], even[0], even[1]);
          multiply(o[2 * (j + i) + 1], p[k], odd[0], odd[1]);
        }
      }
    }
  }
};

// K and V as f16 in shared memory. Their unit is that of E4M3, or 1.
template <int D>
struct TurnedPages : OperandTile<D> {
  static constexpr int PIECES = D / 16;
  static constexpr float UNIT = 1.f;
  static constexpr bool OWN_SCALE = true;
};

template <int D>
struct Chunk : Tile<TurnedPages<D>, D, 8, 1> {
  typedef TurnedPages<D> Pages;
  typedef RawTile<D, KEYS, CHUNK_THREADS> Raw;

  // What this thread copied becomes the operands at `stage`.
  __device__ static void convert(bool e5m2, u32 raw, u32 stage) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 to = stage + half * Pages::BYTES;
      auto at = [&](u32 key, u32 piece) { return to + Pages::at(key, piece); };
      if (e5m2) Raw::template convert<E5m2>(raw + half * Raw::BYTES, at);
      else Raw::template convert<E4m3>(raw + half * Raw::BYTES, at);
    }
  }

  // One or two stages of operands, and the bytes of one tile behind them.
  __device__ void run(const PagedAttention& c, const WorkItem* item) {
    const u32* table = row_of(c.slots, item->slot) + c.slots.pages;
    const bool e5m2 = c.kv == KV_TYPE_E5M2;
    const float unit = e5m2 ? E5m2::UNIT : E4m3::UNIT;
    const u32 stages = c.stages, shared = shared_address(dynamic_shared);
    const u32 raw = shared + stages * Pages::STAGE;
    const u8* pool = reinterpret_cast<const u8*>(c.pool);
    const u64 slab = key_to_value<Pages::PIECES>(c);

    this->begin_item(c, item, item->count);
    this->own_scale[0] *= unit;
    this->own_scale[1] *= unit;
    const KeyRange range(c, item);
    const u32 from = range.from, to = range.to, tiles = range.tiles;
    // Tile t is copied from the places in row t % 4.
    __shared__ u32 places[4][KEYS];
    if (threadIdx.x < KEYS) {
#pragma unroll
      for (u32 t = 0; t < 3; t++)
        if (t < tiles)
          places[t][threadIdx.x] = locate<Pages::PIECES>(c, table, from + t * KEYS, to);
    }
    __syncthreads();
    auto fetch = [&](u32 t) {
      Raw::fetch(pool, places[t % 4], raw);
      Raw::fetch(pool + slab, places[t % 4], raw + Raw::BYTES);
      commit();
    };
    if (tiles > 0) fetch(0);
    for (u32 t = 0; t < tiles; t++) {
      const u32 stage = shared + t % stages * Pages::STAGE;
      wait<0>();
      convert(e5m2, raw, stage);
      if (t + 1 < tiles) fetch(t + 1);
      // All of the tile is there, and with two stages nobody needs what is converted next.
      __syncthreads();
      u32 place = 0;
      const bool look = t + 3 < tiles && threadIdx.x < KEYS;
      if (look) place = locate<Pages::PIECES>(c, table, from + (t + 3) * KEYS, to);
      this->add_tile(c, range, from + t * KEYS, stage);
      if (look) places[(t + 3) % 4][threadIdx.x] = place;
      if (stages == 1) __syncthreads();
    }
    this->sum_rows();
    this->write(c, item, c.value_scale * unit);
  }
};

#define CHUNK(D) \
  begin();       \
  Chunk<D> t;    \
  t.run(call, call.items + blockIdx.x)
#define SPLIT_E4M3(D) split<BytePages<D, E4m3>, D>(call)
#define SPLIT_E5M2(D) split<BytePages<D, E5m2>, D>(call)
#else
#define CHUNK(D) (void)call
#define SPLIT_E4M3(D) (void)call
#define SPLIT_E5M2(D) (void)call
#endif

#define HEAD_SIZE(D, CHUNK, BLOCKS)            \
  ENTRY(chunk_fp8, CHUNK, D, CHUNK_THREADS, 1) \
  ENTRY(split_e4m3, SPLIT_E4M3, D, SPLIT_THREADS, BLOCKS)

HEAD_SIZE(64, CHUNK_OF_MMA, 3)
HEAD_SIZE(80, CHUNK, 3)
HEAD_SIZE(96, CHUNK, 3)
HEAD_SIZE(128, CHUNK_OF_MMA, 3)
HEAD_SIZE(256, CHUNK_OF_MMA, 1)
// Other heads of E5M2 go to attention.cu: few have them, and each kernel takes its time to build.
ENTRY(split_e5m2, SPLIT_E5M2, 64, SPLIT_THREADS, 3)
ENTRY(split_e5m2, SPLIT_E5M2, 128, SPLIT_THREADS, 3)

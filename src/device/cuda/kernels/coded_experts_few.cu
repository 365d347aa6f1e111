// Experts of codes for few choices of each (few_rows.cuh): any card with tensor cores. Half types,
// inputs a multiple of 8, no tables.
//
// A slot is a block of codes of 16 rows of W, 1 KiB, whose pieces each lane copies for itself, with
// the inputs that belong to it of the rows of x that there are. x lies in pieces of 16 bytes,
// swizzled by its row, and becomes right operands by ldmatrix; codes become left operands by masks
// (codes.cuh). Scales come to registers one slot ahead, and multiply f32 sums, not weights. Bytes:
// codes and scales of the experts that are met, once for each 16 choices; floor = bytes /
// bandwidth. Instructions of a warp for 1 KiB of codes of four bits: about 160 for masks, 16 (32)
// for products, 40 (70) for sums and x of up to 8 (16) choices.
#include "codes.cuh"
#include "few_rows.cuh"

#if ACT != 0
__device__ __forceinline__ void wait_all_but(u32 groups) {
  switch (groups) {
    case 0:
      return wait<0>();
    case 1:
      return wait<1>();
    case 2:
      return wait<2>();
    case 3:
      return wait<3>();
    default:
      return wait<4>();
  }
}

template <u32 N>
struct alignas(N * sizeof(scale_t)) ScalesOfBlock {
  scale_t v[N];
};

template <CodeKind KIND, u32 NT>
struct FewCodes : FewTiles<NT> {
  using Base = FewTiles<NT>;
  using Base::c;
  using Base::lane;
  using Base::warp;

  static constexpr u32 STEPS = Decode<KIND>::STEPS, PER_WORD = Decode<KIND>::PER_WORD;
  static constexpr u32 INPUTS = STEPS * 16, PIECES = INPUTS / 8;  // of a block
  static constexpr u32 X_ROW = INPUTS * 2, CODES = FEW_OUTPUTS * CODE_BLOCK_BYTES;
  static constexpr u32 MOST_SLOTS = 6;

  const CodedMatrix& w;
  const u32 columns = min(c.rows, 8 * NT);  // of x, that a slot has room for
  const u32 slot_bytes = CODES + columns * X_ROW;
  static constexpr u32 RING = (FEW_SHARED_BYTES - NT * FEW_SUMS_BYTES) / FEW_WARPS;
  const u32 slots = min(MOST_SLOTS, RING / slot_bytes);
  u8* const ring;
  const u32 ring_address;

  __device__ FewCodes(const CodedFewExperts& a, u8* shared)
      : Base(a.few, shared),
        w(a.w),
        ring(shared + NT * FEW_SUMS_BYTES + warp * RING),
        ring_address(shared_address(ring)) {
    Base::factor = w.factor;
    Base::steps = a.steps;
  }

  // A place with what is found once for each item: this lane's rows of W, and (lane l) the row of x
  // of choice l.
  struct Cursor : FewPlace {
    const u8 *low_row, *high_row;
    u32 x_row;
  };

  __device__ void find(Cursor& p) const {
    p.low_row = w.rows + (u64)p.low * w.row_bytes;
    p.high_row = w.rows + (u64)p.high * w.row_bytes;
    p.x_row = rows_of_x(p);
  }
  __device__ Cursor start() const {
    Cursor p;
    static_cast<FewPlace&>(p) = Base::start(w.blocks);
    find(p);
    return p;
  }
  __device__ void next(Cursor& p) const {
    const u32 item = p.item;
    Base::next(p, w.blocks);
    if (p.item != item) find(p);
  }

  __device__ u32 rows_of_x(const FewPlace& p) const {
    const bool some = p.item < Base::to && lane < p.count;
    return some ? Base::row_of(Base::choice_of(p.first + lane)) : 0;
  }

  // Start copying a slot.
  __device__ void fetch(Cursor& ahead, u32 slot) const {
    if (ahead.item < Base::to) {
      const u32 to = ring_address + slot * slot_bytes;
      const u32 at = block_at(w, ahead.block) + lane % 4 * 16;
      copy_async(to + lane * 16, ahead.low_row + at, true);
      copy_async(to + CODES / 2 + lane * 16, ahead.high_row + at, true);
#pragma unroll
      for (u32 i = 0; i < NT * 8 * PIECES / 32; i++) {
        const u32 n = i * 32 + lane, column = n / PIECES, piece = n % PIECES;
        // A branch of the whole warp: columns rise with i.
        if (i * 32 / PIECES >= ahead.count) break;
        const u32 row = __shfl_sync(~0u, ahead.x_row, column);
        const u32 k = ahead.block * INPUTS + piece * 8;
        const bool valid = k < c.inputs;
        if (column < ahead.count)
          copy_async_cached(to + place_of(column, piece),
                            c.x + (u64)row * c.inputs + (valid ? k : 0), valid);
      }
      next(ahead);
    }
    commit();
  }

  // Where a piece of x lies in a slot: the pieces of eight rows do not conflict.
  __device__ static u32 place_of(u32 column, u32 piece) {
    return CODES + column * X_ROW + (piece ^ (column & 7)) * 16;
  }

  // The scales, or zeros, of this lane's rows r and r + 8.
  template <u32 N>
  __device__ void load(ScalesOfBlock<N> (&to)[2], const Cursor& p, bool zeros) const {
    if (p.item >= Base::to || (N == 1 && w.scales == 0)) return;
    const u32 at = scale_at(w, p.block, 0, zeros);
    to[0] = *reinterpret_cast<const ScalesOfBlock<N>*>(p.low_row + at);
    to[1] = *reinterpret_cast<const ScalesOfBlock<N>*>(p.high_row + at);
  }

  // Right operands of two steps from step 2 q on, of M eights of choices.
  template <u32 M>
  __device__ void load_x(u32 (&x)[M][4], u32 slot_address, u32 q) const {
#pragma unroll
    for (u32 n = 0; n < M; n++) {
      // Columns beyond the rows are the last one again: nobody uses them.
      const u32 column = min(n * 8 + lane % 8, columns - 1);
      load_matrices(x[n], slot_address + place_of(column, q * 4 + lane / 8));
    }
  }

  // acc += codes x of a slot, for the first M eights of choices.
  template <u32 N, u32 M, bool ZEROS>
  __device__ void multiply_slot(u32 slot, const ScalesOfBlock<N> (&scales)[2],
                                const ScalesOfBlock<N> (&zeros)[2], float (&acc)[NT][4]) const {
    constexpr u32 PER = STEPS / N;  // steps of a group
    const u32 address = ring_address + slot * slot_bytes;
    u32 low[4], high[4], x[M][4];
    load_shared(low, address + lane * 16);
    load_shared(high, address + CODES / 2 + lane * 16);
    float part[M][4] = {};
    Zero zero[2];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      u32 a[PER_WORD][2], b[PER_WORD][2];
      Decode<KIND>::word(low[i], a, w.table);
      Decode<KIND>::word(high[i], b, w.table);
#pragma unroll
      for (u32 j = 0; j < PER_WORD; j++) {
        const u32 s = i * PER_WORD + j;
        if (s % 2 == 0) load_x(x, address, s / 2);
        if (ZEROS) {
          if (s % PER == 0) {
            zero[0] = Zero(to_f32(zeros[0].v[s / PER]));
            zero[1] = Zero(to_f32(zeros[1].v[s / PER]));
          }
          a[j][0] = zero[0].add(a[j][0]), a[j][1] = zero[0].add(a[j][1]);
          b[j][0] = zero[1].add(b[j][0]), b[j][1] = zero[1].add(b[j][1]);
        }
        const u32 both[4] = {a[j][0], b[j][0], a[j][1], b[j][1]};
#pragma unroll
        for (u32 n = 0; n < M; n++) multiply(part[n], both, x[n][s % 2 * 2], x[n][s % 2 * 2 + 1]);
        if (s % PER != PER - 1) continue;
        const float one = N == 1 && w.scales == 0 ? 1.f : to_f32(scales[0].v[s / PER]);
        const float two = N == 1 && w.scales == 0 ? 1.f : to_f32(scales[1].v[s / PER]);
#pragma unroll
        for (u32 n = 0; n < M; n++) {
#pragma unroll
          for (u32 e = 0; e < 4; e++) {
            acc[n][e] = fmaf(e < 2 ? one : two, part[n][e], acc[n][e]);
            part[n][e] = 0.f;
          }
        }
      }
    }
  }

  // All items. N scales of a block; a block without scales has one that nobody reads.
  template <u32 N, bool ZEROS>
  __device__ void multiply_items() const {
    Cursor ahead = start(), soon = ahead;
    ScalesOfBlock<N> scales[2] = {}, zeros[2] = {};
    load<N>(scales, soon, false);
    if (ZEROS) load<N>(zeros, soon, true);
    for (u32 slot = 0; slot < slots - 1; slot++) fetch(ahead, slot);

    u32 slot = 0;
    for (u32 item = Base::from; item < Base::to; item++) {
      FewPlace here = {};
      here.item = item;
      Base::enter(here);
      float acc[NT][4] = {};
      for (u32 block = warp; block < w.blocks; block += FEW_WARPS) {
        const ScalesOfBlock<N> own[2] = {scales[0], scales[1]}, less[2] = {zeros[0], zeros[1]};
        next(soon);
        load<N>(scales, soon, false);
        if (ZEROS) load<N>(zeros, soon, true);

        wait_all_but(slots - 2);
        // Other lanes have copied x, and are done with the slot before.
        __syncwarp();
        fetch(ahead, slot == 0 ? slots - 1 : slot - 1);
        if (NT == 2 && here.count <= 8) multiply_slot<N, 1, ZEROS>(slot, own, less, acc);
        else multiply_slot<N, NT, ZEROS>(slot, own, less, acc);
        if (++slot == slots) slot = 0;
      }
      Base::finish(here, acc);
    }
  }

  template <u32 N>
  __device__ void multiply_all() const {
    if (w.zeros) multiply_items<N, true>();
    else multiply_items<N, false>();
  }

  __device__ void run() {
    Base::take_share();
    switch (w.scales) {
      case 2:
        return multiply_all<2>();
      case 4:
        return multiply_all<4>();
      case 8:
        if constexpr (STEPS == 8) multiply_all<8>();
        return;
      default:
        return multiply_all<1>();
    }
  }
};

template <CodeKind KIND, u32 NT>
__device__ void few(const CodedFewExperts& a, u8* shared) {
  begin();
  FewCodes<KIND, NT> tiles(a, shared);
  tiles.run();
}

extern __shared__ __align__(128) u8 dynamic_shared[];

#define FEW(KIND, NT) few<KIND, NT>(a, dynamic_shared)
#else
// f32 has no code here: the device never launches these for it.
#define FEW(KIND, NT) (void)a
#endif

#define ENTRY(NAME, KIND, NT)                                                     \
  __global__ void __launch_bounds__(FEW_THREADS, 2) NAME(const CodedFewExperts a) { \
    FEW(KIND, NT);                                                                \
  }

ENTRY(coded_few_8_e4m3, CODE_KIND_E4M3, 1)
ENTRY(coded_few_8_int8, CODE_KIND_INT8, 1)
ENTRY(coded_few_8_int4, CODE_KIND_INT4, 1)
ENTRY(coded_few_8_e2m1, CODE_KIND_E2M1, 1)
// For more than eight rows. On Hopper the tiles of coded_experts.cu take those.
#if ARCH == 90
#undef FEW
#define FEW(KIND, NT) (void)a
#endif
ENTRY(coded_few_16_e4m3, CODE_KIND_E4M3, 2)
ENTRY(coded_few_16_int8, CODE_KIND_INT8, 2)
ENTRY(coded_few_16_int4, CODE_KIND_INT4, 2)
ENTRY(coded_few_16_e2m1, CODE_KIND_E2M1, 2)

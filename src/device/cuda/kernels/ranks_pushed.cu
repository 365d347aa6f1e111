// The sum over ranks of a single row, the residual it goes to and the norm behind it, where the
// products of all ranks push the row as they make it (row_push.cuh): sum_add_norm (ranks_norm.cu)
// to the same bits, without this rank's own part going to memory and back, a fence and a flag. A
// word says itself that it is there, this rank's own too, so this kernel does not wait for the
// product in front of it either. Half types, compute capability 9.0 and later.
//
// What it reads ahead of that product's end are weights, and the residual and `taken` as the seam
// before left them: the product lets it start (`begin`) when all in front of the product is done.
// What it writes, the product reads no more when all of the row is there.
//
// A cluster of blocks, of which a thread has eight columns. A block is small enough for a place
// beside one of the product in front and beside one of the next, which begins to read its weights
// meanwhile (`ahead`), and polls little: one block of 512 threads, for a row of 8192, polls so much
// that a product's block beside it is late, 1 us a seam (ci/runs/2026-11-30-h200-seam.md).
//
// Floor: a store to another GPU and a poll there, about 1 us behind the product's last output, and
// about 1 us for two sums over the block.
#include "exchange.cuh"
#include "bulk.cuh"
#include "cluster.cuh"
#include "e4m3.cuh"
#include "norm_columns.cuh"
#include "row_push.cuh"

#if ACT != 0 && ARCH >= 90
__device__ __forceinline__ uint4 load_words(const u32* p) {
  uint4 x;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(p)
               : "memory");
  return x;
}

// Words of eight neighbours of a row.
struct Words {
  uint4 half[2];

  __device__ void load(const u32* from) {
    half[0] = load_words(from);
    half[1] = load_words(from + 4);
  }
  // All are of the row of this number.
  __device__ bool are_of(u32 number) const {
    u32 apart = 0;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
      const uint4& w = half[i];
      apart |= (w.x ^ number << 16) | (w.y ^ number << 16) | (w.z ^ number << 16) |
               (w.w ^ number << 16);
    }
    return apart >> 16 == 0;
  }
  __device__ Vector<act> outputs() const {
    Vector<act> all;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
      const u32 words[4] = {half[i].x, half[i].y, half[i].z, half[i].w};
#pragma unroll
      for (u32 j = 0; j < 4; j++) all.v[i * 4 + j].bits = (u16)words[j];
    }
    return all;
  }
};

constexpr u32 WARPS = PUSHED_THREADS / 32;  // of a block
static_assert(NORMED_COLUMNS / PUSHED_THREADS / 8 * WARPS <= 32, "a lane has what a warp found");

struct PushedRow : Group {
  const SumPushedRow& a;
  const AddNorm& norm = a.norm;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 column = (blockIdx.x * PUSHED_THREADS + threadIdx.x) * 8;
  const bool inside = column < norm.width;

  __device__ PushedRow(const SumPushedRow& a) : Group(a.all), a(a) {}

  // The sum of what all ranks pushed, in their order; words of so many ranks are under way at once.
  // Of no meaning if nobody is to wait any more.
  __device__ Sums<act> sum(u32 number) const {
    constexpr u32 ASKED = 4;
    const u32* const words = a.words + place_of_row(number) + column;
    const u64 began = now_ns();
    Sums<act> sums = {};
    for (u32 first = 0; first < ranks && inside; first += ASKED) {
      Words parts[ASKED];
      for (u32 n = 1;; n++) {
        bool there = true;
#pragma unroll
        for (u32 i = 0; i < ASKED; i++)
          if (first + i < ranks) parts[i].load(words + (first + i) * 2 * NORMED_COLUMNS);
#pragma unroll
        for (u32 i = 0; i < ASKED; i++)
          if (first + i < ranks) there &= parts[i].are_of(number);
        if (there || n % 1024 == 0 && gives_up(began)) break;
      }
#pragma unroll
      for (u32 i = 0; i < ASKED; i++) {
        if (first + i == 0) sums.set(parts[i].outputs());
        else if (first + i < ranks) sums.add(parts[i].outputs());
      }
    }
    return sums;
  }

  // What each warp of the row found, by a lane; this one's is `own`. In the order of add_norm,
  // whose warps have 256 columns too.
  __device__ float of_warps(float own, float* found) const {
    if (lane == 0) found[warp] = own;
    __syncwarp();
    meet_cluster();
    if (lane >= gridDim.x * WARPS) return 0.f;
    return load_float_of_block(shared_address(found + lane % WARPS), lane / WARPS);
  }

  __device__ void run() const {
    __shared__ float squares[WARPS], largest[WARPS];
    const float none[8] = {};
    const u32 number = __ldcg(a.taken) + 1;
    float v[8] = {}, weight[8] = {};
    Vector<act> residual;
    if (inside) {
      residual.raw = __ldcg(reinterpret_cast<const uint4*>(norm.residual + column));
      load8(norm.weight + column, weight);
    }

    const Vector<act> delta = sum(number).rounded();
    if (inside) {
#pragma unroll
      for (u32 j = 0; j < 8; j++) {
        v[j] = to_f32(from_f32<act>(to_f32(residual.v[j]) + to_f32(delta.v[j])));
        weight[j] += norm.kind == NORM_KIND_RMS_PLUS_ONE ? 1.f : 0.f;
      }
    }
    // From here on all blocks have their columns of the row, and the product reads no more.
    const float all = warp_sum(of_warps(warp_sum(squares_of(v, 0.f)), squares));
    if (!a.ahead) give_leave();
    if (inside) store8(norm.residual + column, v);
    normed(v, 0.f, norm_scale(all, norm.width, norm.eps), weight, none);
    if (inside) store8(norm.out + column, v);
    if (norm.steps) {
      const float most = largest_of_warp(of_warps(largest_of_warp(largest_of(v)), largest));
      const float step = e4m3_step(most);
      put_rounded(v, column, norm.width, 0.f, step, 1.f / step, norm.codes, norm.bytes,
                  norm.padded_width);
      if (column == 0) *norm.steps = step;
    }
    if (column == 0) *a.taken = number;
    __syncwarp();
    leave_cluster();
  }

  __device__ static float largest_of_warp(float most) {
#pragma unroll
    for (u32 d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    return most;
  }
};
#endif

__global__ void __launch_bounds__(PUSHED_THREADS) sum_pushed_row(
    const __grid_constant__ SumPushedRow a) {
#if ACT != 0 && ARCH >= 90
  if (a.ahead) give_leave();
  PushedRow(a).run();
  // Who waits for this kernel waits for all in front of it.
  await();
#endif
}

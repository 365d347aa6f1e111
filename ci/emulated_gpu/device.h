// CUDA's language for a host compiler, as far as src/device/cuda/kernels uses it for compute
// capability 8.0: a thread of a kernel is a fiber (fibers.cpp), and what meets other threads, a
// barrier or an instruction of a whole warp, is a call that returns when all are there. What Hopper
// has beyond that is not imitated. build.py puts a kernel's source behind this header.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

using std::isfinite;
using std::isnan;

struct Index {
  unsigned x, y, z;
};
struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- What fibers.cpp has ----

enum Vote { ALL, ANY, COUNT };
// Called once for a warp, when its last lane arrives, with what each lane brought; null: no lane.
typedef void (*OfWarp)(void** lanes);

extern "C" {
extern Index *emulated_thread, emulated_block, emulated_grid, emulated_threads;
// The dynamic shared memory of the block that runs.
extern unsigned char emulated_shared[];
// Returns when all threads of the block called it.
int emulated_vote(int x, Vote vote);
// Returns when all lanes of the warp called it.
void emulated_warp(void* mine, OfWarp all);
// Ends the process with the kernel's name and the thread.
void emulated_fault(const char* what);
// 16 bytes of which those behind `bytes` are zero; there when their group has been waited for.
void emulated_copy(void* to, const void* from, int bytes);
void emulated_commit();
void emulated_wait(int groups);
}

#define threadIdx (*emulated_thread)
#define blockIdx emulated_block
#define gridDim emulated_grid
#define blockDim emulated_threads
#define dynamic_shared (emulated_shared + 0)

// ---- Words of the language ----

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__
// One block runs at a time.
#define __shared__ static

// ---- Functions of one thread ----

template <class A, class B>
static inline auto min(A a, B b) -> decltype(a + b) {
  return a < b ? a : b;
}
template <class A, class B>
static inline auto max(A a, B b) -> decltype(a + b) {
  return a > b ? a : b;
}
template <class To, class From>
static inline To bits_of(From x) {
  static_assert(sizeof(To) == sizeof(From), "the same size");
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}
static inline float __uint_as_float(unsigned x) { return bits_of<float>(x); }
static inline float __int_as_float(int x) { return bits_of<float>(x); }
static inline unsigned __float_as_uint(float x) { return bits_of<unsigned>(x); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selectors) {
  const uint64_t all = x | (uint64_t)y << 32;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned from = selectors >> 4 * i & 7;
    result |= (unsigned)(all >> 8 * from & 0xff) << 8 * i;
  }
  return result;
}
// A name that the host's library has.
#define __expf expf
static inline float __fdividef(float a, float b) { return a / b; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
// Rounded on their own, whatever the compiler would make of a sum of products.
static inline float __fmul_rn(float a, float b) {
  volatile float y = a * b;
  return y;
}
static inline float __fadd_rn(float a, float b) {
  volatile float y = a + b;
  return y;
}
static inline float __fsub_rn(float a, float b) {
  volatile float y = a - b;
  return y;
}
static inline float __fdiv_rn(float a, float b) {
  volatile float y = a / b;
  return y;
}
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }

// ---- Memory: one fiber runs at a time, so nothing comes between ----

static inline void __threadfence() {}
template <class T>
static inline T __ldcg(const T* p) {
  return *p;
}
template <class T, class X>
static inline T atomicAdd(T* p, X x) {
  const T old = *p;
  *p = old + (T)x;
  return old;
}
template <class T, class X>
static inline T atomicMax(T* p, X x) {
  const T old = *p;
  if ((T)x > old) *p = (T)x;
  return old;
}
template <class T, class X>
static inline T atomicOr(T* p, X x) {
  const T old = *p;
  *p = old | (T)x;
  return old;
}

// ---- A block ----

static inline void __syncthreads() { emulated_vote(1, ALL); }
static inline int __syncthreads_and(int x) { return emulated_vote(x, ALL); }
static inline int __syncthreads_or(int x) { return emulated_vote(x, ANY); }
static inline int __syncthreads_count(int x) { return emulated_vote(x, COUNT); }

// ---- A warp ----

static inline int lane_of() { return threadIdx.x % 32; }

template <class T>
struct Shuffled {
  T x;
  int from;
  T result;
};
template <class T>
static T shuffle(T x, int from) {
  Shuffled<T> mine{x, from, x};
  emulated_warp(&mine, [](void** lanes) {
    for (int lane = 0; lane < 32; lane++) {
      auto* to = (Shuffled<T>*)lanes[lane];
      if (!to) continue;
      const auto* from = (const Shuffled<T>*)lanes[to->from % 32];
      if (!from) emulated_fault("a shuffle out of a lane that is not there");
      to->result = from->x;
    }
  });
  return mine.result;
}
template <class T>
static inline T __shfl_xor_sync(unsigned, T x, int distance) {
  return shuffle(x, lane_of() ^ distance);
}
template <class T>
static inline T __shfl_sync(unsigned, T x, int lane) {
  return shuffle(x, lane);
}
template <class T>
static inline T __shfl_up_sync(unsigned, T x, int distance) {
  return shuffle(x, lane_of() < distance ? lane_of() : lane_of() - distance);
}
template <class T>
static inline T __shfl_down_sync(unsigned, T x, int distance) {
  return shuffle(x, lane_of() + distance > 31 ? lane_of() : lane_of() + distance);
}
static inline void __syncwarp() { shuffle(0, lane_of()); }

template <class T>
struct Matched {
  T x;
  unsigned equal;
};
template <class T>
static inline unsigned __match_any_sync(unsigned, T x) {
  Matched<T> mine{x, 0};
  emulated_warp(&mine, [](void** lanes) {
    for (int i = 0; i < 32; i++)
      for (int j = 0; j < 32; j++) {
        auto* one = (Matched<T>*)lanes[i];
        const auto* other = (const Matched<T>*)lanes[j];
        if (one && other && one->x == other->x) one->equal |= 1u << j;
      }
  });
  return mine.equal;
}
static inline unsigned __ballot_sync(unsigned mask, int x) {
  const unsigned equal = __match_any_sync(mask, x != 0);
  const unsigned others = __match_any_sync(mask, 0) & ~equal;
  return x ? equal : others;
}
static inline int __any_sync(unsigned mask, int x) { return __ballot_sync(mask, x) != 0; }

// ---- Types of 16 bits ----

static inline float f32_of_f16(uint16_t x) { return (float)bits_of<_Float16>(x); }
static inline uint16_t f16_of_f32(float x) { return bits_of<uint16_t>((_Float16)x); }
static inline float f32_of_bf16(uint16_t x) { return __uint_as_float((unsigned)x << 16); }
static inline uint16_t bf16_of_f32(float x) {
  const unsigned bits = __float_as_uint(x);
  return isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// ---- Shared memory by addresses of 32 bits ----

// An array of this library, from which addresses of static shared memory are counted.
static char anchor[16];
static const unsigned STATIC_FROM = 0x60000000, DYNAMIC_BYTES = 1 << 18;

static inline size_t __cvta_generic_to_shared(const void* p) {
  const intptr_t dynamic = (const unsigned char*)p - emulated_shared;
  if (dynamic >= 0 && dynamic < DYNAMIC_BYTES) return dynamic;
  return (unsigned)((const char*)p - anchor) + STATIC_FROM;
}
static inline void* at_shared(unsigned address) {
  if (address < DYNAMIC_BYTES) return emulated_shared + address;
  return anchor + (int)(address - STATIC_FROM);
}

// ---- PTX: a function for each instruction, first what it writes, then what it reads ----

static inline void ptx_cvt_f32_f16(float& y, uint16_t x) { y = f32_of_f16(x); }
static inline void ptx_cvt_rn_f16_f32(uint16_t& y, float x) { y = f16_of_f32(x); }
static inline void ptx_cvt_rn_bf16_f32(uint16_t& y, float x) { y = bf16_of_f32(x); }
static inline void ptx_cvt_rn_f16x2_f32(unsigned& y, float high, float low) {
  y = f16_of_f32(low) | (unsigned)f16_of_f32(high) << 16;
}
static inline void ptx_cvt_rn_bf16x2_f32(unsigned& y, float high, float low) {
  y = bf16_of_f32(low) | (unsigned)bf16_of_f32(high) << 16;
}
// The exact product and sum of two halves fit a double: one rounding but for the rarest ties.
template <class From, class To>
static inline unsigned fma_of_halves(unsigned a, unsigned b, unsigned c, From from, To to) {
  unsigned result = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const double x = from(a >> shift), y = from(b >> shift), z = from(c >> shift);
    result |= (unsigned)to((float)(x * y + z)) << shift;
  }
  return result;
}
static inline void ptx_fma_rn_f16x2(unsigned& d, unsigned a, unsigned b, unsigned c) {
  d = fma_of_halves(a, b, c, f32_of_f16, f16_of_f32);
}
static inline void ptx_fma_rn_bf16x2(unsigned& d, unsigned a, unsigned b, unsigned c) {
  d = fma_of_halves(a, b, c, f32_of_bf16, bf16_of_f32);
}
// With the table 0xea, the only one in use.
static inline void ptx_lop3_b32(unsigned& y, unsigned x, unsigned mask, unsigned bits) {
  y = (x & mask) | bits;
}

// Nearer to the truth than a card is.
static inline void ptx_ex2_approx_ftz_f32(float& y, float x) { y = exp2f(x); }
static inline void ptx_rcp_approx_ftz_f32(float& y, float x) { y = 1.f / x; }

static inline void ptx_cp_async_cg_shared_global(unsigned to, const void* from, int bytes) {
  emulated_copy(at_shared(to), from, bytes);
}
static inline void ptx_cp_async_commit_group() { emulated_commit(); }
static inline void ptx_cp_async_wait_group(int groups) { emulated_wait(groups); }
static inline void ptx_ld_shared_u32(unsigned& x, unsigned address) {
  memcpy(&x, at_shared(address), 4);
}
static inline void ptx_ld_shared_v4_u32(unsigned& a, unsigned& b, unsigned& c, unsigned& d,
                                        unsigned address) {
  const unsigned* from = (const unsigned*)at_shared(address);
  a = from[0], b = from[1], c = from[2], d = from[3];
}
static inline void ptx_st_shared_v4_u32(unsigned address, unsigned a, unsigned b, unsigned c,
                                        unsigned d) {
  unsigned* to = (unsigned*)at_shared(address);
  to[0] = a, to[1] = b, to[2] = c, to[3] = d;
}
static inline void ptx_ld_global_cg_f32(float& x, const float* p) { x = *p; }
static inline void ptx_ld_global_cg_v2_f32(float& x, float& y, const float2* p) {
  x = p->x, y = p->y;
}
static inline void ptx_ld_global_cg_v4_f32(float& x, float& y, float& z, float& w,
                                           const float4* p) {
  x = p->x, y = p->y, z = p->z, w = p->w;
}

static inline void ptx_ld_volatile_global_v4_u32(unsigned& a, unsigned& b, unsigned& c,
                                                 unsigned& d, const void* p) {
  const volatile unsigned* from = (const volatile unsigned*)p;
  a = from[0], b = from[1], c = from[2], d = from[3];
}

// Four matrices of 8 x 8: lane 8 m + r brings the address of row r of matrix m, and gets of each
// the elements 2 (lane % 4) and its neighbour of row lane / 4; transposed, of that column.
struct Matrices {
  unsigned address, result[4];
};
template <bool TRANSPOSED>
static void matrices_of(void** lanes) {
  for (int lane = 0; lane < 32; lane++) {
    auto* to = (Matrices*)lanes[lane];
    for (int m = 0; m < 4; m++) {
      uint16_t pair[2];
      for (int k = 0; k < 2; k++) {
        const int fast = 2 * (lane % 4) + k, slow = lane / 4;
        const int row = TRANSPOSED ? fast : slow, column = TRANSPOSED ? slow : fast;
        const auto* of_row = (const Matrices*)lanes[8 * m + row];
        if (!to || !of_row) emulated_fault("ldmatrix without all lanes");
        if (of_row->address % 16) emulated_fault("ldmatrix from an address that is not aligned");
        memcpy(&pair[k], (const uint16_t*)at_shared(of_row->address) + column, 2);
      }
      to->result[m] = pair[0] | (unsigned)pair[1] << 16;
    }
  }
}
static inline void ptx_ldmatrix(unsigned& a, unsigned& b, unsigned& c, unsigned& d,
                                unsigned address) {
  Matrices mine{address, {}};
  emulated_warp(&mine, matrices_of<false>);
  a = mine.result[0], b = mine.result[1], c = mine.result[2], d = mine.result[3];
}
static inline void ptx_ldmatrix_trans(unsigned& a, unsigned& b, unsigned& c, unsigned& d,
                                      unsigned address) {
  Matrices mine{address, {}};
  emulated_warp(&mine, matrices_of<true>);
  a = mine.result[0], b = mine.result[1], c = mine.result[2], d = mine.result[3];
}

// c += a b, m16n8k16; which lane holds what of a, b and c is PTX's "Matrix fragments".
struct Fragments {
  float c[4];
  unsigned a[4], b[2];
};
template <bool F16>
static void multiply_fragments(void** lanes) {
  static float a[16][16], b[16][8];
  const auto half = [](unsigned pair, int k) {
    const uint16_t x = pair >> 16 * k;
    return F16 ? f32_of_f16(x) : f32_of_bf16(x);
  };
  for (int lane = 0; lane < 32; lane++) {
    const auto* from = (const Fragments*)lanes[lane];
    if (!from) emulated_fault("mma without all lanes");
    const int group = lane / 4, pair = 2 * (lane % 4);
    for (int k = 0; k < 2; k++) {
      for (int part = 0; part < 4; part++)
        a[group + 8 * (part % 2)][pair + 8 * (part / 2) + k] = half(from->a[part], k);
      for (int part = 0; part < 2; part++) b[pair + 8 * part + k][group] = half(from->b[part], k);
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    auto* to = (Fragments*)lanes[lane];
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      for (int k = 0; k < 16; k++) to->c[i] += a[row][k] * b[k][column];
    }
  }
}
template <bool F16>
static inline void ptx_mma(float& c0, float& c1, float& c2, float& c3, unsigned a0, unsigned a1,
                           unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  Fragments mine{{c0, c1, c2, c3}, {a0, a1, a2, a3}, {b0, b1}};
  emulated_warp(&mine, multiply_fragments<F16>);
  c0 = mine.c[0], c1 = mine.c[1], c2 = mine.c[2], c3 = mine.c[3];
}

// An empty statement that keeps values in registers.
template <class... Operands>
static inline void ptx_nothing(Operands&&...) {}
// In code that is compiled for later cards only, or forgotten in build.py's table.
template <class... Operands>
static inline void ptx_unknown(Operands&&...) {
  emulated_fault("an instruction that is not emulated");
}

// Products of a warpgroup (128 threads) on Hopper: wgmma m64 x N of half types (k16) and of codes
// of E4M3 (k32) into f32, operands in shared memory by descriptor, or the left one in registers.
// Thread t of the group holds of a 64 x N result rows t / 32 * 16 + t % 32 / 4 + {0, 8} and columns
// 8 n + t % 4 * 2 + {0, 1}, at d[4 n + 2 * (row / 8) + column], which is also how mma.sync lays it
// out.
//
// Tiles in shared memory are panels of 64 columns: rows of 128 bytes whose 16-byte pieces are
// swizzled by the row's number, piece p of row r at p ^ r % 8; a panel starts at a multiple of 1024
// bytes. Source of the layouts: PTX ISA, "Asynchronous warpgroup level matrix instructions".
#pragma once
#include "mma.cuh"
#include "wgmma_names.cuh"

// `a` targets only: no other architecture has these instructions.
#if ARCH == 90 && ACT != 0
#define WARPGROUP 128
#define PANEL_COLUMNS 64
#define PANEL_ROW_BYTES 128
#define PANEL_EIGHT_BYTES (8 * PANEL_ROW_BYTES)

// Registers and shared memory are ready for what follows.
__device__ __forceinline__ void ready() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void submit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// All but the last N groups are done.
template <int N>
__device__ __forceinline__ void finish() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// No use of these is moved across.
template <int N>
__device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
// What this thread wrote to shared memory is seen by wgmma, after a barrier.
__device__ __forceinline__ void publish() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A panel or several: `next_panel` bytes between panels where columns are the outer dimension,
// `next_eight` between eights of rows.
__device__ __forceinline__ u64 describe(u32 address, u32 next_panel,
                                        u32 next_eight = PANEL_EIGHT_BYTES) {
  const u64 swizzled = 1;
  return (address & 0x3ffff) >> 4 | (u64)(next_panel >> 4) << 16 | (u64)(next_eight >> 4) << 32 |
         swizzled << 62;
}
// Where 16-byte piece `piece` of a row lies in its panels of `rows` rows.
__device__ __forceinline__ u32 swizzled(u32 row, u32 piece, u32 rows) {
  return piece / 8 * rows * PANEL_ROW_BYTES + row * PANEL_ROW_BYTES + (piece % 8 ^ row % 8) * 16;
}

// d = (add ? d : 0) + a b. SHAPE, the types of a and b, the last four of d, a as the text has it,
// the numbers of the operands b and add, what follows the predicate, and the operands that a is.
#define WGMMA(SHAPE, TYPES, LAST, A, B, ADD, TAIL, ...)                                    \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #ADD ", 0; "                             \
               "wgmma.mma_async.sync.aligned." SHAPE ".f32." TYPES " {" ALL_##LAST "}, " A \
               ", %" #B ", p, 1, 1" TAIL "; }"                                             \
               : FOURS_##LAST                                                              \
               : __VA_ARGS__, "l"(b), "r"(add))

// Both operands in shared memory, with neighbours along the inner dimension: b `[N, 16]` of a half
// type, or `[N, 32]` of codes of E4M3.
#define WGMMA_SHARED(N, LAST, A, B, ADD)                                                      \
  template <bool BYTES = false>                                                               \
  __device__ __forceinline__ void multiply_shared(float (&d)[N / 2], u64 a, u64 b, int add) { \
    if constexpr (BYTES)                                                                      \
      WGMMA("m64n" #N "k32", "e4m3.e4m3", LAST, "%" #A, B, ADD, "", "l"(a));                  \
    else                                                                                      \
      WGMMA("m64n" #N "k16", OPERAND "." OPERAND, LAST, "%" #A, B, ADD, ", 0, 0", "l"(a));    \
  }

WGMMA_SHARED(16, 1, 8, 9, 10)
WGMMA_SHARED(32, 3, 16, 17, 18)
WGMMA_SHARED(40, 4, 20, 21, 22)
WGMMA_SHARED(48, 5, 24, 25, 26)
WGMMA_SHARED(56, 6, 28, 29, 30)
WGMMA_SHARED(64, 7, 32, 33, 34)
WGMMA_SHARED(80, 9, 40, 41, 42)
WGMMA_SHARED(96, 11, 48, 49, 50)
WGMMA_SHARED(112, 13, 56, 57, 58)
WGMMA_SHARED(128, 15, 64, 65, 66)
WGMMA_SHARED(160, 19, 80, 81, 82)
WGMMA_SHARED(192, 23, 96, 97, 98)
WGMMA_SHARED(224, 27, 112, 113, 114)
WGMMA_SHARED(256, 31, 128, 129, 130)

// a in registers as mma.sync has it. multiply_registers: b `[16, N]`, neighbours along N;
// multiply_inner: b `[N, 16]`, neighbours along the inner dimension.
#define WGMMA_REGISTERS(NAME, N, LAST, A, B, ADD, ALONG_N)                                     \
  __device__ __forceinline__ void NAME(float (&d)[N / 2], const u32 (&a)[4], u64 b, int add) { \
    WGMMA("m64n" #N "k16", OPERAND "." OPERAND, LAST, A, B, ADD, ", " #ALONG_N, "r"(a[0]),     \
          "r"(a[1]), "r"(a[2]), "r"(a[3]));                                                    \
  }

WGMMA_REGISTERS(multiply_registers, 64, 7, "{%32, %33, %34, %35}", 36, 37, 1)
WGMMA_REGISTERS(multiply_registers, 128, 15, "{%64, %65, %66, %67}", 68, 69, 1)
WGMMA_REGISTERS(multiply_registers, 256, 31, "{%128, %129, %130, %131}", 132, 133, 1)
WGMMA_REGISTERS(multiply_inner, 16, 1, "{%8, %9, %10, %11}", 12, 13, 0)
WGMMA_REGISTERS(multiply_inner, 64, 7, "{%32, %33, %34, %35}", 36, 37, 0)
WGMMA_REGISTERS(multiply_inner, 128, 15, "{%64, %65, %66, %67}", 68, 69, 0)
#endif

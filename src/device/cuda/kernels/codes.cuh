// Codes on their way to tensor cores: where blocks, scales and zeros of a coded matrix lie
// (abi_codes.h), and how a lane's 16 bytes of a block become left operands of mma: numbers that
// half types hold exactly, pairs of neighbours in a register.
#pragma once
#include "abi_codes.h"
#include "e4m3.cuh"
#include "mma.cuh"

// Bytes of the scales of so many blocks.
__device__ __forceinline__ u32 scale_bytes(const CodedMatrix& w, u32 blocks) {
  return (blocks * w.scales * (u32)sizeof(scale_t) + 15) / 16 * 16;
}
__device__ __forceinline__ u32 chunk_blocks(const CodedMatrix& w, u32 chunk) {
  return min(CODE_CHUNK_BLOCKS, w.blocks - chunk * CODE_CHUNK_BLOCKS);
}
// Where scale (zero) `index` of block `block` of a row lies, from the row's start.
__device__ __forceinline__ u32 scale_at(const CodedMatrix& w, u32 block, u32 index, bool zero) {
  const u32 chunk = block / CODE_CHUNK_BLOCKS, blocks = chunk_blocks(w, chunk);
  const u32 inside = (block % CODE_CHUNK_BLOCKS * w.scales + index) * (u32)sizeof(scale_t);
  return chunk * w.chunk_bytes + blocks * CODE_BLOCK_BYTES + (zero ? scale_bytes(w, blocks) : 0) +
         inside;
}
__device__ __forceinline__ u32 block_at(const CodedMatrix& w, u32 block) {
  return block / CODE_CHUNK_BLOCKS * w.chunk_bytes + block % CODE_CHUNK_BLOCKS * CODE_BLOCK_BYTES;
}

// Inputs of a block, and steps of 16 inputs.
__device__ __forceinline__ constexpr u32 block_inputs(CodeKind kind) {
  return kind == CODE_KIND_E4M3 || kind == CODE_KIND_INT8 ? 64 : 128;
}

// The number of a code, in f32.
__device__ __forceinline__ float number_of(u32 code, CodeKind kind, const float* table) {
  switch (kind) {
    case CODE_KIND_E4M3:
      return E4m3::to_f32(code);
    case CODE_KIND_INT8:
      return (float)(signed char)code;
    case CODE_KIND_INT4:
      return (float)(int)code - 8.f;
    case CODE_KIND_E2M1: {
      const float x = __uint_as_float((code & 7) << 22) * __uint_as_float((127u + 126u) << 23);
      return code & 8 ? -x : x;
    }
    default:
      return table[code & 15];
  }
}

#if ACT != 0
// Of both halves: a * b + c, rounded once.
__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
  u32 d;
#if ACT == 1
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
#else
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
#endif
  return d;
}
#if ACT == 1
#define ONES 0x3c003c00u
#else
#define ONES 0x3f803f80u
#endif
#define MINUS_ZEROS 0x80008000u

// (x & mask) | bits, in one instruction.
__device__ __forceinline__ u32 masked(u32 x, u32 mask, u32 bits) {
  u32 y;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
  return y;
}

// `steps[s]` becomes the two registers of a row for step s: inputs 2 t, 2 t + 1 and 8 further.
template <CodeKind KIND>
struct Decode {
  static constexpr int STEPS = KIND == CODE_KIND_E4M3 || KIND == CODE_KIND_INT8 ? 4 : 8;
  static constexpr int PER_WORD = STEPS / 4;  // Steps of a word.

  // Of INT4: how much more than the number `with_bias` gives.
  static constexpr float BIAS = 24.f;

  // As `word` of INT4, numbers that are BIAS too large: 16 + code, whose fraction are the code's
  // bits.
  __device__ static void with_bias(u32 w, u32 (&a)[PER_WORD][2]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
#if ACT == 1
      const int up = 6 - 4 * i;
      const u32 mask = 0x03c003c0, sixteen = 0x4c004c00;
#else
      const int up = 3 - 4 * i;
      const u32 mask = 0x00780078, sixteen = 0x41804180;
#endif
      a[i / 2][i % 2] = masked(up >= 0 ? w << (up & 31) : w >> (-up & 31), mask, sixteen);
    }
  }

  // Word `w` of a lane's 16 bytes: PER_WORD steps.
  __device__ static void word(u32 w, u32 (&a)[PER_WORD][2], const float* table) {
    if constexpr (KIND == CODE_KIND_INT4) {
      const u32 less = ACT == 1 ? 0xce00ce00 : 0xc1c0c1c0;
      with_bias(w, a);
#pragma unroll
      for (int i = 0; i < 4; i++) a[i / 2][i % 2] = fma2(a[i / 2][i % 2], ONES, less);
    } else if constexpr (KIND == CODE_KIND_E2M1) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const u32 sign = w << (12 - 4 * i) & 0x80008000;
#if ACT == 1
        const int up = 9 - 4 * i;
        const u32 size = (up >= 0 ? w << (up & 31) : w >> (-up & 31)) & 0x0e000e00;
        a[i / 2][i % 2] = fma2(size | sign, 0x74007400, MINUS_ZEROS);
#else
        const int up = 6 - 4 * i;
        const u32 size = (up >= 0 ? w << (up & 31) : w >> (-up & 31)) & 0x01c001c0;
        a[i / 2][i % 2] = fma2(size | sign, 0x7e807e80, MINUS_ZEROS);
#endif
      }
    } else if constexpr (KIND == CODE_KIND_TABLE) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        a[i / 2][i % 2] = pack(table[w >> 4 * i & 15], table[w >> (4 * i + 16) & 15]);
    } else if constexpr (KIND == CODE_KIND_INT8) {
#if ACT == 1
      const u32 u = w ^ 0x80808080;
      a[0][0] = fma2(__byte_perm(u, 0x64646464, 0x4140), ONES, 0xe480e480);
      a[0][1] = fma2(__byte_perm(u, 0x64646464, 0x4342), ONES, 0xe480e480);
#else
      // 128 + the low seven bits, less 128 or, where the sign is set, 256.
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const u32 t = __byte_perm(w, 0, i == 0 ? 0x4140 : 0x4342);
        const u32 low = (t & 0x007f007f) | 0x43004300, less = (t & 0x00800080) | 0x43004300;
        a[0][i] = fma2(less, 0xbf80bf80, low);
      }
#endif
    } else {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const u32 t = __byte_perm(w, 0, i == 0 ? 0x1404 : 0x3424);
        const u32 sign = t & 0x80008000;
#if ACT == 1
        a[0][i] = fma2((t & 0x7f007f00) >> 1 | sign, 0x5c005c00, MINUS_ZEROS);
#else
        a[0][i] = fma2((t & 0x7f007f00) >> 4 | sign, 0x7b807b80, MINUS_ZEROS);
#endif
      }
    }
  }
};

// What is added to the numbers of a group: the zero's whole part, which keeps them exact, and the
// rest.
struct Zero {
  u32 whole, rest;

  __device__ Zero() : whole(MINUS_ZEROS), rest(MINUS_ZEROS) {}
  __device__ Zero(float zero) {
    const float rounded = rintf(zero);
    whole = pack(rounded, rounded);
    rest = pack(zero - rounded, zero - rounded);
  }
  __device__ u32 add(u32 pair) const { return fma2(fma2(pair, ONES, whole), ONES, rest); }
};
#endif

// Pages of eight bits on their way to f16 operands in shared memory, for the kernels over prompts.
// A thread copies pieces of 16 bytes to places of its own, and turns just these into operands a
// while later: no thread waits for another in between, and copies are in flight without registers.
#pragma once
#include "attention_mma.cuh"
#include "fp8.cuh"

#if ACT != 0
// A tile of ALL_KEYS keys, K or V, of head size D.
template <int D, int ALL_KEYS, int THREADS>
struct RawTile {
  static constexpr int PIECES = D / 16;  // of a key
  static constexpr int ALL = ALL_KEYS * PIECES;
  static constexpr int EACH = (ALL + THREADS - 1) / THREADS;
  static constexpr u32 BYTES = ALL * 16;

  static __device__ u32 number(int i) { return i * THREADS + threadIdx.x; }
  static __device__ bool none(int i) { return ALL % THREADS != 0 && number(i) >= ALL; }

  // Which piece of which key. Where a key has pieces by fours, eight neighbours in a warp are four
  // of a key beside four of the next: their operands, 32 bytes apart, then do not conflict.
  static __device__ void place(int i, u32& key, u32& piece) {
    const u32 n = number(i);
    if (PIECES % 4 == 0) {
      key = n / (2 * PIECES) * 2 + n / 4 % 2;
      piece = n / 8 % (PIECES / 4) * 4 + n % 4;
    } else {
      key = n / PIECES;
      piece = n % PIECES;
    }
  }

  // Start copying. `from` is the pool, or the pool from a key's K to its V on; `places` are in
  // units of 16 bytes.
  static __device__ void fetch(const u8* from, const u32* places, u32 raw) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      if (none(i)) break;
      u32 key, piece;
      place(i, key, piece);
      copy_async(raw + number(i) * 16, from + ((u64)places[key] + piece) * 16, true);
    }
  }

  // What this thread copied becomes operands: 16-byte piece p of a key goes to `at(key, p)`.
  template <class Kv, class At>
  static __device__ void convert(u32 raw, At at) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      if (none(i)) break;
      u32 key, piece, x[4], y[8];
      place(i, key, piece);
      load_shared(x, raw + number(i) * 16);
#pragma unroll
      for (int j = 0; j < 4; j++) Kv::pairs(x[j], y[2 * j], y[2 * j + 1]);
      store_shared(at(key, 2 * piece), y[0], y[1], y[2], y[3]);
      store_shared(at(key, 2 * piece + 1), y[4], y[5], y[6], y[7]);
    }
  }
};
#endif

// What the kernels over rows of f32 logits share: values in an order that integers have too, and
// the lists of a slot's sampler. NaN counts as -inf everywhere; that a row has one is seen apart.
#pragma once
#include "common.cuh"

// What was seen of a logits row, each of them once: where a mask hides it, or where the largest
// is looked for. As `Seen` of src/sampling/finite.rs: a row with NaN or +inf, or with nothing above
// -inf, is not finite.
__device__ __forceinline__ u32 seen_of(float x) {
  return (x < INFINITY ? 0 : SEEN_WILD) | (x > -INFINITY ? SEEN_ABOVE : 0);
}
// What all threads of the block saw; all of them call it.
__device__ __forceinline__ u32 seen_by_block(u32 seen) {
  const u32 wild = __syncthreads_or(seen & SEEN_WILD) ? SEEN_WILD : 0;
  return wild | (__syncthreads_or(seen & SEEN_ABOVE) ? SEEN_ABOVE : 0);
}

// Bits of a float in an order that integers have too; NaN counts as -inf, -0 as 0.
__device__ __forceinline__ u32 key_of(float x) {
  x = isnan(x) ? -INFINITY : x + 0.f;
  const u32 bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_key(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// A value with its token, ordered by value, then by lower token. Never 0.
__device__ __forceinline__ u64 ranked(float x, u32 token) {
  return (u64)key_of(x) << 32 | (u32)~token;
}
__device__ __forceinline__ u32 token_of(u64 rank) { return ~(u32)rank; }
__device__ __forceinline__ float value_of(u64 rank) { return of_key((u32)(rank >> 32)); }

__device__ __forceinline__ u64 warp_max(u64 x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x = max(x, __shfl_xor_sync(~0u, x, d));
  return x;
}

// A slot's lists, one behind the other: tokens that min_tokens masks, biases (token, f32 bits), the
// ring of newest outputs (output n is at n % its length), bad words (where their tokens begin, how
// many), their tokens, and the mask of allowed tokens. `sampler_row.rs` writes them.
struct Lists {
  u32* words;
  const SlotHeader* header;
  __device__ Lists(u32* row, const SlotRows& slots) : header(header_of(row)) {
    words = header->lists ? header->lists : row + slots.lists;
  }
  __device__ const u32* masked() const { return words; }
  __device__ const u32* biases() const { return words + header->masked; }
  __device__ u32* tail() const { return words + header->masked + 2 * header->biases; }
  __device__ const u32* bad_words() const { return tail() + header->tail; }
  // Null: every token is allowed.
  __device__ const u32* allowed() const {
    return header->allowed_words == NO_MASK ? nullptr : words + header->allowed_at;
  }
};

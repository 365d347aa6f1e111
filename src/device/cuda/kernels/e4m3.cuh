// Rows of activations as E4M3 for products that round their inputs, and the order of their codes
// where they are to meet a coded matrix (abi_codes.h).
#pragma once
#include "fp8.cuh"

// x / step as the division rounds it, given 1 / step: one step of correction is enough where
// nothing overflows or is smaller than the least normal number.
__device__ __forceinline__ float divide(float x, float step, float inverse) {
  const float quotient = x * inverse;
  return fmaf(fmaf(-quotient, step, x), inverse, quotient);
}

// The step of a row whose largest |x| this is.
__device__ __forceinline__ float e4m3_step(float largest) {
  return fmaxf(largest / 448.f, 1.f / (448.f * 512.f));
}

// Where the codes of inputs k and k + 1 lie in a row of bytes, k even.
__device__ __forceinline__ u32 e4m3_place(u32 k) {
  const u32 step = k % 64 / 16, inside = k % 16;
  return k / 64 * 64 + inside % 8 / 2 * 16 + step * 4 + inside / 8 * 2;
}

// The word of two halves of `low` and `high`, by the numbers of their four halves.
__device__ __forceinline__ u32 halves_of(u32 low, u32 high, u32 first, u32 second) {
  return __byte_perm(low, high, (first * 0x22 + 0x10) | (second * 0x22 + 0x10) << 8);
}

// A thread's 8 bytes of the codes of eight inputs a lane, from input `i` of this one on, given its
// own as pairs: what e4m3_place keeps together is of four neighbours, so each of them takes what
// all four have of one place. All lanes of a warp come here, with inputs one behind the other.
__device__ __forceinline__ uint2 e4m3_piece(const u32 (&pair)[4], u32 i) {
  const u32 lane = i / 8 % 4;
  // Two by two: of a lane and its neighbour the pairs 0 and 2, or 1 and 3.
  const u32 low = pair[0] | pair[1] << 16, high = pair[2] | pair[3] << 16;
  const bool odd = lane % 2 != 0;
  const u32 even_pairs = halves_of(low, high, 0, 2), odd_pairs = halves_of(low, high, 1, 3);
  const u32 own = odd ? odd_pairs : even_pairs;
  const u32 near = __shfl_xor_sync(~0u, odd ? even_pairs : odd_pairs, 1);
  const u32 before = odd ? near : own, behind = odd ? own : near;
  const u32 first = halves_of(before, behind, 0, 2), second = halves_of(before, behind, 1, 3);
  // And of two lanes further.
  const bool upper = lane >= 2;
  const u32 far = __shfl_xor_sync(~0u, upper ? first : second, 2);
  return upper ? make_uint2(far, second) : make_uint2(first, far);
}
// And where they lie in a row of bytes.
__device__ __forceinline__ void put_piece(uint2 piece, u32 i, u8* bytes) {
  *reinterpret_cast<uint2*>(bytes + i / 64 * 64 + i / 8 % 4 * 16 + i % 64 / 32 * 8) = piece;
}

// Eight inputs as pairs of codes.
__device__ __forceinline__ void encode_pairs(const float (&x)[8], float step, float inverse,
                                             u32 (&pair)[4]) {
#pragma unroll
  for (int j = 0; j < 4; j++)
    pair[j] =
        E4m3::encode(divide(x[2 * j], step, inverse), divide(x[2 * j + 1], step, inverse));
}

// Eight of a row's inputs, from input `i` on, 0 behind its end, as products take them that round
// their inputs to E4M3: as `bytes` in the order of codes, up to `padded`, or as activations.
// `fixed` is the step of all rows, or 0: each row has its own. All lanes of a warp come here, with
// inputs one behind the other.
__device__ __forceinline__ void put_rounded(const float (&x)[8], u32 i, u32 width, float fixed,
                                            float step, float inverse, act* codes, u8* bytes,
                                            u32 padded) {
  u32 pair[4];
  if (fixed == 0.f) {
    encode_pairs(x, step, inverse, pair);
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++) pair[j] = E4m3::encode(x[2 * j] * inverse, x[2 * j + 1] * inverse);
  }
  if (bytes) {
    const uint2 piece = e4m3_piece(pair, i);
    if (i < padded) put_piece(piece, i, bytes);
  } else if (i < width) {
    float v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = E4m3::to_f32(pair[j / 2] >> j % 2 * 8 & 255);
    store8(codes + i, v);
  }
}

// The largest of a block's threads; `scratch` are 32 places that nobody else uses until the block
// has met again.
__device__ __forceinline__ float largest_of_block(float most, float* scratch) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = most;
  __syncthreads();
  for (u32 i = 0; i < blockDim.x / 32; i++) most = fmaxf(most, scratch[i]);
  return most;
}

__device__ __forceinline__ float largest_of(const Eight<act>& x) {
  float most = 0.f;
#pragma unroll
  for (int j = 0; j < 8; j++) most = fmaxf(most, fabsf(to_f32(x.v[j])));
  return most;
}

// A row of a block's own, all of it: `bytes` are filled up to `padded`; and the step. Width a
// multiple of 8, aligned to 16 bytes; a block of whole warps. A thread holds its first HELD eights
// of inputs, which are all on their way at once; the others it reads twice.
template <u32 HELD>
__device__ __forceinline__ void round_row(const act* x, u32 width, float fixed, act* codes,
                                          u8* bytes, u32 padded, float* step_of_row) {
  __shared__ float scratch[32];
  const u32 own = threadIdx.x * 8, next = blockDim.x * 8;
  Eight<act> held[HELD == 0 ? 1 : HELD];
#pragma unroll
  for (u32 n = 0; n < HELD; n++) {
    held[n] = {};
    const u32 i = own + n * next;
    if (i < width) held[n] = *reinterpret_cast<const Eight<act>*>(x + i);
  }

  float v[8], most = 0.f;
  if (fixed == 0.f) {
#pragma unroll
    for (u32 n = 0; n < HELD; n++) most = fmaxf(most, largest_of(held[n]));
    for (u32 i = own + HELD * next; i < width; i += next)
      most = fmaxf(most, largest_of(*reinterpret_cast<const Eight<act>*>(x + i)));
    most = largest_of_block(most, scratch);
  }
  const float step = fixed == 0.f ? e4m3_step(most) : fixed, inverse = 1.f / step;
#pragma unroll
  for (u32 n = 0; n < HELD; n++) {
    // The same of all threads.
    if (n * next >= width) break;
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = to_f32(held[n].v[j]);
    put_rounded(v, own + n * next, width, fixed, step, inverse, codes, bytes, padded);
  }
  for (u32 first = HELD * next; first < width; first += next) {
    const u32 i = first + own;
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = 0.f;
    if (i < width) load8(x + i, v);
    put_rounded(v, i, width, fixed, step, inverse, codes, bytes, padded);
  }
  if (threadIdx.x == 0) *step_of_row = step;
}

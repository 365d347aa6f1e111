// What is done to quantised weights and to the inputs of their products, outside of the products:
// codes to their places at load, plain weights into codes and back, inputs rounded row by row. The
// layout is abi_codes.h's. All are bound by bytes: each element is read once and written once;
// `unpack_codes` stands in front of products of many rows and writes into L2 what these read.
#include "activation.cuh"
#include "codes.cuh"

#define FOR_ALL(i, count)                                               \
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (count); \
       i += (u64)gridDim.x * blockDim.x)

// Which inputs the codes of word `word` of a block are: code `i` in the order of its bits.
__device__ __forceinline__ u32 input_of(u32 word, u32 i, bool wide) {
  const u32 lane = word / 4, inside = word % 4;
  if (wide) return inside * 16 + lane * 2 + i / 2 * 8 + i % 2;
  // Nibble i: pair i % 4 of two steps, its first element in the low half of the word.
  const u32 pair = i % 4;
  return (inside * 2 + pair / 2) * 16 + lane * 2 + pair % 2 * 8 + i / 4;
}

__global__ void place_codes(const PlaceCodes a) {
  begin();
  const CodedMatrix& w = a.to;
  const bool wide = block_inputs(w.kind) == 64;
  const u64 words = w.blocks * (u64)(CODE_BLOCK_BYTES / 4);
  FOR_ALL(n, a.rows * words) {
    const u32 row = n / words, word = n % words, block = word / 16;
    const u8* from = a.from + (u64)row * a.from_row_bytes;
    const u32 first = block * block_inputs(w.kind);
    u32 all = 0;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      if (wide && i >= 4) break;
      const u32 k = first + input_of(word % 16, i, wide);
      if (k >= w.inputs) continue;
      if (wide) all |= (u32)from[k] << 8 * i;
      else all |= (u32)(from[k / 2] >> k % 2 * 4 & 15) << 4 * i;
    }
    u8* to = w.rows + (u64)(a.first_row + row) * w.row_bytes + block_at(w, block) + word % 16 * 4;
    *reinterpret_cast<u32*>(to) = all;
  }
}

__global__ void place_scales(const PlaceScales a) {
  begin();
  const CodedMatrix& w = a.to;
  const u32 each = w.blocks * w.scales;
  FOR_ALL(n, (u64)a.rows * each) {
    const u32 row = n / each, at = n % each;
    const u32 place = scale_at(w, at / w.scales, at % w.scales, a.as_zeros);
    u8* to = w.rows + (u64)(a.first_row + row) * w.row_bytes + place;
    *reinterpret_cast<scale_t*>(to) = a.from[n];
  }
}

// Bits that mean nothing, the same on every card. E4M3: of size 2 to 30.
__global__ void dummy_codes(const DummyCodes a) {
  begin();
  const CodedMatrix& w = a.to;
  const u32 words = w.row_bytes / 4;
  FOR_ALL(n, (u64)w.outputs * words) {
    const u32 at = n % words * 4, chunk = at / w.chunk_bytes, inside = at % w.chunk_bytes;
    const bool is_code = inside < chunk_blocks(w, chunk) * CODE_BLOCK_BYTES;
    const bool is_zero = inside >= chunk_blocks(w, chunk) * CODE_BLOCK_BYTES +
                                       scale_bytes(w, chunk_blocks(w, chunk));
    u64 z = (a.seed + n) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    u32 bits = (u32)(z >> 32);
    if (w.kind == CODE_KIND_E4M3) bits = (bits & 0x9f9f9f9f) | 0x40404040;
#if ACT == 0
    const u32 one = 0x3f800000;
#else
    const u32 one = 0x3c003c00;
#endif
    u8* to = w.rows + n / words * w.row_bytes + at;
    *reinterpret_cast<u32*>(to) = is_code ? bits : is_zero ? 0 : one;
  }
}

// Where the largest of a row's block of 128 x 128 lies, for the block of its first inputs. Blocks
// begin anew with each matrix.
__device__ __forceinline__ u32 first_block(u32 row, u32 matrix_rows, u32 inputs) {
  const u32 across = (inputs + SCALE_BLOCK - 1) / SCALE_BLOCK;
  const u32 down = (matrix_rows + SCALE_BLOCK - 1) / SCALE_BLOCK;
  return (row / matrix_rows * down + row % matrix_rows / SCALE_BLOCK) * across;
}

// A block for each row; its part of the row's or the matrix's largest, or of each 128 inputs'.
__global__ void largest_weights(const LargestWeights a) {
  begin();
  const u32 row = blockIdx.x;
  const act* w = a.w + (u64)row * a.inputs;
  const u32 blocks = first_block(row, a.matrix_rows, a.inputs);
  for (u32 first = 0; first < a.inputs; first += blockDim.x) {
    const u32 k = first + threadIdx.x;
    float size = k < a.inputs ? fabsf(to_f32(w[k])) : 0.f;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) size = fmaxf(size, __shfl_xor_sync(~0u, size, d));
    if (threadIdx.x % 32 != 0 || k >= a.inputs) continue;
    const u32 at = a.over == SCALE_OVER_MATRIX ? row / a.matrix_rows
                   : a.over == SCALE_OVER_ROW ? row
                                              : blocks + k / SCALE_BLOCK;
    // Sizes are not negative: their bits are in their order.
    atomicMax(a.largest + at, __float_as_uint(size));
  }
}

__global__ void encode_weights(const EncodeWeights a) {
  begin();
  const CodedMatrix& w = a.to;
  const u32 row = blockIdx.x, blocks = first_block(row, a.matrix_rows, w.inputs);
  const act* from = a.w + (u64)row * w.inputs;
  u8* const to = w.rows + (u64)row * w.row_bytes;
  const auto scale_of = [&](u32 k) {
    if (a.over == SCALE_OVER_MATRIX)
      return __uint_as_float(a.largest[row / a.matrix_rows]) / 448.f;
    if (a.over == SCALE_OVER_ROW)
      return fmaxf(__uint_as_float(a.largest[row]) / 448.f, 1.f / (448.f * 512.f));
    return fmaxf(__uint_as_float(a.largest[blocks + k / SCALE_BLOCK]), 1e-4f) / 448.f;
  };
  for (u32 word = threadIdx.x; word < w.blocks * 16; word += blockDim.x) {
    const u32 block = word / 16, first = block * 64;
    const float scale = scale_of(min(first, w.inputs - 1));
    const float inverse = 1.f / scale;
    u32 all = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const u32 k = first + input_of(word % 16, i, true);
      if (k >= w.inputs || scale == 0.f) continue;
      const float x = to_f32(from[k]);
      all |= E4m3::encode(a.over == SCALE_OVER_ROW ? x / scale : x * inverse) << 8 * i;
    }
    *reinterpret_cast<u32*>(to + block_at(w, block) + word % 16 * 4) = all;
    // Blocks of 64 inputs: two share a scale of 128.
    if (w.scales != 0 && word % 16 == 0)
      *reinterpret_cast<scale_t*>(to + scale_at(w, block, 0, false)) =
          from_f32<scale_t>(scale / a.factor[row]);
  }
  if (w.scales == 0 && threadIdx.x == 0) a.factor[row] = scale_of(0);
}

// The numbers of a word's codes: pairs of neighbours, in the order of a block's steps and halves.
template <CodeKind KIND>
__device__ __forceinline__ void numbers_of(u32 word, const float* table, float (&x)[8]) {
  constexpr bool WIDE = block_inputs(KIND) == 64;
#if ACT == 0
#pragma unroll
  for (u32 i = 0; i < (WIDE ? 4 : 8); i++) {
    const u32 at = WIDE ? i * 8 : i / 2 * 4 + i % 2 * 16;
    x[i] = number_of(word >> at & (WIDE ? 255 : 15), KIND, table);
  }
#else
  u32 pairs[WIDE ? 1 : 2][2];
  Decode<KIND>::word(word, pairs, table);
#pragma unroll
  for (u32 i = 0; i < (WIDE ? 2 : 4); i++) {
    const act* pair = reinterpret_cast<const act*>(&pairs[i / 2][i % 2]);
    x[2 * i] = to_f32(pair[0]), x[2 * i + 1] = to_f32(pair[1]);
  }
#endif
}

// A block of threads unpacks 64 blocks of codes, a thread a lane's 16 bytes of one; through shared
// memory, because a lane's inputs are not neighbours.
template <CodeKind KIND>
__device__ void unpack(const UnpackCodes& a, act* values) {
  constexpr bool WIDE = block_inputs(KIND) == 64;
  constexpr u32 STEPS = WIDE ? 4 : 8, INPUTS = STEPS * 16, PER_WORD = STEPS / 4;
  // 16 bytes more than a multiple of 128: threads of a warp write to places of their own.
  constexpr u32 PITCH = INPUTS + 16 / sizeof(act), EACH = 16 / sizeof(act);
  struct alignas(2 * sizeof(act)) Pair {
    act v[2];
  };
  const CodedMatrix& w = a.from;
  const u32 all = a.rows * w.blocks, first = blockIdx.x * UNPACK_BLOCKS;

  const u32 own = first + threadIdx.x / 4, lane = threadIdx.x % 4;
  if (own < all) {
    const u32 row = own / w.blocks, block = own % w.blocks;
    const u8* from = w.rows + (u64)(a.first_row + row) * w.row_bytes;
    const float factor = w.factor[a.first_row + row];
    const uint4 raw = *reinterpret_cast<const uint4*>(from + block_at(w, block) + lane * 16);
    const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
    act* const to = values + threadIdx.x / 4 * PITCH + lane * 2;
    const u32 span = w.scales == 0 ? STEPS : STEPS / w.scales;  // steps of a group
    float scale = factor, zero = 0.f, x[8];
#pragma unroll
    for (u32 s = 0; s < STEPS; s++) {
      if (w.scales != 0 && s % span == 0) {
        const u8* at = from + scale_at(w, block, s / span, false);
        scale = factor * to_f32(*reinterpret_cast<const scale_t*>(at));
        at = from + scale_at(w, block, s / span, true);
        if (w.zeros) zero = to_f32(*reinterpret_cast<const scale_t*>(at));
      }
      if (s % PER_WORD == 0) numbers_of<KIND>(words[s / PER_WORD], w.table, x);
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        const u32 n = s % PER_WORD * 4 + i * 2;
        const Pair pair = {from_f32<act>(scale * (x[n] + zero)),
                           from_f32<act>(scale * (x[n + 1] + zero))};
        *reinterpret_cast<Pair*>(to + s * 16 + i * 8) = pair;
      }
    }
  }
  __syncthreads();

  constexpr u32 PIECES = INPUTS / EACH;
  for (u32 n = threadIdx.x; n < UNPACK_BLOCKS * PIECES; n += UNPACK_BLOCKS * 4) {
    const u32 block = first + n / PIECES, k = block % w.blocks * INPUTS + n % PIECES * EACH;
    if (block >= all) break;
    act* const to = a.to + (u64)(block / w.blocks) * w.inputs + k;
    const act* piece = values + n / PIECES * PITCH + n % PIECES * EACH;
    if (w.inputs % EACH == 0) {
      if (k < w.inputs)
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(piece);
    } else {
      for (u32 i = 0; i < EACH && k + i < w.inputs; i++) to[i] = piece[i];
    }
  }
}

__global__ void unpack_codes(const __grid_constant__ UnpackCodes a) {
  __shared__ __align__(16) act values[UNPACK_BLOCKS * (128 + 16 / sizeof(act))];
  begin();
  switch (a.from.kind) {
    case CODE_KIND_E4M3:
      return unpack<CODE_KIND_E4M3>(a, values);
    case CODE_KIND_INT8:
      return unpack<CODE_KIND_INT8>(a, values);
    case CODE_KIND_INT4:
      return unpack<CODE_KIND_INT4>(a, values);
    case CODE_KIND_E2M1:
      return unpack<CODE_KIND_E2M1>(a, values);
    default:
      return unpack<CODE_KIND_TABLE>(a, values);
  }
}

// ---- Inputs ----

// A block for each row, of so few registers that it finds a place beside a product's.
__global__ void __launch_bounds__(ROUND_THREADS, 3) round_inputs(const RoundInputs a) {
  begin_ahead();
  const bool to_e4m3_steps =
      a.kind == INPUT_ROUNDING_E4M3_ROW || a.kind == INPUT_ROUNDING_E4M3_TENSOR;
  if (to_e4m3_steps && !a.order && !a.values && a.inputs % 8 == 0) {
    const u64 row = blockIdx.x;
    const float step = a.kind == INPUT_ROUNDING_E4M3_ROW ? 0.f : a.step;
    // Of a row of up to 16384 inputs all are held.
    round_row<4>(a.x + row * a.inputs, a.inputs, step, a.codes ? a.codes + row * a.inputs : 0,
                 a.bytes ? a.bytes + row * a.padded_inputs : 0, a.padded_inputs, a.steps + row);
    return;
  }
  __shared__ float highest[32], lowest[32];
  const u32 row = blockIdx.x;
  const act* x = a.x + (u64)row * a.inputs;
  const auto input = [&](u32 k) { return to_f32(x[a.order ? a.order[k] : k]); };
  float step = a.step, zero = a.zero, factor = 1.f;
  bool same = false;
  const bool by_row = a.kind == INPUT_ROUNDING_E4M3_ROW || a.kind == INPUT_ROUNDING_INT8_ROW ||
                      a.kind == INPUT_ROUNDING_INT8_ROW_WITH_ZERO;
  if (by_row) {
    float high = -INFINITY, low = INFINITY;
    for (u32 k = threadIdx.x; k < a.inputs; k += blockDim.x) {
      const float v = to_f32(x[k]);
      high = fmaxf(high, v);
      low = fminf(low, v);
    }
    high = largest_of_block(high, highest);
    low = -largest_of_block(-low, lowest);
    const float size = fmaxf(high, -low);
    if (a.kind == INPUT_ROUNDING_E4M3_ROW) {
      step = e4m3_step(size);
    } else if (a.kind == INPUT_ROUNDING_INT8_ROW) {
      step = size / 127.f;
      factor = size > 0.f ? 127.f / size : 0.f;
    } else {
      step = (high - low) / 255.f;
      zero = step > 0.f ? rintf(-128.f - low / step) : 0.f;
      factor = step > 0.f ? 1.f / step : 0.f;
      // A row of equal inputs stays as it is.
      same = !(step > 0.f);
      if (same) step = 1.f;
    }
  } else if (step > 0.f) {
    factor = 1.f / step;
  }
  const auto byte_of = [](float v) { return fminf(fmaxf(rintf(v), -128.f), 127.f); };
  const auto number = [&](float v) {
    switch (a.kind) {
      case INPUT_ROUNDING_E4M3_TENSOR:
        return E4m3::to_f32(E4m3::encode(v * factor));
      case INPUT_ROUNDING_E4M3_ROW:
        return E4m3::to_f32(E4m3::encode(v / step));
      case INPUT_ROUNDING_INT8_TENSOR:
        return byte_of(v / step);
      case INPUT_ROUNDING_INT8_ROW:
        return byte_of(v * factor);
      case INPUT_ROUNDING_INT8_TENSOR_WITH_ZERO:
        return fminf(fmaxf(rintf(v * factor) + zero, -128.f), 127.f) - zero;
      case INPUT_ROUNDING_INT8_ROW_WITH_ZERO:
        return same ? v : fminf(fmaxf(rintf(v * factor) + zero, -128.f), 127.f) - zero;
      default:
        return v;
    }
  };
  if (a.kind == INPUT_ROUNDING_E4M3_BLOCK) {
    // Values, rounded to the element type, not their codes: steps differ within a row. First the
    // largest of each 128 inputs, a warp for each; so many rows of blocks at a time.
    __shared__ float largest[ROUND_BLOCKS];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 blocks = (a.inputs + SCALE_BLOCK - 1) / SCALE_BLOCK;
    for (u32 first = 0; first < blocks; first += ROUND_BLOCKS) {
      const u32 last = min(blocks, first + ROUND_BLOCKS);
      for (u32 block = first + warp; block < last; block += blockDim.x / 32) {
        float size = 1e-10f;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const u32 k = block * SCALE_BLOCK + lane + 32 * i;
          if (k < a.inputs) size = fmaxf(size, fabsf(to_f32(x[k])));
        }
#pragma unroll
        for (int d = 16; d > 0; d /= 2) size = fmaxf(size, __shfl_xor_sync(~0u, size, d));
        largest[block - first] = size;
      }
      __syncthreads();
      for (u32 k = threadIdx.x; k < a.inputs; k += blockDim.x) {
        const u32 from = a.order ? a.order[k] : k, block = from / SCALE_BLOCK;
        if (block < first || block >= last) continue;
        const float own = largest[block - first] / 448.f;
        a.codes[(u64)row * a.inputs + k] =
            from_f32<act>(own * E4m3::to_f32(E4m3::encode(to_f32(x[from]) / own)));
      }
      __syncthreads();
    }
    step = 1.f;
  } else if (a.bytes) {
    for (u32 word = threadIdx.x; word < a.padded_inputs / 4; word += blockDim.x) {
      const u32 first = word / 16 * 64;
      u32 all = 0;
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        const u32 k = first + input_of(word % 16, i, true);
        if (k >= a.inputs) continue;
        const float v = input(k);
        all |= E4m3::encode(a.kind == INPUT_ROUNDING_E4M3_ROW ? v / step : v * factor) << 8 * i;
      }
      reinterpret_cast<u32*>(a.bytes)[(u64)row * (a.padded_inputs / 4) + word] = all;
    }
  } else {
    for (u32 k = threadIdx.x; k < a.inputs; k += blockDim.x)
      a.codes[(u64)row * a.inputs + k] = from_f32<act>(number(input(k)) * (a.values ? step : 1.f));
  }
  if (threadIdx.x == 0 && a.steps)
    a.steps[row] = a.kind == INPUT_ROUNDING_NONE ? 1.f : step;
}

// A row of a block's own, of which each thread holds so many times eight outputs: gates and ups are
// read once, and nothing is read again. KIND: the usual activation, without a bias; or
// ACTIVATION_NONE: which it is, and whether, is asked for each element.
template <Activation KIND>
__device__ __forceinline__ void gate_and_round(const GatedRound& a, float* scratch) {
  const bool usual = KIND != ACTIVATION_NONE;
  const u64 row = blockIdx.x;
  const act* const gates = a.x + row * 2 * a.half;
  const float* const bias = usual ? 0 : a.bias;
  const auto column = [&](u32 n) { return (n * blockDim.x + threadIdx.x) * 8; };
  Eight<act> gate[GATED_EIGHTS], up[GATED_EIGHTS];
#pragma unroll
  for (u32 n = 0; n < GATED_EIGHTS; n++) {
    const u32 i = column(n);
    if (i >= a.half) break;
    gate[n] = *reinterpret_cast<const Eight<act>*>(gates + i);
    up[n] = *reinterpret_cast<const Eight<act>*>(gates + a.half + i);
  }

  // The outputs take the gates' places.
  float most = 0.f;
#pragma unroll
  for (u32 n = 0; n < GATED_EIGHTS; n++) {
    const u32 i = column(n);
    if (i >= a.half) break;
#pragma unroll
    for (u32 j = 0; j < 8; j++) {
      const float g = to_f32(gate[n].v[j]) + (bias ? bias[i + j] : 0.f);
      const float u = to_f32(up[n].v[j]) + (bias ? bias[a.half + i + j] : 0.f);
      gate[n].v[j] = from_f32<act>(activate_gated(g, u, usual ? KIND : a.kind));
      most = fmaxf(most, fabsf(to_f32(gate[n].v[j])));
    }
  }

  const float step = e4m3_step(largest_of_block(most, scratch)), inverse = 1.f / step;
  u8* const bytes = a.bytes + row * a.padded_half;
#pragma unroll
  for (u32 n = 0; n < GATED_EIGHTS; n++) {
    // The same of all lanes.
    if (n * blockDim.x * 8 >= a.half) break;
    float v[8];
#pragma unroll
    for (u32 j = 0; j < 8; j++) v[j] = column(n) < a.half ? to_f32(gate[n].v[j]) : 0.f;
    put_rounded(v, column(n), a.half, 0.f, step, inverse, 0, bytes, a.padded_half);
  }
  if (threadIdx.x == 0) a.steps[row] = step;
}

// As gated_act (activation.cu), and of what it would write only the codes. Bytes: gates and ups
// once, half as many codes as there are outputs' bytes.
__global__ void __launch_bounds__(ROUND_THREADS) gated_round(const GatedRound a) {
  __shared__ float scratch[32];
  begin();
  if (a.kind == ACTIVATION_SILU_GATED && !a.bias)
    gate_and_round<ACTIVATION_SILU_GATED>(a, scratch);
  else gate_and_round<ACTIVATION_NONE>(a, scratch);
}

// ---- What follows a product of codes ----

template <int N>
__device__ void scale_in_place(const ScaleAct& a) {
  const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (i >= a.width) return;
  act* p = a.y + (u64)blockIdx.x * a.width + i;
  const float step = a.steps[blockIdx.x];
  float v[8];
  get<N>(p, v);
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float scale = step * (a.factor ? a.factor[i + j] : 1.f);
    v[j] = activate(v[j] * scale + (a.bias ? a.bias[i + j] : 0.f), a.kind);
  }
  put<N>(p, v);
}

__global__ void scale_act(const ScaleAct a) {
  begin();
  if (a.width % 8 == 0) scale_in_place<8>(a);
  else scale_in_place<1>(a);
}

template <int N>
__device__ void scale_and_gate(const ScaleGated& a) {
  const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (i >= a.half) return;
  const act* p = a.x + (u64)blockIdx.x * 2 * a.half + i;
  const float step = a.steps[blockIdx.x];
  const auto value = [&](float sum, u32 at) {
    return sum * step * (a.factor ? a.factor[at] : 1.f) + (a.bias ? a.bias[at] : 0.f);
  };
  float gate[8], up[8];
  get<N>(p, gate);
  get<N>(p + a.half, up);
#pragma unroll
  for (int j = 0; j < N; j++)
    gate[j] = activate_gated(value(gate[j], i + j), value(up[j], a.half + i + j), a.kind);
  put<N>(a.out + (u64)blockIdx.x * a.half + i, gate);
}

__global__ void scale_gated(const ScaleGated a) {
  begin();
  if (a.half % 8 == 0) scale_and_gate<8>(a);
  else scale_and_gate<1>(a);
}

__global__ void scale_logits(const ScaleLogits a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i < a.vocab) a.logits[(u64)blockIdx.x * a.vocab + i] *= a.steps[blockIdx.x];
}

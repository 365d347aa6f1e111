// Ops that only move rows: embed, add_positions, gather, pool. Block per row, 128 threads, 16
// bytes a thread where the width is a multiple of 8 elements. Bytes: each row is read once and
// written once; at decode sizes they live on launch latency.
#include "common.cuh"

// out[r] = table[token[r]] * scale. A token beyond the table gives a row of zeros, never a wild
// read.
extern "C" __global__ void embed(const u32* token, const act* table, u32 table_rows, u32 width,
                                 float scale, act* out) {
  begin();
  const u32 id = token[blockIdx.x];
  const act* from = table + (u64)id * width;
  act* to = out + (u64)blockIdx.x * width;
  const bool known = id < table_rows;
  if (width % 8 == 0) {
    for (u32 i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
      float x[8] = {};
      if (known) load8(from + i, x);
#pragma unroll
      for (int j = 0; j < 8; j++) x[j] *= scale;
      store8(to + i, x);
    }
  } else {
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
      to[i] = from_f32<act>(known ? to_f32(from[i]) * scale : 0.f);
  }
}

// x[r] += table[position[r] + offset]; beyond the table nothing is added.
extern "C" __global__ void add_positions(const u32* position, const act* table, u32 table_rows,
                                         u32 offset, u32 width, act* x) {
  begin();
  const u32 at = position[blockIdx.x] + offset;
  if (at >= table_rows) return;
  const act* from = table + (u64)at * width;
  act* to = x + (u64)blockIdx.x * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x)
    to[i] = from_f32<act>(to_f32(to[i]) + to_f32(from[i]));
}

// out[s] = x[row[s]].
extern "C" __global__ void gather(const u32* row, const act* x, u32 width, act* out) {
  begin();
  const act* from = x + (u64)row[blockIdx.x] * width;
  act* to = out + (u64)blockIdx.x * width;
  if (width % 8 == 0) {
    typedef Eight<act> Chunk;
    for (u32 i = threadIdx.x; i < width / 8; i += blockDim.x)
      reinterpret_cast<Chunk*>(to)[i] = reinterpret_cast<const Chunk*>(from)[i];
  } else {
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
  }
}

// Which rows of a sequence make its vector: the numbers of `pool.rs`.
enum { POOL_FIRST, POOL_LAST, POOL_MEAN };

// out[s] = the rows of the sequence that ends with row[s], pooled. Block per vector and 128
// columns, a thread each, which adds in the order of the rows: the CPU's, so f32 gets its bits.
extern "C" __global__ void pool(const u32* row, const u32* position, const act* x, u32 kind,
                                u32 width, float* out) {
  begin();
  const u32 column = blockIdx.y * blockDim.x + threadIdx.x, end = row[blockIdx.x];
  if (column >= width) return;
  const u32 first = kind == POOL_LAST ? end : end - position[end];
  const u32 last = kind == POOL_FIRST ? first : end;
  float sum = 0.f;
#pragma unroll 8
  for (u32 r = first; r <= last; r++) sum += to_f32(x[(u64)r * width + column]);
  out[(u64)blockIdx.x * width + column] = kind == POOL_MEAN ? sum / (last - first + 1) : sum;
}

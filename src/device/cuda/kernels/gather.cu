// Ops that only move rows: embed, add_positions, gather, pool. Block per row, 128 threads, 16
// bytes a thread where the width is a multiple of 8 elements. Bytes: each row is read once and
// written once; at decode sizes they live on launch latency.
#include "abi_ops.h"

// out[r] = table[token[r] - first] * scale. A token that the table does not have gives a row of
// zeros, never a wild read.
__global__ void embed(const Embed a) {
  begin();
  const u32 id = a.token[blockIdx.x] - a.first, width = a.width;
  const float scale = a.scale;
  const act* from = a.table + (u64)id * width;
  act* to = a.out + (u64)blockIdx.x * width;
  const bool known = id < a.table_rows;
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
__global__ void add_positions(const AddPositions a) {
  begin();
  const u32 at = a.position[blockIdx.x] + a.offset, width = a.width;
  if (at >= a.table_rows) return;
  const act* from = a.table + (u64)at * width;
  act* to = a.x + (u64)blockIdx.x * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x)
    to[i] = from_f32<act>(to_f32(to[i]) + to_f32(from[i]));
}

// out[s] = x[row[s]].
__global__ void gather(const Gather a) {
  begin();
  const u32 width = a.width;
  const act* from = a.x + (u64)a.row[blockIdx.x] * width;
  act* to = a.out + (u64)blockIdx.x * width;
  if (width % 8 == 0) {
    typedef Eight<act> Chunk;
    for (u32 i = threadIdx.x; i < width / 8; i += blockDim.x)
      reinterpret_cast<Chunk*>(to)[i] = reinterpret_cast<const Chunk*>(from)[i];
  } else {
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
  }
}

// out[s] = the rows of the sequence that ends with row[s], pooled. Block per vector and 128
// columns, a thread each, which adds in the order of the rows: the CPU's, so f32 gets its bits.
__global__ void pool(const Pool a) {
  begin();
  const u32 column = blockIdx.y * blockDim.x + threadIdx.x, end = a.row[blockIdx.x];
  if (column >= a.width) return;
  const u32 first = a.kind == POOLING_LAST ? end : end - a.position[end];
  const u32 last = a.kind == POOLING_FIRST ? first : end;
  float sum = 0.f;
#pragma unroll 8
  for (u32 r = first; r <= last; r++) sum += to_f32(a.x[(u64)r * a.width + column]);
  a.out[(u64)blockIdx.x * a.width + column] =
      a.kind == POOLING_MEAN ? sum / (last - first + 1) : sum;
}

// The GEMM of last resort, for shapes that cuBLASLt has no algorithm for (odd widths of half
// types): y[r, n] = sum_k x[r, k] w[n, k], f32 accumulation, 16 x 16 tiles, one thread per output.
// Right for any shape, at a few per cent of the peak; models that anybody serves never come here.
#include "abi_ops.h"

#define TILE GEMM_TILE

template <class Out>
__device__ void gemm(const PlainGemm& a) {
  const u32 rows = a.rows, outputs = a.outputs, inputs = a.inputs;
  __shared__ float xs[TILE][TILE + 1], ws[TILE][TILE + 1];
  const u32 tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
  const u32 r = blockIdx.y * TILE + ty, n = blockIdx.x * TILE + tx, wn = blockIdx.x * TILE + ty;
  float sum = 0.f;
  for (u32 k = 0; k < inputs; k += TILE) {
    const bool inside = k + tx < inputs;
    xs[ty][tx] = inside && r < rows ? to_f32(a.x[(u64)r * inputs + k + tx]) : 0.f;
    ws[ty][tx] = inside && wn < outputs ? to_f32(a.w[(u64)wn * inputs + k + tx]) : 0.f;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < TILE; j++) sum += xs[ty][j] * ws[tx][j];
    __syncthreads();
  }
  if (r < rows && n < outputs)
    reinterpret_cast<Out*>(a.y)[(u64)r * a.stride + n] = from_f32<Out>(sum);
}

__global__ void gemm_plain(const PlainGemm a) {
  begin();
  gemm<act>(a);
}
__global__ void gemm_logits(const PlainGemm a) {
  begin();
  gemm<float>(a);
}

// Reads `count` words and keeps none: what was in L2 before is gone after. For timing GEMMs as a
// step sees them, whose weights come from device memory.
__global__ void flush(const Flush a) {
  begin();
  u32 sum = 0;
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < a.count;
       i += (u64)gridDim.x * blockDim.x)
    sum ^= a.words[i];
  if (sum == 0x9e3779b9u) *a.never = sum;
}

// The GEMM of last resort, for shapes that cuBLASLt has no algorithm for (odd widths of half
// types): y[r, n] = sum_k x[r, k] w[n, k], f32 accumulation, 16 x 16 tiles, one thread per output.
// Right for any shape, at a few per cent of the peak; models that anybody serves never come here.
#include "common.cuh"

#define TILE 16

template <class Out>
__device__ void gemm(const act* x, const act* w, u32 rows, u32 outputs, u32 inputs, Out* y) {
  __shared__ float xs[TILE][TILE + 1], ws[TILE][TILE + 1];
  const u32 tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
  const u32 r = blockIdx.y * TILE + ty, n = blockIdx.x * TILE + tx, wn = blockIdx.x * TILE + ty;
  float sum = 0.f;
  for (u32 k = 0; k < inputs; k += TILE) {
    const bool inside = k + tx < inputs;
    xs[ty][tx] = inside && r < rows ? to_f32(x[(u64)r * inputs + k + tx]) : 0.f;
    ws[ty][tx] = inside && wn < outputs ? to_f32(w[(u64)wn * inputs + k + tx]) : 0.f;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < TILE; j++) sum += xs[ty][j] * ws[tx][j];
    __syncthreads();
  }
  if (r < rows && n < outputs) y[(u64)r * outputs + n] = from_f32<Out>(sum);
}

extern "C" __global__ void gemm_plain(const act* x, const act* w, u32 rows, u32 outputs, u32 inputs,
                                      act* y) {
  begin();
  gemm(x, w, rows, outputs, inputs, y);
}
extern "C" __global__ void gemm_logits(const act* x, const act* w, u32 rows, u32 outputs,
                                       u32 inputs, float* y) {
  begin();
  gemm(x, w, rows, outputs, inputs, y);
}

// Reads `count` words and keeps none: what was in L2 before is gone after. For timing GEMMs as a
// step sees them, whose weights come from device memory.
extern "C" __global__ void flush(const u32* words, u64 count, u32* never) {
  begin();
  u32 sum = 0;
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count;
       i += (u64)gridDim.x * blockDim.x)
    sum ^= words[i];
  if (sum == 0x9e3779b9u) *never = sum;
}

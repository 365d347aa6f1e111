// What follows a GEMM: bias, activation, the product of gate and up, clamp, the soft cap of logits.
// Elementwise over [rows, width] with one thread per eight columns (one where the width is odd),
// grid (rows, columns). Bytes: plain reads and writes once, gated reads 2 and writes 1. Few rows
// have it folded into gemm_small_m.cu; for many the launch is small beside the GEMM.
#include "abi_ops.h"
#include "activation.cuh"

template <int N>
__device__ void in_place(act* x, const float* bias, u32 width, Activation kind) {
  const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (i >= width) return;
  act* p = x + (u64)blockIdx.x * width + i;
  float v[8];
  get<N>(p, v);
#pragma unroll
  for (int j = 0; j < N; j++) v[j] = activate(v[j] + (bias ? bias[i + j] : 0.f), kind);
  put<N>(p, v);
}

// x = act(x + bias), in place; bias may be null.
__global__ void bias_act(const BiasAct a) {
  begin();
  if (a.width % 8 == 0) in_place<8>(a.x, a.bias, a.width, a.kind);
  else in_place<1>(a.x, a.bias, a.width, a.kind);
}

// KIND: the usual one, without a bias; or ACTIVATION_NONE: which it is, and whether, is asked for
// each element.
template <int N, Activation KIND>
__device__ void gated(const GatedAct& a) {
  const bool usual = KIND != ACTIVATION_NONE;
  const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (i >= a.half) return;
  const act* p = a.x + (u64)blockIdx.x * 2 * a.half + i;
  const float* const bias = usual ? 0 : a.bias;
  float gate[8], up[8];
  get<N>(p, gate);
  get<N>(p + a.half, up);
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float g = gate[j] + (bias ? bias[i + j] : 0.f);
    const float u = up[j] + (bias ? bias[a.half + i + j] : 0.f);
    gate[j] = activate_gated(g, u, usual ? KIND : a.kind);
  }
  put<N>(a.out + (u64)blockIdx.x * a.half + i, gate);
}

// [rows, 2 half] (gates, then ups) -> [rows, half].
__global__ void gated_act(const GatedAct a) {
  begin();
  if (a.half % 8 != 0) gated<1, ACTIVATION_NONE>(a);
  else if (a.kind == ACTIVATION_SILU_GATED && !a.bias) gated<8, ACTIVATION_SILU_GATED>(a);
  else gated<8, ACTIVATION_NONE>(a);
}

// x = min(max(x, -limit), limit), in place, an element for each thread: reads and writes once.
__global__ void clamp(const Clamp a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  act* p = a.x + (u64)blockIdx.x * a.width + i;
  float v[8];
  get<1>(p, v);
  // A NaN stays one.
  v[0] = v[0] > a.limit ? a.limit : v[0] < -a.limit ? -a.limit : v[0];
  put<1>(p, v);
}

// In place, an element for each thread: reads and writes once.
__global__ void xielu(const Xielu a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  act* p = a.x + (u64)blockIdx.x * a.width + i;
  float v[8];
  get<1>(p, v);
  const float x = v[0];
  v[0] = x > 0.f ? (a.positive * x + a.linear) * x
                 : a.negative * (expm1f(fminf(x, a.limit)) - x) + a.linear * x;
  put<1>(p, v);
}

// logits = cap * tanh(logits / cap), f32.
__global__ void softcap(const Softcap a) {
  begin();
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < a.count;
       i += (u64)gridDim.x * blockDim.x)
    a.logits[i] = a.cap * tanhf(a.logits[i] / a.cap);
}

__global__ void bias_logits(const BiasLogits a) {
  begin();
  float* row = a.logits + (u64)blockIdx.x * a.vocab;
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i < a.vocab) row[i] += a.bias[i];
}

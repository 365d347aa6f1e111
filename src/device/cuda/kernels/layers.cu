// What some layers do beside the usual (device/attention.rs, dense.rs, experts.rs): a product makes
// k and v at once, a residual is scaled, experts have weights of their own or weight their inputs.
// All of it reads and writes each element once; it is small beside the products around it.
//
// An element for each thread, grid (rows, columns); scale_routes has a thread for each choice.
#include "abi_layers.h"
#include "common.cuh"

__global__ void values_of_keys(const ValuesOfKeys a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x, width = a.q_width + a.k_width;
  if (i >= width) return;
  const act x = a.qk[(u64)blockIdx.x * width + i];
  act* to = a.qkv + (u64)blockIdx.x * (width + a.k_width);
  to[i] = x;
  if (i >= a.q_width) to[i + a.k_width] = x;
}

__global__ void scale_rows(const ScaleRows a) {
  begin();
  const u32 i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  act* p = a.x + (u64)blockIdx.x * a.width + i;
  *p = from_f32<act>(to_f32(*p) * a.factor);
}

__global__ void scale_routes(const ScaleRoutes a) {
  begin();
  const u32 n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= a.rows * a.top_k) return;
  float* number = a.routes + (u64)(n / a.top_k) * 2 * a.top_k + n % a.top_k;
  number[a.top_k] *= a.scales[(u32)*number];
}

// A block has a whole row, so that nobody reads the weight behind its change.
__global__ void weigh_inputs(const WeighInputs a) {
  begin();
  float* weight = a.routes + (u64)blockIdx.x * 2 + 1;
  const float factor = *weight;
  const u64 row = (u64)blockIdx.x * a.width;
  for (u32 i = threadIdx.x; i < a.width; i += blockDim.x)
    a.out[row + i] = from_f32<act>(factor * to_f32(a.x[row + i]));
  __syncthreads();
  if (threadIdx.x == 0) *weight = 1.f;
}

// The activations, for the kernels that apply them: activation.cu after a GEMM, others in one.
#pragma once

// As Activation in device/mod.rs; NONE = only the bias.
enum { RELU, GELU, GELU_TANH, SILU, SILU_GATED, GELU_TANH_GATED, NONE };

__device__ __forceinline__ float activate(float x, int kind) {
  switch (kind) {
    case RELU:
      return fmaxf(x, 0.f);
    case GELU:
      return 0.5f * x * (1.f + erff(x * 0.70710678f));
    case GELU_TANH:
    case GELU_TANH_GATED: {
      // x/2 (1 + tanh u) = x / (1 + e^-2u)
      const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
      return x / (1.f + expf(-2.f * u));
    }
    case SILU:
    case SILU_GATED:
      return x / (1.f + expf(-x));
    default:
      return x;
  }
}

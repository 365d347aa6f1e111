// The activations, for the kernels that apply them: activation.cu after a GEMM, others in one.
#pragma once
#include "abi_ops.h"

__device__ __forceinline__ float activate(float x, Activation kind) {
  switch (kind) {
    case ACTIVATION_RELU:
      return fmaxf(x, 0.f);
    case ACTIVATION_RELU_SQUARED:
      return fmaxf(x, 0.f) * fmaxf(x, 0.f);
    case ACTIVATION_GELU:
      return 0.5f * x * (1.f + erff(x * 0.70710678f));
    case ACTIVATION_GELU_TANH:
    case ACTIVATION_GELU_TANH_GATED: {
      // x/2 (1 + tanh u) = x / (1 + e^-2u)
      const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
      return x / (1.f + expf(-2.f * u));
    }
    case ACTIVATION_SILU:
    case ACTIVATION_SILU_GATED:
      return x / (1.f + expf(-x));
    default:
      return x;
  }
}

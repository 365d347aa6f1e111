// The activations, for the kernels that apply them: activation.cu after a GEMM, others in one.
#pragma once
#include "abi_ops.h"

// What gates and ups of ACTIVATION_SWIGLU_OAI are clamped to.
#define OAI_LIMIT 7.f

// e^x and a / b; of half types, whose rounding covers it, by the card's approximations: an
// activation behind a product of many rows takes longer to compute than its bytes to come.
#if ACT == 0
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ float quotient(float a, float b) { return a / b; }
#else
__device__ __forceinline__ float exponential(float x) { return __expf(x); }
__device__ __forceinline__ float quotient(float a, float b) { return __fdividef(a, b); }
#endif

__device__ __forceinline__ float activate(float x, Activation kind) {
  switch (kind) {
    case ACTIVATION_RELU:
      return fmaxf(x, 0.f);
    case ACTIVATION_RELU_SQUARED:
      return fmaxf(x, 0.f) * fmaxf(x, 0.f);
    case ACTIVATION_GELU:
    case ACTIVATION_GELU_GATED:
      return 0.5f * x * (1.f + erff(x * 0.70710678f));
    case ACTIVATION_GELU_TANH:
    case ACTIVATION_GELU_TANH_GATED: {
      // x/2 (1 + tanh u) = x / (1 + e^-2u)
      const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
      return quotient(x, 1.f + exponential(-2.f * u));
    }
    case ACTIVATION_SILU:
    case ACTIVATION_SILU_GATED:
      return quotient(x, 1.f + exponential(-x));
    case ACTIVATION_QUICK_GELU:
      return quotient(x, 1.f + exponential(-1.702f * x));
    case ACTIVATION_SWIGLU_OAI: {
      // A NaN stays one.
      const float y = x > OAI_LIMIT ? OAI_LIMIT : x;
      return quotient(y, 1.f + exponential(-1.702f * y));
    }
    default:
      return x;
  }
}

// act(gate) * up, as the activation has it.
__device__ __forceinline__ float activate_gated(float gate, float up, Activation kind) {
  if (kind == ACTIVATION_SWIGLU_OAI)
    up = (up > OAI_LIMIT ? OAI_LIMIT : up < -OAI_LIMIT ? -OAI_LIMIT : up) + 1.f;
  return activate(gate, kind) * up;
}

// The parameters of kernels for layers that differ from the usual (layers.cu): k that is v too,
// scaled residuals, and weights of experts. abi.h says what holds for all of it.
#pragma once
#include "abi_ops.h"

constexpr u32 LAYER_THREADS = 128;

// q|k to q|k|v: v is k.
struct ValuesOfKeys {
  DEVICE(const act) qk;  // [rows, q_width + k_width]
  DEVICE(act) qkv;  // [rows, q_width + 2 k_width]
  u32 q_width, k_width;
};

// x *= factor
struct ScaleRows {
  DEVICE(act) x;  // [rows, width]
  u32 width;
  float factor;
};

// A route's weight times its expert's.
struct ScaleRoutes {
  DEVICE(const float) scales;  // [experts]
  DEVICE(float) routes;  // [rows, 2 top_k]: numbers, then weights
  u32 rows, top_k;
};

// out = weight * x, of routes of one choice each; the weight becomes 1.
struct WeighInputs {
  DEVICE(float) routes;  // [rows, 2]
  DEVICE(const act) x;  // [rows, width]
  DEVICE(act) out;  // [rows, width]
  u32 width;
  u32 unused;
};

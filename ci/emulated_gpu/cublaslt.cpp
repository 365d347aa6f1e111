// The functions of cuBLASLt that src/device/cuda/gemm.rs uses, for an emulated GPU: y = w^T x in
// column-major order, f32, f16 and bf16, as a library before 12.9 on a card before 8.9 has it.
#include "driver.h"

namespace {

const int NOT_SUPPORTED = 15, INVALID_VALUE = 7;
// CUBLASLT_MATMUL_DESC_A_SCALE_MODE and B_SCALE_MODE.
const int SCALE_MODES[] = {31, 32};
// cudaDataType.
const int F32 = 0, F16 = 2, BF16 = 14;

struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t distance;
};

// cublasLtMatmulHeuristicResult_t.
struct Found {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

bool has(const Layout* w) { return w->type == F32 || w->type == F16 || w->type == BF16; }

float read(const void* from, int type, uint64_t i) {
  if (type == F32) return ((const float*)from)[i];
  const uint16_t x = ((const uint16_t*)from)[i];
  return type == F16 ? f32_of_f16(x) : f32_of_bf16(x);
}
void write(void* to, int type, uint64_t i, float x) {
  if (type == F32) ((float*)to)[i] = x;
  else ((uint16_t*)to)[i] = type == F16 ? f16_of_f32(x) : bf16_of_f32(x);
}

std::vector<float> columns_of(const Layout& layout, const void* from) {
  std::vector<float> all(layout.rows * layout.columns);
  for (uint64_t column = 0; column < layout.columns; column++)
    for (uint64_t row = 0; row < layout.rows; row++)
      all[column * layout.rows + row] = read(from, layout.type, column * layout.distance + row);
  return all;
}

void multiply(const Layout& w_layout, const void* w, const Layout& x_layout, const void* x,
              const Layout& y_layout, void* y) {
  const std::vector<float> ws = columns_of(w_layout, w), xs = columns_of(x_layout, x);
  const uint64_t inner = w_layout.rows;
  for (uint64_t output = 0; output < w_layout.columns; output++)
    for (uint64_t row = 0; row < x_layout.columns; row++) {
      float sum = 0;
      for (uint64_t k = 0; k < inner; k++) sum += ws[output * inner + k] * xs[row * inner + k];
      write(y, y_layout.type, row * y_layout.distance + output, sum);
    }
}

int make(void** handle) {
  *handle = new char;
  return 0;
}
int destroy(void* handle) {
  delete (char*)handle;
  return 0;
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return 0; }
int cublasLtCreate(void** handle) { return make(handle); }
int cublasLtDestroy(void* handle) { return destroy(handle); }
int cublasLtMatmulDescCreate(void** descriptor, int, int) { return make(descriptor); }
int cublasLtMatmulDescDestroy(void* descriptor) { return destroy(descriptor); }
int cublasLtMatmulDescSetAttribute(void*, int attribute, const void*, size_t) {
  for (int mode : SCALE_MODES)
    if (attribute == mode) return INVALID_VALUE;
  return 0;
}
int cublasLtMatmulPreferenceCreate(void** preference) { return make(preference); }
int cublasLtMatmulPreferenceDestroy(void* preference) { return destroy(preference); }
int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return 0; }

int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns,
                               int64_t distance) {
  *layout = new Layout{type, rows, columns, distance};
  return 0;
}
int cublasLtMatrixLayoutDestroy(Layout* layout) {
  delete layout;
  return 0;
}

int cublasLtMatmulAlgoCheck(void*, void*, const Layout* w, const Layout*, const Layout*,
                            const Layout*, const void*, Found* found) {
  *found = Found{};
  return has(w) ? 0 : NOT_SUPPORTED;
}
int cublasLtMatmulAlgoGetHeuristic(void*, void*, const Layout* w, const Layout*, const Layout*,
                                   const Layout*, void*, int, Found* found, int* count) {
  *count = has(w);
  *found = Found{};
  return has(w) ? 0 : NOT_SUPPORTED;
}
int cublasLtMatmul(void*, void*, const void*, const void* w, const Layout* w_layout, const void* x,
                   const Layout* x_layout, const void*, const void*, const Layout*, void* y,
                   const Layout* y_layout, const void*, void*, size_t, Stream* stream) {
  const Layout ws = *w_layout, xs = *x_layout, ys = *y_layout;
  enqueue(stream, [=] { multiply(ws, w, xs, x, ys, y); });
  return 0;
}
}

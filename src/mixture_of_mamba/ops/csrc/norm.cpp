// RMS norm over rows, forward and backward; the backward also adds the residual's gradient.
#include "workspace.h"

// Mirrored in ops/mamba_block/norm.py; every field is eight bytes. Rows are contiguous.
struct NormCall {
  int64_t rows, d, bf16, threads;
  double eps;
  const void* x;
  const float* weight;
  void* y;           // forward: normed x; backward in: gradient of y
  float* scale;      // (rows,) 1 / rms, written by the forward
  const void* skip;  // backward: gradient that is added to dx
  void* dx;
  float* dweight;
  double* partials;  // (NORM_TASKS, padded d)
};

namespace mom {
namespace {

constexpr int NORM_TASKS = 16;  // slices of rows; fixed, so that sums do not depend on the threads
constexpr int RECENT_ROWS = 16;  // rows whose dweight is summed in float32 before it joins a float64

template <typename T>
void forward_rows(const NormCall& c, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const T* x = static_cast<const T*>(c.x) + row * c.d;
    T* y = static_cast<T*>(c.y) + row * c.d;
    vf squares = vf{};
    for (int64_t i = 0; i < c.d; i += W) {
      const vf v = load(x + i, lanes_at(c.d, i));
      squares += v * v;
    }
    const float scale = 1.0f / __builtin_sqrtf(lane_sum(squares) / float(c.d) + float(c.eps));
    c.scale[row] = scale;
    for (int64_t i = 0; i < c.d; i += W) {
      const int lanes = lanes_at(c.d, i);
      store(y + i, load(x + i, lanes) * scale * load(c.weight + i, lanes), lanes);
    }
  }
}

// y = x s w with s = (mean(x^2) + eps)^-1/2, hence dx = s (g w - x s mean(g w x s)) for g = dy.
template <typename T>
void backward_rows(const NormCall& c, int64_t first, int64_t last, double* total, float* sums) {
  const int64_t padded = ceil_div(c.d, W) * W;
  std::memset(sums, 0, padded * sizeof(float));
  for (int64_t i = 0; i < padded; ++i) total[i] = 0.0;
  for (int64_t row = first; row < last; ++row) {
    const T* x = static_cast<const T*>(c.x) + row * c.d;
    const T* g = static_cast<const T*>(c.y) + row * c.d;
    const T* skip = static_cast<const T*>(c.skip) + row * c.d;
    T* dx = static_cast<T*>(c.dx) + row * c.d;
    const float scale = c.scale[row];
    vf product = vf{};
    for (int64_t i = 0; i < c.d; i += W) {
      const int lanes = lanes_at(c.d, i);
      const vf unit = load(x + i, lanes) * scale, dy = load(g + i, lanes);
      product += dy * load(c.weight + i, lanes) * unit;
      store(sums + i, load(sums + i) + dy * unit);
    }
    const float mean = lane_sum(product) / float(c.d);
    for (int64_t i = 0; i < c.d; i += W) {
      const int lanes = lanes_at(c.d, i);
      const vf unit = load(x + i, lanes) * scale;
      const vf inner = load(g + i, lanes) * load(c.weight + i, lanes) - unit * mean;
      store(dx + i, inner * scale + load(skip + i, lanes), lanes);
    }
    if ((row - first) % RECENT_ROWS == RECENT_ROWS - 1 || row == last - 1)
      for (int64_t i = 0; i < padded; ++i) total[i] += sums[i], sums[i] = 0.0f;
  }
}

}  // namespace
}  // namespace mom

extern "C" int mom_norm_forward(const NormCall* call) {
  using namespace mom;
  const NormCall& c = *call;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(c.threads)) if (c.threads > 1)
  for (int i = 0; i < NORM_TASKS; ++i) {
    const int64_t first = c.rows * i / NORM_TASKS, last = c.rows * (i + 1) / NORM_TASKS;
    c.bf16 ? forward_rows<bf16>(c, first, last) : forward_rows<float>(c, first, last);
  }
  return 0;
}

extern "C" int mom_norm_backward(const NormCall* call) {
  using namespace mom;
  const NormCall& c = *call;
  const int64_t padded = ceil_div(c.d, W) * W;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(c.threads)) if (c.threads > 1)
  for (int i = 0; i < NORM_TASKS; ++i) {
    static thread_local Workspace workspace;
    float* sums = workspace.get<float>(padded);
    double* total = c.partials + i * padded;
    const int64_t first = c.rows * i / NORM_TASKS, last = c.rows * (i + 1) / NORM_TASKS;
    c.bf16 ? backward_rows<bf16>(c, first, last, total, sums)
           : backward_rows<float>(c, first, last, total, sums);
  }
  for (int64_t j = 0; j < c.d; ++j) {
    double sum = 0.0;
    for (int i = 0; i < NORM_TASKS; ++i) sum += c.partials[i * padded + j];
    c.dweight[j] = float(sum);
  }
  return 0;
}

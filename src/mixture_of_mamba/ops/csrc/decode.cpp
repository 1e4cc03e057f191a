// One decode step: one token of every sequence through all blocks, the final norm and the head.
//
// With few sequences the time is that of reading the weights once, so they may be bfloat16, or int8 with
// one scale per row; activations, sums and states are float32. Each output is computed by one thread in a fixed
// order, so results do not depend on the number of threads.
#include "amx_gemm.h"

#if defined(_OPENMP)
extern "C" int omp_get_thread_num(void);
extern "C" int omp_get_num_threads(void);
#endif

// Mirrored in ops/decode_step/call.py; every field is eight bytes.
struct DecodeLayer {
  const float* norm;  // (d_model)
  Matrix in_proj, x_proj, dt_proj, out_proj;
  const float *taps, *conv_bias;  // (k, d), oldest tap first; (d)
  const float *A2, *D;            // (d, n) decay rate * log2(e); (d)
  float *conv, *ssm;              // states (batch, k-1, d) oldest first, (batch, d, n): updated
};
struct DecodeCall {
  int64_t layers, batch, d_model, d, n, k, modalities, format, threads;  // format 0 f32, 1 bf16, 2 int8
  double eps;
  const DecodeLayer* layer;
  float* x;                 // (batch, d_model) residual stream, overwritten
  const int32_t* modality;  // (batch)
  const float* final_norm;  // (d_model), or null: stop after the last block
  Matrix head;              // (1, v, d_model); weight null: no logits
  float *hidden, *logits;   // (batch, d_model) normed, (batch, v)
  // batch * (5 d + rank + 2 n) + threads * (batch * d_model + P) + 16, where P is batch, rounded up to a
  // multiple of 16, times max(d, d_model, rank), rounded up to a multiple of 32
  float* scratch;
};

namespace mom {
namespace {

// Indices of all sequences, and those of modality m at start[m]..start[m + 1]-1 of `by_modality`.
struct Groups {
  std::vector<int32_t> all, by_modality, start;
  explicit Groups(const DecodeCall& c) : start(c.modalities + 1, 0) {
    for (int32_t i = 0; i < c.batch; ++i) all.push_back(i);
    for (int64_t m = 0; m < c.modalities; ++m) {
      for (int32_t i = 0; i < c.batch; ++i)
        if (c.modality[i] == m) by_modality.push_back(i);
      start[m + 1] = int32_t(by_modality.size());
    }
  }
};

// The part of one thread. It computes a range of channels in in_proj, convolution, dt_proj and scan, so
// that there are only four barriers per layer.
struct Worker {
  const DecodeCall& c;
  const Groups& groups;
  int64_t thread_id, threads;
  float* panels;  // of this thread, for packed inputs
  const bool amx = amx_granted();
  int64_t blocks = ceil_div(c.d, W);
  int64_t first_channel = share(blocks, thread_id) * W;
  int64_t end_channel = share(blocks, thread_id + 1) * W < c.d ? share(blocks, thread_id + 1) * W : c.d;

  // The first of `total` items that belong to a thread.
  int64_t share(int64_t total, int64_t thread) const { return total * thread / threads; }

  // The rows of a product in ranges [first, last).
  template <typename T>
  void project(const Matrix& m, const float* x, int64_t x_stride, float* y, int64_t y_stride,
               std::initializer_list<std::pair<int64_t, int64_t>> ranges, bool add) const {
    for (int64_t e = 0; e < m.experts; ++e) {
      const bool all = m.experts == 1;
      const int32_t* sequences =
          all ? groups.all.data() : groups.by_modality.data() + groups.start[e];
      const int n = all ? int(c.batch) : groups.start[e + 1] - groups.start[e];
      if (!n) continue;
      const Product p{m, e, x, x_stride, y, y_stride, sequences, n, add};
      if (!std::is_same_v<T, float> && amx && n >= AMX_MIN_SEQUENCES) {
        [[maybe_unused]] const AmxTiles configured;
        pack_tiles(p, panels);
        for (const auto& [first, last] : ranges) amx_gemm<T>(p, panels, first, last);
      } else if (n >= GEMM_MIN_SEQUENCES) {
        pack_panels(p, panels);
        for (const auto& [first, last] : ranges) gemm<T>(p, panels, first, last);
      } else {
        for (const auto& [first, last] : ranges) gemv<T>(p, first, last);
      }
    }
  }
  void project(const Matrix& m, const float* x, int64_t x_stride, float* y, int64_t y_stride,
               std::initializer_list<std::pair<int64_t, int64_t>> ranges, bool add = false) const {
    if (c.format == 0) project<float>(m, x, x_stride, y, y_stride, ranges, add);
    if (c.format == 1) project<bf16>(m, x, x_stride, y, y_stride, ranges, add);
    if (c.format == 2) project<int8_t>(m, x, x_stride, y, y_stride, ranges, add);
  }

  // This thread's share of all rows of a product.
  void project(const Matrix& m, const float* x, int64_t x_stride, float* y, int64_t y_stride,
               bool add = false) const {
    const int64_t eights = ceil_div(m.out, 8);
    const int64_t first = share(eights, thread_id) * 8, end = share(eights, thread_id + 1) * 8;
    project(m, x, x_stride, y, y_stride, {{first, end < m.out ? end : m.out}}, add);
  }

  // Each thread computes the norm of all rows: cheaper than a barrier.
  void norm(const float* x, const float* weight, float* y) const {
    for (int64_t b = 0; b < c.batch; ++b) {
      const float* from = x + b * c.d_model;
      float* to = y + b * c.d_model;
      vf squares = vf{};
      for (int64_t i = 0; i < c.d_model; i += W) {
        const vf v = load(from + i, lanes_at(c.d_model, i));
        squares += v * v;
      }
      const float scale =
          1.0f / __builtin_sqrtf(lane_sum(squares) / float(c.d_model) + float(c.eps));
      for (int64_t i = 0; i < c.d_model; ++i) to[i] = from[i] * scale * weight[i];
    }
  }

  // Convolution with SiLU of the first half of xz; its state is advanced by one input.
  void convolve(const DecodeLayer& l, const float* xz, float* u) const {
    const int64_t k = c.k;
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t channel = first_channel; channel < end_channel; channel += W) {
        const int lanes = lanes_at(c.d, channel);
        float* window = l.conv + b * (k - 1) * c.d + channel;
        const vf now = load(xz + b * 2 * c.d + channel, lanes);
        vf sum = l.conv_bias ? load(l.conv_bias + channel, lanes) : vf{};
        sum += now * load(l.taps + (k - 1) * c.d + channel, lanes);
        for (int64_t j = 0; j < k - 1; ++j) {
          const vf old = load(window + j * c.d, lanes);
          sum += old * load(l.taps + j * c.d + channel, lanes);
          if (j) store(window + (j - 1) * c.d, old, lanes);
        }
        if (k > 1) store(window + (k - 2) * c.d, now, lanes);
        store(u + b * c.d + channel, silu(sum), lanes);
      }
  }

  // One step of the scan with skip connection and gate; lanes are channels for delta, states for h.
  void scan(const DecodeLayer& l, const float* xz, const float* u, const float* maps, float* delta,
            float* y) const {
    const int64_t rank = l.dt_proj.in, width = l.x_proj.out;
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t channel = first_channel; channel < end_channel; channel += W) {
        const int lanes = lanes_at(c.d, channel);
        vf step = load(delta + b * c.d + channel, lanes), slope;
        softplus(step, step, slope);
        const vf in = load(u + b * c.d + channel, lanes);
        const vf z = load(xz + b * 2 * c.d + c.d + channel, lanes);
        const float *B = maps + b * width + rank, *C = B + c.n;
        float steps[W], inputs[W];
        store(steps, step);
        store(inputs, step * in);
        vf products[W] = {};  // of channel i, lanes are states; summed by lane_sums
        for (int lane = 0; lane < lanes; ++lane) {
          float* h = l.ssm + (b * c.d + channel + lane) * c.n;
          const float* A2 = l.A2 + (channel + lane) * c.n;
          for (int64_t n = 0; n < c.n; n += W) {
            const int states = lanes_at(c.n, n);
            const vf decay = exp2_product(splat(steps[lane]), load(A2 + n, states));
            const vf next = decay * load(h + n, states) + inputs[lane] * load(B + n, states);
            store(h + n, next, states);
            const vf product = next * load(C + n, states);
            // lanes beyond the states are NaN if the step is infinite
            products[lane] += states < W ? first_lanes(product, states) : product;
          }
        }
        const vf sum = lane_sums(products) + load(l.D + channel, lanes) * in;
        store(y + b * c.d + channel, sum * silu(z), lanes);
      }
  }
};

}  // namespace
}  // namespace mom

extern "C" int mom_decode_step(const DecodeCall* call) {
  using namespace mom;
  const DecodeCall& c = *call;
  for (int64_t i = 0; i < c.batch; ++i)
    if (uint32_t(c.modality[i]) >= uint32_t(c.modalities)) return 2;
  const Groups groups(c);
  float* xz = c.scratch;
  float* u = xz + c.batch * 2 * c.d;
  float* delta = u + c.batch * c.d;
  float* y = delta + c.batch * c.d;
  float* maps = y + c.batch * c.d;
  float* normed = maps + c.batch * c.layer[0].x_proj.out;
#pragma omp parallel num_threads(int(c.threads)) if (c.threads > 1)
  {
    const FlushDenormals guard;
#if defined(_OPENMP)
    const int64_t thread_id = omp_get_thread_num(), threads = omp_get_num_threads();
#else
    const int64_t thread_id = 0, threads = 1;
#endif
    float* h = normed + thread_id * c.batch * c.d_model;
    const int64_t rank = c.layer[0].dt_proj.in, width = c.d > c.d_model ? c.d : c.d_model;
    const int64_t widest = ceil_div(width > rank ? width : rank, 32) * 32;
    const uintptr_t free = uintptr_t(normed + c.threads * c.batch * c.d_model);
    float* panels = reinterpret_cast<float*>((free + 63) / 64 * 64);  // cache-aligned
    panels += thread_id * ceil_div(c.batch, 16) * 16 * widest;
    const Worker w{c, groups, thread_id, threads, panels};
    for (int64_t i = 0; i < c.layers; ++i) {
      const DecodeLayer& l = c.layer[i];
      const int64_t from = w.first_channel, to = w.end_channel;
      w.norm(c.x, l.norm, h);
      w.project(l.in_proj, h, c.d_model, xz, 2 * c.d, {{from, to}, {c.d + from, c.d + to}});
      w.convolve(l, xz, u);
#pragma omp barrier
      w.project(l.x_proj, u, c.d, maps, l.x_proj.out);
#pragma omp barrier
      w.project(l.dt_proj, maps, l.x_proj.out, delta, c.d, {{from, to}});
      w.scan(l, xz, u, maps, delta, y);
#pragma omp barrier
      w.project(l.out_proj, y, c.d, c.x, c.d_model, true);
#pragma omp barrier
    }
    if (c.final_norm) {
      w.norm(c.x, c.final_norm, h);
      if (w.thread_id == 0) std::memcpy(c.hidden, h, c.batch * c.d_model * sizeof(float));
      if (c.head.weight) w.project(c.head, h, c.d_model, c.logits, c.head.out);
    }
  }
  return 0;
}

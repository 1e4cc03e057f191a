// One token of every sequence through all blocks, the last norm and the head, in one call.
//
// With few sequences the time is that of reading the weights once, so they may be kept in bfloat16 or
// in int8 with one scale a row; activations, sums and states are float32. Every output is computed by
// one thread in one order: results do not depend on the number of threads.
#include "scan.h"

#if defined(_OPENMP)
extern "C" int omp_get_thread_num(void);
extern "C" int omp_get_num_threads(void);
#endif

// Mirrored in ops/decode_step/call.py; every field is eight bytes.
struct Matrix {
  int64_t experts, out, in;  // weight (experts, out, in); experts is 1 or the number of modalities
  const void* weight;
  const float *scale, *bias;  // (experts, out), or null
};
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
  float* scratch;           // batch * (5 d + rank + 2 n) + threads * batch * d_model floats
};

namespace mom {
namespace {

MOM_INLINE float lane_total(vf x) {
  float lanes[W];
  store(lanes, x);
  for (int s = W / 2; s; s /= 2)
    for (int i = 0; i < s; ++i) lanes[i] += lanes[i + s];
  return lanes[0];
}

constexpr int AHEAD = 16384;  // bytes from what is read to what is fetched

// Dot products of R weight rows with S inputs; R * S sums, row-major.
template <int R, int S, typename T>
MOM_INLINE void dots(const T* weight, int64_t in, const float* const* x, float* sums,
                     bool fetch) {
  constexpr int COUNT = (R * S + W - 1) / W * W;  // whole vectors of sums
  vf acc[R * S];
  MOM_UNROLL
  for (int k = 0; k < R * S; ++k) acc[k] = vf{};
  int64_t i = 0;
  for (; i + W <= in; i += W) {
    vf w[R];
    MOM_UNROLL
    for (int r = 0; r < R; ++r) w[r] = load(weight + r * in + i);
    // What will be read a microsecond later, once per line of cache.
    if (fetch && i * sizeof(T) % 64 == 0) {
      MOM_UNROLL
      for (int r = 0; r < R; ++r)
        __builtin_prefetch(reinterpret_cast<const char*>(weight + r * in + i) + AHEAD, 0, 2);
    }
    MOM_UNROLL
    for (int s = 0; s < S; ++s) {
      const vf v = load(x[s] + i);
      MOM_UNROLL
      for (int r = 0; r < R; ++r) acc[r * S + s] += w[r] * v;
    }
  }
  vf parts[COUNT] = {};  // of its own, so that the accumulators above can live in registers
  MOM_UNROLL
  for (int k = 0; k < R * S; ++k) parts[k] = acc[k];
  for (int k = 0; k < COUNT; k += W) {
    const vf total = lane_sums(parts + k);
    for (int lane = 0; lane < W && k + lane < R * S; ++lane) sums[k + lane] = total[lane];
  }
  for (; i < in; ++i)
    for (int r = 0; r < R; ++r)
      for (int s = 0; s < S; ++s) sums[r * S + s] += widen(weight[r * in + i]) * x[s][i];
}

// A slice [first, last) of the outputs of one expert, for the sequences listed.
template <typename T>
void rows_times(const Matrix& m, int64_t expert, const float* x, int64_t x_stride, float* y,
                int64_t y_stride, const int32_t* who, int count, int64_t first, int64_t last,
                bool add) {
  const T* weight = static_cast<const T*>(m.weight) + expert * m.out * m.in;
  const float* scale = m.scale ? m.scale + expert * m.out : nullptr;
  const float* bias = m.bias ? m.bias + expert * m.out : nullptr;
  const auto put = [&](int sequence, int64_t row, float sum) {
    const float value = (scale ? sum * scale[row] : sum) + (bias ? bias[row] : 0.0f);
    float& to = y[sequence * y_stride + row];
    to = add ? to + value : value;
  };
  const auto tile = [&](auto R, auto S, int64_t row, int at) {
    constexpr int r_count = decltype(R)::value, s_count = decltype(S)::value;
    const float* from[s_count];
    for (int s = 0; s < s_count; ++s) from[s] = x + who[at + s] * x_stride;
    float sums[r_count * s_count];
    dots<r_count, s_count>(weight + row * m.in, m.in, from, sums, at == 0);
    for (int r = 0; r < r_count; ++r)
      for (int s = 0; s < s_count; ++s) put(who[at + s], row + r, sums[r * s_count + s]);
  };
  using one = std::integral_constant<int, 1>;
  using four = std::integral_constant<int, 4>;
  using eight = std::integral_constant<int, 8>;
  int64_t row = first;
  for (; row + 8 <= last; row += 8) {
    int at = 0;
    for (; at + 4 <= count; at += 4) {
      tile(four{}, four{}, row, at);
      tile(four{}, four{}, row + 4, at);
    }
    for (; at < count; ++at) tile(eight{}, one{}, row, at);
  }
  for (; row < last; ++row)
    for (int at = 0; at < count; ++at) tile(one{}, one{}, row, at);
}

// The sequences of each modality, in their order; made once per call.
struct Groups {
  std::vector<int32_t> everyone, sorted, start;
  explicit Groups(const DecodeCall& c) : start(c.modalities + 1, 0) {
    for (int32_t i = 0; i < c.batch; ++i) everyone.push_back(i);
    for (int64_t m = 0; m < c.modalities; ++m) {
      for (int32_t i = 0; i < c.batch; ++i)
        if (c.modality[i] == m) sorted.push_back(i);
      start[m + 1] = int32_t(sorted.size());
    }
  }
};

// One thread's part. It owns a range of channels through in_proj, convolution, dt_proj and scan, so that
// threads meet four times a layer only.
struct Worker {
  const DecodeCall& c;
  const Groups& groups;
  int64_t id, count;  // of threads
  int64_t blocks = ceil_div(c.d, W);
  int64_t first_channel = blocks * id / count * W;
  int64_t end_channel = blocks * (id + 1) / count * W < c.d ? blocks * (id + 1) / count * W : c.d;

  // Rows [first, last) of a product.
  void project(const Matrix& m, const float* x, int64_t x_stride, float* y, int64_t y_stride,
               int64_t first, int64_t last, bool add = false) const {
    for (int64_t e = 0; e < m.experts; ++e) {
      const bool all = m.experts == 1;
      const int32_t* who = all ? groups.everyone.data() : groups.sorted.data() + groups.start[e];
      const int n = all ? int(c.batch) : groups.start[e + 1] - groups.start[e];
      if (!n) continue;
      if (c.format == 0) rows_times<float>(m, e, x, x_stride, y, y_stride, who, n, first, last, add);
      if (c.format == 1) rows_times<bf16>(m, e, x, x_stride, y, y_stride, who, n, first, last, add);
      if (c.format == 2) rows_times<int8_t>(m, e, x, x_stride, y, y_stride, who, n, first, last, add);
    }
  }

  // This thread's share of all rows of a product.
  void project(const Matrix& m, const float* x, int64_t x_stride, float* y, int64_t y_stride,
               bool add = false) const {
    const int64_t eights = ceil_div(m.out, 8);
    const int64_t first = eights * id / count * 8, end = eights * (id + 1) / count * 8;
    project(m, x, x_stride, y, y_stride, first, end < m.out ? end : m.out, add);
  }

  // Every thread norms all rows for itself: cheaper than meeting.
  void norm(const float* x, const float* weight, float* y) const {
    for (int64_t b = 0; b < c.batch; ++b) {
      const float* from = x + b * c.d_model;
      float* to = y + b * c.d_model;
      vf squares = vf{};
      for (int64_t i = 0; i < c.d_model; i += W) {
        const vf v = load(from + i, int(c.d_model - i < W ? c.d_model - i : W));
        squares += v * v;
      }
      const float scale =
          1.0f / __builtin_sqrtf(lane_total(squares) / float(c.d_model) + float(c.eps));
      for (int64_t i = 0; i < c.d_model; ++i) to[i] = from[i] * scale * weight[i];
    }
  }

  // Convolution with SiLU on the first half of xz; the window moves on by one input.
  void convolve(const DecodeLayer& l, const float* xz, float* u) const {
    const int64_t k = c.k;
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t channel = first_channel; channel < end_channel; channel += W) {
      const int lanes = int(c.d - channel < W ? c.d - channel : W);
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
      store(u + b * c.d + channel, sum * sigmoid(sum), lanes);
    }
  }

  // One step of the scan with skip and gate; lanes over channels for delta, over states for h.
  void scan(const DecodeLayer& l, const float* xz, const float* u, const float* maps, float* delta,
            float* y) const {
    const int64_t rank = l.dt_proj.in, width = l.x_proj.out;
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t channel = first_channel; channel < end_channel; channel += W) {
      const int lanes = int(c.d - channel < W ? c.d - channel : W);
      vf step = load(delta + b * c.d + channel, lanes), slope;
      softplus(step, step, slope);
      const vf in = load(u + b * c.d + channel, lanes);
      const vf z = load(xz + b * 2 * c.d + c.d + channel, lanes);
      const float *B = maps + b * width + rank, *C = B + c.n;
      float steps[W], inputs[W];
      store(steps, step);
      store(inputs, step * in);
      vf products[W] = {};  // of channel i, over states; added up by one tree for all channels
      for (int lane = 0; lane < lanes; ++lane) {
        float* h = l.ssm + (b * c.d + channel + lane) * c.n;
        const float* A2 = l.A2 + (channel + lane) * c.n;
        for (int64_t n = 0; n < c.n; n += W) {
          const int states = int(c.n - n < W ? c.n - n : W);
          const vf decay = exp2_product(splat(steps[lane]), load(A2 + n, states));
          const vf next = decay * load(h + n, states) + inputs[lane] * load(B + n, states);
          store(h + n, next, states);
          products[lane] += next * load(C + n, states);
        }
      }
      const vf sum = lane_sums(products) + load(l.D + channel, lanes) * in;
      store(y + b * c.d + channel, sum * z * sigmoid(z), lanes);
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
    const Worker w{c, groups, omp_get_thread_num(), omp_get_num_threads()};
#else
    const Worker w{c, groups, 0, 1};
#endif
    float* h = normed + w.id * c.batch * c.d_model;
    for (int64_t i = 0; i < c.layers; ++i) {
      const DecodeLayer& l = c.layer[i];
      const int64_t from = w.first_channel, to = w.end_channel;
      w.norm(c.x, l.norm, h);
      w.project(l.in_proj, h, c.d_model, xz, 2 * c.d, from, to);
      w.project(l.in_proj, h, c.d_model, xz, 2 * c.d, c.d + from, c.d + to);
      w.convolve(l, xz, u);
#pragma omp barrier
      w.project(l.x_proj, u, c.d, maps, l.x_proj.out);
#pragma omp barrier
      w.project(l.dt_proj, maps, l.x_proj.out, delta, c.d, from, to);
      w.scan(l, xz, u, maps, delta, y);
#pragma omp barrier
      w.project(l.out_proj, y, c.d, c.x, c.d_model, true);
#pragma omp barrier
    }
    if (c.final_norm) {
      w.norm(c.x, c.final_norm, h);
      if (w.id == 0) std::memcpy(c.hidden, h, c.batch * c.d_model * sizeof(float));
      if (c.head.weight) w.project(c.head, h, c.d_model, c.logits, c.head.out);
    }
  }
  return 0;
}

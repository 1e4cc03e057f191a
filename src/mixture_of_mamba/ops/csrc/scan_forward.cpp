// Selective scan, forward: tasks over (sequence x group of channels), chunks of SPAN steps.
#include "scan.h"

namespace mom {
namespace {

// Per-block values of one chunk, time-major.
struct Local {
  vf step[SPAN], input[SPAN], y[SPAN];
};

// NP states of one block through one chunk; the states live in registers. Every STEPS steps they are
// handed to `save`.
template <int NP, typename Fetch, typename Save>
MOM_INLINE void run_states(const bool* reset, int count, const vf* A2, const float* B,
                           const float* C, int N, vf* h_memory, Local& v, int pass,
                           const Fetch& fetch, const Save& save) {
  vf h[NP], a2[NP];
  MOM_UNROLL
  for (int n = 0; n < NP; ++n) h[n] = h_memory[n], a2[n] = A2[n];
  for (int t = 0; t < count; ++t) {
    fetch(t, pass == 0, pass + NP == N);
    if (t % STEPS == 0) {
      MOM_UNROLL
      for (int n = 0; n < NP; ++n) save(t, pass + n, h[n]);
    }
    const vf step = v.step[t], input = v.input[t];
    if (__builtin_expect(reset[t], 0))
      MOM_UNROLL
      for (int n = 0; n < NP; ++n) h[n] = vf{};
    vf even = v.y[t], odd = vf{};
    MOM_UNROLL
    for (int n = 0; n < NP; ++n) {
      h[n] = exp2_product(step, a2[n]) * h[n] + input * B[t * N + n];
      vf& sum = n % 2 ? odd : even;
      sum += h[n] * C[t * N + n];
    }
    v.y[t] = even + odd;
  }
  MOM_UNROLL
  for (int n = 0; n < NP; ++n) h_memory[n] = h[n];
}

template <typename T>
MOM_INLINE void load_chunk(const ScanCall& c, const Steps<T, SPAN>& s, int64_t channel, int lanes, vf D,
                           Local& v) {
  for (int t = 0; t < s.count; ++t) {
    const vf u = load(static_cast<const T*>(c.u) + s.row[t] * c.u_stride + channel, lanes);
    vf step = load(static_cast<const T*>(c.delta) + s.row[t] * c.delta_stride + channel, lanes);
    if (c.bias) step += load(c.bias + s.modality[t] * c.d + channel, lanes);
    vf slope;
    if (c.softplus) softplus(step, step, slope);
    v.step[t] = step;
    v.input[t] = step * u;
    v.y[t] = c.D ? D * u : vf{};
  }
}

template <typename T>
MOM_INLINE void store_chunk(const ScanCall& c, const Steps<T, SPAN>& s, int64_t channel, int lanes,
                            Local& v) {
  for (int t = 0; t < s.count; ++t) {
    vf y = v.y[t];
    if (c.z) {
      const vf z = load(static_cast<const T*>(c.z) + s.row[t] * c.z_stride + channel, lanes);
      y *= silu(z);
    }
    store(static_cast<T*>(c.y) + s.row[t] * c.y_stride + channel, y, lanes);
  }
}

template <typename T>
void forward_task(const ScanCall& c, const Cut& cut, int64_t b, int64_t which) {
  const int N = int(c.n);
  const int64_t first = cut.first_block(which), blocks = cut.task_blocks(which);
  static thread_local Scratch scratch;
  vf* A2 = scratch.get<vf>(2 * blocks * N);
  vf* h = A2 + blocks * N;
  const auto channel_of = [&](int64_t k) { return (first + k) * W; };
  const auto lanes_of = [&](int64_t k) {
    const int64_t left = c.d - channel_of(k);
    return int(left < W ? left : W);
  };
  for (int64_t k = 0; k < blocks; ++k) {
    gather_states(c.A, channel_of(k), lanes_of(k), N, LOG2E, A2 + k * N);
    const float* state = c.state ? c.state + b * c.d * c.n : nullptr;
    gather_states(state, channel_of(k), lanes_of(k), N, 1.0f, h + k * N);
  }
  alignas(64) float B[SPAN * 64], C[SPAN * 64];
  const int64_t chunks = ceil_div(c.length, SPAN), checkpoints = ceil_div(c.length, STEPS);
  Local v;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const Steps<T, SPAN> s(c, b, chunk, chunk + 1, B, C);
    for (int64_t k = 0; k < blocks; ++k) {
      const int64_t channel = channel_of(k);
      const int lanes = lanes_of(k);
      load_chunk(c, s, channel, lanes, c.D ? load(c.D + channel, lanes) : vf{}, v);
      const auto fetch = [&](int t, bool first, bool last) {
        if (first) {
          fetch_next(s, t, c.u, c.u_stride, channel);
          fetch_next(s, t, c.delta, c.delta_stride, channel);
        }
        if (last) {
          fetch_next(s, t, c.z, c.z_stride, channel);
          fetch_output(s, t, c.y, c.y_stride, channel);
        }
      };
      vf *hk = h + k * N, *a2 = A2 + k * N;
      const auto save = [&](int t, int n, vf state) {
        if (!c.checkpoints) return;
        const int64_t at = b * checkpoints + chunk * (SPAN / STEPS) + t / STEPS;
        store(c.checkpoints + at * cut.checkpoint + channel * c.n + n * W, state);
      };
      for_passes(N, [&](auto NP, int n) {
        run_states<NP>(s.reset, s.count, a2 + n, B + n, C + n, N, hk + n, v, n, fetch, save);
      });
      store_chunk(c, s, channel, lanes, v);
    }
  }
  for (int64_t k = 0; k < blocks; ++k)
    scatter_states(h + k * N, channel_of(k), lanes_of(k), c.n, c.final_state + b * c.d * c.n);
}

}  // namespace
}  // namespace mom

extern "C" int mom_scan_forward(const ScanCall* call) {
  using namespace mom;
  const ScanCall& c = *call;
  if (const int wrong = check_indices(c)) return wrong;
  const Cut cut(c);
  const int64_t each = cut.planes, tasks = c.batch * each;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(c.threads)) if (c.threads > 1)
  for (int64_t i = 0; i < tasks; ++i) {
    const FlushDenormals guard;
    const int64_t b = i / each, which = i % each;
    c.bf16 ? forward_task<bf16>(c, cut, b, which) : forward_task<float>(c, cut, b, which);
  }
  return 0;
}

extern "C" int mom_vector_lanes() { return mom::W; }
extern "C" int mom_scan_steps() { return mom::STEPS; }
extern "C" int64_t mom_scan_planes(const ScanCall* call) { return mom::Cut(*call).planes; }

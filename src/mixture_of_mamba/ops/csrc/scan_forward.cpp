// Selective scan, forward: a task is some channels of one sequence, in chunks of STEPS steps.
#include "scan.h"

namespace mom {
namespace {

constexpr int STEPS = 2 * CHECKPOINT_STEPS;  // of a chunk

// Values of one block in one chunk.
struct ChunkValues {
  vf step[STEPS], input[STEPS], y[STEPS];
};

// Advances NP states of one block by one chunk, in registers. `save` gets them every CHECKPOINT_STEPS.
template <int NP, typename Fetch, typename Save>
MOM_INLINE void run_states(const bool* reset, int count, const vf* A2, const float* B,
                           const float* C, int N, vf* h_memory, ChunkValues& v, int pass,
                           const Fetch& fetch, const Save& save) {
  vf h[NP], a2[NP];
  MOM_UNROLL
  for (int n = 0; n < NP; ++n) h[n] = h_memory[n], a2[n] = A2[n];
  for (int t = 0; t < count; ++t) {
    fetch(t, pass == 0, pass + NP == N);
    if (t % CHECKPOINT_STEPS == 0) {
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
MOM_INLINE void load_chunk(const ScanCall& c, const StepIndex<T, STEPS>& s, int64_t channel,
                           int lanes, vf D, ChunkValues& v) {
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
MOM_INLINE void store_chunk(const ScanCall& c, const StepIndex<T, STEPS>& s, int64_t channel,
                            int lanes, ChunkValues& v) {
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
void forward_task(const ScanCall& c, const Partition& partition, int64_t b, int64_t task) {
  const int N = int(c.n);
  const int64_t first = partition.first_block(task), blocks = partition.task_blocks(task);
  static thread_local Workspace workspace;
  vf* A2 = workspace.get<vf>(2 * blocks * N);
  vf* h = A2 + blocks * N;
  const auto channel_of = [&](int64_t k) { return (first + k) * W; };
  const auto lanes_of = [&](int64_t k) { return lanes_at(c.d, channel_of(k)); };
  for (int64_t k = 0; k < blocks; ++k) {
    gather_states(c.A, channel_of(k), lanes_of(k), N, LOG2E, A2 + k * N);
    const float* state = c.state ? c.state + b * c.d * c.n : nullptr;
    gather_states(state, channel_of(k), lanes_of(k), N, 1.0f, h + k * N);
  }
  alignas(64) float B[STEPS * 64], C[STEPS * 64];
  const int64_t chunks = ceil_div(c.length, STEPS);
  const int64_t checkpoints = ceil_div(c.length, CHECKPOINT_STEPS);
  ChunkValues v;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const StepIndex<T, STEPS> s(c, b, chunk, chunk + 1, B, C);
    for (int64_t k = 0; k < blocks; ++k) {
      const int64_t channel = channel_of(k);
      const int lanes = lanes_of(k);
      load_chunk(c, s, channel, lanes, c.D ? load(c.D + channel, lanes) : vf{}, v);
      const auto fetch = [&](int t, bool first, bool last) {
        if (first) {
          prefetch_next(s, t, c.u, c.u_stride, channel);
          prefetch_next(s, t, c.delta, c.delta_stride, channel);
        }
        if (last) {
          prefetch_next(s, t, c.z, c.z_stride, channel);
          prefetch_output(s, t, c.y, c.y_stride, channel);
        }
      };
      vf *hk = h + k * N, *a2 = A2 + k * N;
      const auto save = [&](int t, int n, vf state) {
        if (!c.checkpoints) return;
        const int64_t at = b * checkpoints + (chunk * STEPS + t) / CHECKPOINT_STEPS;
        store(c.checkpoints + at * partition.checkpoint + channel * c.n + n * W, state);
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
  const Partition partition(c);
  const int64_t planes = partition.planes;
  parallel_tasks(c, c.batch * planes, 1, [&](auto dtype, int64_t i) {
    forward_task<decltype(dtype)>(c, partition, i / planes, i % planes);
  });
  return 0;
}

extern "C" int mom_vector_lanes() { return mom::W; }
extern "C" int64_t mom_scan_planes(const ScanCall* call) { return mom::Partition(*call).planes; }

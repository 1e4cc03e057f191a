// Selective scan, backward: chunks from the last to the first, states recomputed from checkpoints.
//
// A block is processed for one chunk of STEPS steps at a time, so that its values and the lane accumulators
// of dB and dC stay in the L1 cache (34 KB with 16 states on AVX-512).
#include "scan.h"

namespace mom {
namespace {

constexpr int STEPS = CHECKPOINT_STEPS;  // of a chunk
constexpr int RECENT_CHUNKS = 4;         // chunks whose dA is summed in float32 before it joins a float64

// Values of one block in one chunk.
struct ChunkValues {
  vf step[STEPS], input[STEPS], dout[STEPS];    // input = step * u; dout = dy through the gate
  vf y[STEPS], dstep[STEPS], dinput[STEPS];     // sums over the states; dstep in units of ln 2
  vf u[STEPS], slope[STEPS], dgate[STEPS];      // slope of softplus; dgate = dy * silu'(z)
  vf history[(STEPS + 1) * PASS_STATES], decay[STEPS * PASS_STATES];  // of one pass
};

// The arrays of a task, in one allocation.
struct Arena {
  vd *dA, *dD, *dbias;     // [blocks][N], [blocks], [modalities][blocks]
  vf *A2;                  // [blocks][N] A * log2(e)
  vf *carry;               // [blocks][N] gradient of the state after the chunk
  vf *recent_dA;           // [blocks][N] sums of the last RECENT_CHUNKS chunks
  vf *dB, *dC;             // [passes][STEPS][pass] lane accumulators of a group
  vf *partial_dB, *partial_dC;  // the same of a block with fewer than W channels
  float* sums;  // [1 + levels][STEPS][2][n] of a group, and of subtrees of groups
  ChunkValues* values;

  static int lanes(int N) { return (STEPS * N + W - 1) / W * W; }
  static int levels(int64_t span) { return span > 1 ? 1 + levels(span / 2) : 1; }
  static int64_t bytes(int64_t blocks, int64_t span, int64_t n, int N, int64_t M) {
    return blocks * (N + 1 + M) * sizeof(vd) + (3 * blocks * N + 4 * lanes(N)) * sizeof(vf) +
           sizeof(ChunkValues) + (levels(span) + 1) * STEPS * 2 * n * sizeof(float);
  }
  Arena(char* base, int64_t blocks, int N, int64_t M) {
    dA = reinterpret_cast<vd*>(base);
    dD = dA + blocks * N;
    dbias = dD + blocks;
    A2 = reinterpret_cast<vf*>(dbias + blocks * M);
    carry = A2 + blocks * N;
    recent_dA = carry + blocks * N;
    dB = recent_dA + blocks * N;
    dC = dB + lanes(N);
    partial_dB = dC + lanes(N);
    partial_dC = partial_dB + lanes(N);
    values = reinterpret_cast<ChunkValues*>(partial_dC + lanes(N));
    sums = reinterpret_cast<float*>(values + 1);
    std::memset(base, 0, blocks * (N + 1 + M) * sizeof(vd));
    for (int64_t i = 0; i < blocks * N; ++i) recent_dA[i] = vf{};
  }

  // For a block with fewer than W channels: between these two calls its sums are formed apart, and then
  // only its own lanes are added to those of the group. In the other lanes zeros are multiplied with B and
  // C, which makes NaN where these are infinite.
  void begin_partial_block(int N) {
    std::swap(dB, partial_dB);
    std::swap(dC, partial_dC);
    for (int i = 0; i < lanes(N); ++i) dB[i] = dC[i] = vf{};
  }
  void end_partial_block(int N, int count) {
    std::swap(dB, partial_dB);
    std::swap(dC, partial_dC);
    for (int i = 0; i < lanes(N); ++i) {
      dB[i] += first_lanes(partial_dB[i], count);
      dC[i] += first_lanes(partial_dC[i], count);
    }
  }
};

const vf zero_states[PASS_STATES] = {};  // what a document starts from

template <int NP>
MOM_INLINE void recompute(const bool* reset, int count, const vf* A2, const float* B,
                          const float* C, int N, ChunkValues& v) {
  vf h[NP];
  MOM_UNROLL
  for (int n = 0; n < NP; ++n) h[n] = v.history[n];
  for (int t = 0; t < count; ++t) {
    const vf step = v.step[t], input = v.input[t];
    if (__builtin_expect(reset[t], 0)) {
      MOM_UNROLL
      for (int n = 0; n < NP; ++n) h[n] = vf{};
    }
    vf even = v.y[t], odd = vf{};
    MOM_UNROLL
    for (int n = 0; n < NP; ++n) {
      const vf decay = exp2_product(step, A2[n]);
      h[n] = decay * h[n] + input * B[t * N + n];
      v.decay[t * NP + n] = decay;
      v.history[(t + 1) * NP + n] = h[n];
      vf& sum = n % 2 ? odd : even;
      sum += h[n] * C[t * N + n];
    }
    v.y[t] = even + odd;
  }
}

template <int NP>
MOM_INLINE void reverse(const bool* reset, int count, const vf* A2, const float* B, const float* C, int N,
                        vf* carry, vf* dA_total, vf* dB, vf* dC, ChunkValues& v) {
  vf dh[NP], dA[NP];
  MOM_UNROLL
  for (int n = 0; n < NP; ++n) dh[n] = carry[n], dA[n] = dA_total[n];
  for (int t = count - 1; t >= 0; --t) {
    const vf step = v.step[t], input = v.input[t], dout = v.dout[t];
    const vf* previous = __builtin_expect(reset[t], 0) ? zero_states : v.history + t * NP;
    vf dinput = v.dinput[t], dstep = v.dstep[t];
    MOM_UNROLL
    for (int n = 0; n < NP; ++n) {
      const vf g = dh[n] + dout * C[t * N + n];
      dC[t * NP + n] += v.history[(t + 1) * NP + n] * dout;
      dB[t * NP + n] += g * input;
      dinput += g * B[t * N + n];
      dh[n] = g * v.decay[t * NP + n];
      const vf dexponent = dh[n] * previous[n];
      dstep += dexponent * A2[n];
      dA[n] += dexponent * step;
    }
    v.dinput[t] = dinput;
    v.dstep[t] = dstep;
    if (__builtin_expect(reset[t], 0)) {  // the states before a document's start do not influence it
      MOM_UNROLL
      for (int n = 0; n < NP; ++n) dh[n] = vf{};
    }
  }
  MOM_UNROLL
  for (int n = 0; n < NP; ++n) carry[n] = dh[n], dA_total[n] = dA[n];
}

// Sums the lanes of count x NP accumulators into rows of 2 * n floats.
template <int NP>
MOM_INLINE void reduce_lanes(int count, int first, int64_t n, vf* lanes, float* sums) {
  constexpr int PIECE = NP < W ? NP : W;  // sums of one vector that belong to one row
  for (int i = count * NP; i % W; ++i) lanes[i] = vf{};
  for (int i = 0; i < count * NP; i += W) {
    float values[W];
    store(values, lane_sums(lanes + i));
    for (int k = 0; k < W && i + k < count * NP; k += PIECE) {
      const int64_t state = first + (i + k) % NP;
      float* to = sums + (i + k) / NP * 2 * n + state;
      if (state + PIECE <= n) std::memcpy(to, values + k, PIECE * sizeof(float));
      else
        for (int j = 0; state + j < n; ++j) to[j] = values[k + j];
    }
  }
}

template <typename T>
MOM_INLINE void load_chunk(const ScanCall& c, const StepIndex<T, STEPS>& s, int64_t channel,
                           int lanes, ChunkValues& v) {
  const vf D = c.D ? load(c.D + channel, lanes) : vf{};
  for (int t = 0; t < s.count; ++t) {
    const int64_t row = s.row[t];
    const vf u = load(static_cast<const T*>(c.u) + row * c.u_stride + channel, lanes);
    vf step = load(static_cast<const T*>(c.delta) + row * c.delta_stride + channel, lanes);
    vf dout = load(static_cast<const T*>(c.dy) + row * c.dy_stride + channel, lanes);
    vf slope = splat(1.0f);
    if (c.bias) step += load(c.bias + s.modality[t] * c.d + channel, lanes);
    if (c.softplus) softplus(step, step, slope);
    if (c.z) {
      const vf z = load(static_cast<const T*>(c.z) + row * c.z_stride + channel, lanes);
      const vf gate = sigmoid(z);
      v.dgate[t] = dout * gate * (1.0f + z * (1.0f - gate));
      dout *= silu(z);
    }
    v.u[t] = u;
    v.step[t] = step;
    v.slope[t] = slope;
    v.input[t] = step * u;
    v.dout[t] = dout;
    v.y[t] = c.D ? D * u : vf{};
    v.dinput[t] = v.dstep[t] = vf{};
  }
}

template <typename T>
MOM_INLINE void store_chunk(const ScanCall& c, const StepIndex<T, STEPS>& s, int64_t channel,
                            int lanes, const ChunkValues& v, vd& dD_total, vd* dbias,
                            int64_t blocks) {
  const vf D = c.D ? load(c.D + channel, lanes) : vf{};
  vf dD = vf{};
  for (int t = 0; t < s.count; ++t) {
    const int64_t row = s.row[t];
    const vf dstep = (v.dstep[t] * LN2 + v.dinput[t] * v.u[t]) * v.slope[t];
    vf du = v.dinput[t] * v.step[t];
    if (c.D) du += v.dout[t] * D;
    dD += v.dout[t] * v.u[t];
    store(static_cast<T*>(c.ddelta) + row * c.ddelta_stride + channel, dstep, lanes);
    store(static_cast<T*>(c.du) + row * c.du_stride + channel, du, lanes);
    if (c.z)
      store(static_cast<T*>(c.dz) + row * c.dz_stride + channel, v.dgate[t] * v.y[t], lanes);
    if (c.bias) dbias[s.modality[t] * blocks] += __builtin_convertvector(dstep, vd);
  }
  dD_total += __builtin_convertvector(dD, vd);
}

// The backward of NP states of one block, from state `n` on.
template <int NP>
MOM_INLINE void run_pass(const bool* reset, int count, int N, int n, int64_t k, const float* start,
                         const float* B, const float* C, Arena& m) {
  MOM_UNROLL
  for (int i = 0; i < NP; ++i) m.values->history[i] = load(start + (n + i) * W);
  const int64_t at = k * N + n;
  recompute<NP>(reset, count, m.A2 + at, B + n, C + n, N, *m.values);
  reverse<NP>(reset, count, m.A2 + at, B + n, C + n, N, m.carry + at, m.recent_dA + at,
              m.dB + n * STEPS, m.dC + n * STEPS, *m.values);
}

// The backward of one block, number k of its task, in one chunk.
template <typename T>
MOM_INLINE void run_block(const ScanCall& c, const StepIndex<T, STEPS>& s, int N, int64_t k,
                          int64_t blocks, int64_t channel, int lanes, const float* start,
                          const float* B, const float* C, Arena& m) {
  for (int t = 0; t < s.next_count; ++t) {
    prefetch_next(s, t, c.u, c.u_stride, channel);
    prefetch_next(s, t, c.delta, c.delta_stride, channel);
    prefetch_next(s, t, c.dy, c.dy_stride, channel);
    prefetch_next(s, t, c.z, c.z_stride, channel);
  }
  load_chunk(c, s, channel, lanes, *m.values);
  for (int t = 0; t < s.count && k + 1 < blocks; ++t) {
    prefetch_output(s, t, c.du, c.du_stride, channel + W);
    prefetch_output(s, t, c.ddelta, c.ddelta_stride, channel + W);
    prefetch_output(s, t, c.dz, c.dz_stride, channel + W);
  }
  for_passes(N, [&](auto NP, int n) {
    run_pass<NP>(s.reset, s.count, N, n, k, start, B, C, m);
  });
  store_chunk(c, s, channel, lanes, *m.values, m.dD[k], m.dbias + k, blocks);
}

template <int NP>
MOM_INLINE void reduce_both(int count, int first, int64_t n, Arena& m, float* sums) {
  reduce_lanes<NP>(count, first, n, m.dB + first * STEPS, sums);
  reduce_lanes<NP>(count, first, n, m.dC + first * STEPS, sums + n);
}

// The lane accumulators of a group -> [STEPS][2][n].
MOM_INLINE void reduce_group(int count, int N, int64_t n, Arena& m, float* sums) {
  for_passes(N, [&](auto NP, int first) { reduce_both<NP>(count, first, n, m, sums); });
}

// Stores dB and dC of the chunk's steps in the task's plane, or in the result if there is only one plane.
template <typename T>
MOM_INLINE void store_sums(const ScanCall& c, const Partition& partition,
                           const StepIndex<T, STEPS>& s, int64_t task, const float* sums) {
  const int64_t n2 = 2 * c.n;
  float* plane = c.partials + task * c.batch * c.length * n2;
  for (int t = 0; t < s.count; ++t, sums += n2) {
    if (partition.planes > 1) {
      std::memcpy(plane + s.row[t] * n2, sums, n2 * sizeof(float));
      continue;
    }
    T* dB = static_cast<T*>(c.dB) + s.row[t] * c.db_stride;
    T* dC = static_cast<T*>(c.dC) + s.row[t] * c.dc_stride;
    for (int64_t j = 0; j < c.n; ++j) narrow(sums[j], dB + j), narrow(sums[c.n + j], dC + j);
  }
}

MOM_INLINE void add(float* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// Sum of the subtrees that remain after `groups` groups, smaller ones first.
MOM_INLINE const float* join_subtrees(float* sums, int64_t groups, int64_t plane) {
  float* total = nullptr;
  for (int level = 0; groups >> level; ++level) {
    if (!(groups >> level & 1)) continue;
    float* subtree = sums + (level + 1) * plane;
    if (total) add(subtree, total, plane);
    total = subtree;
  }
  return total;
}

// All chunks of a task. The sums of its groups are added as a binary counter carries: two subtrees of equal
// size become one of twice the size, which gives the tree of Partition with one buffer per level.
template <typename T>
void backward_task(const ScanCall& c, const Partition& partition, int64_t b, int64_t task) {
  const int N = int(c.n);
  const int64_t first = partition.first_block(task), blocks = partition.task_blocks(task), M = c.modalities;
  static thread_local Workspace workspace;
  Arena m(workspace.get<char>(Arena::bytes(blocks, partition.span, c.n, N, M)), blocks, N, M);
  const auto channel_of = [&](int64_t k) { return (first + k) * W; };
  const auto lanes_of = [&](int64_t k) { return lanes_at(c.d, channel_of(k)); };
  for (int64_t k = 0; k < blocks; ++k) {
    gather_states(c.A, channel_of(k), lanes_of(k), N, LOG2E, m.A2 + k * N);
    const float* dfinal = c.dfinal ? c.dfinal + b * c.d * c.n : nullptr;
    gather_states(dfinal, channel_of(k), lanes_of(k), N, 1.0f, m.carry + k * N);
  }
  alignas(64) float B[STEPS * 64], C[STEPS * 64];
  const int64_t chunks = ceil_div(c.length, STEPS), plane = STEPS * 2 * c.n;
  const int64_t groups = ceil_div(blocks, partition.group);
  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    const StepIndex<T, STEPS> s(c, b, chunk, chunk - 1, B, C);
    const float* start = c.checkpoints + (b * chunks + chunk) * partition.checkpoint;
    for (int64_t g = 0; g < groups; ++g) {
      for (int i = 0; i < Arena::lanes(N); ++i) m.dB[i] = m.dC[i] = vf{};
      const int64_t end = (g + 1) * partition.group < blocks ? (g + 1) * partition.group : blocks;
      for (int64_t k = g * partition.group; k < end; ++k) {
        const int lanes = lanes_of(k);
        if (lanes < W) m.begin_partial_block(N);
        run_block(c, s, N, k, blocks, channel_of(k), lanes, start + (first + k) * c.n * W, B, C, m);
        if (lanes < W) m.end_partial_block(N, lanes);
      }
      float* leaf = m.sums;
      reduce_group(s.count, N, c.n, m, leaf);
      int level = 0;
      for (; g >> level & 1; ++level) add(leaf, m.sums + (level + 1) * plane, plane);
      std::memcpy(m.sums + (level + 1) * plane, leaf, plane * sizeof(float));
    }
    store_sums(c, partition, s, task, join_subtrees(m.sums, groups, plane));
    if (chunk % RECENT_CHUNKS == 0)
      for (int64_t i = 0; i < blocks * N; ++i) {
        m.dA[i] += __builtin_convertvector(m.recent_dA[i], vd);
        m.recent_dA[i] = vf{};
      }
  }
  // Parameter sums of this sequence: rows of padded_d doubles, one per state, D and each modality.
  double* sums = c.parameter_partials + b * (c.n + 1 + M) * partition.padded_d;
  for (int64_t k = 0; k < blocks; ++k) {
    if (c.dstate)
      scatter_states(m.carry + k * N, channel_of(k), lanes_of(k), c.n, c.dstate + b * c.d * c.n);
    const auto store_row = [&](int64_t row, const vd& value) {
      std::memcpy(sums + row * partition.padded_d + channel_of(k), &value, sizeof value);
    };
    for (int n = 0; n < c.n; ++n) store_row(n, m.dA[k * N + n]);
    store_row(c.n, m.dD[k]);
    for (int64_t i = 0; i < M; ++i) store_row(c.n + 1 + i, m.dbias[i * blocks + k]);
  }
}

// One row of dB and dC: the remaining levels of the tree, over the planes.
template <typename T>
MOM_INLINE void finish_row(const ScanCall& c, const Partition& partition, int64_t row) {
  const int64_t n2 = 2 * c.n, plane = c.batch * c.length * n2;
  static thread_local Workspace workspace;
  float* sums = workspace.get<float>(partition.planes * n2);
  for (int64_t p = 0; p < partition.planes; ++p)
    std::memcpy(sums + p * n2, c.partials + p * plane + row * n2, n2 * sizeof(float));
  for (int64_t step = 1; step < partition.planes; step *= 2)
    for (int64_t p = 0; p + step < partition.planes; p += 2 * step)
      add(sums + p * n2, sums + (p + step) * n2, n2);
  T* dB = static_cast<T*>(c.dB) + row * c.db_stride;
  T* dC = static_cast<T*>(c.dC) + row * c.dc_stride;
  for (int64_t j = 0; j < c.n; ++j) narrow(sums[j], dB + j), narrow(sums[c.n + j], dC + j);
}

// Sums over sequences, in their order, of the parameters' gradients.
void finish_parameters(const ScanCall& c, const Partition& partition) {
  const int64_t rows = c.n + 1 + c.modalities;
  for (int64_t i = 0; i < rows; ++i) {
    if ((i == c.n && !c.dD) || (i > c.n && !c.dbias)) continue;
    for (int64_t channel = 0; channel < c.d; ++channel) {
      double sum = 0.0;
      for (int64_t b = 0; b < c.batch; ++b)
        sum += c.parameter_partials[(b * rows + i) * partition.padded_d + channel];
      if (i < c.n) c.dA[channel * c.n + i] = float(sum);
      else if (i == c.n) c.dD[channel] = float(sum);
      else c.dbias[(i - c.n - 1) * c.d + channel] = float(sum);
    }
  }
}

}  // namespace
}  // namespace mom

extern "C" int mom_scan_backward(const ScanCall* call) {
  using namespace mom;
  const ScanCall& c = *call;
  if (const int wrong = check_indices(c)) return wrong;
  const Partition partition(c);
  const int64_t planes = partition.planes;
  parallel_tasks(c, c.batch * planes, 1, [&](auto dtype, int64_t i) {
    backward_task<decltype(dtype)>(c, partition, i / planes, i % planes);
  });
  if (planes > 1)
    parallel_tasks(c, c.batch * c.length, 64, [&](auto dtype, int64_t row) {
      finish_row<decltype(dtype)>(c, partition, row);
    });
  finish_parameters(c, partition);
  return 0;
}

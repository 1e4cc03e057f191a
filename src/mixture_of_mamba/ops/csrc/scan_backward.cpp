// Selective scan, backward: chunks from the last to the first, states recomputed from checkpoints.
//
// A task takes the states of a chunk in passes, so that the pass's history, decays and the lane
// accumulators of dB and dC (34 KB on AVX-512) stay in the first-level cache for all its channels.
#include "scan.h"

namespace mom {
namespace {

// What one step of one block needs in a pass, what the passes sum, and what the chunk's end needs. Kept
// as [step][block]: rows are read and written along their channels, as memory likes it.
struct Local {
  vf step, input, dout;      // input = step * u; dout = dy through the gate
  vf y, dstep, dinput;       // sums over the states; dstep in units of ln 2
  vf u, slope, dgate;        // slope of softplus; dgate = dy * silu'(z)
};

// Lane accumulators and history of one pass.
struct Pass {
  vf history[(STEPS + 1) * PASS], decay[STEPS * PASS];
  vf dB[STEPS * PASS], dC[STEPS * PASS];
};

// Everything that a task keeps per block, in one scratch allocation.
struct Memory {
  Local* local;    // [STEPS][blocks]
  vf *A2, *carry;  // [blocks][N] A * log2(e); gradient of the state after the chunk
  vd *dA, *dD, *dbias;  // [blocks][N], [blocks], [modalities][blocks]
};

template <int NP>
MOM_INLINE void recompute(const bool* reset, int count, const vf* A2, const float* B,
                          const float* C, int N, Local* local, int64_t blocks, Pass& p) {
  vf h[NP];
  MOM_UNROLL
  for (int n = 0; n < NP; ++n) h[n] = p.history[n];
  for (int t = 0; t < count; ++t) {
    Local& v = local[t * blocks];
    const vf step = v.step, input = v.input;
    if (__builtin_expect(reset[t], 0)) {
      MOM_UNROLL
      for (int n = 0; n < NP; ++n) h[n] = vf{};
    }
    vf even = v.y, odd = vf{};
    MOM_UNROLL
    for (int n = 0; n < NP; ++n) {
      const vf decay = exp2_product(step, A2[n]);
      h[n] = decay * h[n] + input * B[t * N + n];
      p.decay[t * NP + n] = decay;
      p.history[(t + 1) * NP + n] = h[n];
      vf& sum = n % 2 ? odd : even;
      sum += h[n] * C[t * N + n];
    }
    v.y = even + odd;
    if (__builtin_expect(reset[t], 0))  // no gradient passes it either
      std::memset(p.decay + t * NP, 0, NP * sizeof(vf));
  }
}

template <int NP>
MOM_INLINE void reverse(int count, const vf* A2, const float* B, const float* C, int N, vf* carry,
                        vd* dA_total, Local* local, int64_t blocks, Pass& p) {
  vf dh[NP], dA[NP];
  MOM_UNROLL
  for (int n = 0; n < NP; ++n) dh[n] = carry[n], dA[n] = vf{};
  for (int t = count - 1; t >= 0; --t) {
    Local& v = local[t * blocks];
    const vf step = v.step, input = v.input, dout = v.dout;
    vf dinput = v.dinput, dstep = v.dstep;
    MOM_UNROLL
    for (int n = 0; n < NP; ++n) {
      const vf g = dh[n] + dout * C[t * N + n];
      p.dC[t * NP + n] += p.history[(t + 1) * NP + n] * dout;
      p.dB[t * NP + n] += g * input;
      dinput += g * B[t * N + n];
      dh[n] = g * p.decay[t * NP + n];
      const vf dexponent = dh[n] * p.history[t * NP + n];
      dstep += dexponent * A2[n];
      dA[n] += dexponent * step;
    }
    v.dinput = dinput;
    v.dstep = dstep;
  }
  MOM_UNROLL
  for (int n = 0; n < NP; ++n) {
    carry[n] = dh[n];
    dA_total[n] += __builtin_convertvector(dA[n], vd);
  }
}

// Sum the lanes of count x NP accumulators into rows of 2 * n floats.
template <int NP>
MOM_INLINE void reduce_lanes(const int64_t* row, int count, int first, int64_t n, vf* lanes,
                             int64_t offset, float* partials) {
  for (int i = count * NP; i % W; ++i) lanes[i] = vf{};
  for (int i = 0; i < count * NP; i += W) {
    const vf sums = lane_sums(lanes + i);
    float values[W];
    store(values, sums);
    for (int k = 0; k < W && i + k < count * NP; k += NP) {
      float* to = partials + row[(i + k) / NP] * 2 * n + offset + first;
      if (first + NP <= n) std::memcpy(to, values + k, NP * sizeof(float));
      else
        for (int j = 0; first + j < n; ++j) to[j] = values[k + j];
    }
  }
}

template <typename T>
MOM_INLINE void load_step(const ScanCall& c, int64_t row, int64_t modality, int64_t channel,
                          int lanes, Local& v) {
  const vf u = load(static_cast<const T*>(c.u) + row * c.u_stride + channel, lanes);
  vf step = load(static_cast<const T*>(c.delta) + row * c.delta_stride + channel, lanes);
  vf dout = load(static_cast<const T*>(c.dy) + row * c.dy_stride + channel, lanes);
  vf slope = splat(1.0f);
  if (c.bias) step += load(c.bias + modality * c.d + channel, lanes);
  if (c.softplus) softplus(step, step, slope);
  if (c.z) {
    const vf z = load(static_cast<const T*>(c.z) + row * c.z_stride + channel, lanes);
    const vf gate = sigmoid(z);
    v.dgate = dout * gate * (1.0f + z * (1.0f - gate));
    dout *= z * gate;
  }
  v.u = u;
  v.step = step;
  v.slope = slope;
  v.input = step * u;
  v.dout = dout;
  v.y = c.D ? load(c.D + channel, lanes) * u : vf{};
  v.dinput = v.dstep = vf{};
}

template <typename T>
MOM_INLINE void store_step(const ScanCall& c, int64_t row, int64_t channel, int lanes,
                           const Local& v, vd& dD, vd* dbias) {
  const vf dstep = (v.dstep * LN2 + v.dinput * v.u) * v.slope;
  vf du = v.dinput * v.step;
  if (c.D) {
    du += v.dout * load(c.D + channel, lanes);
    dD += __builtin_convertvector(v.dout * v.u, vd);
  }
  store(static_cast<T*>(c.ddelta) + row * c.ddelta_stride + channel, dstep, lanes);
  store(static_cast<T*>(c.du) + row * c.du_stride + channel, du, lanes);
  if (c.z) store(static_cast<T*>(c.dz) + row * c.dz_stride + channel, v.dgate * v.y, lanes);
  if (c.bias) *dbias += __builtin_convertvector(dstep, vd);
}

// One group of blocks, NP states from `first`, of a task whose blocks start at first_block.
template <int NP, typename T>
MOM_INLINE void run_pass(const ScanCall& c, const Cut& cut, const Steps<T>& s, int64_t first_block,
                         int64_t blocks, int64_t group, int first, const float* start,
                         const float* B, const float* C, Memory& m, Pass& p) {
  const int N = cut.padded_n;
  const int64_t end = (group + 1) * cut.group - first_block;
  for (int i = 0; i < s.count * NP; ++i) p.dB[i] = p.dC[i] = vf{};
  for (int64_t k = group * cut.group - first_block; k < (end < blocks ? end : blocks); ++k) {
    MOM_UNROLL
    for (int n = 0; n < NP; ++n)
      p.history[n] =
          first + n < c.n ? load(start + ((first_block + k) * c.n + first + n) * W) : vf{};
    const int64_t at = k * N + first;
    recompute<NP>(s.reset, s.count, m.A2 + at, B + first, C + first, N, m.local + k, blocks, p);
    reverse<NP>(s.count, m.A2 + at, B + first, C + first, N, m.carry + at, m.dA + at, m.local + k,
                blocks, p);
  }
  float* partials = c.partials + group * c.batch * c.length * 2 * c.n;
  reduce_lanes<NP>(s.row, s.count, first, c.n, p.dB, 0, partials);
  reduce_lanes<NP>(s.row, s.count, first, c.n, p.dC, c.n, partials);
}

template <typename T>
void backward_task(const ScanCall& c, const Cut& cut, int64_t b, int64_t which) {
  const int N = cut.padded_n;
  const int64_t first = cut.first_block(which), blocks = cut.task_blocks(which), M = c.modalities;
  const int64_t per_block = STEPS * sizeof(Local) + 2 * N * sizeof(vf) + (N + 1 + M) * sizeof(vd);
  static thread_local Scratch scratch, pass_scratch;
  char* base = scratch.get<char>(blocks * per_block);
  Memory m;
  m.dA = reinterpret_cast<vd*>(base);
  m.dD = m.dA + blocks * N;
  m.dbias = m.dD + blocks;
  m.local = reinterpret_cast<Local*>(m.dbias + blocks * M);
  m.A2 = reinterpret_cast<vf*>(m.local + STEPS * blocks);
  m.carry = m.A2 + blocks * N;
  Pass& p = *pass_scratch.get<Pass>(1);
  std::memset(base, 0, blocks * (N + 1 + M) * sizeof(vd));
  const auto channel_of = [&](int64_t k) { return (first + k) * W; };
  const auto lanes_of = [&](int64_t k) {
    const int64_t left = c.d - channel_of(k);
    return int(left < W ? left : W);
  };
  for (int64_t k = 0; k < blocks; ++k) {
    gather_states(c.A, channel_of(k), lanes_of(k), c.n, N, LOG2E, m.A2 + k * N);
    const float* dfinal = c.dfinal ? c.dfinal + b * c.d * c.n : nullptr;
    gather_states(dfinal, channel_of(k), lanes_of(k), c.n, N, 1.0f, m.carry + k * N);
  }
  alignas(64) float B[STEPS * 64], C[STEPS * 64];
  for (int64_t chunk = cut.chunks - 1; chunk >= 0; --chunk) {
    const Steps<T> s(c, b, chunk, chunk - 1, N, B, C);
    for (int t = 0; t < s.count; ++t)
      for (int64_t k = 0; k < blocks; ++k)
        load_step<T>(c, s.row[t], s.modality[t], channel_of(k), lanes_of(k),
                     m.local[t * blocks + k]);
    const float* start = c.checkpoints + (b * cut.chunks + chunk) * cut.checkpoint;
    for (int64_t g = first / cut.group; g * cut.group < first + blocks; ++g) {
#define MOM_PASS(NP, AT) run_pass<NP>(c, cut, s, first, blocks, g, AT, start, B, C, m, p)
      if (N == 1) MOM_PASS(1, 0);
      else if (N == 2) MOM_PASS(2, 0);
      else if (N == 4) MOM_PASS(4, 0);
      else
        for (int n = 0; n < N; n += PASS) MOM_PASS(PASS, n);
    }
#undef MOM_PASS
    for (int t = 0; t < s.count; ++t)
      for (int64_t k = 0; k < blocks; ++k)
        store_step<T>(c, s.row[t], channel_of(k), lanes_of(k), m.local[t * blocks + k], m.dD[k],
                      m.dbias + s.modality[t] * blocks + k);
  }
  // Parameter sums of this sequence: rows of padded_d doubles, one per state, D and each modality.
  double* sums = c.parameter_partials + b * (c.n + 1 + M) * cut.padded_d;
  for (int64_t k = 0; k < blocks; ++k) {
    if (c.dstate)
      scatter_states(m.carry + k * N, channel_of(k), lanes_of(k), c.n, c.dstate + b * c.d * c.n);
    const auto put = [&](int64_t row, const vd& value) {
      std::memcpy(sums + row * cut.padded_d + channel_of(k), &value, sizeof value);
    };
    for (int n = 0; n < c.n; ++n) put(n, m.dA[k * N + n]);
    put(c.n, m.dD[k]);
    for (int64_t i = 0; i < M; ++i) put(c.n + 1 + i, m.dbias[i * blocks + k]);
  }
}

// Sums over groups, in their order, of one row of dB and dC.
template <typename T>
MOM_INLINE void finish_row(const ScanCall& c, const Cut& cut, int64_t row) {
  const int64_t n2 = 2 * c.n, plane = c.batch * c.length * n2;
  T* dB = static_cast<T*>(c.dB) + row * c.db_stride;
  T* dC = static_cast<T*>(c.dC) + row * c.dc_stride;
  for (int64_t j = 0; j < n2; ++j) {
    float sum = 0.0f;
    for (int64_t g = 0; g < cut.groups; ++g) sum += c.partials[g * plane + row * n2 + j];
    narrow(sum, j < c.n ? dB + j : dC + (j - c.n));
  }
}

// Sums over sequences, in their order, of the parameters' gradients.
void finish_parameters(const ScanCall& c, const Cut& cut) {
  const int64_t rows = c.n + 1 + c.modalities;
  for (int64_t i = 0; i < rows; ++i) {
    if ((i == c.n && !c.dD) || (i > c.n && !c.dbias)) continue;
    for (int64_t channel = 0; channel < c.d; ++channel) {
      double sum = 0.0;
      for (int64_t b = 0; b < c.batch; ++b)
        sum += c.parameter_partials[(b * rows + i) * cut.padded_d + channel];
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
  const Cut cut(c);
  const int64_t each = cut.tasks_per_sequence(), tasks = c.batch * each, rows = c.batch * c.length;
#pragma omp parallel num_threads(int(c.threads)) if (c.threads > 1)
  {
    const FlushDenormals guard;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < tasks; ++i) {
      const int64_t b = i / each, which = i % each;
      c.bf16 ? backward_task<bf16>(c, cut, b, which) : backward_task<float>(c, cut, b, which);
    }
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row)
      c.bf16 ? finish_row<bf16>(c, cut, row) : finish_row<float>(c, cut, row);
  }
  finish_parameters(c, cut);
  return 0;
}

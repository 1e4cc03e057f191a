// Selective scan, backward: chunks from the last to the first, states recomputed from checkpoints.
//
// A task takes the states of a chunk in passes, so that the pass's history, decays and the lane
// accumulators of dB and dC (34 KB on AVX-512) stay in the first-level cache for all its channels.
#include "scan.h"

namespace mom {
namespace {

// Per-block values of one chunk, time-major.
struct Local {
  vf step[STEPS], slope[STEPS], u[STEPS], input[STEPS];  // input = step * u
  vf dout[STEPS], dgate[STEPS];                         // dy through the gate; dy * silu'(z)
  vf y[STEPS], dstep[STEPS], dinput[STEPS];             // sums over the states; dstep in units of ln2
};

// Lane accumulators and history of one pass.
struct Pass {
  vf history[(STEPS + 1) * PASS], decay[STEPS * PASS];
  vf dB[STEPS * PASS], dC[STEPS * PASS];
};

// Everything that a task keeps per block, in one scratch allocation.
struct Memory {
  Local* local;    // [blocks]
  vf *A2, *carry;  // [blocks][N] A * log2(e); gradient of the state after the chunk
  vd *dA, *dD, *dbias;  // [blocks][N], [blocks], [blocks][modalities]
};

template <int NP>
MOM_INLINE void recompute(const bool* reset, int count, const vf* A2, const float* B,
                          const float* C, int N, Local& v, Pass& p) {
  vf h[NP];
  for (int n = 0; n < NP; ++n) h[n] = p.history[n];
  for (int t = 0; t < count; ++t) {
    const vf step = v.step[t], input = v.input[t];
    vf even = v.y[t], odd = vf{};
    for (int n = 0; n < NP; ++n) {
      vf decay = exp2_product(step, A2[n]);
      if (__builtin_expect(reset[t], 0)) decay = vf{};
      h[n] = decay * h[n] + input * B[t * N + n];
      p.decay[t * NP + n] = decay;
      p.history[(t + 1) * NP + n] = h[n];
      vf& sum = n % 2 ? odd : even;
      sum += h[n] * C[t * N + n];
    }
    v.y[t] = even + odd;
  }
}

template <int NP>
MOM_INLINE void reverse(int count, const vf* A2, const float* B, const float* C, int N, vf* carry,
                        vd* dA_total, Local& v, Pass& p) {
  vf dh[NP], dA[NP];
  for (int n = 0; n < NP; ++n) dh[n] = carry[n], dA[n] = vf{};
  for (int t = count - 1; t >= 0; --t) {
    const vf step = v.step[t], input = v.input[t], dout = v.dout[t];
    vf dinput = v.dinput[t], dstep = v.dstep[t];
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
    v.dinput[t] = dinput;
    v.dstep[t] = dstep;
  }
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
    for (int k = 0; k < W && i + k < count * NP; ++k) {
      const int t = (i + k) / NP, j = first + (i + k) % NP;
      if (j < n) partials[row[t] * 2 * n + offset + j] = sums[k];
    }
  }
}

template <typename T>
MOM_INLINE void load_chunk(const ScanCall& c, const Steps<T>& s, int64_t channel, int lanes, vf D,
                           Local& v) {
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
      dout *= z * gate;
    }
    v.u[t] = u;
    v.step[t] = step;
    v.slope[t] = slope;
    v.input[t] = step * u;
    v.dout[t] = dout;
    v.y[t] = D * u;
    v.dinput[t] = v.dstep[t] = vf{};
  }
}

template <typename T>
MOM_INLINE void store_chunk(const ScanCall& c, const Steps<T>& s, int64_t channel, int lanes, vf D,
                            const Local& v, vd* dD, vd* dbias) {
  vf dskip = vf{};
  for (int t = 0; t < s.count; ++t) {
    const int64_t row = s.row[t];
    const vf dstep = (v.dstep[t] * LN2 + v.dinput[t] * v.u[t]) * v.slope[t];
    const vf du = v.dinput[t] * v.step[t] + v.dout[t] * D;
    store(static_cast<T*>(c.ddelta) + row * c.ddelta_stride + channel, dstep, lanes);
    store(static_cast<T*>(c.du) + row * c.du_stride + channel, du, lanes);
    if (c.z)
      store(static_cast<T*>(c.dz) + row * c.dz_stride + channel, v.dgate[t] * v.y[t], lanes);
    dskip += v.dout[t] * v.u[t];
    if (c.bias) dbias[s.modality[t]] += __builtin_convertvector(dstep, vd);
  }
  *dD += __builtin_convertvector(dskip, vd);
}

template <int NP, typename T>
MOM_INLINE void run_pass(const ScanCall& c, const Cut& cut, const Steps<T>& s, int64_t first_block,
                         int64_t blocks, int first, const float* start, const float* B,
                         const float* C, Memory& m, Pass& p, float* partials) {
  const int N = cut.padded_n;
  for (int i = 0; i < s.count * NP; ++i) p.dB[i] = p.dC[i] = vf{};
  for (int64_t k = 0; k < blocks; ++k) {
    const int64_t channel = (first_block + k) * W, left = c.d - channel;
    for (int n = 0; n < NP; ++n)
      p.history[n] = first + n < c.n
                         ? load(start + (first + n) * c.d + channel, int(left < W ? left : W))
                         : vf{};
    const int64_t at = k * N + first;
    recompute<NP>(s.reset, s.count, m.A2 + at, B + first, C + first, N, m.local[k], p);
    reverse<NP>(s.count, m.A2 + at, B + first, C + first, N, m.carry + at, m.dA + at, m.local[k],
                p);
  }
  reduce_lanes<NP>(s.row, s.count, first, c.n, p.dB, 0, partials);
  reduce_lanes<NP>(s.row, s.count, first, c.n, p.dC, c.n, partials);
}

template <typename T>
void task(const ScanCall& c, const Cut& cut, int64_t b, int64_t group) {
  const int N = cut.padded_n;
  const int64_t first = group * cut.group, M = c.modalities;
  const int64_t blocks = first + cut.group > cut.blocks ? cut.blocks - first : cut.group;
  const int64_t per_block = sizeof(Local) + 2 * N * sizeof(vf) + (N + 1 + M) * sizeof(vd);
  static thread_local Scratch scratch, pass_scratch;
  char* base = scratch.get<char>(blocks * per_block);
  Memory m;
  m.dA = reinterpret_cast<vd*>(base);
  m.dD = m.dA + blocks * N;
  m.dbias = m.dD + blocks;
  m.local = reinterpret_cast<Local*>(m.dbias + blocks * M);
  m.A2 = reinterpret_cast<vf*>(m.local + blocks);
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
  float* partials = c.partials + group * c.batch * c.length * 2 * c.n;
  for (int64_t chunk = cut.chunks - 1; chunk >= 0; --chunk) {
    const Steps<T> s(c, b, chunk, N, B, C);
    for (int64_t k = 0; k < blocks; ++k)
      load_chunk(c, s, channel_of(k), lanes_of(k),
                 c.D ? load(c.D + channel_of(k), lanes_of(k)) : vf{}, m.local[k]);
    const float* start = c.checkpoints + (b * cut.chunks + chunk) * c.n * c.d;
#define MOM_PASS(NP, AT) run_pass<NP>(c, cut, s, first, blocks, AT, start, B, C, m, p, partials)
    if (N == 1) MOM_PASS(1, 0);
    else if (N == 2) MOM_PASS(2, 0);
    else if (N == 4) MOM_PASS(4, 0);
    else
      for (int n = 0; n < N; n += PASS) MOM_PASS(PASS, n);
#undef MOM_PASS
    for (int64_t k = 0; k < blocks; ++k)
      store_chunk(c, s, channel_of(k), lanes_of(k),
                  c.D ? load(c.D + channel_of(k), lanes_of(k)) : vf{}, m.local[k], m.dD + k,
                  m.dbias + k * M);
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
    for (int64_t i = 0; i < M; ++i) put(c.n + 1 + i, m.dbias[k * M + i]);
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
  const int64_t tasks = c.batch * cut.groups, rows = c.batch * c.length;
#pragma omp parallel num_threads(int(c.threads)) if (c.threads > 1)
  {
    const FlushDenormals guard;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < tasks; ++i) {
      const int64_t b = i / cut.groups, group = i % cut.groups;
      c.bf16 ? task<bf16>(c, cut, b, group) : task<float>(c, cut, b, group);
    }
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row)
      c.bf16 ? finish_row<bf16>(c, cut, row) : finish_row<float>(c, cut, row);
  }
  finish_parameters(c, cut);
  return 0;
}

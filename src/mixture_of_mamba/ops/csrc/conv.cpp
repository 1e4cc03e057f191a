// Causal depthwise convolution with SiLU, forward and backward, K = 1..4 taps.
//
// A task is some channels of one sequence. It steps through time once, by the row index, with the last K-1
// inputs in registers; this window is set to zero at a document's start.
#include "workspace.h"

// Mirrored in ops/causal_conv1d/cpu.py; every field is eight bytes. `state` holds inputs before t = 0,
// oldest first; states and rows are in x's dtype, parameters in float32.
struct ConvCall {
  int64_t batch, length, d, k, silu, bf16, threads;
  int64_t x_stride, y_stride, dy_stride, dx_stride;
  const void* x;
  const float *weight, *bias;  // (d, k), (d)
  const int32_t* rows;         // (batch, length)
  const uint8_t* resets;       // (batch, length)
  const void* state;           // (batch, k-1, d)
  void *y, *final_state;
  const void *dy, *dfinal;
  void *dx, *dstate;
  float *dweight, *dbias;
  double* partials;  // (batch, k + 1, padded d)
};

namespace mom {
namespace {

constexpr int CONV_STEPS = 32;       // of a chunk
constexpr int CONV_MAX_BLOCKS = 64;  // vectors of channels of a task, at most

struct ConvPartition {
  int64_t blocks, group, groups, chunks, padded_d;
  explicit ConvPartition(const ConvCall& c) {
    blocks = ceil_div(c.d, W);
    // Whole rows, because contiguous rows give full cache lines, unless threads would be idle.
    group = blocks < CONV_MAX_BLOCKS ? blocks : CONV_MAX_BLOCKS;
    for (int64_t parts = 2; parts <= c.threads; ++parts)
      if (busiest_blocks(c, ceil_div(blocks, parts)) < busiest_blocks(c, group))
        group = ceil_div(blocks, parts);
    groups = ceil_div(blocks, group);
    chunks = ceil_div(c.length, CONV_STEPS);
    padded_d = blocks * W;
  }
  int64_t group_blocks(int64_t first) const { return first + group > blocks ? blocks - first : group; }
  // Blocks of the busiest thread if a task has `width` of them.
  int64_t busiest_blocks(const ConvCall& c, int64_t width) const {
    return ceil_div(c.batch * ceil_div(blocks, width), c.threads > 1 ? c.threads : 1) * width;
  }
};

// One block of channels: its taps by age, and the inputs of ages 1..K-1.
template <int K>
struct Block {
  vf tap[K], bias, window[K];
};

template <int K>
MOM_INLINE vf weighted(const vf* tap, vf bias, vf now, const vf* window) {
  vf sum = bias + tap[0] * now;
  MOM_UNROLL
  for (int j = 1; j < K; ++j) sum += tap[j] * window[j];
  return sum;
}

template <int K>
MOM_INLINE void push_input(vf* window, vf now) {
  MOM_UNROLL
  for (int j = K - 1; j > 1; --j) window[j] = window[j - 1];
  if (K > 1) window[1] = now;
}

template <int K, typename T>
void load_block(const ConvCall& c, int64_t b, int64_t channel, int lanes, Block<K>& block) {
  float taps[K * W] = {};
  for (int lane = 0; lane < lanes; ++lane)
    MOM_UNROLL
    for (int j = 0; j < K; ++j) taps[j * W + lane] = c.weight[(channel + lane) * K + K - 1 - j];
  MOM_UNROLL
  for (int j = 0; j < K; ++j) block.tap[j] = load(taps + j * W);
  block.bias = c.bias ? load(c.bias + channel, lanes) : vf{};
  const T* state = static_cast<const T*>(c.state) + b * (K - 1) * c.d + channel;
  MOM_UNROLL
  for (int j = 1; j < K; ++j)
    block.window[j] = c.state ? load(state + (K - 1 - j) * c.d, lanes) : vf{};
}

template <int K, typename T>
void forward_task(const ConvCall& c, const ConvPartition& partition, int64_t b, int64_t group) {
  const int64_t first = group * partition.group;
  const int64_t blocks = partition.group_blocks(first);
  static thread_local Workspace workspace;
  Block<K>* block = workspace.get<Block<K>>(blocks);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t channel = (first + i) * W;
    load_block<K, T>(c, b, channel, lanes_at(c.d, channel), block[i]);
  }
  for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
    const int64_t start = chunk * CONV_STEPS;
    const int count = int(c.length - start < CONV_STEPS ? c.length - start : CONV_STEPS);
    const T* from[CONV_STEPS];
    T* to[CONV_STEPS];
    bool reset[CONV_STEPS];
    for (int t = 0; t < count; ++t) {
      const int64_t at = b * c.length + start + t, row = c.rows ? c.rows[at] : at;
      from[t] = static_cast<const T*>(c.x) + row * c.x_stride;
      to[t] = static_cast<T*>(c.y) + row * c.y_stride;
      reset[t] = c.resets && c.resets[at];
    }
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t channel = (first + i) * W;
      const int lanes = lanes_at(c.d, channel);
      Block<K> r = block[i];
      for (int t = 0; t < count; ++t) {
        if (__builtin_expect(reset[t], 0)) {
          MOM_UNROLL
          for (int j = 1; j < K; ++j) r.window[j] = vf{};
        }
        const vf now = load(from[t] + channel, lanes);
        vf y = weighted<K>(r.tap, r.bias, now, r.window);
        if (c.silu) y = silu(y);
        store(to[t] + channel, y, lanes);
        push_input<K>(r.window, now);
      }
      MOM_UNROLL
      for (int j = 1; j < K; ++j) block[i].window[j] = r.window[j];
    }
  }
  T* out = static_cast<T*>(c.final_state) + b * (K - 1) * c.d;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t channel = (first + i) * W;
    MOM_UNROLL
    for (int j = 1; j < K; ++j)
      store(out + (K - 1 - j) * c.d + channel, block[i].window[j], lanes_at(c.d, channel));
  }
}

// Of one block in the backward: unfinished gradients of the inputs of ages 0..K-1, and those of the taps.
template <int K>
struct Gradients {
  vf pending[K];
  vd tap[K], bias;
};

template <int K, typename T>
void backward_task(const ConvCall& c, const ConvPartition& partition, int64_t b, int64_t group) {
  const int64_t first = group * partition.group;
  const int64_t blocks = partition.group_blocks(first);
  static thread_local Workspace block_workspace, gradient_workspace;
  Block<K>* block = block_workspace.get<Block<K>>(blocks);
  Gradients<K>* gradients = gradient_workspace.get<Gradients<K>>(blocks);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t channel = (first + i) * W;
    load_block<K, T>(c, b, channel, lanes_at(c.d, channel), block[i]);
    gradients[i] = Gradients<K>{};
  }
  // Where the gradient of position t is stored: its row, or for t < 0 the state; null if not wanted.
  const auto target = [&](int64_t t) -> T* {
    const int64_t at = b * c.length + t;
    if (t >= 0) return static_cast<T*>(c.dx) + (c.rows ? c.rows[at] : at) * c.dx_stride;
    return c.dstate ? static_cast<T*>(c.dstate) + (b * (K - 1) + t + K - 1) * c.d : nullptr;
  };
  int age = K - 1;  // earlier inputs that the current position sees
  for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
    const int64_t start = chunk * CONV_STEPS;
    const int count = int(c.length - start < CONV_STEPS ? c.length - start : CONV_STEPS);
    const T *from[CONV_STEPS], *dy[CONV_STEPS];
    T* to[CONV_STEPS];
    int ages[CONV_STEPS];
    for (int t = 0; t < count; ++t) {
      const int64_t at = b * c.length + start + t, row = c.rows ? c.rows[at] : at;
      from[t] = static_cast<const T*>(c.x) + row * c.x_stride;
      dy[t] = static_cast<const T*>(c.dy) + row * c.dy_stride;
      to[t] = target(start + t - (K - 1));
      age = c.resets && c.resets[at] ? 0 : age < K - 1 ? age + 1 : age;
      ages[t] = age;
    }
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t channel = (first + i) * W;
      const int lanes = lanes_at(c.d, channel);
      Block<K> r = block[i];
      vf pending[K], dtap[K] = {}, dbias = vf{};
      MOM_UNROLL
      for (int j = 0; j < K; ++j) pending[j] = gradients[i].pending[j];
      for (int t = 0; t < count; ++t) {
        // Near a document's start, taps that reach beyond it have zero inputs and pass no gradient.
        const bool start = __builtin_expect(ages[t] < K - 1, 0);
        if (start) {
          MOM_UNROLL
          for (int j = 1; j < K; ++j)
            if (j > ages[t]) r.window[j] = vf{};
        }
        const vf now = load(from[t] + channel, lanes);
        vf g = load(dy[t] + channel, lanes);
        if (c.silu) {
          const vf y = weighted<K>(r.tap, r.bias, now, r.window), s = sigmoid(y);
          g *= s * (1.0f + y * (1.0f - s));
        }
        dbias += g;
        dtap[0] += g * now;
        pending[0] = g * r.tap[0];
        MOM_UNROLL
        for (int j = 1; j < K; ++j) dtap[j] += g * r.window[j];
        if (start) {
          MOM_UNROLL
          for (int j = 1; j < K; ++j)
            if (j <= ages[t]) pending[j] += g * r.tap[j];
        } else {
          MOM_UNROLL
          for (int j = 1; j < K; ++j) pending[j] += g * r.tap[j];
        }
        if (to[t]) store(to[t] + channel, pending[K - 1], lanes);
        MOM_UNROLL
        for (int j = K - 1; j > 0; --j) pending[j] = pending[j - 1];
        push_input<K>(r.window, now);
      }
      MOM_UNROLL
      for (int j = 0; j < K; ++j) {
        block[i].window[j] = r.window[j];
        gradients[i].pending[j] = pending[j];
        gradients[i].tap[j] += __builtin_convertvector(dtap[j], vd);
      }
      gradients[i].bias += __builtin_convertvector(dbias, vd);
    }
  }
  double* sums = c.partials + b * (K + 1) * partition.padded_d;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t channel = (first + i) * W;
    const int lanes = lanes_at(c.d, channel);
    // After the last shift, pending[j] belongs to the input of age j, j = 1..K-1, seen from t = length.
    MOM_UNROLL
    for (int j = 1; j < K; ++j) {
      vf g = gradients[i].pending[j];
      if (c.dfinal && j - 1 <= age)
        g += load(static_cast<const T*>(c.dfinal) + (b * (K - 1) + K - 1 - j) * c.d + channel, lanes);
      if (T* to = target(c.length - j)) store(to + channel, g, lanes);
    }
    MOM_UNROLL
    for (int j = 0; j < K; ++j)
      std::memcpy(sums + (K - 1 - j) * partition.padded_d + channel, &gradients[i].tap[j], sizeof(vd));
    std::memcpy(sums + K * partition.padded_d + channel, &gradients[i].bias, sizeof(vd));
  }
}

// Sums over sequences, in their order.
void finish(const ConvCall& c, const ConvPartition& partition) {
  for (int64_t i = 0; i <= c.k; ++i) {
    if (i == c.k && !c.dbias) continue;
    for (int64_t channel = 0; channel < c.d; ++channel) {
      double sum = 0.0;
      for (int64_t b = 0; b < c.batch; ++b)
        sum += c.partials[(b * (c.k + 1) + i) * partition.padded_d + channel];
      (i < c.k ? c.dweight[channel * c.k + i] : c.dbias[channel]) = float(sum);
    }
  }
}

template <int K>
void run(const ConvCall& c, bool backward) {
  const ConvPartition partition(c);
  const int64_t groups = partition.groups;
  parallel_tasks(c, c.batch * groups, 1, [&](auto dtype, int64_t i) {
    using T = decltype(dtype);
    if (backward) backward_task<K, T>(c, partition, i / groups, i % groups);
    else forward_task<K, T>(c, partition, i / groups, i % groups);
  });
  if (backward) finish(c, partition);
}

int dispatch(const ConvCall& c, bool backward) {
  const int64_t total = c.batch * c.length;
  if (c.rows)
    for (int64_t i = 0; i < total; ++i)
      if (uint32_t(c.rows[i]) >= uint32_t(total)) return 1;
  switch (c.k) {
    case 1: run<1>(c, backward); return 0;
    case 2: run<2>(c, backward); return 0;
    case 3: run<3>(c, backward); return 0;
    case 4: run<4>(c, backward); return 0;
  }
  return 3;
}

}  // namespace
}  // namespace mom

extern "C" int mom_conv_forward(const ConvCall* c) { return mom::dispatch(*c, false); }
extern "C" int mom_conv_backward(const ConvCall* c) { return mom::dispatch(*c, true); }

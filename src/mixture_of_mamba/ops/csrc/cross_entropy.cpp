// Softmax cross entropy of rows of logits, each over its own range of the vocabulary, and its gradient in
// the logits' place. A row stays in the first caches between its three passes (maximum, sum, gradient).
#include <cmath>
#include <limits>

#include "workspace.h"

// Mirrored in ops/cross_entropy/cpu.py; every field is eight bytes. Rows are contiguous.
struct CrossEntropyCall {
  int64_t rows, words;  // words `first`, first + 1, … of the vocabulary
  int64_t first, ignore, bf16, threads;
  int64_t gradient;           // whether logits are overwritten by (softmax - target) * share
  void* logits;               // (rows, words)
  const int64_t* targets;     // (rows,), in the vocabulary
  const int64_t *low, *high;  // (rows,), each row's range of the vocabulary; null: all words
  const float* share;         // (rows,); null: ones
  float *losses, *totals;     // (rows,) -log softmax of the target, log of the sum of e^x; null: not wanted
};

namespace mom {
namespace {

constexpr int TASK_ROWS = 8;
constexpr int CHUNK = 64 * W;  // words whose sum is formed in float32 before it joins a float64

struct Range {
  int64_t begin, end;  // in the row
};

MOM_INLINE Range range_of(const CrossEntropyCall& c, int64_t row) {
  if (!c.low) return {0, c.words};
  return {c.low[row] - c.first, c.high[row] - c.first};
}

// NaN may be passed over: the sum has it.
template <typename T>
float largest(const T* x, int64_t n) {
  const vf lowest = splat(-std::numeric_limits<float>::infinity());
  vf most[4] = {lowest, lowest, lowest, lowest};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    MOM_UNROLL
    for (int j = 0; j < 4; ++j) most[j] = larger(most[j], load(x + i + j * W));
  for (; i + W <= n; i += W) most[0] = larger(most[0], load(x + i));
  float lanes[W];
  store(lanes, larger(larger(most[0], most[1]), larger(most[2], most[3])));
  float found = lanes[0];
  for (int j = 1; j < W; ++j) found = lanes[j] > found ? lanes[j] : found;
  for (; i < n; ++i) found = widen(x[i]) > found ? widen(x[i]) : found;
  return found;
}

// The sum of e^(x - most); where `powers` is given, these numbers too (it may be x).
template <typename T>
double sum_of_powers(const T* x, int64_t n, float most, float* powers) {
  double total = 0.0;
  for (int64_t start = 0; start < n; start += CHUNK) {
    const int64_t end = start + CHUNK < n ? start + CHUNK : n;
    vf sum[2] = {};
    int64_t i = start;
    for (; i + 2 * W <= end; i += 2 * W)
      MOM_UNROLL
      for (int j = 0; j < 2; ++j) {
        const vf e = vexp(load(x + i + j * W) - most);
        if (powers) store(powers + i + j * W, e);
        sum[j] += e;
      }
    for (; i < end; i += W) {
      const int lanes = lanes_at(end, i);
      const vf e = first_lanes(vexp(load(x + i, lanes) - most), lanes);
      if (powers) store(powers + i, e, lanes);
      sum[0] += e;
    }
    total += lane_sum(sum[0] + sum[1]);
  }
  return total;
}

template <typename T>
void row_task(const CrossEntropyCall& c, int64_t row, float* scratch) {
  T* logits = static_cast<T*>(c.logits) + row * c.words;
  const bool ignored = c.targets[row] == c.ignore;
  const Range range = ignored ? Range{0, 0} : range_of(c, row);
  if (ignored) {
    if (c.losses) c.losses[row] = 0.0f;
    if (c.totals) c.totals[row] = -std::numeric_limits<float>::infinity();
  } else {
    T* x = logits + range.begin;
    const int64_t n = range.end - range.begin, target = c.targets[row] - c.first - range.begin;
    const float at_target = widen(x[target]);
    const float most = largest(x, n);
    float* powers = nullptr;
    if constexpr (std::is_same_v<T, float>) powers = c.gradient ? x : nullptr;
    else powers = c.gradient ? scratch : nullptr;
    const double sum = sum_of_powers(x, n, most, powers), log_sum = std::log(sum);
    // An infinite logit makes the sum NaN: as a softmax has it, there are no probabilities then.
    if (c.losses) c.losses[row] = float((double(most) - at_target) + log_sum);
    if (c.totals) c.totals[row] = float(most + log_sum);
    if (c.gradient) {
      const float share = c.share ? c.share[row] : 1.0f;
      // p share - share, NaN for an infinite share as in the formula, but exact near p = 1.
      const float of_target = (float(powers[target] / sum) - 1.0f) * share + (share - share);
      const float scale = float(1.0 / sum) * share;
      for (int64_t i = 0; i < n; i += W) {
        const int lanes = lanes_at(n, i);
        store(x + i, load(powers + i, lanes) * scale, lanes);
      }
      narrow(of_target, x + target);
    }
  }
  if (!c.gradient) return;
  std::memset(logits, 0, range.begin * sizeof(T));
  std::memset(logits + range.end, 0, (c.words - range.end) * sizeof(T));
}

// Whether every row reads and writes inside itself.
bool fits(const CrossEntropyCall& c) {
  for (int64_t row = 0; row < c.rows; ++row) {
    if (c.targets[row] == c.ignore) continue;
    const Range range = range_of(c, row);
    const int64_t target = c.targets[row] - c.first;
    if (range.begin < 0 || range.end > c.words || target < range.begin || target >= range.end) return false;
  }
  return true;
}

}  // namespace
}  // namespace mom

extern "C" int mom_cross_entropy(const CrossEntropyCall* call) {
  using namespace mom;
  const CrossEntropyCall& c = *call;
  if (!fits(c)) return 1;
  parallel_tasks(c, ceil_div(c.rows, TASK_ROWS), 1, [&](auto dtype, int64_t i) {
    using T = decltype(dtype);
    static thread_local Workspace workspace;
    float* scratch = c.gradient && c.bf16 ? workspace.get<float>(c.words) : nullptr;
    const int64_t last = (i + 1) * TASK_ROWS < c.rows ? (i + 1) * TASK_ROWS : c.rows;
    for (int64_t row = i * TASK_ROWS; row < last; ++row) row_task<T>(c, row, scratch);
  });
  return 0;
}

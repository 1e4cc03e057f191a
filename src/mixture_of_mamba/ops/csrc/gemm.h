// Products of a weight with the vectors of a few (gemv) or many sequences (gemm), for decoding.
//
// gemv: lanes are along a weight's row, and the time is that of reading the weights. gemm: lanes are
// sequences, so that a weight that was read is used for all of them and no sum is over lanes.
#pragma once

#include <initializer_list>
#include <vector>

#include "vector.h"

// Mirrored in ops/decode_step/call.py; every field is eight bytes.
struct Matrix {
  int64_t experts, out, in;  // weight (experts, out, in); experts is 1 or the number of modalities
  const void* weight;
  const float *scale, *bias;  // (experts, out), or null
};

namespace mom {
namespace {

constexpr int PREFETCH_DISTANCE = 16384;  // bytes

// Dot products of R weight rows with S inputs; R * S sums, row-major.
template <int R, int S, typename T>
MOM_INLINE void dot_products(const T* weight, int64_t in, const float* const* x, float* sums,
                     bool prefetch) {
  constexpr int COUNT = (R * S + W - 1) / W * W;  // whole vectors of sums
  vf acc[R * S];
  MOM_UNROLL
  for (int k = 0; k < R * S; ++k) acc[k] = vf{};
  int64_t i = 0;
  for (; i + W <= in; i += W) {
    vf w[R];
    MOM_UNROLL
    for (int r = 0; r < R; ++r) w[r] = load(weight + r * in + i);
    // What will be read about a microsecond later, once per cache line.
    if (prefetch && i * sizeof(T) % 64 == 0) {
      MOM_UNROLL
      for (int r = 0; r < R; ++r)
        __builtin_prefetch(reinterpret_cast<const char*>(weight + r * in + i) + PREFETCH_DISTANCE, 0, 2);
    }
    MOM_UNROLL
    for (int s = 0; s < S; ++s) {
      const vf v = load(x[s] + i);
      MOM_UNROLL
      for (int r = 0; r < R; ++r) acc[r * S + s] += w[r] * v;
    }
  }
  vf parts[COUNT] = {};  // a copy, so that the accumulators above can be in registers
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

// y = weight x + bias, or y += it, for one expert and the sequences with the `count` indices `sequences`.
struct Product {
  const Matrix& m;
  int64_t expert;
  const float* x;
  int64_t x_stride;
  float* y;
  int64_t y_stride;
  const int32_t* sequences;
  int count;
  bool add;

  template <typename T>
  const T* row(int64_t r) const {
    return static_cast<const T*>(m.weight) + (expert * m.out + r) * m.in;
  }
  void store_sum(int sequence, int64_t r, float sum) const {
    const int64_t at = expert * m.out + r;
    const float value = (m.scale ? sum * m.scale[at] : sum) + (m.bias ? m.bias[at] : 0.0f);
    float& to = y[sequences[sequence] * y_stride + r];
    to = add ? to + value : value;
  }
  // Loads v[input][sequence]: at most W inputs from `first` on, and W sequences from `at` on; the others 0.
  void load_block(int at, int64_t first, int inputs, vf* v) const {
    for (int s = 0; s < W; ++s)
      v[s] = at + s < count ? load(x + sequences[at + s] * x_stride + first, inputs) : vf{};
    transpose(v);
  }
  // Stores the sums v[row][sequence] of at most W rows from r on and W sequences from `first` on.
  void store_block(int first, int64_t r, vf* v, int rows) const {
    const int64_t at = expert * m.out + r;
    const vf scale = m.scale ? load(m.scale + at, rows) : splat(1.0f);
    const vf bias = m.bias ? load(m.bias + at, rows) : vf{};
    transpose(v);
    for (int s = 0; s < W && first + s < count; ++s) {
      float* to = y + sequences[first + s] * y_stride + r;
      const vf value = v[s] * scale + bias;
      store(to, add ? load(to, rows) + value : value, rows);
    }
  }
};

using one = std::integral_constant<int, 1>;
using four = std::integral_constant<int, 4>;
using eight = std::integral_constant<int, 8>;

// Rows [first, last) of a product with few sequences.
template <typename T>
void gemv(const Product& p, int64_t first, int64_t last) {
  const auto tile = [&](auto R, auto S, int64_t row, int at) {
    constexpr int r_count = decltype(R)::value, s_count = decltype(S)::value;
    const float* from[s_count];
    for (int s = 0; s < s_count; ++s) from[s] = p.x + p.sequences[at + s] * p.x_stride;
    float sums[r_count * s_count];
    dot_products<r_count, s_count>(p.row<T>(row), p.m.in, from, sums, at == 0);
    for (int r = 0; r < r_count; ++r)
      for (int s = 0; s < s_count; ++s) p.store_sum(at + s, row + r, sums[r * s_count + s]);
  };
  int64_t row = first;
  for (; row + 8 <= last; row += 8) {
    int at = 0;
    for (; at + 4 <= p.count; at += 4) {
      tile(four{}, four{}, row, at);
      tile(four{}, four{}, row + 4, at);
    }
    for (; at < p.count; ++at) tile(eight{}, one{}, row, at);
  }
  for (; row < last; ++row)
    for (int at = 0; at < p.count; ++at) tile(one{}, one{}, row, at);
}

// Packs the vectors into panels (ceil(count / W), in, W): lanes are sequences, beyond `count` 0.
inline void pack_panels(const Product& p, float* panels) {
  for (int at = 0; at < p.count; at += W)
    for (int64_t i = 0; i < p.m.in; i += W) {
      const int inputs = lanes_at(p.m.in, i);
      vf v[W];
      p.load_block(at, i, inputs, v);
      for (int s = 0; s < inputs; ++s, panels += W) store(panels, v[s]);
    }
}

// totals[v][r] += over `in` inputs; rows of the weight are `stride` floats apart, panels `panel` floats.
template <int R, int V>
MOM_INLINE void add_outer_products(const float* weight, int64_t stride, const float* x, int64_t panel,
                      int64_t in, vf* totals) {
  vf acc[R * V];
  MOM_UNROLL
  for (int k = 0; k < R * V; ++k) acc[k] = vf{};
  for (int64_t i = 0; i < in; ++i, x += W) {
    vf lanes[V];
    MOM_UNROLL
    for (int v = 0; v < V; ++v) lanes[v] = load(x + v * panel);
    MOM_UNROLL
    for (int r = 0; r < R; ++r) {
      const vf w = splat(weight[r * stride + i]);
      MOM_UNROLL
      for (int v = 0; v < V; ++v) acc[v * R + r] += w * lanes[v];
    }
  }
  MOM_UNROLL
  for (int k = 0; k < R * V; ++k) totals[k] += acc[k];
}

constexpr int GEMM_MIN_SEQUENCES = 16;  // fewer go to gemv
constexpr int AMX_MIN_SEQUENCES = 5;    // fewer go to gemv, where there is AMX
constexpr int GEMM_ROWS = PASS_STATES == 8 ? 12 : 6;  // whose sums with two vectors stay in registers
constexpr int GEMM_DEPTH = 64;  // inputs of a partial sum; the weights of all rows for them stay in L1

// Prefetches a part of a weight, distributed over `calls` calls between the products with another part.
struct Prefetcher {
  const char *at, *end;
  int64_t lines_per_call;  // cache lines

  Prefetcher(const void* first, const void* last, int64_t calls)
      : at(static_cast<const char*>(first)),
        end(static_cast<const char*>(last)),
        lines_per_call(ceil_div(end - at, 64 * calls)) {}
  MOM_INLINE void issue() {
    for (int64_t k = 0; k < lines_per_call && at < end; ++k, at += 64) __builtin_prefetch(at, 0, 2);
  }
};

// Rows [first, last) of a product with many sequences, from pack_panels.
template <typename T>
void gemm(const Product& p, const float* panels, int64_t first, int64_t last) {
  const int64_t in = p.m.in, panel = in * W, vectors = ceil_div(p.count, W);
  std::vector<vf> totals(vectors * GEMM_ROWS);
  float wide[GEMM_ROWS * GEMM_DEPTH];
  Prefetcher(p.row<T>(first), p.row<T>(first + GEMM_ROWS < last ? first + GEMM_ROWS : last), 1).issue();
  const auto rows = [&](auto R, int64_t row) {
    constexpr int count = decltype(R)::value;
    const int64_t next = row + count, after = next + count < last ? next + count : last;
    Prefetcher prefetcher(p.row<T>(next), p.row<T>(after), ceil_div(in, GEMM_DEPTH) * ceil_div(vectors, 2));
    for (vf& total : totals) total = vf{};
    for (int64_t from = 0; from < in; from += GEMM_DEPTH) {
      const int64_t width = in - from < GEMM_DEPTH ? in - from : GEMM_DEPTH;
      for (int r = 0; r < count; ++r)
        for (int64_t i = 0; i < width; i += W)
          store(wide + r * GEMM_DEPTH + i,
                load(p.row<T>(row + r) + from + i, lanes_at(width, i)));
      const float* x = panels + from * W;
      for (int64_t v = 0; v < vectors; v += 2, x += 2 * panel) {
        prefetcher.issue();
        if (v + 1 < vectors)
          add_outer_products<count, 2>(wide, GEMM_DEPTH, x, panel, width, &totals[v * count]);
        else
          add_outer_products<count, 1>(wide, GEMM_DEPTH, x, panel, width, &totals[v * count]);
      }
    }
    for (int64_t v = 0; v < vectors; ++v) {
      vf block[W] = {};
      for (int r = 0; r < count; r += W) {
        const int here = count - r < W ? count - r : W;
        for (int k = 0; k < here; ++k) block[k] = totals[v * count + r + k];
        p.store_block(int(v) * W, row + r, block, here);
      }
    }
  };
  int64_t row = first;
  for (; row + GEMM_ROWS <= last; row += GEMM_ROWS) rows(std::integral_constant<int, GEMM_ROWS>{}, row);
  for (; row + 4 <= last; row += 4) rows(four{}, row);
  for (; row < last; ++row) rows(one{}, row);
}

}  // namespace
}  // namespace mom

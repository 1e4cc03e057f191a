// Products of a weight's rows with the vectors of a few or of many sequences, for decoding.
//
// With few sequences lanes run along a weight's row, and reading the weights bounds the time. With many,
// lanes are sequences: a weight is used for all of them at once and nothing is summed across lanes.
#pragma once

#include "scan.h"

// Mirrored in ops/decode_step/call.py; every field is eight bytes.
struct Matrix {
  int64_t experts, out, in;  // weight (experts, out, in); experts is 1 or the number of modalities
  const void* weight;
  const float *scale, *bias;  // (experts, out), or null
};

namespace mom {
namespace {

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

// Vectors x, by one expert's weight, are put or added to y; `who` names the sequences that take part.
struct Product {
  const Matrix& m;
  int64_t expert;
  const float* x;
  int64_t x_stride;
  float* y;
  int64_t y_stride;
  const int32_t* who;
  int count;
  bool add;

  template <typename T>
  const T* row(int64_t r) const {
    return static_cast<const T*>(m.weight) + (expert * m.out + r) * m.in;
  }
  void put(int sequence, int64_t r, float sum) const {
    const int64_t at = expert * m.out + r;
    const float value = (m.scale ? sum * m.scale[at] : sum) + (m.bias ? m.bias[at] : 0.0f);
    float& to = y[who[sequence] * y_stride + r];
    to = add ? to + value : value;
  }
  // v[input][sequence] of at most W inputs from `first` on and W sequences from `at` on; the others 0.
  void take(int at, int64_t first, int inputs, vf* v) const {
    for (int s = 0; s < W; ++s)
      v[s] = at + s < count ? load(x + who[at + s] * x_stride + first, inputs) : vf{};
    transpose(v);
  }
  // Sums v[row][sequence] of at most W rows from r on and W sequences from `first` on.
  void put(int first, int64_t r, vf* v, int rows) const {
    const int64_t at = expert * m.out + r;
    const vf scale = m.scale ? load(m.scale + at, rows) : splat(1.0f);
    const vf bias = m.bias ? load(m.bias + at, rows) : vf{};
    transpose(v);
    for (int s = 0; s < W && first + s < count; ++s) {
      float* to = y + who[first + s] * y_stride + r;
      const vf value = v[s] * scale + bias;
      store(to, add ? load(to, rows) + value : value, rows);
    }
  }
};

using one = std::integral_constant<int, 1>;
using four = std::integral_constant<int, 4>;
using eight = std::integral_constant<int, 8>;

// Rows [first, last) for few sequences.
template <typename T>
void few_times(const Product& p, int64_t first, int64_t last) {
  const auto tile = [&](auto R, auto S, int64_t row, int at) {
    constexpr int r_count = decltype(R)::value, s_count = decltype(S)::value;
    const float* from[s_count];
    for (int s = 0; s < s_count; ++s) from[s] = p.x + p.who[at + s] * p.x_stride;
    float sums[r_count * s_count];
    dots<r_count, s_count>(p.row<T>(row), p.m.in, from, sums, at == 0);
    for (int r = 0; r < r_count; ++r)
      for (int s = 0; s < s_count; ++s) p.put(at + s, row + r, sums[r * s_count + s]);
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

// The vectors that take part as panels (ceil(count / W), in, W): lanes are sequences, missing ones 0.
inline void to_panels(const Product& p, float* panels) {
  for (int at = 0; at < p.count; at += W)
    for (int64_t i = 0; i < p.m.in; i += W) {
      const int inputs = int(p.m.in - i < W ? p.m.in - i : W);
      vf v[W];
      p.take(at, i, inputs, v);
      for (int s = 0; s < inputs; ++s, panels += W) store(panels, v[s]);
    }
}

// totals[v][r] += over `in` inputs; weight rows and panels lie `stride` and `panel` floats apart.
template <int R, int V>
MOM_INLINE void outer(const float* weight, int64_t stride, const float* x, int64_t panel,
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

constexpr int MANY = 16;    // sequences of a product from which lanes are sequences
constexpr int TILED = 5;    // from which it goes to tiles, where there are any
constexpr int TALL = PASS == 8 ? 12 : 6;  // rows whose sums with two vectors stay in registers
constexpr int CHUNK = 64;   // inputs summed before they join the total; their weights stay in L1

// Asks for the memory of a part of a weight in small helpings, while sums of another part are formed.
struct Fetch {
  const char *at, *end;
  int64_t helping;  // lines of cache

  Fetch(const void* first, const void* last, int64_t helpings)
      : at(static_cast<const char*>(first)),
        end(static_cast<const char*>(last)),
        helping(ceil_div(end - at, 64 * helpings)) {}
  MOM_INLINE void help() {
    for (int64_t k = 0; k < helping && at < end; ++k, at += 64) __builtin_prefetch(at, 0, 2);
  }
};

// Rows [first, last) for many sequences, from to_panels.
template <typename T>
void many_times(const Product& p, const float* panels, int64_t first, int64_t last) {
  const int64_t in = p.m.in, panel = in * W, vectors = ceil_div(p.count, W);
  std::vector<vf> totals(vectors * TALL);
  float wide[TALL * CHUNK];
  Fetch(p.row<T>(first), p.row<T>(first + TALL < last ? first + TALL : last), 1).help();
  const auto rows = [&](auto R, int64_t row) {
    constexpr int count = decltype(R)::value;
    const int64_t next = row + count, after = next + count < last ? next + count : last;
    Fetch fetch(p.row<T>(next), p.row<T>(after), ceil_div(in, CHUNK) * ceil_div(vectors, 2));
    for (vf& total : totals) total = vf{};
    for (int64_t from = 0; from < in; from += CHUNK) {
      const int64_t width = in - from < CHUNK ? in - from : CHUNK;
      for (int r = 0; r < count; ++r)
        for (int64_t i = 0; i < width; i += W)
          store(wide + r * CHUNK + i,
                load(p.row<T>(row + r) + from + i, int(width - i < W ? width - i : W)));
      const float* x = panels + from * W;
      for (int64_t v = 0; v < vectors; v += 2, x += 2 * panel) {
        fetch.help();
        if (v + 1 < vectors)
          outer<count, 2>(wide, CHUNK, x, panel, width, &totals[v * count]);
        else
          outer<count, 1>(wide, CHUNK, x, panel, width, &totals[v * count]);
      }
    }
    for (int64_t v = 0; v < vectors; ++v) {
      vf block[W] = {};
      for (int r = 0; r < count; r += W) {
        const int here = count - r < W ? count - r : W;
        for (int k = 0; k < here; ++k) block[k] = totals[v * count + r + k];
        p.put(int(v) * W, row + r, block, here);
      }
    }
  };
  int64_t row = first;
  for (; row + TALL <= last; row += TALL) rows(std::integral_constant<int, TALL>{}, row);
  for (; row + 4 <= last; row += 4) rows(four{}, row);
  for (; row < last; ++row) rows(one{}, row);
}

}  // namespace
}  // namespace mom

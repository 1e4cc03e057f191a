// Products with many sequences on the tile unit of Intel's server CPUs (AMX), for weights in bfloat16 or
// int8: 16 times the multiplications of vector instructions. A float32 input goes in as the sum of two
// bfloat16 numbers, so 16 bits of it count; sums are float32.
#pragma once

#include "products.h"

#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

namespace mom {
namespace {

constexpr int SIDE = 16;               // rows of a tile, and its columns of float32
constexpr int PAIR = 2 * SIDE * SIDE;  // words of a tile of high halves and one of low halves
constexpr int TILE_CHUNK = 256;        // inputs whose weights stay in L1
static_assert(W == SIDE);

// Linux lends the tiles to processes that ask for them.
inline bool tiles_granted() {
  constexpr int REQUEST = 0x1023, DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, REQUEST, DATA) == 0;
  return granted;
}

// Compilers do not know that tile instructions read memory (GCC's say so of 8 bytes, or of none).
MOM_INLINE void reads(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

// While it lives, all tiles of this thread are 16 rows of 64 bytes.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, first_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    reads(&config);
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
};

// What x has beyond its high half; nothing where that is infinite.
MOM_INLINE vu rest(vf x, vu high) {
  return (vu)select((vf)high == x, vf{}, x - (vf)high);
}

// The vectors that take part, in tiles of 32 inputs x 16 sequences: each as its high and its low half.
// Inputs and sequences that are missing are 0.
inline void to_tiles(const Product& p, float* panels) {
  auto* tile = reinterpret_cast<uint32_t*>(panels);
  for (int at = 0; at < p.count; at += SIDE)
    for (int64_t i = 0; i < p.m.in; i += 2 * SIDE, tile += PAIR)
      for (int half = 0; half < 2; ++half) {
        const int64_t from = i + half * SIDE, left = p.m.in - from;
        const int inputs = left < 0 ? 0 : left < SIDE ? int(left) : SIDE;
        vf v[SIDE];
        p.take(at, from, inputs, v);
        for (int k = 0; k < SIDE; k += 2) {
          uint32_t* row = tile + half * SIDE * SIDE / 2 + k / 2 * SIDE;
          const vu even = (vu)v[k] & 0xffff0000, odd = (vu)v[k + 1] & 0xffff0000;
          store(reinterpret_cast<float*>(row), (vf)(even >> 16 | odd));
          const vu low = rest(v[k], even), next = rest(v[k + 1], odd);
          const vu a = low + 0x7fff + (low >> 16 & 1), b = next + 0x7fff + (next >> 16 & 1);
          store(reinterpret_cast<float*>(row + PAIR / 2), (vf)(a >> 16 | (b & 0xffff0000)));
        }
      }
}

// totals (2, all panels, 16, 16) += 32 weight rows times V panels, over `tiles` tiles of inputs.
template <int V>
void tile_products(const bf16* weight, const uint32_t* x, int64_t panel, int64_t tiles, float* totals,
                   int64_t next_rows, Fetch& fetch) {
  constexpr int64_t SUMS = SIDE * SIDE, LINE = 64, STRIDE = 2 * TILE_CHUNK;
  reads(weight);
  _tile_loadd(0, totals, LINE);
  _tile_loadd(1, totals + next_rows, LINE);
  if constexpr (V == 2) {
    _tile_loadd(2, totals + SUMS, LINE);
    _tile_loadd(3, totals + next_rows + SUMS, LINE);
  }
  for (int64_t t = 0; t < tiles; ++t, x += PAIR) {
    fetch.help();
    _tile_loadd(4, weight + t * 2 * SIDE, STRIDE);
    _tile_loadd(5, weight + SIDE * TILE_CHUNK + t * 2 * SIDE, STRIDE);
    for (int half = 0; half < 2; ++half) {
      _tile_loadd(6, x + half * PAIR / 2, LINE);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      if constexpr (V == 2) {
        _tile_loadd(7, x + panel + half * PAIR / 2, LINE);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, totals, LINE);
  _tile_stored(1, totals + next_rows, LINE);
  if constexpr (V == 2) {
    _tile_stored(2, totals + SUMS, LINE);
    _tile_stored(3, totals + next_rows + SUMS, LINE);
  }
}

// A part of a weight's row in bfloat16, with zeros up to whole tiles.
template <typename T>
MOM_INLINE void copy(const T* weight, int64_t width, bf16* to) {
  int64_t i = 0;
  for (; i + 2 * SIDE <= width; i += 2 * SIDE)
    if constexpr (std::is_same_v<T, bf16>)
      std::memcpy(to + i, weight + i, 4 * SIDE);
    else
      *(__m512bh*)(to + i) = _mm512_cvtne2ps_pbh((__m512)load(weight + i + SIDE), (__m512)load(weight + i));
  for (; i < width; i += SIDE) store(to + i, load(weight + i, width - i < SIDE ? int(width - i) : SIDE));
  if (i % (2 * SIDE)) store(to + i, vf{});
}

// Rows [first, last) for many sequences, from to_tiles.
template <typename T>
void tile_times(const Product& p, const float* panels, int64_t first, int64_t last) {
  constexpr int ROWS = 2 * SIDE;
  const auto* x = reinterpret_cast<const uint32_t*>(panels);
  const int64_t in = p.m.in, panel = ceil_div(in, 2 * SIDE) * PAIR, count = ceil_div(p.count, SIDE);
  const int64_t next_rows = count * SIDE * SIDE;
  std::vector<float> totals(2 * next_rows);
  alignas(64) bf16 wide[ROWS * TILE_CHUNK];
  Fetch(p.row<T>(first), p.row<T>(first + ROWS < last ? first + ROWS : last), 1).help();
  for (int64_t row = first; row < last; row += ROWS) {
    const int rows = last - row < ROWS ? int(last - row) : ROWS;
    const int64_t next = row + rows, after = next + ROWS < last ? next + ROWS : last;
    Fetch fetch(p.row<T>(next), p.row<T>(after), ceil_div(in, 2 * SIDE) * ceil_div(count, 2));
    std::memset(totals.data(), 0, totals.size() * sizeof(float));
    if (rows < ROWS) std::memset(wide, 0, sizeof wide);
    for (int64_t from = 0; from < in; from += TILE_CHUNK) {
      const int64_t width = in - from < TILE_CHUNK ? in - from : TILE_CHUNK;
      const int64_t tiles = ceil_div(width, 2 * SIDE);
      for (int r = 0; r < rows; ++r) copy(p.row<T>(row + r) + from, width, wide + r * TILE_CHUNK);
      const uint32_t* at = x + from / (2 * SIDE) * PAIR;
      for (int64_t v = 0; v < count; v += 2, at += 2 * panel) {
        float* sums = &totals[v * SIDE * SIDE];
        if (v + 1 < count)
          tile_products<2>(wide, at, panel, tiles, sums, next_rows, fetch);
        else
          tile_products<1>(wide, at, panel, tiles, sums, next_rows, fetch);
      }
    }
    for (int r = 0; r < rows; r += SIDE)
      for (int64_t v = 0; v < count; ++v) {
        vf block[SIDE];
        const float* from = &totals[r / SIDE * next_rows + v * SIDE * SIDE];
        for (int k = 0; k < SIDE; ++k) block[k] = load(from + k * SIDE);
        p.put(int(v) * SIDE, row + r, block, rows - r < SIDE ? rows - r : SIDE);
      }
  }
}

}  // namespace
}  // namespace mom

#else

namespace mom {
namespace {
inline bool tiles_granted() { return false; }
class Tiles {};
inline void to_tiles(const Product&, float*) {}
template <typename T>
void tile_times(const Product&, const float*, int64_t, int64_t) {}
}  // namespace
}  // namespace mom

#endif

// Products with many sequences by AMX, the tile instructions of Intel's server CPUs, for bfloat16 or int8
// weights: 16 times the multiplications of vector instructions. A float32 input is split into two bfloat16
// numbers, whose sum has 16 significant bits; sums are float32.
#pragma once

#include "gemm.h"

#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

namespace mom {
namespace {

constexpr int TILE = 16;                    // rows of a tile, and its columns of float32
constexpr int TILE_PAIR = 2 * TILE * TILE;  // 32-bit words of two tiles: high and low halves of the inputs
constexpr int AMX_DEPTH = 256;              // inputs whose weights stay in L1
static_assert(W == TILE);

// On Linux a process needs arch_prctl(ARCH_REQ_XCOMP_PERM) before it may use AMX.
inline bool amx_granted() {
  constexpr int REQUEST = 0x1023, DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, REQUEST, DATA) == 0;
  return granted;
}

// Orders stores before the tile loads that read them: the compiler's intrinsics do not say that tile
// instructions read memory (GCC's say so of 8 bytes, or of none).
MOM_INLINE void compiler_barrier(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

// During its lifetime all tiles of this thread have 16 rows of 64 bytes.
class AmxTiles {
 public:
  AmxTiles() {
    struct alignas(64) {
      uint8_t palette = 1, first_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    compiler_barrier(&config);
    _tile_loadconfig(&config);
  }
  ~AmxTiles() { _tile_release(); }
  AmxTiles(const AmxTiles&) = delete;
};

// x minus its high half; 0 where that is infinite.
MOM_INLINE vu low_half(vf x, vu high) {
  return (vu)select((vf)high == x, vf{}, x - (vf)high);
}

// Packs the vectors into tiles of 32 inputs x 16 sequences, one of their high and one of their low halves;
// zeros beyond the inputs and sequences.
inline void pack_tiles(const Product& p, float* panels) {
  auto* tile = reinterpret_cast<uint32_t*>(panels);
  for (int at = 0; at < p.count; at += TILE)
    for (int64_t i = 0; i < p.m.in; i += 2 * TILE, tile += TILE_PAIR)
      for (int half = 0; half < 2; ++half) {
        const int64_t from = i + half * TILE, left = p.m.in - from;
        const int inputs = left < 0 ? 0 : left < TILE ? int(left) : TILE;
        vf v[TILE];
        p.load_block(at, from, inputs, v);
        for (int k = 0; k < TILE; k += 2) {
          uint32_t* row = tile + half * TILE * TILE / 2 + k / 2 * TILE;
          const vu even = (vu)v[k] & 0xffff0000, odd = (vu)v[k + 1] & 0xffff0000;
          store(reinterpret_cast<float*>(row), (vf)(even >> 16 | odd));
          const vu low = low_half(v[k], even), next = low_half(v[k + 1], odd);
          const vu a = low + 0x7fff + (low >> 16 & 1), b = next + 0x7fff + (next >> 16 & 1);
          store(reinterpret_cast<float*>(row + TILE_PAIR / 2), (vf)(a >> 16 | (b & 0xffff0000)));
        }
      }
}

// totals (2, all panels, 16, 16) += 32 weight rows times V panels, over `tiles` tiles of inputs.
template <int V>
void tile_products(const bf16* weight, const uint32_t* x, int64_t panel, int64_t tiles, float* totals,
                   int64_t next_rows, Prefetcher& prefetcher) {
  constexpr int64_t SUMS = TILE * TILE, LINE = 64, STRIDE = 2 * AMX_DEPTH;
  compiler_barrier(weight);
  _tile_loadd(0, totals, LINE);
  _tile_loadd(1, totals + next_rows, LINE);
  if constexpr (V == 2) {
    _tile_loadd(2, totals + SUMS, LINE);
    _tile_loadd(3, totals + next_rows + SUMS, LINE);
  }
  for (int64_t t = 0; t < tiles; ++t, x += TILE_PAIR) {
    prefetcher.issue();
    _tile_loadd(4, weight + t * 2 * TILE, STRIDE);
    _tile_loadd(5, weight + TILE * AMX_DEPTH + t * 2 * TILE, STRIDE);
    for (int half = 0; half < 2; ++half) {
      _tile_loadd(6, x + half * TILE_PAIR / 2, LINE);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      if constexpr (V == 2) {
        _tile_loadd(7, x + panel + half * TILE_PAIR / 2, LINE);
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

// Copies a part of a weight's row as bfloat16, with zeros up to whole tiles.
template <typename T>
MOM_INLINE void copy_row(const T* weight, int64_t width, bf16* to) {
  int64_t i = 0;
  for (; i + 2 * TILE <= width; i += 2 * TILE)
    if constexpr (std::is_same_v<T, bf16>)
      std::memcpy(to + i, weight + i, 4 * TILE);
    else
      *(__m512bh*)(to + i) = _mm512_cvtne2ps_pbh((__m512)load(weight + i + TILE), (__m512)load(weight + i));
  for (; i < width; i += TILE) store(to + i, load(weight + i, width - i < TILE ? int(width - i) : TILE));
  if (i % (2 * TILE)) store(to + i, vf{});
}

// Rows [first, last) of a product with many sequences, from pack_tiles.
template <typename T>
void amx_gemm(const Product& p, const float* panels, int64_t first, int64_t last) {
  constexpr int ROWS = 2 * TILE;
  const auto* x = reinterpret_cast<const uint32_t*>(panels);
  const int64_t in = p.m.in, panel = ceil_div(in, 2 * TILE) * TILE_PAIR, count = ceil_div(p.count, TILE);
  const int64_t next_rows = count * TILE * TILE;
  std::vector<float> totals(2 * next_rows);
  alignas(64) bf16 wide[ROWS * AMX_DEPTH];
  Prefetcher(p.row<T>(first), p.row<T>(first + ROWS < last ? first + ROWS : last), 1).issue();
  for (int64_t row = first; row < last; row += ROWS) {
    const int rows = last - row < ROWS ? int(last - row) : ROWS;
    const int64_t next = row + rows, after = next + ROWS < last ? next + ROWS : last;
    Prefetcher prefetcher(p.row<T>(next), p.row<T>(after), ceil_div(in, 2 * TILE) * ceil_div(count, 2));
    std::memset(totals.data(), 0, totals.size() * sizeof(float));
    if (rows < ROWS) std::memset(wide, 0, sizeof wide);
    for (int64_t from = 0; from < in; from += AMX_DEPTH) {
      const int64_t width = in - from < AMX_DEPTH ? in - from : AMX_DEPTH;
      const int64_t tiles = ceil_div(width, 2 * TILE);
      for (int r = 0; r < rows; ++r) copy_row(p.row<T>(row + r) + from, width, wide + r * AMX_DEPTH);
      const uint32_t* at = x + from / (2 * TILE) * TILE_PAIR;
      for (int64_t v = 0; v < count; v += 2, at += 2 * panel) {
        float* sums = &totals[v * TILE * TILE];
        if (v + 1 < count)
          tile_products<2>(wide, at, panel, tiles, sums, next_rows, prefetcher);
        else
          tile_products<1>(wide, at, panel, tiles, sums, next_rows, prefetcher);
      }
    }
    for (int r = 0; r < rows; r += TILE)
      for (int64_t v = 0; v < count; ++v) {
        vf block[TILE];
        const float* from = &totals[r / TILE * next_rows + v * TILE * TILE];
        for (int k = 0; k < TILE; ++k) block[k] = load(from + k * TILE);
        p.store_block(int(v) * TILE, row + r, block, rows - r < TILE ? rows - r : TILE);
      }
  }
}

}  // namespace
}  // namespace mom

#else

namespace mom {
namespace {
inline bool amx_granted() { return false; }
class AmxTiles {};
inline void pack_tiles(const Product&, float*) {}
template <typename T>
void amx_gemm(const Product&, const float*, int64_t, int64_t) {}
}  // namespace
}  // namespace mom

#endif

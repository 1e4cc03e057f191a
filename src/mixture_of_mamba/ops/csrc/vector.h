// A native vector of float32 lanes: arithmetic, exp, softplus and silu, and loads and stores of float32,
// bfloat16 and int8.
//
// Vector types of the compiler (GCC, Clang) instead of intrinsics: the same source compiles for AVX-512,
// AVX2, SSE and NEON. The few intrinsics below have portable equivalents.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__) || defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mom {

#if defined(__AVX512F__)
constexpr int W = 16;  // lanes
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

// States that one pass over a chunk keeps in registers: AVX-512 and NEON have 32 vector registers, others
// 16. (MOM_STATES: a test compiles NEON's combination, 8 states of 4 lanes, for other CPUs.)
#if defined(MOM_STATES)
constexpr int PASS_STATES = MOM_STATES;
#elif defined(__AVX512F__) || defined(__aarch64__)
constexpr int PASS_STATES = 8;
#else
constexpr int PASS_STATES = 4;
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef float vf_unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef double vd __attribute__((vector_size(W * 8)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef uint16_t vh __attribute__((vector_size(W * 2)));
typedef uint16_t vh_unaligned __attribute__((vector_size(W * 2), aligned(2), may_alias));

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// Lanes of the vector that starts at element `at` of `size`: W, or fewer at the end.
inline int lanes_at(int64_t size, int64_t at) { return int(size - at < W ? size - at : W); }

#define MOM_INLINE inline __attribute__((always_inline))
// Loops over the states of a pass must be unrolled for the states to be kept in registers.
#define MOM_UNROLL _Pragma("GCC unroll 16")

MOM_INLINE vf splat(float x) { return x - vf{}; }  // x + 0 would not be x for -0
MOM_INLINE vf select(vi mask, vf yes, vf no) {
  return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}
MOM_INLINE vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }

// The larger of two numbers; b where either is NaN.
MOM_INLINE vf larger(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return select(a > b, a, b);
#endif
}

// max(low, x) and min(high, x); NaN where x is NaN.
MOM_INLINE vf at_least(float low, vf x) { return larger(splat(low), x); }
MOM_INLINE vf at_most(float high, vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_min_ps((__m512)splat(high), (__m512)x);
#elif defined(__AVX__)
  return (vf)_mm256_min_ps((__m256)splat(high), (__m256)x);
#elif defined(__SSE2__)
  return (vf)_mm_min_ps((__m128)splat(high), (__m128)x);
#else
  return select(x > high, splat(high), x);
#endif
}

// The first `count` lanes of x; the others are zero, also where x is infinite or NaN there.
MOM_INLINE vf first_lanes(vf x, int count) {
  vi lane;
  for (int i = 0; i < W; ++i) lane[i] = i;
  return (vf)((vi)x & (lane < count));
}

// scale * 2^f on [-1/2, 1/2]. The polynomial of degree 5 is exact at 0 and minimises the largest error of
// 1 / (1 - 2^f), because a state with this decay sums about that many steps and their errors.
MOM_INLINE vf exp2_fraction(vf f, float scale) {
  vf q = splat(scale * 1.320149625e-03f);
  q = q * f + scale * 9.668242425e-03f;
  q = q * f + scale * 5.550919932e-02f;
  q = q * f + scale * 2.402231512e-01f;
  q = q * f + scale * 6.931468928e-01f;
  return q * f + scale;
}

// 2^(x * y) for any two numbers: 0 below 2^-126, infinite from 2^128, NaN for NaN. Relative error 1e-7,
// plus what rounding the product x * y causes.
MOM_INLINE vf exp2_product(vf x, vf y) {
  vf p = x * y;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  // Keeps the compiler from fusing the product with the subtraction below: for a huge product the
  // difference would then be its rounding error.
  asm("" : "+v"(p));
  const vf f = (vf)_mm512_reduce_ps((__m512)p, 8);  // p minus the nearest integer
  return (vf)_mm512_scalef_ps((__m512)exp2_fraction(f, 1.0f), (__m512)(p - f));
#else
  // Adding 1.5 * 2^23 rounds to the nearest integer; adding 126 more gives the exponent bits of
  // 2^(integer - 1), which is finite for every p.
  const float magic = 12582912.0f + 126.0f;
  p = at_most(128.0f, at_least(-126.0f, p));
  const vf shifted = p + magic;
  const vf f = p - (shifted - magic);
  return exp2_fraction(f, 2.0f) * (vf)((vi)shifted << 23);
#endif
}

constexpr float LOG2E = 1.44269504088896341f;
constexpr float LN2 = 0.693147180559945309f;

// e^x; relative error 1e-7 if the compiler fuses products with sums.
MOM_INLINE vf vexp(vf x) {
#if defined(__AVX512F__)
  x = at_most(128.0f, at_least(-128.0f, x));
  const float magic = 12582912.0f;
  const vf whole = x * LOG2E + magic - magic;
  const vf f = x * LOG2E - whole;
  return (vf)_mm512_scalef_ps((__m512)exp2_fraction(f, 1.0f), (__m512)whole);
#else
  return exp2_product(x, splat(LOG2E));
#endif
}

// log(1 + exp(x)) and its derivative, with a small relative error also where the results are tiny.
MOM_INLINE void softplus(vf x, vf& value, vf& slope) {
  const vf e = vexp(-vabs(x));  // in (0, 1]
  const vf reciprocal = 1.0f / (1.0f + e);
  // log(1 + e) = 2 atanh(e / (2 + e))
  const vf s = e / (2.0f + e);
  const vf q = s * s;
  vf p = splat(1.401232029e-01f);
  p = p * q + 1.399955323e-01f;
  p = p * q + 2.001085052e-01f;
  p = p * q + 3.333320655e-01f;
  const vf log1p = 2.0f * (s + s * q * p);
  const vi positive = x > 0.0f;
  value = select(positive, x + log1p, log1p);
  slope = select(positive, reciprocal, e * reciprocal);
  const vi nan = x != x;
  value = select(nan, x, value);
  slope = select(nan, x, slope);
}

MOM_INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }
MOM_INLINE vf silu(vf x) { return x / (1.0f + vexp(-x)); }

struct bf16 {
  uint16_t bits;
};

MOM_INLINE float widen(float x) { return x; }
MOM_INLINE float widen(int8_t x) { return x; }
MOM_INLINE float widen(bf16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
MOM_INLINE void narrow(float x, float* to) { *to = x; }
MOM_INLINE void narrow(float x, bf16* to) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  to->bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

MOM_INLINE vf load(const float* p) { return *(const vf_unaligned*)p; }
MOM_INLINE vf load(const bf16* p) {
  return (vf)(__builtin_convertvector(vh(*(const vh_unaligned*)p), vu) << 16);
}
MOM_INLINE vf load(const int8_t* p) {
#if defined(__AVX512F__)
  return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
  return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  typedef int8_t lanes __attribute__((vector_size(W), aligned(1), may_alias));
  return __builtin_convertvector(__builtin_convertvector(*(const lanes*)p, vi), vf);
#endif
}
MOM_INLINE void store(float* p, vf x) { *(vf_unaligned*)p = x; }
MOM_INLINE void store(bf16* p, vf x) {
#if defined(__AVX512BF16__)
  const __m256i bits = (__m256i)_mm512_cvtneps_pbh((__m512)x);
  _mm256_storeu_si256((__m256i*)p, bits);
#else
  const vu bits = (vu)x;
  vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const vu nan = (vu)(x != x);
  rounded = (rounded & ~nan) | (nan & 0x7fc0);
  *(vh_unaligned*)p = __builtin_convertvector(rounded, vh);
#endif
}

// The first `count` lanes, 0..W; the others read as zero and are not written.
template <typename T>
MOM_INLINE vf load(const T* p, int count) {
  if (__builtin_expect(count == W, 1)) return load(p);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>)
    return (vf)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
#endif
  T lanes[W] = {};
  std::memcpy(lanes, p, count * sizeof(T));
  return load(lanes);
}
template <typename T>
MOM_INLINE void store(T* p, vf x, int count) {
  if (__builtin_expect(count == W, 1)) return store(p, x);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>)
    return _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)x);
#endif
  T lanes[W];
  store(lanes, x);
  std::memcpy(p, lanes, count * sizeof(T));
}

// The lanes numbered I of a (numbers 0..W-1) and b (numbers W..2W-1).
template <int... I>
MOM_INLINE vf shuffled(vf a, vf b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, vi{I...});
#endif
}

// Transposes W vectors of W lanes: v[i][j] becomes v[j][i].
template <int S, int... I>
MOM_INLINE void swap_blocks(vf& a, vf& b, std::integer_sequence<int, I...>) {
  const vf low = shuffled<(I & S ? W + I - S : I)...>(a, b);
  b = shuffled<(I & S ? W + I : I + S)...>(a, b);
  a = low;
}
template <int S = W / 2>
MOM_INLINE void transpose(vf* v) {
  MOM_UNROLL
  for (int i = 0; i < W; ++i)
    if (!(i & S)) swap_blocks<S>(v[i], v[i + S], std::make_integer_sequence<int, W>{});
  if constexpr (S > 1) transpose<S / 2>(v);
}

// Sums of W vectors as one vector: lane i is the sum of v[i]. Always the same tree of W - 1 additions,
// so results are reproducible.
template <int S, bool HIGH, int... I>
MOM_INLINE vf halves(vf a, vf b, std::integer_sequence<int, I...>) {
  return shuffled<((I / S % 2 ? W : 0) + I / (2 * S) * (2 * S) + (HIGH ? S : 0) + I % S)...>(a, b);
}
template <int S>
MOM_INLINE void fold(vf* v) {
  using lanes = std::make_integer_sequence<int, W>;
  for (int i = 0; i < S; ++i)
    v[i] = halves<S, false>(v[i], v[i + S], lanes{}) + halves<S, true>(v[i], v[i + S], lanes{});
  if constexpr (S > 1) fold<S / 2>(v);
}
MOM_INLINE vf lane_sums(vf* v) {
  fold<W / 2>(v);
  return v[0];
}

// The sum of one vector's lanes.
MOM_INLINE float lane_sum(vf x) {
  float lanes[W];
  store(lanes, x);
  for (int s = W / 2; s; s /= 2)
    for (int i = 0; i < s; ++i) lanes[i] += lanes[i + s];
  return lanes[0];
}

// Flushes denormal numbers to zero during its lifetime: arithmetic with them is many times slower on most
// CPUs, and a decaying state reaches them.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t(1) << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

}  // namespace mom

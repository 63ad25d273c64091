/* What generated kernels need: IEEE 754 single precision, one operation at a time, and nothing of a C library.
 * Changing a line here changes results: RUNTIME_VERSION in ganglion/kernels/c/emission.py changes with it. */
#ifndef GANGLION_KERNEL_RUNTIME_H
#define GANGLION_KERNEL_RUNTIME_H
#include <stddef.h>
#include <stdint.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "kernels must keep IEEE 754: build without -ffast-math and -ffinite-math-only"
#endif
#if defined(__ARM_NEON) && !defined(__aarch64__)
#error "32-bit NEON flushes subnormals to zero: build with -mfpu=vfpv3-d16 or the like"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "floats must be computed in float precision: build with SSE2 (-msse2 -mfpmath=sse)"
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-fast-math")
#endif

/* Where vectors can be masked, a loop's last few turns take one more vector. */
#if defined(__clang__) && defined(__AVX512F__)
#define GG_MASKED _Pragma("clang loop vectorize_predicate(enable)")
#else
#define GG_MASKED
#endif

/* A loop over all elements of all rows. */
#if defined(__clang__)
#define GG_ALL _Pragma("clang loop vectorize(enable) interleave_count(2)")
#else
#define GG_ALL _Pragma("GCC ivdep")
#endif

#define GG_INLINE static inline __attribute__((always_inline, unused))

GG_INLINE uint32_t gg_bits(float f) { union { float f; uint32_t u; } v; v.f = f; return v.u; }
GG_INLINE float gg_float(uint32_t u) { union { float f; uint32_t u; } v; v.u = u; return v.f; }
GG_INLINE float gg_abs(float x) { return gg_float(gg_bits(x) & 0x7fffffffu); }
GG_INLINE float gg_copysign(float x, float s) { return gg_float((gg_bits(x) & 0x7fffffffu) | (gg_bits(s) & 0x80000000u)); }
/* Compilers delete x != x ? NAN : x, and take a choice of its bits for it too, so the comparison is one of integers. */
GG_INLINE float gg_canonical(float x) { uint32_t u = gg_bits(x); return gg_float((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : u); }
/* The inner choice is one instruction on most processors. */
GG_INLINE float gg_min(float a, float b) { return a != a ? a : (a < b ? a : b); }
GG_INLINE float gg_max(float a, float b) { return a != a ? a : (a > b ? a : b); }
GG_INLINE int32_t gg_mini(int32_t a, int32_t b) { return a < b ? a : b; }
GG_INLINE int32_t gg_maxi(int32_t a, int32_t b) { return a > b ? a : b; }
GG_INLINE int32_t gg_addi(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }
GG_INLINE int32_t gg_subi(int32_t a, int32_t b) { return (int32_t)((uint32_t)a - (uint32_t)b); }
GG_INLINE int32_t gg_muli(int32_t a, int32_t b) { return (int32_t)((uint32_t)a * (uint32_t)b); }
GG_INLINE int32_t gg_negi(int32_t a) { return (int32_t)(0u - (uint32_t)a); }
GG_INLINE int32_t gg_absi(int32_t a) { return a < 0 ? gg_negi(a) : a; }
GG_INLINE int32_t gg_shli(int32_t a, int32_t n) { return (uint32_t)n > 31u ? 0 : (int32_t)((uint32_t)a << n); }
GG_INLINE int32_t gg_shri(int32_t a, int32_t n) { return (uint32_t)n > 31u ? (a < 0 ? -1 : 0) : a >> n; }
GG_INLINE int32_t gg_divi(int32_t a, int32_t b) {
  if (b == 0) return 0;
  if (b == -1) return gg_negi(a);
  return a / b - ((a % b != 0) & ((a < 0) != (b < 0)));
}
GG_INLINE int32_t gg_modi(int32_t a, int32_t b) {
  int32_t r;
  if (b == 0 || b == -1) return 0;
  r = a % b;
  return (r != 0 && ((r < 0) != (b < 0))) ? r + b : r;
}
GG_INLINE int32_t gg_to_i32(float x) {
  return x != x ? 0 : x >= 2147483648.0f ? 2147483647 : x <= -2147483648.0f ? (-2147483647 - 1) : (int32_t)x;
}
GG_INLINE float gg_rint(float x) {
  float m = x < 0.0f ? -8388608.0f : 8388608.0f;
  return gg_abs(x) < 8388608.0f ? gg_copysign((x + m) - m, x) : x;
}
/* Half to even; NaN is the lowest, a zero point outside the range the nearest end. |q| < 2^21, so adding 1.5 * 2^23
 * leaves the whole number in the low bits. */
GG_INLINE int32_t gg_quantize_step(float q, int32_t zero, int32_t low, int32_t high) {
  float first, last;
  zero = zero < low ? low : zero > high ? high : zero;
  first = (float)(low - zero);
  last = (float)(high - zero);
  q = q > first ? q : first;
  q = q < last ? q : last;
  return (int32_t)gg_bits(q + 12582912.0f) - 0x4B400000 + zero;
}
GG_INLINE float gg_floor(float x) { float r = gg_rint(x); return r > x ? gg_copysign(r - 1.0f, x) : r; }

#if defined(__ARM_FP) || defined(__x86_64__) || defined(__aarch64__) || defined(__riscv_flen) || defined(__wasm__)
GG_INLINE float gg_sqrt(float x) { return __builtin_sqrtf(x); }
GG_INLINE float gg_div(float a, float b) { return a / b; }
#else
/* No floating-point unit. Libraries' division may cut subnormal quotients off instead of rounding them
 * (compiler_rt does), so it is done here: 24 bits and one to round by, exactly rounded. */
static __attribute__((unused)) float gg_div(float a, float b) {
  uint32_t ua = gg_bits(a), ub = gg_bits(b), sign = (ua ^ ub) & 0x80000000u, q = 0, sticky;
  int32_t ea, eb, e;
  int i;
  ua &= 0x7fffffffu;
  ub &= 0x7fffffffu;
  if (ua > 0x7f800000u || ub > 0x7f800000u) return gg_float(0x7fc00000u);
  if (ua == 0x7f800000u) return gg_float(ub == 0x7f800000u ? 0x7fc00000u : sign | 0x7f800000u);
  if (ub == 0x7f800000u) return gg_float(sign);
  if (ub == 0u) return gg_float(ua == 0u ? 0x7fc00000u : sign | 0x7f800000u);
  if (ua == 0u) return gg_float(sign);
  ea = (int32_t)(ua >> 23);
  eb = (int32_t)(ub >> 23);
  if (ea == 0) { ea = 1; while (!(ua & 0x800000u)) { ua <<= 1; ea--; } } else ua = (ua & 0x7fffffu) | 0x800000u;
  if (eb == 0) { eb = 1; while (!(ub & 0x800000u)) { ub <<= 1; eb--; } } else ub = (ub & 0x7fffffu) | 0x800000u;
  e = ea - eb + 127;
  if (ua < ub) { ua <<= 1; e--; }
  for (i = 0; i < 25; i++) {
    q <<= 1;
    if (ua >= ub) { ua -= ub; q |= 1u; }
    ua <<= 1;
  }
  sticky = ua != 0u;
  if (e >= 255) return gg_float(sign | 0x7f800000u);
  if (e <= 0) {
    int32_t shift = 1 - e;
    if (shift > 25) { sticky = 1u; q = 0u; }
    else { sticky |= (q & ((1u << shift) - 1u)) != 0u; q >>= shift; }
    e = 1;
    q = (q >> 1) + ((q & 1u) && (sticky || (q & 2u)) ? 1u : 0u);
    return gg_float(sign | q);
  }
  q = (q >> 1) + ((q & 1u) && (sticky || (q & 2u)) ? 1u : 0u);
  return gg_float(sign | (((uint32_t)(e - 1) << 23) + q));
}
/* One bit of the root at a time, 24 and one to round by, exactly rounded. */
static __attribute__((unused)) float gg_sqrt(float x) {
  uint32_t u = gg_bits(x), m, root = 0, rest = 0;
  int32_t e = (int32_t)(u >> 23);
  int i;
  if (u == 0u || u == 0x80000000u || u == 0x7f800000u || (u & 0x7fffffffu) > 0x7f800000u) return x;
  if (u & 0x80000000u) return gg_float(0x7fc00000u);
  m = u & 0x7fffffu;
  if (e == 0) { e = 1; while (!(m & 0x800000u)) { m <<= 1; e--; } } else m |= 0x800000u;
  e -= 127;
  m <<= 7;                     /* 31 bits below: two bits are taken from the top each turn */
  if (e & 1) { m <<= 1; e--; }
  for (i = 0; i < 25; i++) {
    uint32_t trial;
    rest = (rest << 2) | (m >> 30);
    m <<= 2;
    trial = (root << 2) | 1u;
    root <<= 1;
    if (rest >= trial) { rest -= trial; root |= 1u; }
  }
  root = (root >> 1) + ((root & 1u) && (rest != 0u || (root & 2u)) ? 1u : 0u);
  return gg_float((uint32_t)((e >> 1) + 126) * 0x800000u + root);
}
#endif

/* Rows side by side: the loop over them, which compilers fill vectors with. GG_WIDE is a multiple of 8. */
#ifdef GG_WIDE
#define GG_LARGER(a, b) ((a) > (b) ? (a) : (b))
#if defined(__clang__)
#define GG_ROWS(q) _Pragma("clang loop unroll(disable) vectorize(enable) interleave(disable)") for (int q = 0; q < GG_WIDE; q++)
#else
#define GG_ROWS(q) _Pragma("GCC ivdep") for (int q = 0; q < GG_WIDE; q++)
#endif
/* From (row, element) to (element, row), and back. Rows lie `step` bytes apart, that of a key at its place. */
typedef uint32_t gg_eight __attribute__((vector_size(32), aligned(4), may_alias));
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define GG_SHUFFLE 1
#endif
#endif
#ifdef GG_SHUFFLE
#define GG_PAIRS(a, b, low, high) \
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13); high = __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define GG_QUADS(a, b, low, high) \
  low = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13); high = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define GG_HALVES(a, b, low, high) \
  low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11); high = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
GG_INLINE void gg_turn_eight(const uint32_t *const *from, uint32_t *const *to) {
  gg_eight a[8], b[8];
  for (int i = 0; i < 8; i++) a[i] = *(const gg_eight *)from[i];
  GG_PAIRS(a[0], a[1], b[0], b[1]); GG_PAIRS(a[2], a[3], b[2], b[3]); GG_PAIRS(a[4], a[5], b[4], b[5]); GG_PAIRS(a[6], a[7], b[6], b[7]);
  GG_QUADS(b[0], b[2], a[0], a[1]); GG_QUADS(b[1], b[3], a[2], a[3]); GG_QUADS(b[4], b[6], a[4], a[5]); GG_QUADS(b[5], b[7], a[6], a[7]);
  GG_HALVES(a[0], a[4], b[0], b[4]); GG_HALVES(a[1], a[5], b[1], b[5]); GG_HALVES(a[2], a[6], b[2], b[6]); GG_HALVES(a[3], a[7], b[3], b[7]);
  for (int i = 0; i < 8; i++) *(gg_eight *)to[i] = b[i];
}
#endif
#define GG_ROW(rows, step, key, q) ((rows) + (step) * (size_t)((key) ? (key)[q] : (q)))
GG_INLINE void gg_words_together(const void *rows, size_t step, const int32_t *key, void *together, int elements) {
  const uint8_t *bytes = (const uint8_t *)rows;
  uint32_t *to = (uint32_t *)together;
  int k = 0;
  /* Once in order: processors see the next lines of memory coming, which they do not from 16 places at once. */
  if (!key) for (size_t at = 0; at < step * GG_WIDE; at += 64) (void)*(const volatile uint8_t *)(bytes + at);
#ifdef GG_SHUFFLE
  for (; k + 8 <= elements; k += 8)
    for (int q = 0; q < GG_WIDE; q += 8) {
      const uint32_t *from[8];
      uint32_t *target[8];
      for (int i = 0; i < 8; i++) from[i] = (const uint32_t *)GG_ROW(bytes, step, key, q + i) + k;
      for (int i = 0; i < 8; i++) target[i] = to + (k + i) * GG_WIDE + q;
      gg_turn_eight(from, target);
    }
#endif
  for (int q = 0; q < GG_WIDE; q++) {
    const uint32_t *from = (const uint32_t *)GG_ROW(bytes, step, key, q);
    for (int j = k; j < elements; j++) to[j * GG_WIDE + q] = from[j];
  }
}
GG_INLINE void gg_words_apart(const void *together, void *rows, size_t step, const int32_t *key, int elements) {
  const uint32_t *from = (const uint32_t *)together;
  uint8_t *bytes = (uint8_t *)rows;
  int k = 0;
#ifdef GG_SHUFFLE
  for (; k + 8 <= elements; k += 8)
    for (int q = 0; q < GG_WIDE; q += 8) {
      const uint32_t *source[8];
      uint32_t *to[8];
      for (int i = 0; i < 8; i++) source[i] = from + (k + i) * GG_WIDE + q;
      for (int i = 0; i < 8; i++) to[i] = (uint32_t *)GG_ROW(bytes, step, key, q + i) + k;
      gg_turn_eight(source, to);
    }
#endif
  for (int q = 0; q < GG_WIDE; q++) {
    uint32_t *to = (uint32_t *)GG_ROW(bytes, step, key, q);
    for (int j = k; j < elements; j++) to[j] = from[j * GG_WIDE + q];
  }
}
GG_INLINE void gg_bytes_together(const void *rows, size_t step, const int32_t *key, void *together, int elements) {
  for (int q = 0; q < GG_WIDE; q++)
    for (int j = 0; j < elements; j++) ((uint8_t *)together)[j * GG_WIDE + q] = GG_ROW((const uint8_t *)rows, step, key, q)[j];
}
GG_INLINE void gg_bytes_apart(const void *together, void *rows, size_t step, const int32_t *key, int elements) {
  for (int q = 0; q < GG_WIDE; q++)
    for (int j = 0; j < elements; j++) GG_ROW((uint8_t *)rows, step, key, q)[j] = ((const uint8_t *)together)[j * GG_WIDE + q];
}
/* True when the keys of a group are all different, so that none of its rows continues another. */
GG_INLINE int gg_distinct(const int32_t *key) {
  int32_t twice[2 * GG_WIDE];
  uint32_t same = 0;
  for (int q = 0; q < GG_WIDE; q++) twice[q] = twice[q + GG_WIDE] = key[q];
  for (int d = 1; d <= GG_WIDE / 2; d++)
    for (int q = 0; q < GG_WIDE; q++) same |= twice[q] == twice[q + d];
  return !same;
}
#endif

GG_INLINE int32_t gg_quantize(float x, float scale, int32_t zero, int32_t low, int32_t high) {
  return gg_quantize_step(gg_div(x, scale), zero, low, high);
}
/* e^r - 1 for r up to half a logarithm of 2; coefficients in pairs. */
GG_INLINE float gg_less_one(float r) {
  float z = r * r;
  float y = (1.3950725551694632e-3f * z + (8.369024842977524e-3f * r + 4.166620224714279e-2f)) * z + (1.66665181517601e-1f * r + 0.5f);
  return y * z + r;
}
/* x = r + n log 2: adding 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits. NaN stays NaN. */
GG_INLINE float gg_exp(float x) {
  float c = x > 89.0f ? 89.0f : x, m, n, y;
  int32_t k, half;
  c = c < -104.0f ? -104.0f : c;
  m = c * 0x1.715476p+0f + 12582912.0f;
  n = m - 12582912.0f;
  y = gg_less_one((c - n * 0.693359375f) - n * -2.12194440e-4f);
  k = (int32_t)(gg_bits(m) - 0x4b400000u);
  half = k >> 1;
  return ((y + 1.0f) * gg_float((uint32_t)(half + 127) << 23)) * gg_float((uint32_t)(k - half + 127) << 23);
}
/* Coefficients in pairs: half as many steps wait for each other as in a chain. One NaN for whatever has no logarithm. */
GG_INLINE float gg_log(float x) {
  int32_t small = x < 1.17549435e-38f, e;
  uint32_t u = gg_bits(small ? x * 8388608.0f : x) - 0x3f3504f3u;  /* mantissas from the root of 1/2 to its double */
  float m = gg_float((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f, z, y;
  e = ((int32_t)u >> 23) - (small ? 23 : 0);
  z = m * m;
  y = ((8.700439e-2f * m + -1.4267491e-1f) * z + (1.4914767e-1f * m + -1.6577585e-1f)) * z + (1.9963063e-1f * m + -2.5001338e-1f);
  y = y * z + (3.333391e-1f * m + -0.5f);
  y = (y * z + m) + (float)e * 6.9314718e-1f;
  y = x < gg_float(0x7f800000u) ? y : x;
  return x > 0.0f ? y : x == 0.0f ? gg_float(0xff800000u) : gg_float(0x7fc00000u);
}
GG_INLINE float gg_turned(float x, uint32_t quarter) {
  float m = x * 0.636619772f + 12582912.0f, n = m - 12582912.0f, r, z, s, c;
  uint32_t k = gg_bits(m) + quarter;
  r = ((x - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.549789948768648e-8f;
  z = r * r;
  s = (((-1.9515295891e-4f * z + 8.3321608736e-3f) * z + -1.6666654611e-1f) * z) * r + r;
  c = ((((2.443315711809948e-5f * z + -1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z) * z - 0.5f * z) + 1.0f;
  s = gg_float(gg_bits((k & 1u) ? c : s) ^ (k & 2u) << 30);
  return gg_abs(x) <= 8192.0f ? s : gg_float(0x7fc00000u);
}
GG_INLINE float gg_sin(float x) { return gg_turned(x, 0u); }
GG_INLINE float gg_cos(float x) { return gg_turned(x, 1u); }
/* As exp, with one step for n log 2: up to 20, what it rounds off is lost in the quotient. 127 more in what rounds, and
 * the lowest bits are the exponent of 2^n. */
GG_INLINE float gg_tanh(float x) {
  uint32_t size = gg_bits(x) & 0x7fffffffu;
  float a = gg_float(size) + gg_float(size), m, n, e, y;
  a = a > 20.0f ? 20.0f : a;
  m = a * 0x1.715476p+0f + 12583039.0f;
  n = m - 12583039.0f;
  y = gg_less_one(a - n * 6.9314718e-1f);
  e = gg_float(gg_bits(m) << 23);
  y = e * y + (e - 1.0f);
  y = gg_div(y, y + 2.0f);
  return gg_float(size > 0x7f800000u ? 0x7fc00000u : gg_bits(y) | (gg_bits(x) & 0x80000000u));
}
GG_INLINE float gg_sigmoid(float x) { return gg_div(1.0f, 1.0f + gg_exp(-x)); }
#endif

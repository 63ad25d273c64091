/* What generated int8 networks need, beside kernel_runtime.h. Every function is inlined with constant extents, so each
 * layer is compiled for its own shape. Values are channels last. Buffers of ours are aligned to 8 bytes; what a caller
 * gives need not be. */
#ifndef GANGLION_INT8_KERNELS_H
#define GANGLION_INT8_KERNELS_H
#include "kernel_runtime.h"

#if defined(__ARM_FEATURE_SIMD32)
#include <arm_acle.h>
#define GG_DUAL 1 /* two products of 16 bits in one instruction */
typedef int16_t gg_cell;
GG_INLINE int32_t gg_even(uint32_t w) { return (int32_t)__sxtb16((int8x4_t)w); }
GG_INLINE int32_t gg_odd(uint32_t w) { return (int32_t)__sxtb16((int8x4_t)((w >> 8) | (w << 24))); }
GG_INLINE int32_t gg_dual(int32_t a, int32_t b, int32_t sum) { return __smlad((int16x2_t)a, (int16x2_t)b, sum); }
GG_INLINE int8_t gg_saturated(int32_t v) { return (int8_t)__ssat(v, 8); }
#else
typedef int8_t gg_cell;
GG_INLINE int8_t gg_saturated(int32_t v) { return (int8_t)(v < -128 ? -128 : v > 127 ? 127 : v); }
#endif
#if defined(__clang__)
#define GG_UNROLL(n) _Pragma(GG_TEXT(clang loop unroll_count(n)))
#define GG_UNROLL_ALL _Pragma("clang loop unroll(full)")
#else
#define GG_UNROLL(n) _Pragma(GG_TEXT(GCC unroll n))
#define GG_UNROLL_ALL _Pragma("GCC unroll 64")
#endif
#define GG_TEXT(x) #x
/* A layer is a function of its own, so that a stack frame is not the sum of all. What gcc's -O3 does to these loops makes
 * them 3 to 11 times faster; whole kernels are not built so (see SPEED in ganglion/kernels/c/toolchain.py). */
#if defined(__GNUC__) && !defined(__clang__)
#define GG_LAYER static __attribute__((noinline, optimize("O3")))
#else
#define GG_LAYER static __attribute__((noinline))
#endif

GG_INLINE uint32_t gg_word(const void *p) { uint32_t v; __builtin_memcpy(&v, p, 4); return v; }

/* Half to even, for |x| < 2^21: adding 1.5 * 2^23 leaves the whole number in the low bits. */
GG_INLINE int32_t gg_whole(float x) { return (int32_t)gg_bits(x + 12582912.0f) - 0x4B400000; }
/* A sum in the result's unit. `wide`: the product may leave what gg_whole can round, so it is cut first. */
GG_INLINE int8_t gg_requantised(int32_t sum, float scale, int32_t zero, int wide) {
  float x = (float)sum * scale;
  if (wide) {
    float low = (float)(-128 - zero), high = (float)(127 - zero);
    x = x < low ? low : x;
    x = x > high ? high : x;
  }
  return gg_saturated((int32_t)gg_bits(x + 12582912.0f) - (0x4B400000 - zero));
}
/* a * b + c rounded once; a has 8 bits, so the sum is exact in double precision (see arithmetic.py). */
GG_INLINE float gg_fused(int32_t a, float b, float c) {
#if defined(__ARM_FEATURE_FMA) || defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf((float)a, b, c);
#else
  return (float)((double)a * (double)b + (double)c);
#endif
}

/* One column of a filter: the operand's cells below it, the zero point where it is padded. */
GG_INLINE void gg_gather(const int8_t *x, int8_t *to, int row, int column, int H, int W, int C, int KH, int KW,
                         int DH, int DW, int zero) {
  for (int i = 0; i < KH; i++) {
    int h = row + i * DH;
    for (int j = 0; j < KW; j++) {
      int w = column + j * DW;
      if ((unsigned)h < (unsigned)H && (unsigned)w < (unsigned)W) {
        const int8_t *from = x + (h * W + w) * C;
        for (int c = 0; c < C; c++) to[c] = from[c];
      } else {
        for (int c = 0; c < C; c++) to[c] = (int8_t)zero;
      }
      to += C;
    }
  }
}

#if defined(GG_DUAL)
/* n bytes, a multiple of 4, as cells of 16 bits in the order 0 2 1 3 that gg_even and gg_odd give. */
GG_INLINE void gg_widen(const int8_t *from, int32_t *to, int n) {
  GG_UNROLL(4)
  for (int k = 0; k < n; k += 4, to += 2) {
    uint32_t v = gg_word(from + k);
    to[0] = gg_even(v);
    to[1] = gg_odd(v);
  }
}
GG_INLINE void gg_column(const int8_t *x, gg_cell *cells, int8_t *raw, int row, int column, int H, int W, int C, int KH,
                         int KW, int DH, int DW, int zero) {
  int taken = KH * KW * C, padded = (taken + 3) & ~3;
  if (C % 4 == 0) {
    int32_t *to = (int32_t *)cells, fill = (int32_t)(((uint32_t)zero & 0xffffu) * 0x10001u);
    for (int i = 0; i < KH; i++) {
      int h = row + i * DH;
      for (int j = 0; j < KW; j++, to += C / 2) {
        int w = column + j * DW;
        if ((unsigned)h < (unsigned)H && (unsigned)w < (unsigned)W) gg_widen(x + (h * W + w) * C, to, C);
        else for (int c = 0; c < C / 2; c++) to[c] = fill;
      }
    }
  } else {
    gg_gather(x, raw, row, column, H, W, C, KH, KW, DH, DW, zero);
    for (int k = taken; k < padded; k++) raw[k] = 0;
    gg_widen(raw, (int32_t *)cells, padded);
  }
}
#else
GG_INLINE void gg_column(const int8_t *x, gg_cell *cells, int8_t *raw, int row, int column, int H, int W, int C, int KH,
                         int KW, int DH, int DW, int zero) {
  (void)raw;
  gg_gather(x, cells, row, column, H, W, C, KH, KW, DH, DW, zero);
  for (int k = KH * KW * C; k < ((KH * KW * C + 3) & ~3); k++) cells[k] = 0;
}
#endif

/* Two columns times all weights. Weights: results in pairs, of each pair four of one and four of the other in turn. */
GG_INLINE void gg_products(const gg_cell *first, const gg_cell *second, int8_t *y, int8_t *z, const int8_t *weights,
                           const int32_t *bias, const float *scales, int taken, int results, int zero, int wide) {
  const uint32_t *w = (const uint32_t *)weights;
  int blocks = (taken + 3) / 4;
  for (int o = 0; o < results; o += 2) {
    int32_t a = bias[o], b = bias[o + 1], c = a, d = b;
#if defined(GG_DUAL)
    const int32_t *p = (const int32_t *)first, *q = (const int32_t *)second;
    GG_UNROLL(4)
    for (int k = 0; k < blocks; k++, w += 2, p += 2, q += 2) {
      uint32_t u = w[0], v = w[1];
      int32_t p0 = p[0], p1 = p[1], ue = gg_even(u), ve = gg_even(v);
      a = gg_dual(p0, ue, a);
      b = gg_dual(p0, ve, b);
      if (z) {
        int32_t q0 = q[0];
        c = gg_dual(q0, ue, c);
        d = gg_dual(q0, ve, d);
      }
      ue = gg_odd(u);
      ve = gg_odd(v);
      a = gg_dual(p1, ue, a);
      b = gg_dual(p1, ve, b);
      if (z) {
        int32_t q1 = q[1];
        c = gg_dual(q1, ue, c);
        d = gg_dual(q1, ve, d);
      }
    }
#else
    const int8_t *u = (const int8_t *)w;
    for (int k = 0; k < blocks * 4; k += 4, u += 8)
      for (int j = 0; j < 4; j++) {
        a += first[k + j] * u[j];
        b += first[k + j] * u[4 + j];
        if (z) {
          c += second[k + j] * u[j];
          d += second[k + j] * u[4 + j];
        }
      }
    w += blocks * 2;
#endif
    y[o] = gg_requantised(a, scales[o], zero, wide);
    if (z) z[o] = gg_requantised(c, scales[o], zero, wide);
    if (o + 1 < results) {
      y[o + 1] = gg_requantised(b, scales[o + 1], zero, wide);
      if (z) z[o + 1] = gg_requantised(d, scales[o + 1], zero, wide);
    }
  }
}

/* One position, read where it lies; its channels come in fours. */
GG_INLINE void gg_dense(const int8_t *x, int8_t *y, const int8_t *weights, const int32_t *bias, const float *scales,
                        int taken, int results, int zero, int wide) {
#if defined(GG_DUAL)
  const uint32_t *w = (const uint32_t *)weights;
  for (int o = 0; o < results; o += 2) {
    int32_t a = bias[o], b = bias[o + 1];
    GG_UNROLL(4)
    for (int k = 0; k < taken; k += 4, w += 2) {
      uint32_t cells = gg_word(x + k), u = w[0], v = w[1];
      int32_t even = gg_even(cells), odd = gg_odd(cells);
      a = gg_dual(even, gg_even(u), a);
      b = gg_dual(even, gg_even(v), b);
      a = gg_dual(odd, gg_odd(u), a);
      b = gg_dual(odd, gg_odd(v), b);
    }
    y[o] = gg_requantised(a, scales[o], zero, wide);
    if (o + 1 < results) y[o + 1] = gg_requantised(b, scales[o + 1], zero, wide);
  }
#else
  gg_products(x, x, y, 0, weights, bias, scales, taken, results, zero, wide);
#endif
}

/* Two positions at a time are laid out as columns in `scratch`, so a pointwise layer may overwrite its operand. */
GG_INLINE void gg_convolution(const int8_t *x, int8_t *y, uint8_t *scratch, const int8_t *weights, const int32_t *bias,
                              const float *scales, int H, int W, int C, int KH, int KW, int SH, int SW, int DH, int DW,
                              int PT, int PL, int OH, int OW, int O, int zero_in, int zero, int wide) {
  int taken = KH * KW * C, padded = (taken + 3) & ~3;
  gg_cell *first = (gg_cell *)scratch, *second = OH * OW > 1 ? first + padded : first;
  int8_t *raw = (int8_t *)(second + padded);
  int row = -PT, column = -PL, left = OW, n = OH * OW;
  for (; n > 0; n -= 2) {
    for (int k = 0; k < (n > 1 ? 2 : 1); k++) {
      gg_column(x, k ? second : first, raw, row, column, H, W, C, KH, KW, DH, DW, zero_in);
      column += SW;
      if (--left == 0) { left = OW; column = -PL; row += SH; }
    }
    if (n == 1) {
      gg_products(first, second, y, 0, weights, bias, scales, taken, O, zero, wide);
    } else {
      gg_products(first, second, y, y + O, weights, bias, scales, taken, O, zero, wide);
    }
    y += 2 * O;
  }
}

/* One channel at a time is laid out as a padded plane of 16 bits in `scratch`: a result may lie where its operand lay.
 * Weights: rows of `KP` cells, KW and a zero where that is odd. */
GG_INLINE void gg_depthwise(const int8_t *x, int8_t *y, uint8_t *scratch, const int16_t *weights, const int32_t *bias,
                            const float *scales, int H, int W, int C, int KH, int KW, int SH, int SW, int DH, int DW,
                            int PT, int PL, int PH, int PW, int OH, int OW, int O, int zero_in, int zero, int wide) {
  int16_t *plane = (int16_t *)scratch;
  int KP = (KW + 1) & ~1;
  for (int k = 0; k < PH * PW; k++) plane[k] = (int16_t)zero_in;
  for (int c = 0; c < C; c++) {
    const int8_t *from = x + c;
    for (int h = 0; h < H; h++) {
      int16_t *to = plane + (h + PT) * PW + PL;
      GG_UNROLL(4)
      for (int w = 0; w < W; w++, from += C) to[w] = *from;
    }
    for (int o = c * (O / C); o < (c + 1) * (O / C); o++) {
      const int16_t *taps = weights + o * KH * KP;
      int8_t *to = y + o;
      int32_t start = bias[o];
      float scale = scales[o];
#if defined(GG_DUAL)
      int32_t held[KH * KP / 2];
      for (int k = 0; k < KH * KP / 2; k++) held[k] = (int32_t)gg_word(taps + 2 * k);
#endif
      for (int h = 0; h < OH; h++) {
        const int16_t *at = plane + h * SH * PW;
        for (int w = 0; w < OW; w++, at += SW, to += O) {
          int32_t sum = start;
#if defined(GG_DUAL)
          if (DW == 1) {
            GG_UNROLL_ALL
            for (int i = 0; i < KH; i++) {
              GG_UNROLL_ALL
              for (int j = 0; j < KP / 2; j++)
                sum = gg_dual((int32_t)gg_word(at + i * DH * PW + 2 * j), held[i * (KP / 2) + j], sum);
            }
          } else
#endif
            for (int i = 0; i < KH; i++)
              for (int j = 0; j < KW; j++) sum += at[i * DH * PW + j * DW] * taps[i * KP + j];
          *to = gg_requantised(sum, scale, zero, wide);
        }
      }
    }
  }
}

GG_INLINE void gg_max_pool(const int8_t *x, int8_t *y, int H, int W, int C, int KH, int KW, int SH, int SW, int PT,
                           int PL, int OH, int OW) {
  for (int h = 0; h < OH; h++)
    for (int w = 0; w < OW; w++, y += C) {
      int r0 = h * SH - PT, c0 = w * SW - PL, r1 = r0 + KH, c1 = c0 + KW;
      r0 = r0 < 0 ? 0 : r0;
      c0 = c0 < 0 ? 0 : c0;
      r1 = r1 > H ? H : r1;
      c1 = c1 > W ? W : c1;
      for (int c = 0; c < C; c++) {
        int8_t most = -128;
        for (int i = r0; i < r1; i++)
          for (int j = c0; j < c1; j++) { int8_t v = x[(i * W + j) * C + c]; most = v > most ? v : most; }
        y[c] = most;
      }
    }
}
GG_INLINE void gg_average_pool(const int8_t *x, int8_t *y, int H, int W, int C, int KH, int KW, int SH, int SW, int PT,
                               int PL, int OH, int OW, float before, int zero_in, float after, int zero, int pads,
                               int lift) {
  for (int h = 0; h < OH; h++)
    for (int w = 0; w < OW; w++, y += C) {
      int r0 = h * SH - PT, c0 = w * SW - PL, r1 = r0 + KH, c1 = c0 + KW;
      r0 = r0 < 0 ? 0 : r0;
      c0 = c0 < 0 ? 0 : c0;
      r1 = r1 > H ? H : r1;
      c1 = c1 > W ? W : c1;
      float count = (float)(pads ? KH * KW : (r1 - r0) * (c1 - c0));
      for (int c = 0; c < C; c++) {
        float sum = 0.0f;
        for (int i = r0; i < r1; i++)
          for (int j = c0; j < c1; j++) sum += (float)(x[(i * W + j) * C + c] - zero_in) * before;
        sum = gg_div(gg_div(sum, count), after) + (float)(zero + lift);
        sum = sum < (float)(lift - 128) ? (float)(lift - 128) : sum;
        y[c] = gg_saturated(gg_whole(sum > (float)(lift + 127) ? (float)(lift + 127) : sum) - lift);
      }
    }
}
GG_INLINE void gg_global_average(const int8_t *x, int8_t *y, int N, int C, int zero_in, float scale, int zero) {
  for (int c = 0; c < C; c++) {
    int32_t sum = -N * zero_in;
    for (int k = 0; k < N; k++) sum += x[k * C + c];
    y[c] = gg_requantised(sum, scale, zero, 1);
  }
}
GG_INLINE void gg_add(const int8_t *a, const int8_t *b, int8_t *y, int n, float ratio_a, float ratio_b, float fixed,
                   int lift) {
  for (int k = 0; k < n; k++)
    y[k] = gg_saturated(gg_whole(gg_fused(a[k] + lift, ratio_a, gg_fused(b[k] + lift, ratio_b, fixed))) - lift);
}
GG_INLINE void gg_lookup(const int8_t *x, int8_t *y, const int8_t *table, int n) {
  for (int k = 0; k < n; k++) y[k] = table[x[k] + 128];
}
GG_INLINE void gg_softmax(const int8_t *x, int8_t *y, const float *table, int rows, int n, float parts, int zero) {
  for (int r = 0; r < rows; r++, x += n, y += n) {
    int most = -128;
    float sum = 0.0f;
    for (int k = 0; k < n; k++) most = x[k] > most ? x[k] : most;
    for (int k = 0; k < n; k++) sum += table[255 - (most - x[k])];
    for (int k = 0; k < n; k++) y[k] = gg_saturated(gg_whole(gg_div(table[255 - (most - x[k])] * parts, sum)) + zero);
  }
}
/* Up to four axes; s are the operand's strides in the order of the result. */
GG_INLINE void gg_permute(const int8_t *x, int8_t *y, int n0, int n1, int n2, int n3, int s0, int s1, int s2, int s3) {
  for (int a = 0; a < n0; a++)
    for (int b = 0; b < n1; b++)
      for (int c = 0; c < n2; c++)
        for (int d = 0; d < n3; d++) *y++ = x[a * s0 + b * s1 + c * s2 + d * s3];
}
GG_INLINE void gg_copy(const int8_t *x, int8_t *y, int outer, int block, int stride) {
  for (int r = 0; r < outer; r++)
    for (int k = 0; k < block; k++) y[r * stride + k] = x[r * block + k];
}
GG_INLINE void gg_pad(const int8_t *x, int8_t *y, int H, int W, int C, int T, int L, int F, int PH, int PW, int PC,
                      int value) {
  for (int k = 0; k < PH * PW * PC; k++) y[k] = (int8_t)value;
  for (int h = 0; h < H; h++)
    for (int w = 0; w < W; w++)
      for (int c = 0; c < C; c++) y[((h + T) * PW + w + L) * PC + c + F] = x[(h * W + w) * C + c];
}
#endif

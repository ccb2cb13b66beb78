// y[rows, n] (+)= x[rows, k] @ W[n, k]^T + bias over packed weights, 16 outputs to a block:
//   int4, int8  [n/16][k/32] groups: per plane 4 x 64 bytes of nibbles (16 outputs x 4 k; low nibbles are k-step 2j,
//               high ones 2j+1), then 16 float16 steps and 16 float16 minimums. w = step * q + minimum; int8 is two
//               planes, the high nibbles of q first. Inputs are quantized to int8 by groups of 32 on the fly.
//   bf16        [n/16][k/2][16][2], multiplied in float32; where the CPU multiplies bf16, inputs are rounded to it
//   fp32        [n/16][k][16]
// A row's result has the same bits whatever other rows are computed beside it: integers are exact, and the float
// operations of one output are the same, in the same order, for every tile height.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "simd.h"

enum Kind : int32_t { INT4 = 0, INT8 = 1, BF16 = 2, FP32 = 3 };

struct Linear {
  const uint8_t* data;
  const float* bias;  // null or n values
  int64_t n, k;       // n is a multiple of 16, k of 32
  int32_t kind;
  int64_t bytes() const { return n / 16 * block_bytes(); }
  int64_t block_bytes() const { return k / 32 * (kind == INT4 ? 320 : kind == INT8 ? 576 : kind == BF16 ? 1024 : 2048); }
};

// Quantized rows lie k + PAD apart, and some more may be read behind the last one.
#ifdef KERNEL_AMX
constexpr int64_t PAD = 64, SPARE_ROWS = 32;  // a tile's 16 rows must not meet in one set of the cache
#else
constexpr int64_t PAD = 0, SPARE_ROWS = 0;
#endif

// Rows ready to be multiplied: quantized for int4 and int8 (scale, and scale * sum of the group), else as floats.
struct Input {
  Input(int64_t rows, int64_t k, int32_t kind)
      : kind(kind), q(kind < BF16 ? (rows + SPARE_ROWS) * (k + PAD) : 0), scale(q.size() / 32), offset(scale), x(kind < BF16 ? 0 : rows * k) {}
  // The values [from, from + count) of a row of k, multiples of 32. A group with NaN or infinity makes the row NaN.
  void put(int64_t row, int64_t k, int64_t from, const float* values, int64_t count) {
    for (int64_t i = 0, at = row * (k + (kind < BF16 ? PAD : 0)) + from; i < count; i += 32, at += 32) {
      if (kind < BF16) quantize(values + i, at / 32);
#ifdef KERNEL_BF16
      else if (kind == BF16)
        _mm512_storeu_si512(&x[at - (from + i) / 2], (__m512i)_mm512_cvtne2ps_pbh(load(values + i + 16).part[0], load(values + i).part[0]));
#endif
      else memcpy(&x[at], values + i, 128);
    }
  }
  void quantize(const float* values, int64_t group) {
    int32_t bits[32], top = 0, sum = 0;  // as integers, the bits of NaN are the largest of all
    memcpy(bits, values, sizeof bits);
    for (int32_t b : bits) top = std::max(top, b & 0x7fffffff);
    float largest, unknown = std::numeric_limits<float>::quiet_NaN();
    memcpy(&largest, &top, sizeof top);
    const bool none = largest < 1e-30f, broken = top >= 0x7f800000;
    const float inverse = none || broken ? 0.f : 127.f / largest;
    for (int i = 0; i < 32; i++) sum += bits[i] = (int32_t)nearest(values[i] * inverse);
    for (int i = 0; i < 32; i++) q[32 * group + i] = (int8_t)bits[i];
    scale[group] = broken ? unknown : none ? 0.f : largest / 127.f;
    offset[group] = scale[group] * (float)sum;
  }
  int32_t kind;
  std::vector<int8_t> q;
  std::vector<float> scale, offset, x;
};

// Asks for weights so far ahead that memory has answered when they are needed; `first` where a block is not read yet.
inline void prefetch(bool first, const void* w, int64_t bytes) {
  for (int64_t i = 8192; first && i < 8192 + bytes; i += 64) __builtin_prefetch((const char*)w + i);
}
inline int32_t four(const int8_t* p) { int32_t v; memcpy(&v, p, 4); return v; }

// total[m] += a plane's nibbles times one group of 32 of row m
template <int M>
inline void add_plane(const uint8_t* w, const int8_t* x, int64_t k, VI (*total)[PARTS]) {
#ifdef KERNEL_NEON
  const uint8x16_t low = vdupq_n_u8(15);
#ifdef KERNEL_I8MM
  // two outputs x 8 inputs times 8 inputs x two rows; where rows are odd in number, the last one stands in twice
  int32x4_t sum[(M + 1) / 2][8] = {};
  for (int j = 0; j < 4; j++)
    for (int h = 0; h < 4; h++) {
      const uint8x16_t v = vld1q_u8(w + 64 * j + 16 * h);
      const uint32x4_t a = vreinterpretq_u32_u8(vandq_u8(v, low)), b = vreinterpretq_u32_u8(vshrq_n_u8(v, 4));
      const int8x16_t first = vreinterpretq_s8_u32(vzip1q_u32(a, b)), second = vreinterpretq_s8_u32(vzip2q_u32(a, b));
      for (int p = 0; p < (M + 1) / 2; p++) {
        const int8_t *one = x + 2 * p * k + 8 * j, *other = 2 * p + 1 < M ? one + k : one;
        const int8x16_t inputs = vcombine_s8(vld1_s8(one), vld1_s8(other));
        sum[p][2 * h] = vmmlaq_s32(sum[p][2 * h], first, inputs);
        sum[p][2 * h + 1] = vmmlaq_s32(sum[p][2 * h + 1], second, inputs);
      }
    }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < 4; h++) {
      const int32x4_t a = sum[m / 2][2 * h], b = sum[m / 2][2 * h + 1];
      total[m][h] += (VI)(m % 2 ? vuzp2q_s32(a, b) : vuzp1q_s32(a, b));
    }
#else
  for (int j = 0; j < 4; j++)
    for (int h = 0; h < 4; h++) {
      const uint8x16_t v = vld1q_u8(w + 64 * j + 16 * h);
      const int8x16_t a = vreinterpretq_s8_u8(vandq_u8(v, low)), b = vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
      for (int m = 0; m < M; m++) {
        const int8_t* inputs = x + m * k + 8 * j;
        const int8x16_t even = vreinterpretq_s8_s32(vdupq_n_s32(four(inputs)));
        const int8x16_t odd = vreinterpretq_s8_s32(vdupq_n_s32(four(inputs + 4)));
        total[m][h] = (VI)vdotq_s32(vdotq_s32((int32x4_t)total[m][h], a, even), b, odd);
      }
    }
#endif
#elif defined(KERNEL_AVX512)
  typedef decltype(I(setzero_si512)()) Bytes;
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const VI low = VI{} + 0x0f0f0f0f, v = (VI)I(loadu_si512)(w + 64 * j), a = v & low, b = (v >> 4) & low;
    for (int m = 0; m < M; m++) {
      const int8_t* inputs = x + m * k + 8 * j;
      total[m][0] = (VI)I(dpbusd_epi32)((Bytes)total[m][0], (Bytes)a, I(set1_epi32)(four(inputs)));
      total[m][0] = (VI)I(dpbusd_epi32)((Bytes)total[m][0], (Bytes)b, I(set1_epi32)(four(inputs + 4)));
    }
  }
#else
  const __m256i low = _mm256_set1_epi8(15);
  __m256i sum[M][2] = {};  // of int16: 8 products of a pair of 15 x 127 stay below 2^15
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++)
    for (int h = 0; h < 2; h++) {
      const __m256i v = _mm256_loadu_si256((const __m256i*)(w + 64 * (j / 2) + 32 * h));
      const __m256i a = _mm256_and_si256(j % 2 ? _mm256_srli_epi16(v, 4) : v, low);
      for (int m = 0; m < M; m++) {
        sum[m][h] = _mm256_add_epi16(sum[m][h], _mm256_maddubs_epi16(a, _mm256_set1_epi32(four(x + m * k + 4 * j))));
        asm("" : "+x"(sum[m][h]));  // keeps the compiler from another order of sums, which spills all products
      }
    }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < 2; h++) total[m][h] += (VI)_mm256_madd_epi16(sum[m][h], _mm256_set1_epi16(1));
#endif
}

template <int PLANES, int M>
void int_tile(const uint8_t* w, const Input& in, int64_t row, int64_t k, F* out) {
  const int64_t ld = k + PAD, groups = ld / 32;
  const int8_t* x = in.q.data() + row * ld;
  const float *scale = in.scale.data() + row * groups, *offset = in.offset.data() + row * groups;
  F acc[M] = {};
  for (int64_t g = 0; g < k / 32; g++, x += 32, w += 64) {
    prefetch(row == 0, w, 256 * PLANES + 64);
    VI total[M][PARTS] = {};
    for (int p = 0; p < PLANES; p++, w += 256) {
      for (int m = 0; m < M * p; m++)
        for (VI& part : total[m]) part <<= 4;
      add_plane<M>(w, x, ld, total);
    }
    const F step = load((const Half*)w), minimum = load((const Half*)w + 16);
    for (int m = 0; m < M; m++) {
      const F sums = each_part([&](int i) { return __builtin_convertvector(total[m][i], V); });
      acc[m] = fma(minimum, set(offset[m * groups + g]), acc[m]);
      acc[m] = fma(step, set(scale[m * groups + g]) * sums, acc[m]);
    }
  }
  for (int m = 0; m < M; m++) out[m] = acc[m];
}

// w holds pairs of bf16, or single floats
template <int PAIRED, int M>
void float_tile(const float* w, const Input& in, int64_t row, int64_t k, F* out) {
  const float* x = in.x.data() + row * k;
  F acc[M] = {};
  for (int64_t i = 0; i < k; i += 1 + PAIRED, w += 16) {
    prefetch(row == 0, w, 64);
    const F v = load(w);
#ifdef KERNEL_BF16
    for (int m = 0; m < M * PAIRED; m++)
      acc[m].part[0] = (V)_mm512_dpbf16_ps(acc[m].part[0], (__m512bh)v.part[0], (__m512bh)set(x[m * k + i / 2]).part[0]);
    for (int m = 0; m < M * !PAIRED; m++) acc[m] = fma(v, set(x[m * k + i]), acc[m]);
#else
    const F a = each_part([&](int h) { return PAIRED ? (V)((VI)v.part[h] << 16) : v.part[h]; });
    const F b = each_part([&](int h) { return (V)((VI)v.part[h] & (int32_t)0xffff0000); });
    for (int m = 0; m < M; m++) acc[m] = fma(a, set(x[m * k + i]), acc[m]);
    for (int m = 0; m < M * PAIRED; m++) acc[m] = fma(b, set(x[m * k + i + 1]), acc[m]);
#endif
  }
  for (int m = 0; m < M; m++) out[m] = acc[m];
}

template <int M>
void tile(int64_t rows, const Linear& lin, const uint8_t* w, const Input& in, int64_t row, F* out) {
  if constexpr (M > 1) if (rows < M) return tile<M - 1>(rows, lin, w, in, row, out);
  if constexpr (M <= INT_ROWS) {
    if (lin.kind == INT4) return int_tile<1, M>(w, in, row, lin.k, out);
    if (lin.kind == INT8) return int_tile<2, M>(w, in, row, lin.k, out);
  }
  const auto float_weights = (const float*)w;
  lin.kind == BF16 ? float_tile<1, M>(float_weights, in, row, lin.k, out) : float_tile<0, M>(float_weights, in, row, lin.k, out);
}

inline void put_out(const Linear& lin, int64_t block, F out, float* y, bool add) {
  if (lin.bias) out = out + load(lin.bias + block * 16);
  store(y, add ? load(y) + out : out);
}

#ifdef KERNEL_AMX
#include "amx.h"
#endif

// All rows of the outputs [16 * block, 16 * block + 16): to[row * ld + 0..15]
inline void linear_block(const Linear& lin, const Input& in, int64_t rows, int64_t block, float* to, int64_t ld, bool add) {
  const int64_t most = lin.kind >= BF16 ? FLOAT_ROWS : INT_ROWS;
#ifdef KERNEL_AMX
  if (lin.kind < BF16 && rows >= AMX_ROWS) return amx_block(lin, in, rows, block, to, ld, add);
#endif
  for (int64_t row = 0; row < rows; row += most) {
    F out[FLOAT_ROWS];
    const int64_t count = std::min(most, rows - row);
    tile<FLOAT_ROWS>(count, lin, lin.data + block * lin.block_bytes(), in, row, out);
    for (int64_t r = 0; r < count; r++) put_out(lin, block, out[r], to + (row + r) * ld, add);
  }
}

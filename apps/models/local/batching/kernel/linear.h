// y[rows, n] (+)= x[rows, k] @ W[n, k]^T + bias over packed weights, 16 outputs to a block:
//   int4, int8  [n/16][k/32] groups: per plane 4 x 64 bytes of nibbles (16 outputs x 4 k; low nibbles are k-step 2j,
//               high ones 2j+1), then 16 float16 steps and 16 float16 minimums. w = step * q + minimum; int8 is two
//               planes, the high nibbles of q first. Inputs are quantized to int8 by groups of 32 on the fly.
//   bf16, fp32  [n/16][k][16], multiplied in float32
// A row's result has the same bits whatever other rows are computed beside it: integers are exact, and the float
// operations of one output are the same, in the same order, for every tile height.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#ifdef KERNEL_SIMDE  // the AVX-512 tiles on a CPU without them, for tests
#include <simde/x86/avx512.h>
#define V(name) simde_##name
typedef simde__m512 vfloat;
typedef simde__m512i vint;
#elif defined(KERNEL_AVX512)
#define V(name) _##name
typedef __m512 vfloat;
typedef __m512i vint;
#endif

enum Kind : int32_t { INT4 = 0, INT8 = 1, BF16 = 2, FP32 = 3 };

struct Linear {
  const void* data;
  const float* bias;  // null or n values
  int64_t n, k;       // n is a multiple of 16, k of 32
  int32_t kind;
};

// Rows ready to be multiplied: quantized for int4 and int8 (scale, and scale * sum of the group), else as floats.
struct Input {
  int8_t* q;
  float *scale, *offset, *x;
};

inline __m256 half8(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline int32_t four(const int8_t* p) { int32_t v; memcpy(&v, p, 4); return v; }
inline int64_t bytes_of_block(int32_t kind, int64_t k) {
  return kind == INT4 ? k / 32 * 320 : kind == INT8 ? k / 32 * 576 : k * (kind == BF16 ? 32 : 64);
}

// The values [from, to) of a row of k; from is a multiple of 32. A group with NaN or infinity makes the row NaN.
inline void put(const Input& in, int32_t kind, int64_t row, const float* src, int64_t from, int64_t to, int64_t k) {
  if (kind >= BF16) {
    memcpy(in.x + row * k + from, src + from, (to - from) * sizeof(float));
    return;
  }
  for (int64_t i = from; i < to; i += 32) {
    const int64_t g = row * (k / 32) + i / 32;
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i top = _mm256_setzero_si256();  // as integers, the bits of NaN are the largest of all
    for (int j = 0; j < 32; j += 8)
      top = _mm256_max_epi32(top, _mm256_and_si256(magnitude, _mm256_loadu_si256((const __m256i*)(src + i + j))));
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    const int32_t bits = _mm_cvtsi128_si32(t);
    float amax;
    memcpy(&amax, &bits, 4);
    if (bits >= 0x7f800000 || amax < 1e-30f) {
      memset(in.q + row * k + i, 0, 32);
      in.scale[g] = in.offset[g] = bits >= 0x7f800000 ? std::numeric_limits<float>::quiet_NaN() : 0.f;
      continue;
    }
    const __m256 inverse = _mm256_set1_ps(127.f / amax);
    __m256i v[4];
    for (int j = 0; j < 4; j++) v[j] = _mm256_cvtps_epi32(_mm256_mul_ps(inverse, _mm256_loadu_ps(src + i + 8 * j)));
    const __m256i s = _mm256_add_epi32(_mm256_add_epi32(v[0], v[1]), _mm256_add_epi32(v[2], v[3]));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    _mm256_storeu_si256((__m256i*)(in.q + row * k + i),
                        _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    in.scale[g] = amax / 127.f;
    in.offset[g] = in.scale[g] * (float)_mm_cvtsi128_si32(sum);
  }
}

#if defined(KERNEL_AVX512)
constexpr int INT_ROWS = 8;
#ifdef KERNEL_SIMDE  // what SIMDe does not have
inline vfloat as_float(vint v) {
  int32_t from[16];
  float to[16];
  V(mm512_storeu_si512)(from, v);
  for (int i = 0; i < 16; i++) to[i] = (float)from[i];
  return V(mm512_loadu_ps)(to);
}
#else
inline vfloat as_float(vint v) { return _mm512_cvtepi32_ps(v); }
#endif
inline vfloat half16(const void* p) {
#ifdef KERNEL_SIMDE
  float wide[16];
  _mm256_storeu_ps(wide, half8(p));
  _mm256_storeu_ps(wide + 8, half8((const char*)p + 16));
  return V(mm512_loadu_ps)(wide);
#else
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#endif
}

template <int P, int M>
void int_tile(const uint8_t* w, const int8_t* x, const float* scale, const float* offset, int64_t k, float* out) {
  const int64_t groups = k / 32;
  const vint low = V(mm512_set1_epi8)(15);
  vfloat acc[M];
  for (int m = 0; m < M; m++) acc[m] = V(mm512_setzero_ps)();
  for (int64_t g = 0; g < groups; g++, x += 32, w += 64) {
    vint sum[M];
    for (int m = 0; m < M; m++) sum[m] = V(mm512_setzero_si512)();
    for (int p = 0; p < P; p++) {
      if (p)
        for (int m = 0; m < M; m++) sum[m] = V(mm512_slli_epi32)(sum[m], 4);
      for (int j = 0; j < 4; j++, w += 64) {
        if (M <= 2) _mm_prefetch((const char*)w + 2048, _MM_HINT_T0);
        const vint v = V(mm512_loadu_si512)(w);
        const vint a = V(mm512_and_si512)(v, low), b = V(mm512_and_si512)(V(mm512_srli_epi16)(v, 4), low);
        for (int m = 0; m < M; m++) {
          sum[m] = V(mm512_dpbusd_epi32)(sum[m], a, V(mm512_set1_epi32)(four(x + m * k + 8 * j)));
          sum[m] = V(mm512_dpbusd_epi32)(sum[m], b, V(mm512_set1_epi32)(four(x + m * k + 8 * j + 4)));
        }
      }
    }
    const vfloat step = half16(w), minimum = half16(w + 32);
    for (int m = 0; m < M; m++) {
      const vfloat s = V(mm512_set1_ps)(scale[m * groups + g]), z = V(mm512_set1_ps)(offset[m * groups + g]);
      acc[m] = V(mm512_fmadd_ps)(minimum, z, acc[m]);
      acc[m] = V(mm512_fmadd_ps)(step, V(mm512_mul_ps)(s, as_float(sum[m])), acc[m]);
    }
  }
  for (int m = 0; m < M; m++) V(mm512_storeu_ps)(out + 16 * m, acc[m]);
}
#else
constexpr int INT_ROWS = 4;
inline void add_products(__m256i& sum, __m256i weights, __m256i inputs) {
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, inputs));
  asm("" : "+x"(sum));  // keeps the compiler from summing in another order, which spills every product to memory
}
// 8 products of a pair of 15 x 127 stay below 2^15: one group of 32 is summed in int16 before it is widened
template <int P, int M>
void int_tile(const uint8_t* w, const int8_t* x, const float* scale, const float* offset, int64_t k, float* out) {
  const int64_t groups = k / 32;
  const __m256i low = _mm256_set1_epi8(15);
  __m256 acc[M][2];
  for (int m = 0; m < M; m++) acc[m][0] = acc[m][1] = _mm256_setzero_ps();
  for (int64_t g = 0; g < groups; g++, x += 32, w += 64) {
    __m256i total[M][2];
    for (int p = 0; p < P; p++) {
      __m256i sum[M][2];
      for (int m = 0; m < M; m++) sum[m][0] = sum[m][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++, w += 64) {
        if (M <= 2) _mm_prefetch((const char*)w + 2048, _MM_HINT_T0);
        const __m256i v0 = _mm256_loadu_si256((const __m256i*)w), v1 = _mm256_loadu_si256((const __m256i*)(w + 32));
        const __m256i a0 = _mm256_and_si256(v0, low), a1 = _mm256_and_si256(v1, low);
        for (int m = 0; m < M; m++) {
          const __m256i b = _mm256_set1_epi32(four(x + m * k + 8 * j));
          add_products(sum[m][0], a0, b);
          add_products(sum[m][1], a1, b);
        }
        const __m256i c0 = _mm256_and_si256(_mm256_srli_epi16(v0, 4), low);
        const __m256i c1 = _mm256_and_si256(_mm256_srli_epi16(v1, 4), low);
        for (int m = 0; m < M; m++) {
          const __m256i b = _mm256_set1_epi32(four(x + m * k + 8 * j + 4));
          add_products(sum[m][0], c0, b);
          add_products(sum[m][1], c1, b);
        }
      }
      const __m256i weight = _mm256_set1_epi16(P == 2 && p == 0 ? 16 : 1);
      for (int m = 0; m < M; m++)
        for (int h = 0; h < 2; h++) {
          const __m256i wide = _mm256_madd_epi16(sum[m][h], weight);
          total[m][h] = p ? _mm256_add_epi32(total[m][h], wide) : wide;
        }
    }
    for (int h = 0; h < 2; h++) {
      const __m256 step = half8(w + 16 * h), minimum = half8(w + 32 + 16 * h);
      for (int m = 0; m < M; m++) {
        const __m256 s = _mm256_set1_ps(scale[m * groups + g]), z = _mm256_set1_ps(offset[m * groups + g]);
        acc[m][h] = _mm256_fmadd_ps(minimum, z, acc[m][h]);
        acc[m][h] = _mm256_fmadd_ps(step, _mm256_mul_ps(s, _mm256_cvtepi32_ps(total[m][h])), acc[m][h]);
      }
    }
  }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + 16 * m + 8 * h, acc[m][h]);
}
#endif

constexpr int FLOAT_ROWS = 6;
inline __m256 weight8(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 weight8(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}

template <class T, int M>
void float_tile(const T* w, const float* x, int64_t k, float* out) {
  __m256 acc[M][2];
  for (int m = 0; m < M; m++) acc[m][0] = acc[m][1] = _mm256_setzero_ps();
  for (int64_t i = 0; i < k; i++, w += 16) {
    const __m256 a = weight8(w), b = weight8(w + 8);
    for (int m = 0; m < M; m++) {
      const __m256 v = _mm256_set1_ps(x[m * k + i]);
      acc[m][0] = _mm256_fmadd_ps(a, v, acc[m][0]);
      acc[m][1] = _mm256_fmadd_ps(b, v, acc[m][1]);
    }
  }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + 16 * m + 8 * h, acc[m][h]);
}

template <int M>
void tile(const Linear& lin, const Input& in, int64_t row, const uint8_t* w, float* out) {
  const int64_t k = lin.k, at = row * (k / 32);
  if (lin.kind == INT4) int_tile<1, M>(w, in.q + row * k, in.scale + at, in.offset + at, k, out);
  else if (lin.kind == INT8) int_tile<2, M>(w, in.q + row * k, in.scale + at, in.offset + at, k, out);
  else if (lin.kind == BF16) float_tile<uint16_t, M>((const uint16_t*)w, in.x + row * k, k, out);
  else float_tile<float, M>((const float*)w, in.x + row * k, k, out);
}

// All rows of the outputs [16 * block, 16 * block + 16).
inline void linear_block(const Linear& lin, const Input& in, int64_t rows, int64_t block, float* y, int64_t ldy, bool add) {
  const uint8_t* w = (const uint8_t*)lin.data + block * bytes_of_block(lin.kind, lin.k);
  alignas(64) float out[8 * 16];
  const int64_t most = lin.kind >= BF16 ? FLOAT_ROWS : INT_ROWS;
  for (int64_t row = 0, m; row < rows; row += m) {
    m = std::min(most, rows - row);
    switch (m) {
      case 1: tile<1>(lin, in, row, w, out); break;
      case 2: tile<2>(lin, in, row, w, out); break;
      case 3: tile<3>(lin, in, row, w, out); break;
      case 4: tile<4>(lin, in, row, w, out); break;
      case 5: tile<5>(lin, in, row, w, out); break;
      case 6: tile<6>(lin, in, row, w, out); break;
      case 7: tile<7>(lin, in, row, w, out); break;
      default: tile<8>(lin, in, row, w, out); break;
    }
    for (int64_t r = 0; r < m; r++)
      for (int i = 0; i < 16; i += 8) {
        float* to = y + (row + r) * ldy + block * 16 + i;
        __m256 v = _mm256_load_ps(out + 16 * r + i);
        if (lin.bias) v = _mm256_add_ps(v, _mm256_loadu_ps(lin.bias + block * 16 + i));
        _mm256_storeu_ps(to, add ? _mm256_add_ps(_mm256_loadu_ps(to), v) : v);
      }
  }
}

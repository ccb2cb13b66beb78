// Causal attention over one sequence's cache, and the float operations around it. A query's result has the same bits
// whatever queries share its tile.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

// exp within 2 units in the last place; NaN stays NaN, below -87.3 it is 0 (after Cephes' expf)
inline __m256 exp8(__m256 x) {
  const __m256 alive = _mm256_cmp_ps(x, _mm256_set1_ps(-87.3f), _CMP_NLT_UQ);
  x = _mm256_min_ps(_mm256_set1_ps(88.3f), _mm256_max_ps(_mm256_set1_ps(-87.3f), x));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
  p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.f));
  const __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(e)), alive);
}

inline float sum8(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

// to = x / sqrt(mean(x^2) + eps) * weight; n is a multiple of 8
inline void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* to) {
  __m256 squares = _mm256_setzero_ps();
  for (int64_t i = 0; i < n; i += 8) squares = _mm256_fmadd_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(x + i), squares);
  const __m256 scale = _mm256_set1_ps(1.f / std::sqrt(sum8(squares) / (float)n + eps));
  for (int64_t i = 0; i < n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_mul_ps(_mm256_loadu_ps(weight + i), _mm256_mul_ps(_mm256_loadu_ps(x + i), scale)));
}

// to = gate / (1 + exp(-gate)) * up; n is a multiple of 8
inline void silu_mul(const float* gate, const float* up, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += 8) {
    const __m256 g = _mm256_loadu_ps(gate + i);
    const __m256 e = exp8(_mm256_sub_ps(_mm256_setzero_ps(), g));
    _mm256_storeu_ps(to + i, _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.f), e)), _mm256_loadu_ps(up + i)));
  }
}

// The halves of a head are rotated against each other by cos and sin [d / 2]; d is a multiple of 16.
inline void rotate(float* head, const float* cos, const float* sin, int64_t d) {
  for (int64_t i = 0; i < d / 2; i += 8) {
    const __m256 a = _mm256_loadu_ps(head + i), b = _mm256_loadu_ps(head + d / 2 + i);
    const __m256 c = _mm256_loadu_ps(cos + i), s = _mm256_loadu_ps(sin + i);
    _mm256_storeu_ps(head + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
    _mm256_storeu_ps(head + d / 2 + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
  }
}

struct Half { uint16_t bits; };
inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 load8(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline void store1(float* p, float v) { *p = v; }
inline void store1(Half* p, float v) {  // saturates: an outlier must not become infinity
  p->bits = _cvtss_sh(v > 65504.f ? 65504.f : v < -65504.f ? -65504.f : v, _MM_FROUND_TO_NEAREST_INT);
}

// One kv head of a sequence's cache: keys [context / 8][d][8], values [context][d]; context is a multiple of 16.
template <class T>
struct HeadCache {
  T *keys, *values;
  int64_t d;
  void write(int64_t position, const float* key, const float* value) const {
    T* to = keys + position / 8 * d * 8 + position % 8;
    for (int64_t i = 0; i < d; i++) store1(to + 8 * i, key[i]);
    for (int64_t i = 0; i < d; i++) store1(values + position * d + i, value[i]);
  }
};

// Q queries of d values each; query j sees the positions 0..seen[j]-1. scores: room for Q * ld floats.
template <int Q, class T>
void attend(const float* const* query, const int64_t* seen, const HeadCache<T>& cache, float scaling, float* scores,
            int64_t ld, float* const* out) {
  const int64_t d = cache.d, n = *std::max_element(seen, seen + Q), n16 = (n + 15) / 16 * 16;
  for (int64_t t = 0; t < n16; t += 16) {
    __m256 acc[Q][2];
    for (int j = 0; j < Q; j++) acc[j][0] = acc[j][1] = _mm256_setzero_ps();
    const T* k = cache.keys + t * d;
    for (int64_t i = 0; i < d; i++) {
      const __m256 a = load8(k + 8 * i), b = load8(k + 8 * (d + i));
      for (int j = 0; j < Q; j++) {
        const __m256 q = _mm256_set1_ps(query[j][i]);
        acc[j][0] = _mm256_fmadd_ps(a, q, acc[j][0]);
        acc[j][1] = _mm256_fmadd_ps(b, q, acc[j][1]);
      }
    }
    for (int j = 0; j < Q; j++)
      for (int h = 0; h < 2; h++)
        _mm256_storeu_ps(scores + j * ld + t + 8 * h, _mm256_mul_ps(acc[j][h], _mm256_set1_ps(scaling)));
  }
  float inverse[Q];
  for (int j = 0; j < Q; j++) {
    float* s = scores + j * ld;
    std::fill(s + seen[j], s + n16, -INFINITY);
    __m256 most = _mm256_set1_ps(-INFINITY), sum = _mm256_setzero_ps();
    for (int64_t t = 0; t < n16; t += 8) most = _mm256_max_ps(most, _mm256_loadu_ps(s + t));
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, most);
    const __m256 top = _mm256_set1_ps(*std::max_element(lanes, lanes + 8));
    for (int64_t t = 0; t < n16; t += 8) {
      const __m256 p = exp8(_mm256_sub_ps(_mm256_loadu_ps(s + t), top));
      _mm256_storeu_ps(s + t, p);
      sum = _mm256_add_ps(sum, p);
    }
    inverse[j] = 1.f / sum8(sum);
  }
  for (int64_t i = 0; i < d; i += 16) {
    __m256 acc[Q][2];
    for (int j = 0; j < Q; j++) acc[j][0] = acc[j][1] = _mm256_setzero_ps();
    for (int64_t t = 0; t < n; t++) {
      const __m256 a = load8(cache.values + t * d + i), b = load8(cache.values + t * d + i + 8);
      for (int j = 0; j < Q; j++) {
        const __m256 p = _mm256_set1_ps(scores[j * ld + t]);
        acc[j][0] = _mm256_fmadd_ps(a, p, acc[j][0]);
        acc[j][1] = _mm256_fmadd_ps(b, p, acc[j][1]);
      }
    }
    for (int j = 0; j < Q; j++)
      for (int h = 0; h < 2; h++)
        _mm256_storeu_ps(out[j] + i + 8 * h, _mm256_mul_ps(acc[j][h], _mm256_set1_ps(inverse[j])));
  }
}

// Sixteen floats at a time: one register of AVX-512, two of AVX2, four of NEON. What is built on it is one source for
// all of them.
#pragma once
#ifdef KERNEL_NEON
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
// ROWS and QUERIES: how many a tile's registers hold
#ifdef KERNEL_NEON
constexpr int PARTS = 4, INT_ROWS = 4, FLOAT_ROWS = 4, QUERIES = 4;
#elif defined(KERNEL_AVX512)
#ifndef I  // the tests give another one, which needs no such CPU
#define I(name) _mm512_##name
#endif
constexpr int PARTS = 1, INT_ROWS = 12, FLOAT_ROWS = 12, QUERIES = 8;
#else
#define I(name) _mm256_##name
constexpr int PARTS = 2, INT_ROWS = 4, FLOAT_ROWS = 6, QUERIES = 6;
#endif
constexpr int LANES = 16 / PARTS;
typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t VI __attribute__((vector_size(4 * LANES)));

struct F { V part[PARTS]; };
struct Half { uint16_t bits; };

inline F each_part(auto op) {
  F f;
  for (int i = 0; i < PARTS; i++) f.part[i] = op(i);
  return f;
}
#ifdef KERNEL_NEON
inline V fma(V a, V b, V c) { return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
inline V same(float v) { return (V)vdupq_n_f32(v); }
inline V load_part(const float* p) { return (V)vld1q_f32(p); }
#else
inline V fma(V a, V b, V c) { return (V)I(fmadd_ps)(a, b, c); }
inline V same(float v) { return (V)I(set1_ps)(v); }
inline V load_part(const float* p) { return (V)I(loadu_ps)(p); }
#endif
inline F fma(F a, F b, F c) { return each_part([&](int i) { return fma(a.part[i], b.part[i], c.part[i]); }); }
inline F operator*(F a, F b) { return each_part([&](int i) { return a.part[i] * b.part[i]; }); }
inline F operator+(F a, F b) { return each_part([&](int i) { return a.part[i] + b.part[i]; }); }
inline F set(float v) { return each_part([&](int) { return same(v); }); }
inline F load(const float* p) { return each_part([&](int i) { return load_part(p + LANES * i); }); }
inline void store(float* p, F f) { memcpy(p, &f, sizeof f); }
inline F load(const int8_t* p) {
#ifdef KERNEL_NEON
  const int16x8_t wide[2] = {vmovl_s8(vld1_s8(p)), vmovl_s8(vld1_s8(p + 8))};
  return each_part([&](int i) {
    return (V)vcvtq_f32_s32(vmovl_s16(i % 2 ? vget_high_s16(wide[i / 2]) : vget_low_s16(wide[i / 2])));
  });
#elif defined(__AVX512F__)
  return {(V)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
#else
  F f;
  for (int i = 0; i < 2; i++)
    ((__m256*)&f)[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8 * i))));
  return f;
#endif
}
inline F load(const Half* p) {
#ifdef KERNEL_NEON
  return each_part([&](int i) { return (V)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)p + 4 * i))); });
#elif defined(__AVX512F__)
  return {(V)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))};
#else
  F f;
  for (int i = 0; i < 2; i++) ((__m256*)&f)[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + i));
  return f;
#endif
}
inline void store(Half* p, F f) {  // saturates: an outlier must not become infinity
  for (V& v : f.part) v = v > 65504.f ? V{} + 65504.f : v < -65504.f ? V{} - 65504.f : v;
#ifdef KERNEL_NEON
  for (int i = 0; i < 4; i++) vst1_u16((uint16_t*)p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)f.part[i])));
#else
  for (int i = 0; i < 2; i++) _mm_storeu_si128((__m128i*)p + i, _mm256_cvtps_ph(((__m256*)&f)[i], 0));
#endif
}

inline auto nearest(auto x) { return (x + 12582912.f) - 12582912.f; }  // integer, of -2^22..2^22

// exp within 2 units in the last place; NaN stays NaN, below -87.3 it is 0 (after Cephes' expf)
inline V exp(V x) {
  const VI dead = x < -87.3f;
  x = x > 88.3f ? V{} + 88.3f : dead ? V{} : x;
  const V n = nearest(x * 1.44269504f);
  V r = fma(n, V{} - 0.693359375f, x), p = V{} + 1.9875691500e-4f;
  r = fma(n, V{} + 2.12194440e-4f, r);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = fma(p, r, V{} + c);
  p = fma(p, r * r, r) + 1.f;
  return dead ? V{} : p * (V)((__builtin_convertvector(n, VI) + 127) << 23);
}

// The values of both made into one, in the same order on every CPU.
template <class T>
inline T fold(F a, F b, auto op) {
  T v[16], w[16];
  memcpy(v, &a, 64), memcpy(w, &b, 64);
  for (int i = 0; i < 16; i++) v[i] = op(v[i], w[i]);
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; i++) v[i] = op(v[i], v[i + width]);
  return v[0];
}

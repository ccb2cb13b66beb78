// Sixteen floats at a time: one register of AVX-512 or two of AVX2. What is built on it is one source for both.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#if defined(KERNEL_SIMDE)  // AVX-512 on a CPU without it, for tests
#include <simde/x86/avx512.h>
#define I(name) simde_mm512_##name
#elif defined(KERNEL_AVX512)
#define I(name) _mm512_##name
#else
#define I(name) _mm256_##name
#endif
#ifdef KERNEL_AVX512
constexpr int PARTS = 1;
#else
constexpr int PARTS = 2;
#endif
constexpr int LANES = 16 / PARTS;
typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t VI __attribute__((vector_size(4 * LANES)));
typedef uint16_t VH __attribute__((vector_size(2 * LANES)));
typedef int8_t VB __attribute__((vector_size(LANES)));

struct F { V part[PARTS]; };
struct Half { uint16_t bits; };
struct Bf16 { uint16_t bits; };

template <class Op>
inline F each_part(Op op) {
  F f;
  for (int i = 0; i < PARTS; i++) f.part[i] = op(i);
  return f;
}
inline V fma(V a, V b, V c) { return (V)I(fmadd_ps)(a, b, c); }
inline F fma(F a, F b, F c) { return each_part([&](int i) { return fma(a.part[i], b.part[i], c.part[i]); }); }
inline F operator*(F a, F b) { return each_part([&](int i) { return a.part[i] * b.part[i]; }); }
inline F operator+(F a, F b) { return each_part([&](int i) { return a.part[i] + b.part[i]; }); }
inline F set(float v) { return each_part([&](int) { return (V)I(set1_ps)(v); }); }
inline F load(const float* p) { return each_part([&](int i) { return (V)I(loadu_ps)(p + LANES * i); }); }
inline F load(const Bf16* p) {
  return each_part([&](int i) {
    VH bits;
    memcpy(&bits, p + LANES * i, sizeof bits);
    return (V)(__builtin_convertvector(bits, VI) << 16);
  });
}
inline void store(float* p, F f) {
  for (int i = 0; i < PARTS; i++) I(storeu_ps)(p + LANES * i, f.part[i]);
}
#if defined(KERNEL_AVX512) && !defined(KERNEL_SIMDE)
inline F load(const Half* p) { return {(V)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline void store_half(void* p, F f) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(f.part[0], 0)); }
#else
inline F load(const Half* p) {
  F f;
  for (int i = 0; i < 2; i++) ((__m256*)&f)[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + i));
  return f;
}
inline void store_half(void* p, F f) {
  for (int i = 0; i < 2; i++) _mm_storeu_si128((__m128i*)p + i, _mm256_cvtps_ph(((__m256*)&f)[i], 0));
}
#endif
inline void store(Half* p, F f) {  // saturates: an outlier must not become infinity
  store_half(p, each_part([&](int i) {
    const V v = f.part[i] > 65504.f ? V{} + 65504.f : f.part[i];
    return v < -65504.f ? V{} - 65504.f : v;
  }));
}

inline V nearest(V x) { return (x + 12582912.f) - 12582912.f; }  // integer, of -2^22..2^22

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
inline F exp(F x) { return each_part([&](int i) { return exp(x.part[i]); }); }

// The values made into one, in the same order on every CPU.
template <class T, class Op>
inline T fold(F a, F b, Op op) {
  T v[16], w[16];
  memcpy(v, &a, 64), memcpy(w, &b, 64);
  for (int i = 0; i < 16; i++) v[i] = op(v[i], w[i]);
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; i++) v[i] = op(v[i], v[i + width]);
  return v[0];
}
inline float sum(F f) { return fold<float>(f, F{}, [](float a, float b) { return a + b; }); }
inline float largest(F f) { return fold<float>(f, f, [](float a, float b) { return a > b ? a : b; }); }

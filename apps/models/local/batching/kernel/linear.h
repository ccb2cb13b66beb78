// y[rows, n] (+)= x[rows, k] @ W[n, k]^T + bias over packed weights, 16 outputs to a block:
//   int4, int8  [n/16][k/32] groups: per plane 4 x 64 bytes of nibbles (16 outputs x 4 k; low nibbles are k-step 2j,
//               high ones 2j+1), then 16 float16 steps and 16 float16 minimums. w = step * q + minimum; int8 is two
//               planes, the high nibbles of q first. Inputs are quantized to int8 by groups of 32 on the fly.
//   bf16, fp32  [n/16][k][16], multiplied in float32
// A row's result has the same bits whatever other rows are computed beside it: integers are exact, and the float
// operations of one output are the same, in the same order, for every tile height.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "simd.h"

enum Kind : int32_t { INT4 = 0, INT8 = 1, BF16 = 2, FP32 = 3 };

#ifdef KERNEL_AVX512  // as many as the registers hold
constexpr int INT_ROWS = 8, FLOAT_ROWS = 12;
#else
constexpr int INT_ROWS = 4, FLOAT_ROWS = 6;
#endif

struct Linear {
  const uint8_t* data;
  const float* bias;  // null or n values
  int64_t n, k;       // n is a multiple of 16, k of 32
  int32_t kind;
  int64_t block_bytes() const { return kind == INT4 ? k / 32 * 320 : kind == INT8 ? k / 32 * 576 : k * (kind == BF16 ? 32 : 64); }
};

inline int32_t four(const int8_t* p) { int32_t v; memcpy(&v, p, 4); return v; }

// Rows ready to be multiplied: quantized for int4 and int8 (scale, and scale * sum of the group), else as floats.
class Input {
 public:
  Input(int64_t rows, int64_t most_k, int32_t kind) : exact_(kind >= BF16) {
    if (exact_) x.resize(rows * most_k);
    else q.resize(rows * most_k), scale.resize(rows * most_k / 32), offset.resize(rows * most_k / 32);
  }
  // The values [from, from + count) of a row of k, multiples of 32. A group with NaN or infinity makes the row NaN.
  void put(int64_t row, int64_t k, int64_t from, const float* values, int64_t count) {
    if (exact_) memcpy(&x[row * k + from], values, count * sizeof(float));
    else
      for (int64_t i = 0; i < count; i += 32) quantize(values + i, (row * k + from + i) / 32);
  }
  std::vector<int8_t> q;
  std::vector<float> scale, offset, x;

 private:
  void quantize(const float* values, int64_t group) {
    const F v[2] = {load(values), load(values + 16)};
    // as integers, the bits of NaN are the largest of all
    const auto bits = [&](int i) { return each_part([&](int h) { return (V)((VI)v[i].part[h] & 0x7fffffff); }); };
    const int32_t top = fold<int32_t>(bits(0), bits(1), [](int32_t a, int32_t b) { return a > b ? a : b; });
    float amax;
    memcpy(&amax, &top, 4);
    const bool none = amax < 1e-30f, broken = top >= 0x7f800000;
    const float inverse = none || broken ? 0.f : 127.f / amax;
    F rounded[2];
    for (int i = 0; i < 2; i++) {
      rounded[i] = each_part([&](int h) { return (V)__builtin_convertvector(nearest(v[i].part[h] * inverse), VI); });
      for (int h = 0; h < PARTS; h++) {
        const auto bytes = __builtin_convertvector((VI)rounded[i].part[h], VB);
        memcpy(&q[32 * group + 16 * i + LANES * h], &bytes, sizeof bytes);
      }
    }
    scale[group] = broken ? std::numeric_limits<float>::quiet_NaN() : none ? 0.f : amax / 127.f;
    offset[group] = scale[group] * (float)fold<int32_t>(rounded[0], rounded[1], [](int32_t a, int32_t b) { return a + b; });
  }
  bool exact_;
};

// The weights are asked for this many bytes ahead: what memory delivers in the time that it takes to answer.
constexpr int64_t AHEAD = 8192;
inline void prefetch(const uint8_t* w, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch((const char*)w + i, _MM_HINT_T0);
}

// total[m] += a plane's nibbles times one group of 32 of row m
template <int M>
inline void add_plane(const uint8_t* w, const int8_t* x, int64_t k, VI (*total)[PARTS]) {
#ifdef KERNEL_AVX512
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

// M rows times one block of P planes; `ahead` where the block is read for the first time
template <int P, int M>
void int_tile(const uint8_t* w, const Input& in, int64_t row, int64_t k, bool ahead, F* out) {
  const int64_t groups = k / 32;
  const int8_t* x = in.q.data() + row * k;
  const float *scale = in.scale.data() + row * groups, *offset = in.offset.data() + row * groups;
  F acc[M] = {};
  for (int64_t g = 0; g < groups; g++, x += 32, w += 64) {
    if (ahead) prefetch(w + AHEAD, 256 * P + 64);
    VI total[M][PARTS] = {};
    for (int p = 0; p < P; p++, w += 256) {
      for (int m = 0; m < M * p; m++)
        for (int h = 0; h < PARTS; h++) total[m][h] <<= 4;
      add_plane<M>(w, x, k, total);
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

template <class T, int M>
void float_tile(const T* w, const float* x, int64_t k, bool ahead, F* out) {
  F acc[M] = {};
  for (int64_t i = 0; i < k; i++, w += 16) {
    if (ahead) prefetch((const uint8_t*)w + AHEAD, sizeof(T) * 16);
    const F v = load(w);
    for (int m = 0; m < M; m++) acc[m] = fma(v, set(x[m * k + i]), acc[m]);
  }
  for (int m = 0; m < M; m++) out[m] = acc[m];
}

template <int M>
void tile(int64_t rows, const Linear& lin, const Input& in, int64_t row, const uint8_t* w, F* out) {
  if constexpr (M > 1)
    if (rows < M) return tile<M - 1>(rows, lin, in, row, w, out);
  const bool ahead = row == 0;
  const float* x = in.x.data() + row * lin.k;
  if (lin.kind == INT4) int_tile<1, M>(w, in, row, lin.k, ahead, out);
  else if (lin.kind == INT8) int_tile<2, M>(w, in, row, lin.k, ahead, out);
  else if (lin.kind == BF16) float_tile<Bf16, M>((const Bf16*)w, x, lin.k, ahead, out);
  else float_tile<float, M>((const float*)w, x, lin.k, ahead, out);
}

// All rows of the outputs [16 * block, 16 * block + 16): to[row * ld + 0..15]
inline void linear_block(const Linear& lin, const Input& in, int64_t rows, int64_t block, float* to, int64_t ld, bool add) {
  const int64_t most = lin.kind >= BF16 ? FLOAT_ROWS : INT_ROWS;
  F out[FLOAT_ROWS > INT_ROWS ? FLOAT_ROWS : INT_ROWS];
  for (int64_t row = 0; row < rows; row += most) {
    const int64_t count = std::min(most, rows - row);
    const uint8_t* w = lin.data + block * lin.block_bytes();
    if (lin.kind >= BF16) tile<FLOAT_ROWS>(count, lin, in, row, w, out);
    else tile<INT_ROWS>(count, lin, in, row, w, out);
    for (int64_t r = 0; r < count; r++) {
      float* y = to + (row + r) * ld;
      const F v = lin.bias ? out[r] + load(lin.bias + block * 16) : out[r];
      store(y, add ? load(y) + v : v);
    }
  }
}

// Causal attention over one sequence's cache, and the small operations around it. A query's result has the same bits
// whatever queries share its tile.
#pragma once
#include <algorithm>
#include <cmath>

#include "simd.h"

// to = x / sqrt(mean(x^2) + eps) * weight; n is a multiple of 16
inline void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* to) {
  F squares = {};
  for (int64_t i = 0; i < n; i += 16) squares = fma(load(x + i), load(x + i), squares);
  const F scale = set(1.f / std::sqrt(fold<float>(squares, F{}, [](float a, float b) { return a + b; }) / (float)n + eps));
  for (int64_t i = 0; i < n; i += 16) store(to + i, load(weight + i) * (load(x + i) * scale));
}

// to = gate / (1 + exp(-gate)) * up; n is a multiple of 16
inline void silu_mul(const float* gate, const float* up, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += 16) {
    const F g = load(gate + i), u = load(up + i);
    store(to + i, each_part([&](int h) { return g.part[h] / (exp(-g.part[h]) + 1.f) * u.part[h]; }));
  }
}

// The halves of a head are rotated against each other by cos and sin [d / 2].
inline void rotate(float* head, const float* cos, const float* sin, int64_t d) {
  for (int64_t i = 0; i < d / 2; i++) {
    const float a = head[i], b = head[d / 2 + i];
    head[i] = a * cos[i] - b * sin[i];
    head[d / 2 + i] = b * cos[i] + a * sin[i];
  }
}

constexpr int64_t BLOCK = 64;  // positions to a block of a sequence's cache

// One kv head's part of a block: keys [BLOCK / 16][d][16], or values [BLOCK][d]; int8 ones are followed by a float16
// scale a position. d is a multiple of 16.
template <class T>
constexpr int64_t part_bytes(int64_t d) { return BLOCK * (d * (int64_t)sizeof(T) + (sizeof(T) == 1 ? 2 : 0)); }

// One kv head of a sequence's cache, whose positions lie in blocks; keys and values are where its parts begin in each.
template <class T>
struct HeadCache {
  static constexpr bool scaled = sizeof(T) == 1;
  uint8_t* const* blocks;
  int64_t keys, values, d;

  T* at(int64_t part, int64_t position) const {  // of keys: a multiple of 16
    return (T*)(blocks[position / BLOCK] + part) + position % BLOCK * d;
  }
  Half* scales(int64_t part, int64_t position) const {
    return (Half*)(blocks[position / BLOCK] + part + BLOCK * d) + position % BLOCK;
  }
  void write(int64_t position, const float* key, const float* value) const {
    const float of_key = prepare(keys, position, key), of_value = prepare(values, position, value);
    T *to = at(keys, position / 16 * 16) + position % 16, *row = at(values, position), run[16];
    for (int64_t i = 0; i < d; i += 16) {
      put(run, load(key + i), of_key);
      for (int j = 0; j < 16; j++) to[16 * (i + j)] = run[j];
      put(row + i, load(value + i), of_value);
    }
  }

 private:
  // Notes the scale of a position's d values, the largest of which becomes 127, and returns its inverse. What is not
  // finite makes the scale so, and with it everything that sees the position.
  float prepare(int64_t part, int64_t position, const float* from) const {
    if constexpr (!scaled) return 0.f;
    int32_t top = 0;
    for (int64_t i = 0; i < d; i++) top = std::max(top, bits_of(from[i]) & 0x7fffffff);
    float largest;
    memcpy(&largest, &top, sizeof top);
    Half run[16];
    const bool broken = top >= 0x7f800000;
    store(run, set(broken ? 0.f : largest / 127.f));
    if (broken) run[0].bits = 0x7e00;
    *scales(part, position) = run[0];
    const float scale = load(run).part[0][0];
    return scale > 0.f ? 1.f / scale : 0.f;
  }
  static int32_t bits_of(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
  }
  static void put(T* to, F values, float inverse) {
    if constexpr (!scaled) return store(to, values);
    float v[16];
    store(v, values);
    for (int i = 0; i < 16; i++) to[i] = (T)std::min(127.f, std::max(-127.f, nearest(v[i] * inverse)));
  }
};

struct Query {
  const float* values;
  int64_t seen;  // it sees the positions 0..seen - 1
  float* out;
};

// The first `count` of Q queries, of ascending positions. scores: room for Q * ld floats.
template <int Q, class T>
void attend(int64_t count, const Query* query, const HeadCache<T>& cache, float* scores, int64_t ld) {
  if constexpr (Q > 1) if (count < Q) return attend<Q - 1>(count, query, cache, scores, ld);
  const int64_t d = cache.d, n = query[Q - 1].seen;
  const F scaling = set(1.f / std::sqrt((float)d));
  for (int64_t t = 0; t < n; t += 16) {
    F acc[Q] = {};
    const T* keys = cache.at(cache.keys, t);
    for (int64_t i = 0; i < d; i++) {
      const F k = load(keys + 16 * i);
      for (int j = 0; j < Q; j++) acc[j] = fma(k, set(query[j].values[i]), acc[j]);
    }
    F scale = scaling;
    if constexpr (HeadCache<T>::scaled) scale = scale * load(cache.scales(cache.keys, t));
    for (int j = 0; j < Q; j++) store(scores + j * ld + t, acc[j] * scale);
  }
  float inverse[Q];
  for (int j = 0; j < Q; j++) {
    float* s = scores + j * ld;
    std::fill(s + query[j].seen, s + (n + 15) / 16 * 16, -INFINITY);
    const auto larger = [](auto a, auto b) { return a > b ? a : b; };
    F top = load(s), total = {};
    for (int64_t t = 16; t < n; t += 16) top = each_part([&, v = load(s + t)](int h) { return larger(v.part[h], top.part[h]); });
    const float most = fold<float>(top, top, larger);
    for (int64_t t = 0; t < n; t += 16) {
      const F p = each_part([&, v = load(s + t)](int h) { return exp(v.part[h] - most); });
      total = total + p;
      if constexpr (HeadCache<T>::scaled) store(s + t, p * load(cache.scales(cache.values, t)));
      else store(s + t, p);
    }
    inverse[j] = 1.f / fold<float>(total, F{}, [](float a, float b) { return a + b; });
  }
  for (int64_t i = 0; i < d; i += 16) {
    F acc[Q] = {};
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
      const T* values = cache.at(cache.values, begin) + i;
      for (int64_t t = begin; t < std::min(n, begin + BLOCK); t++, values += d) {
        const F v = load(values);
        for (int j = 0; j < Q; j++) acc[j] = fma(v, set(scores[j * ld + t]), acc[j]);
      }
    }
    for (int j = 0; j < Q; j++) store(query[j].out + i, acc[j] * set(inverse[j]));
  }
}

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

// One kv head of a sequence's cache: keys [context / 16][d][16], values [context][d]; context and d: multiples of 16.
template <class T>
struct HeadCache {
  T *keys, *values;
  int64_t d;
  void write(int64_t position, const float* key, const float* value) const {
    T *to = keys + position / 16 * d * 16 + position % 16, run[16];
    for (int64_t i = 0; i < d; i += 16) {
      store(run, load(key + i));
      for (int j = 0; j < 16; j++) to[16 * (i + j)] = run[j];
      store(values + position * d + i, load(value + i));
    }
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
    for (int64_t i = 0; i < d; i++) {
      const F k = load(cache.keys + t * d + 16 * i);
      for (int j = 0; j < Q; j++) acc[j] = fma(k, set(query[j].values[i]), acc[j]);
    }
    for (int j = 0; j < Q; j++) store(scores + j * ld + t, acc[j] * scaling);
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
      store(s + t, p);
      total = total + p;
    }
    inverse[j] = 1.f / fold<float>(total, F{}, [](float a, float b) { return a + b; });
  }
  for (int64_t i = 0; i < d; i += 16) {
    F acc[Q] = {};
    for (int64_t t = 0; t < n; t++) {
      const F v = load(cache.values + t * d + i);
      for (int j = 0; j < Q; j++) acc[j] = fma(v, set(scores[j * ld + t]), acc[j]);
    }
    for (int j = 0; j < Q; j++) store(query[j].out + i, acc[j] * set(inverse[j]));
  }
}

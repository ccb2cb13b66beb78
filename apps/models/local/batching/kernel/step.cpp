// One step of a Llama-shaped model for any number of rows: a row is one token of one sequence, be it the next one of
// an answer or one of a prompt. C interface for ctypes; every pointer handed in must outlive the engine.
#include <memory>
#include <new>

#include "attention.h"
#include "linear.h"
#include "pool.h"

extern "C" {
struct Layer {
  Linear qkv, o, gate_up, down;
  const float *input_norm, *post_norm, *q_norm, *k_norm;  // the last two may be null
};
struct Model {
  int64_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary, context;
  const Layer* layer;
  Linear head;
  const float *final_norm, *cos, *sin;  // cos and sin: [context][head_dim / 2]
  const void* embedding;                // [vocabulary][hidden]
  int32_t embedding_kind;               // BF16, FP32, or 4 for float16
  int32_t half_cache;                   // the cache's elements: float16, else float32
  float eps;
};
}

namespace {
constexpr int64_t SEGMENT = 512, TILE = 4;

struct Tile { int64_t first, rows; };

struct Engine {
  Engine(const Model& model, int threads, int64_t rows) : m(model), pool(threads), max_rows(rows) {
    const int64_t widest = std::max({m.hidden, m.heads * m.head_dim, m.intermediate});
    width = std::max((m.heads + 2 * m.kv_heads) * m.head_dim, 2 * m.intermediate) + 32;
    x.resize(rows * m.hidden);
    y.resize(rows * width);
    attended.resize(rows * m.heads * m.head_dim);
    q.resize(rows * widest + 64);
    scales.resize(rows * widest / 32);
    offsets.resize(rows * widest / 32);
    if (model.head.kind >= BF16) floats.resize(rows * widest);
    in = {q.data(), scales.data(), offsets.data(), floats.data()};
    scratch_size = std::max(widest, TILE * (m.context + 16));
    scratch.resize(threads * scratch_size);
  }

  template <class T> void step(int thread);
  template <class T> void attention(int64_t layer, const Tile& tile, int64_t kv_head, float* scores);
  template <class T> HeadCache<T> head_cache(int64_t row, int64_t layer, int64_t kv_head) const {
    T* base = (T*)cache[row] + (layer * 2 * m.kv_heads + kv_head) * m.context * m.head_dim;
    return {base, base + m.kv_heads * m.context * m.head_dim, m.head_dim};
  }
  void embed(int64_t row);
  void linear(const Linear& lin, int64_t count, float* to, int64_t ld, bool add) {
    const int64_t blocks = lin.n / 16, grain = std::max<int64_t>(1, blocks / (pool.threads() * 16));
    pool.each((blocks + grain - 1) / grain, [&](int64_t chunk) {
      for (int64_t b = chunk * grain; b < std::min(blocks, (chunk + 1) * grain); b++)
        linear_block(lin, in, count, b, to, ld, add);
    });
  }
  void split_rows() {
    tiles.clear();
    for (int64_t r = 0; r < rows; r++) {
      Tile* last = tiles.empty() ? nullptr : &tiles.back();
      if (last && last->rows < TILE && cache[r] == cache[r - 1] && position[r] == position[r - 1] + 1) last->rows++;
      else tiles.push_back({r, 1});
    }
  }

  const Model m;
  Pool pool;
  int64_t max_rows, width, scratch_size;
  std::vector<float> x, y, attended, scales, offsets, floats, scratch;
  std::vector<int8_t> q;
  Input in;
  // the running step
  int64_t rows, wanted;
  const int64_t *token, *position, *want;
  void* const* cache;
  float* logits;
  std::vector<Tile> tiles;
};

void Engine::embed(int64_t row) {
  const int64_t at = token[row] * m.hidden;
  float* to = x.data() + row * m.hidden;
  for (int64_t i = 0; i < m.hidden; i += 8) {
    const __m256 v = m.embedding_kind == FP32   ? _mm256_loadu_ps((const float*)m.embedding + at + i)
                     : m.embedding_kind == BF16 ? weight8((const uint16_t*)m.embedding + at + i)
                                                : half8((const uint16_t*)m.embedding + at + i);
    _mm256_storeu_ps(to + i, v);
  }
}

template <class T>
void Engine::attention(int64_t layer, const Tile& tile, int64_t kv_head, float* scores) {
  const int64_t group = m.heads / m.kv_heads, d = m.head_dim, count = tile.rows * group;
  const float scaling = 1.f / std::sqrt((float)d);
  const HeadCache<T> kv = head_cache<T>(tile.first, layer, kv_head);
  for (int64_t i = 0, n; i < count; i += n) {
    n = std::min(TILE, count - i);
    const float* query[TILE];
    float* out[TILE];
    int64_t seen[TILE];
    for (int64_t j = 0; j < n; j++) {
      const int64_t row = tile.first + (i + j) / group, head = kv_head * group + (i + j) % group;
      query[j] = y.data() + row * width + head * d;
      out[j] = attended.data() + (row * m.heads + head) * d;
      seen[j] = position[row] + 1;
    }
    const int64_t ld = m.context + 16;
    if (n == 4) attend<4>(query, seen, kv, scaling, scores, ld, out);
    else if (n == 3) attend<3>(query, seen, kv, scaling, scores, ld, out);
    else if (n == 2) attend<2>(query, seen, kv, scaling, scores, ld, out);
    else attend<1>(query, seen, kv, scaling, scores, ld, out);
  }
}

template <class T>
void Engine::step(int thread) {
  float* mine = scratch.data() + thread * scratch_size;
  const int64_t d = m.head_dim, q_size = m.heads * d, kv_size = m.kv_heads * d;
  const auto normed = [&](const float* weight, const Linear& next) {
    pool.each(rows, [&](int64_t r) {
      rms_norm(x.data() + r * m.hidden, weight, m.eps, m.hidden, mine);
      put(in, next.kind, r, mine, 0, m.hidden, m.hidden);
    });
  };
  pool.each(rows, [&](int64_t r) { embed(r); });
  for (int64_t l = 0; l < m.layers; l++) {
    const Layer& layer = m.layer[l];
    normed(layer.input_norm, layer.qkv);
    linear(layer.qkv, rows, y.data(), width, false);
    pool.each(rows * m.kv_heads, [&](int64_t i) {
      const int64_t r = i / m.kv_heads, head = i % m.kv_heads, group = m.heads / m.kv_heads;
      const float *cos = m.cos + position[r] * (d / 2), *sin = m.sin + position[r] * (d / 2);
      float *qs = y.data() + r * width + head * group * d, *k = y.data() + r * width + q_size + head * d;
      for (int64_t h = 0; h < group; h++) {
        if (layer.q_norm) rms_norm(qs + h * d, layer.q_norm, m.eps, d, qs + h * d);
        rotate(qs + h * d, cos, sin, d);
      }
      if (layer.k_norm) rms_norm(k, layer.k_norm, m.eps, d, k);
      rotate(k, cos, sin, d);
      head_cache<T>(r, l, head).write(position[r], k, k + kv_size);
    });
    pool.each((int64_t)tiles.size() * m.kv_heads,
              [&](int64_t i) { attention<T>(l, tiles[i / m.kv_heads], i % m.kv_heads, mine); });
    const int64_t parts = (q_size + SEGMENT - 1) / SEGMENT;
    pool.each(rows * parts, [&](int64_t i) {
      const int64_t r = i / parts, from = i % parts * SEGMENT, to = std::min(q_size, from + SEGMENT);
      put(in, layer.o.kind, r, attended.data() + r * q_size, from, to, q_size);
    });
    linear(layer.o, rows, x.data(), m.hidden, true);
    normed(layer.post_norm, layer.gate_up);
    linear(layer.gate_up, rows, y.data(), width, false);
    const int64_t pieces = (m.intermediate + SEGMENT - 1) / SEGMENT;
    pool.each(rows * pieces, [&](int64_t i) {
      const int64_t r = i / pieces, from = i % pieces * SEGMENT, to = std::min(m.intermediate, from + SEGMENT);
      float* gate = y.data() + r * width;
      silu_mul(gate + from, gate + m.intermediate + from, to - from, gate + from);
      put(in, layer.down.kind, r, gate, from, to, m.intermediate);
    });
    linear(layer.down, rows, x.data(), m.hidden, true);
  }
  pool.each(wanted, [&](int64_t i) {
    rms_norm(x.data() + want[i] * m.hidden, m.final_norm, m.eps, m.hidden, mine);
    put(in, m.head.kind, i, mine, 0, m.hidden, m.hidden);
  });
  linear(m.head, wanted, logits, m.head.n, false);
}
}  // namespace

extern "C" {
// null where threads or memory cannot be had
void* engine_new(const Model* model, int threads, int64_t max_rows) {
  try {
    return new Engine(*model, threads, max_rows);
  } catch (const std::exception&) {
    return nullptr;
  }
}

void engine_free(void* engine) { delete (Engine*)engine; }

// rows of one sequence stand side by side in ascending positions; logits: [wanted][head.n] of the rows in want
void engine_step(void* engine, int64_t rows, const int64_t* token, const int64_t* position, void* const* cache,
                 int64_t wanted, const int64_t* want, float* logits) {
  Engine& e = *(Engine*)engine;
  e.rows = rows, e.wanted = wanted, e.token = token, e.position = position, e.want = want, e.cache = cache;
  e.logits = logits;
  e.split_rows();
  e.pool.run([&e](int thread) { e.m.half_cache ? e.step<Half>(thread) : e.step<float>(thread); });
}

// y[rows, n] = x[rows, k] @ W^T + bias on the calling thread: for the self check and the tests
void linear_once(const Linear* lin, int64_t rows, const float* x, float* y) {
  std::vector<int8_t> q(rows * lin->k + 64);
  std::vector<float> scale(rows * lin->k / 32), offset(rows * lin->k / 32), floats(rows * lin->k);
  const Input in{q.data(), scale.data(), offset.data(), floats.data()};
  for (int64_t r = 0; r < rows; r++) put(in, lin->kind, r, x + r * lin->k, 0, lin->k, lin->k);
  for (int64_t b = 0; b < lin->n / 16; b++) linear_block(*lin, in, rows, b, y, lin->n, false);
}

void rms_norm_once(const float* x, const float* weight, float eps, int64_t n, float* to) { rms_norm(x, weight, eps, n, to); }
void silu_mul_once(const float* gate, const float* up, int64_t n, float* to) { silu_mul(gate, up, n, to); }
void rotate_once(float* head, const float* cos, const float* sin, int64_t d) { rotate(head, cos, sin, d); }

// One query over n keys and values [n][d], as float32 or through a float16 cache.
void attend_once(const float* query, const float* keys, const float* values, int64_t n, int64_t d, int half, float* out) {
  const int64_t context = (n + 15) / 16 * 16;
  std::vector<float> scores(context + 16), room(2 * context * d);
  const auto run = [&](auto* memory) {
    const HeadCache<std::remove_pointer_t<decltype(memory)>> cache{memory, memory + context * d, d};
    for (int64_t t = 0; t < n; t++) cache.write(t, keys + t * d, values + t * d);
    attend<1>(&query, &n, cache, 1.f / std::sqrt((float)d), scores.data(), context + 16, &out);
  };
  half ? run((Half*)room.data()) : run(room.data());
}
}

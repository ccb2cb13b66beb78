// One step of a Llama-shaped model for any number of rows: a row is one token of one sequence, be it the next one of
// an answer or one of a prompt. C interface for ctypes; every pointer handed in must outlive the engine.
#include "attention.h"
#include "linear.h"
#include "pool.h"

extern "C" {
struct Layer {
  Linear qkv, o, gate_up, down;  // gate_up: 16 outputs of gate, 16 of up, and so on
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
constexpr int64_t TILE = 8;  // rows of one sequence that attend together

struct Tile { int64_t first, rows; };

struct Engine {
  Engine(const Model& model, int threads, int64_t most_rows)
      : m(model), pool(threads), q_size(m.heads * m.head_dim), kv_size(m.kv_heads * m.head_dim), ld(m.context + 16),
        x(most_rows * m.hidden), y(most_rows * (q_size + 2 * kv_size)), attended(most_rows * q_size),
        narrow(most_rows, m.hidden, m.head.kind), wide(most_rows, std::max(m.intermediate, q_size), m.head.kind),
        scratch(threads, std::vector<float>(std::max({m.hidden, QUERIES * ld, most_rows * 64}))) {}

  template <class T> void step(int thread);
  template <class T> void prepare(const Layer& layer, int64_t row, int64_t kv_head, const HeadCache<T>& kv);
  template <class T> void attention(const Tile& tile, int64_t kv_head, const HeadCache<T>& kv, float* scores);
  template <class T> HeadCache<T> head_cache(int64_t row, int64_t layer, int64_t kv_head) const {
    T* base = (T*)cache[row] + (layer * 2 * m.kv_heads + kv_head) * m.context * m.head_dim;
    return {base, base + m.kv_heads * m.context * m.head_dim, m.head_dim};
  }
  void embed(int64_t row);
  void mlp(const Layer& layer, int64_t group, float* scratch);
  void linear(int thread, const Linear& lin, const Input& in, int64_t count, float* to, bool add, Upcoming next = {}) {
    const int64_t ld = add ? m.hidden : lin.n;
    pool.each(thread, lin.n / 16, [&](int64_t b) { linear_block(lin, in, count, b, to + 16 * b, ld, add); }, next);
  }
  void split_rows() {
    tiles.clear();
    prompts = false;
    for (int64_t r = 0; r < rows; r++) {
      const bool goes_on = r && cache[r] == cache[r - 1];
      prompts |= goes_on;
      if (goes_on && tiles.back().rows < TILE) tiles.back().rows++;
      else tiles.push_back({r, 1});
    }
  }

  const Model m;
  Pool pool;
  const int64_t q_size, kv_size, ld;
  std::vector<float> x, y, attended;
  Input narrow, wide;
  std::vector<std::vector<float>> scratch;
  // the running step
  int64_t rows, wanted;
  const int64_t *token, *position, *want;
  void* const* cache;
  float* logits;
  std::vector<Tile> tiles;
  bool prompts;  // a row may attend to another one of this step
};

Upcoming upcoming(const Linear& lin) { return {lin.data, lin.n / 16 * lin.block_bytes()}; }

void Engine::embed(int64_t row) {
  const int64_t at = token[row] * m.hidden;
  for (int64_t i = 0; i < m.hidden; i += 16)
    store(&x[row * m.hidden + i], m.embedding_kind == FP32   ? load((const float*)m.embedding + at + i)
                                  : m.embedding_kind == BF16 ? load((const Bf16*)m.embedding + at + i)
                                                             : load((const Half*)m.embedding + at + i));
}

// A row's queries and key of one kv head turned to their position; key and value into the cache.
template <class T>
void Engine::prepare(const Layer& layer, int64_t row, int64_t kv_head, const HeadCache<T>& kv) {
  const int64_t d = m.head_dim, group = m.heads / m.kv_heads;
  const float *cos = m.cos + position[row] * (d / 2), *sin = m.sin + position[row] * (d / 2);
  float *qkv = &y[row * (q_size + 2 * kv_size)], *key = qkv + q_size + kv_head * d;
  for (int64_t h = 0; h <= group; h++) {
    float* head = h < group ? qkv + (kv_head * group + h) * d : key;
    const float* norm = h < group ? layer.q_norm : layer.k_norm;
    if (norm) rms_norm(head, norm, m.eps, d, head);
    rotate(head, cos, sin, d);
  }
  kv.write(position[row], key, key + kv_size);
}

template <class T>
void Engine::attention(const Tile& tile, int64_t kv_head, const HeadCache<T>& kv, float* scores) {
  const int64_t group = m.heads / m.kv_heads, d = m.head_dim, count = tile.rows * group;
  for (int64_t i = 0; i < count; i += QUERIES) {
    const int64_t n = std::min<int64_t>(QUERIES, count - i);
    const float* query[QUERIES];
    float* out[QUERIES];
    int64_t seen[QUERIES];
    for (int64_t j = 0; j < n; j++) {
      const int64_t row = tile.first + (i + j) / group, head = kv_head * group + (i + j) % group;
      query[j] = &y[row * (q_size + 2 * kv_size) + head * d];
      out[j] = &attended[row * q_size + head * d];
      seen[j] = position[row] + 1;
    }
    attend<QUERIES>(n, query, seen, kv, scores, ld, out);
  }
}

// 32 values of all rows on their way from gate and up to down
void Engine::mlp(const Layer& layer, int64_t group, float* scratch) {
  for (int64_t b = 0; b < 4; b++)
    linear_block(layer.gate_up, narrow, rows, 4 * group + b, scratch + 16 * b, 64, false);
  for (int64_t r = 0; r < rows; r++) {
    float* v = scratch + 64 * r;
    for (int64_t h = 0; h < 2; h++) silu_mul(v + 32 * h, v + 32 * h + 16, 16, v + 16 * h);
    wide.put(r, m.intermediate, 32 * group, v, 32);
  }
}

template <class T>
void Engine::step(int thread) {
  float* mine = scratch[thread].data();
  const int64_t kvs = m.kv_heads, group_size = q_size / kvs;
  const auto normed = [&](int64_t count, const int64_t* rows_of, const float* weight, const Linear& next) {
    pool.each(thread, count, [&](int64_t i) {
      rms_norm(&x[(rows_of ? rows_of[i] : i) * m.hidden], weight, m.eps, m.hidden, mine);
      narrow.put(i, m.hidden, 0, mine, m.hidden);
    }, upcoming(next));
  };
  pool.each(thread, rows, [&](int64_t r) { embed(r); });
  for (int64_t l = 0; l < m.layers; l++) {
    const Layer& layer = m.layer[l];
    normed(rows, nullptr, layer.input_norm, layer.qkv);
    linear(thread, layer.qkv, narrow, rows, y.data(), false);
    if (prompts) pool.each(thread, rows * kvs, [&](int64_t i) {
      prepare(layer, i / kvs, i % kvs, head_cache<T>(i / kvs, l, i % kvs));
    });
    pool.each(thread, (int64_t)tiles.size() * kvs, [&](int64_t i) {
      const Tile& tile = tiles[i / kvs];
      const HeadCache<T> kv = head_cache<T>(tile.first, l, i % kvs);
      if (!prompts) prepare(layer, tile.first, i % kvs, kv);
      attention(tile, i % kvs, kv, mine);
      if (group_size % 32 == 0)
        for (int64_t r = tile.first; r < tile.first + tile.rows; r++)
          wide.put(r, q_size, i % kvs * group_size, &attended[r * q_size + i % kvs * group_size], group_size);
    }, upcoming(layer.o));
    if (group_size % 32) pool.each(thread, rows, [&](int64_t r) { wide.put(r, q_size, 0, &attended[r * q_size], q_size); });
    linear(thread, layer.o, wide, rows, x.data(), true);
    normed(rows, nullptr, layer.post_norm, layer.gate_up);
    pool.each(thread, m.intermediate / 32, [&](int64_t i) { mlp(layer, i, mine); }, upcoming(layer.down));
    linear(thread, layer.down, wide, rows, x.data(), true);
  }
  normed(wanted, want, m.final_norm, m.head);
  linear(thread, m.head, narrow, wanted, logits, false);
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
  Input in(rows, lin->k, lin->kind);
  for (int64_t r = 0; r < rows; r++) in.put(r, lin->k, 0, x + r * lin->k, lin->k);
  for (int64_t b = 0; b < lin->n / 16; b++) linear_block(*lin, in, rows, b, y + 16 * b, lin->n, false);
}

void rms_norm_once(const float* x, const float* weight, float eps, int64_t n, float* to) { rms_norm(x, weight, eps, n, to); }
void silu_mul_once(const float* gate, const float* up, int64_t n, float* to) { silu_mul(gate, up, n, to); }
void rotate_once(float* head, const float* cos, const float* sin, int64_t d) { rotate(head, cos, sin, d); }

// One query over n keys and values [n][d], as float32 or through a float16 cache.
void attend_once(const float* query, const float* keys, const float* values, int64_t n, int64_t d, int half, float* out) {
  const int64_t context = (n + 15) / 16 * 16;
  std::vector<float> scores(context), room(2 * context * d);
  const auto run = [&](auto* memory) {
    const HeadCache<std::remove_pointer_t<decltype(memory)>> cache{memory, memory + context * d, d};
    for (int64_t t = 0; t < n; t++) cache.write(t, keys + t * d, values + t * d);
    attend<1>(1, &query, &n, cache, scores.data(), context, &out);
  };
  half ? run((Half*)room.data()) : run(room.data());
}
}

// One step of a Llama-shaped model for any number of rows: a row is one token of one sequence, be it the next one of
// an answer or one of a prompt. C interface for ctypes; every pointer handed in must outlive the engine.
#include "attention.h"
#include "linear.h"
#include "pack.h"
#include "pool.h"
#if defined(KERNEL_AMX) && !defined(KERNEL_AMX_EMULATED)
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern "C" {
struct Layer {
  Linear qkv, o, gate_up, down;  // gate_up: 16 outputs of gate, 16 of up, and so on
  const float *input_norm, *post_norm, *q_norm, *k_norm;  // the last two may be null
};
struct Model {
  int64_t layers, hidden, heads, kv_heads, head_dim, intermediate, context;
  const Layer* layer;
  Linear head;
  const float *final_norm, *cos, *sin;  // cos and sin: [context][head_dim / 2]
  int32_t cache;                        // the cache's elements: 0 float32, 1 float16, 2 int8
  float eps;
};
// Rows of one sequence stand side by side in ascending positions. embedded: [rows][hidden], the tokens' embeddings;
// logits: [wanted][head.n], of the rows in want. cache: of each row its sequence's blocks, [context / BLOCK] of
// [layers][keys, values][kv_heads] parts; there are blocks up to the row's position.
struct Rows {
  int64_t rows, wanted;
  const int64_t *position, *want;
  const float* embedded;
  uint8_t* const* const* cache;
  float* logits;
};
}

namespace {
struct Tile { int64_t first, rows; };  // rows of one sequence that attend together

struct Engine {
  const Model m;
  const int64_t q_size, kv_size, group_size, ld;  // group: the queries' heads of one kv head
  Pool pool;
  std::vector<float> x, y, attended;
  Input narrow, wide;
  std::vector<std::vector<float>> scratch;
  Rows now;
  std::vector<Tile> tiles;
  bool prompts;  // a row may attend to another one of this step

  Engine(const Model& model, int threads, int64_t most_rows)
      : m(model), q_size(m.heads * m.head_dim), kv_size(m.kv_heads * m.head_dim), group_size(q_size / m.kv_heads),
        ld(m.context + 16), pool(threads), x(most_rows * m.hidden), y(most_rows * (q_size + 2 * kv_size)),
        attended(most_rows * q_size), narrow(most_rows, m.hidden, m.head.kind),
        wide(most_rows, std::max(m.intermediate, q_size), m.head.kind),
        scratch(threads, std::vector<float>(std::max({m.hidden, QUERIES * ld, most_rows * 64}))) {}

  void begin(const Rows& rows) {
    now = rows, prompts = false;
    tiles.clear();
    std::copy_n(now.embedded, now.rows * m.hidden, x.begin());
    for (int64_t r = 0; r < now.rows; r++) {
      const bool goes_on = r && now.cache[r] == now.cache[r - 1];
      prompts |= goes_on;
      if (goes_on && tiles.back().rows < 8) tiles.back().rows++;
      else tiles.push_back({r, 1});
    }
  }

  void linear(int thread, const Linear& lin, const Input& in, int64_t rows, float* to, bool add) {
    const int64_t ld = add ? m.hidden : lin.n;
    pool.each(thread, lin.n / 16, [&](int64_t b) { linear_block(lin, in, rows, b, to + 16 * b, ld, add); });
  }

  void normed(int thread, int64_t rows, const int64_t* which, const float* weight, const Linear& next) {
    pool.each(thread, rows, [&](int64_t i) {
      float* mine = scratch[thread].data();
      rms_norm(&x[(which ? which[i] : i) * m.hidden], weight, m.eps, m.hidden, mine);
      narrow.put(i, m.hidden, 0, mine, m.hidden);
    }, next.data, next.bytes());
  }

  template <class T>
  HeadCache<T> head_cache(int64_t row, int64_t layer, int64_t kv_head) const {
    const int64_t size = part_bytes<T>(m.head_dim), keys = (layer * 2 * m.kv_heads + kv_head) * size;
    return {now.cache[row], keys, keys + m.kv_heads * size, m.head_dim};
  }

  // A row's queries and key of one kv head turned to their position; key and value into the cache.
  void prepare(const Layer& layer, int64_t row, int64_t kv_head, const auto& kv) {
    const int64_t d = m.head_dim, at = now.position[row] * (d / 2);
    float *qkv = &y[row * (q_size + 2 * kv_size)], *queries = qkv + kv_head * group_size, *key = qkv + q_size + kv_head * d;
    for (int64_t i = 0; i <= group_size; i += d) {
      float* head = i < group_size ? queries + i : key;
      const float* norm = i < group_size ? layer.q_norm : layer.k_norm;
      if (norm) rms_norm(head, norm, m.eps, d, head);
      rotate(head, m.cos + at, m.sin + at, d);
    }
    kv.write(now.position[row], key, key + kv_size);
  }

  void attention(const Tile& tile, int64_t kv_head, const auto& kv, float* scores) {
    const int64_t group = group_size / m.head_dim, count = tile.rows * group;
    for (int64_t i = 0; i < count; i += QUERIES) {
      const int64_t n = std::min<int64_t>(QUERIES, count - i);
      Query query[QUERIES];
      for (int64_t j = 0; j < n; j++) {
        const int64_t row = tile.first + (i + j) / group, at = kv_head * group_size + (i + j) % group * m.head_dim;
        query[j] = {&y[row * (q_size + 2 * kv_size) + at], now.position[row] + 1, &attended[row * q_size + at]};
      }
      attend<QUERIES>(n, query, kv, scores, ld);
    }
    for (int64_t r = tile.first, at = kv_head * group_size; r < tile.first + tile.rows; r++)
      wide.put(r, q_size, at, &attended[r * q_size + at], group_size);
  }

  // 32 values of all rows on their way from gate and up to down
  void mlp(const Layer& layer, int64_t group, float* v) {
    for (int64_t b = 0; b < 4; b++) linear_block(layer.gate_up, narrow, now.rows, 4 * group + b, v + 16 * b, 64, false);
    for (int64_t r = 0; r < now.rows; r++, v += 64) {
      for (int64_t h = 0; h < 2; h++) silu_mul(v + 32 * h, v + 32 * h + 16, 16, v + 16 * h);
      wide.put(r, m.intermediate, 32 * group, v, 32);
    }
  }

  template <class T>
  void step(int thread) {
    float* mine = scratch[thread].data();
    const int64_t rows = now.rows, kvs = m.kv_heads;
    for (int64_t l = 0; l < m.layers; l++) {
      const Layer& layer = m.layer[l];
      normed(thread, rows, nullptr, layer.input_norm, layer.qkv);
      linear(thread, layer.qkv, narrow, rows, y.data(), false);
      if (prompts) pool.each(thread, rows * kvs, [&](int64_t i) {
        prepare(layer, i / kvs, i % kvs, head_cache<T>(i / kvs, l, i % kvs));
      });
      pool.each(thread, (int64_t)tiles.size() * kvs, [&](int64_t i) {
        const Tile& tile = tiles[i / kvs];
        const HeadCache<T> kv = head_cache<T>(tile.first, l, i % kvs);
        if (!prompts) prepare(layer, tile.first, i % kvs, kv);
        attention(tile, i % kvs, kv, mine);
      }, layer.o.data, layer.o.bytes());
      linear(thread, layer.o, wide, rows, x.data(), true);
      normed(thread, rows, nullptr, layer.post_norm, layer.gate_up);
      pool.each(thread, m.intermediate / 32, [&](int64_t i) { mlp(layer, i, mine); }, layer.down.data, layer.down.bytes());
      linear(thread, layer.down, wide, rows, x.data(), true);
    }
    normed(thread, now.wanted, now.want, m.final_norm, m.head);
    linear(thread, m.head, narrow, now.wanted, now.logits, false);
  }
};
}  // namespace

extern "C" {
// 0 where the process may use the kernels' registers; asked once, before anything is computed
int kernel_permission() {
#if defined(KERNEL_AMX) && !defined(KERNEL_AMX_EMULATED)
  return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */);
#else
  return 0;
#endif
}
// null where threads or memory cannot be had
void* engine_new(const Model* model, int threads, int64_t max_rows) try {
  return new Engine(*model, threads, max_rows);
} catch (const std::exception&) {
  return nullptr;
}
void engine_free(void* engine) { delete (Engine*)engine; }
void engine_step(void* engine, const Rows* rows) {
  Engine& e = *(Engine*)engine;
  e.begin(*rows);
  e.pool.run([&e](int thread) { e.m.cache == 2 ? e.step<int8_t>(thread) : e.m.cache ? e.step<Half>(thread) : e.step<float>(thread); });
}
// How many of its threads the next step has, unless it is one that finds out
int engine_team(void* engine) { return ((Engine*)engine)->pool.team(); }
int64_t block_positions() { return BLOCK; }
// Which compiler, and its version: for an operator who asks what serves.
const char* kernel_compiler() {
#ifdef __clang__
  return __VERSION__;
#else
  return "GCC " __VERSION__;
#endif
}
// y[rows, n] = x[rows, k] @ W^T + bias on the calling thread: for the self check
void linear_once(const Linear* lin, int64_t rows, const float* x, float* y) {
  Input in(rows, lin->k, lin->kind);
  for (int64_t r = 0; r < rows; r++) in.put(r, lin->k, 0, x + r * lin->k, lin->k);
  for (int64_t b = 0; b < lin->n / 16; b++) linear_block(*lin, in, rows, b, y + 16 * b, lin->n, false);
}
// Packs blocks of 16 outputs: rows and types are of each output, a null row is zeros. Returns 0, or 1 where a weight
// cannot be quantized. On the calling thread.
int pack_blocks(const void* const* rows, const int32_t* types, int64_t blocks, int64_t inputs, int32_t kind, uint8_t* to) {
  const Linear one{nullptr, nullptr, 16, inputs, kind};
  for (int64_t b = 0; b < blocks; b++)
    if (!pack_block(rows + 16 * b, types + 16 * b, inputs, kind, to + b * one.block_bytes())) return 1;
  return 0;
}
// 1 where all values are finite; count is a multiple of 16
int all_finite(const void* values, int32_t type, int64_t count) {
  for (int64_t i = 0; i < count; i += 16)
    if (!within(load_values(values, type, i), std::numeric_limits<float>::infinity())) return 0;
  return 1;
}
}

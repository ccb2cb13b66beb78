// The kernels' small functions behind a C interface, for the tests alone.
#include "attention.h"
#include "linear.h"

extern "C" {
void rms_norm_once(const float* x, const float* weight, float eps, int64_t n, float* to) { rms_norm(x, weight, eps, n, to); }
void silu_mul_once(const float* gate, const float* up, int64_t n, float* to) { silu_mul(gate, up, n, to); }
void rotate_once(float* head, const float* cos, const float* sin, int64_t d) { rotate(head, cos, sin, d); }

// `rows` queries [rows][d] of the last positions over n keys and values [n][d], through a cache of float32 (0), float16
// (1) or int8 (2) elements
void attend_once(const float* query, int64_t rows, const float* keys, const float* values, int64_t n, int64_t d, int kind,
                 float* out) {
  const int64_t context = (n + 15) / 16 * 16, blocks = (n + BLOCK - 1) / BLOCK;
  std::vector<float> scores(QUERIES * context);
  const auto run = [&](auto element) {
    using T = decltype(element);
    std::vector<std::vector<uint8_t>> memory(blocks, std::vector<uint8_t>(2 * part_bytes<T>(d)));
    std::vector<uint8_t*> table;
    for (auto it = memory.rbegin(); it != memory.rend(); ++it) table.push_back(it->data());
    const HeadCache<T> cache{table.data(), 0, part_bytes<T>(d), d};
    for (int64_t t = 0; t < n; t++) cache.write(t, keys + t * d, values + t * d);
    Query queries[QUERIES];
    for (int64_t j = 0; j < rows; j++) queries[j] = {query + j * d, n - rows + j + 1, out + j * d};
    attend<QUERIES>(rows, queries, cache, scores.data(), context);
  };
  kind == 2 ? run(int8_t{}) : kind ? run(Half{}) : run(float{});
}
}

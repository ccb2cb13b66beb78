// A tiny model with made-up weights, run over steps of many widths; prints every logit's bits. Built for each variant,
// they must all print the same.
#include "step.cpp"

#include <cstdio>

static uint32_t state = 1;
static uint32_t next() { return state = state * 1664525u + 1013904223u; }
static float number() { return (float)(int32_t)(next() >> 8) / (1 << 23) - 1.f; }

struct Made {
  std::vector<uint8_t> data;
  std::vector<float> bias;
  Linear linear(int64_t n, int64_t k, int32_t kind) {
    Linear made{nullptr, nullptr, n, k, kind};
    data.resize(made.bytes());
    const int64_t size = kind == INT4 ? 320 : 576;
    for (int64_t group = 0; group < made.bytes() / size; group++) {
      for (int64_t i = 0; i < size - 64; i++) data[group * size + i] = (uint8_t)(next() >> 24);
      Half edges[32];
      float values[32];
      for (int i = 0; i < 32; i++) values[i] = i < 16 ? (number() + 1.5f) * (kind == INT4 ? .02f : .0012f) : -.15f + number() * .02f;
      for (int i = 0; i < 32; i += 16) store(edges + i, load(values + i));
      memcpy(&data[group * size + size - 64], edges, 64);
    }
    for (int64_t i = 0; i < n; i++) bias.push_back(number() * .1f);
    made.data = data.data(), made.bias = bias.data();
    return made;
  }
};

// Packs made-up weights of every type into every layout and prints the bytes.
static void print_packed() {
  for (int32_t type : {F32, F16, BF16_BITS})
    for (int32_t kind : {INT4, INT8, BF16, FP32}) {
      std::vector<uint8_t> values(16 * 96 * 4), packed(16 * 96 * 4 + 1024);
      for (int64_t i = 0; i < 16 * 96; i++) {
        const float v = number() * (i % 7 ? .1f : 1e-4f);
        const Half half = {(uint16_t)(next() >> 18)};
        if (type == F32) memcpy(&values[4 * i], &v, 4);
        else if (type == F16) memcpy(&values[2 * i], &half, 2);
        else memcpy(&values[2 * i], (const char*)&v + 2, 2);
      }
      const void* rows[16];
      int32_t types[16];
      for (int r = 0; r < 16; r++) rows[r] = r == 11 ? nullptr : &values[r * 96 * (type == F32 ? 4 : 2)], types[r] = type;
      if (pack_blocks(rows, types, 1, 96, kind, packed.data())) printf("7fc00000\n");
      for (size_t i = 0; i < packed.size(); i += 4) printf("%08x\n", packed[i] | packed[i + 1] << 8 | packed[i + 2] << 16);
    }
}

static void print_steps(int32_t cache_type) {
  const int64_t hidden = 96, heads = 4, kv_heads = 2, d = 32, inner = 160, context = 128, words = 112, layers = 2;
  std::vector<Made> made(4 * layers + 1);
  std::vector<float> norm(hidden), angles(2 * context * d / 2);
  for (float& v : norm) v = 1 + number() * .1f;
  for (float& v : angles) v = number();
  std::vector<Layer> layer(layers);
  for (int64_t l = 0; l < layers; l++) {
    const int32_t kind = l ? INT8 : INT4;
    // all of one kind in a model: rows are quantized once for all of them
    layer[l] = {made[4 * l].linear((heads + 2 * kv_heads) * d, hidden, kind), made[4 * l + 1].linear(hidden, heads * d, kind),
                made[4 * l + 2].linear(2 * inner, hidden, kind), made[4 * l + 3].linear(hidden, inner, kind),
                norm.data(), norm.data(), nullptr, nullptr};
  }
  Model model{layers, hidden, heads, kv_heads, d, inner, context, layer.data(), made[4 * layers].linear(words, hidden, INT8),
              norm.data(), angles.data(), angles.data() + context * d / 2, cache_type, 1e-5f};
  void* engine = engine_new(&model, 2, 64);
  // blocks in an order of their own, with what another sequence left in them
  const int64_t size = layers * 2 * kv_heads * (cache_type == 2 ? part_bytes<int8_t>(d) : part_bytes<Half>(d));
  std::vector<std::vector<uint8_t>> memory(5 * context / BLOCK, std::vector<uint8_t>(size, 0x3a));
  std::vector<std::vector<uint8_t*>> cache(5);
  for (size_t i = 0; i < memory.size(); i++) cache[i % 5].push_back(memory[memory.size() - 1 - i].data());
  std::vector<int64_t> seen(cache.size());
  // each step: rows of the sequences, side by side
  const std::vector<std::vector<int64_t>> steps = {{1}, {3}, {1, 1}, {5, 0, 7}, {1, 1, 1, 1, 1}, {0, 16}, {2, 19, 0, 20}, {40}, {1, 0, 31, 1, 1}, {1}};
  for (const auto& counts : steps) {
    std::vector<int64_t> position, want;
    std::vector<uint8_t* const*> caches;
    for (size_t s = 0; s < counts.size(); s++)
      for (int64_t i = 0; i < counts[s]; i++) {
        want.push_back((int64_t)position.size());
        position.push_back(seen[s]++);
        caches.push_back(cache[s].data());
      }
    std::vector<float> embedded(position.size() * hidden), logits(want.size() * words);
    for (float& v : embedded) v = number();
    Rows rows{(int64_t)position.size(), (int64_t)want.size(), position.data(), want.data(), embedded.data(), caches.data(), logits.data()};
    engine_step(engine, &rows);
    for (float v : logits) {
      uint32_t bits;
      memcpy(&bits, &v, 4);
      printf("%08x\n", bits);
    }
  }
  engine_free(engine);
}

int main() {
  print_packed();
  for (int32_t cache_type : {1, 2}) print_steps(cache_type);
}

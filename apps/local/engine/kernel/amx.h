// Linear layers on AMX's tiles: the same integers as the other kernels', and the same float operations in the same order
// behind them, so that answers do not depend on which of them computes a row. A tile of 32 inputs is one group.
#pragma once

#ifdef KERNEL_AMX_EMULATED
// What the tile instructions do, for the tests: eight tiles of 16 rows of 64 bytes; sizes as configured below.
struct TileRegisters { alignas(64) uint8_t tile[8][16][64]; };
inline thread_local TileRegisters registers;
constexpr int tile_bytes(int t) { return t == 2 || t == 3 ? 32 : 64; }
constexpr int tile_rows(int t) { return t == 4 ? 8 : 16; }
inline void tiles_configure() {}
inline void tile_zero(int t) { memset(registers.tile[t], 0, sizeof registers.tile[t]); }
inline void tile_load(int t, const void* from, int64_t ld) {
  for (int r = 0; r < tile_rows(t); r++) memcpy(registers.tile[t][r], (const char*)from + r * ld, tile_bytes(t));
}
inline void tile_store(int t, void* to) {
  for (int r = 0; r < 16; r++) memcpy((char*)to + 64 * r, registers.tile[t][r], 64);
}
inline void tile_multiply(int c, int a, int b) {  // C += signed A x unsigned B, 4 inputs at a time
  for (int m = 0; m < 16; m++)
    for (int i = 0; i < 8; i++)
      for (int n = 0; n < 16; n++) {
        int32_t sum;
        memcpy(&sum, &registers.tile[c][m][4 * n], 4);
        for (int j = 0; j < 4; j++) sum += (int32_t)(int8_t)registers.tile[a][m][4 * i + j] * registers.tile[b][i][4 * n + j];
        memcpy(&registers.tile[c][m][4 * n], &sum, 4);
      }
}
#else
inline void tiles_configure() {
  static thread_local bool done = false;
  if (done) return;
  struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } sizes = {};
  sizes.palette = 1;
  for (int t : {0, 1}) sizes.bytes[t] = 64, sizes.rows[t] = 16;  // 16 rows x 16 outputs, int32
  for (int t : {2, 3}) sizes.bytes[t] = 32, sizes.rows[t] = 16;  // 16 rows x 32 inputs, int8
  sizes.bytes[4] = 64, sizes.rows[4] = 8;                        // 32 inputs x 16 outputs, uint8, in fours
  asm volatile("" : "+m"(sizes));  // GCC 12 declares 8 bytes of the operand as read and may drop the other stores
  _tile_loadconfig(&sizes);
  done = true;
}
// macros, since GCC writes the number of a tile into the instruction as it stands in the source
#define tile_zero(t) _tile_zero(t)
#define tile_load(t, from, ld) _tile_loadd(t, from, ld)
#define tile_store(t, to) _tile_stored(t, to, 64)
#define tile_multiply(c, a, b) _tile_dpbsud(c, a, b)
#endif

// From so many rows on; fewer are as fast as memory lets them be without tiles. Not measured on such a machine.
constexpr int64_t AMX_ROWS = 16;

// A group's weights as a tile: 8 x 64 bytes, of int8's two planes the whole values.
inline void unpack_group(const uint8_t* w, int32_t kind, uint8_t* tile) {
  for (int j = 0; j < 4; j++)
    for (int i = 0; i < 64; i++) {
      const uint8_t v = w[64 * j + i], u = kind == INT8 ? w[256 + 64 * j + i] : 0;
      tile[128 * j + i] = kind == INT8 ? (uint8_t)((v & 15) << 4 | (u & 15)) : v & 15;
      tile[128 * j + 64 + i] = kind == INT8 ? (uint8_t)((v & 240) | u >> 4) : v >> 4;
    }
}

inline void amx_block(const Linear& lin, const Input& in, int64_t rows, int64_t block, float* to, int64_t ld, bool add) {
  static thread_local std::vector<uint8_t> panel;
  tiles_configure();
  const int64_t groups = lin.k / 32, size = lin.block_bytes() / groups, edges = size - 64, row_bytes = lin.k + PAD;
  const uint8_t* w = lin.data + block * lin.block_bytes();
  panel.resize(std::max<size_t>(panel.size(), 512 * groups));
  for (int64_t g = 0; g < groups; g++) {
    prefetch(true, w + size * g, size);
    unpack_group(w + size * g, lin.kind, &panel[512 * g]);
  }
  alignas(64) int32_t sums[2][256];
  for (int64_t row = 0; row < rows; row += 32) {
    const int64_t count = std::min<int64_t>(32, rows - row);
    const int8_t* x = in.q.data() + row * row_bytes;
    F acc[32] = {};
    for (int64_t g = 0; g < groups; g++) {
      tile_load(4, &panel[512 * g], 64);
      tile_zero(0);
      tile_load(2, x + 32 * g, row_bytes);
      tile_multiply(0, 2, 4);
      tile_store(0, sums[0]);
      if (count > 16) {
        tile_zero(1);
        tile_load(3, x + 16 * row_bytes + 32 * g, row_bytes);
        tile_multiply(1, 3, 4);
        tile_store(1, sums[1]);
      }
      const F step = load((const Half*)(w + size * g + edges)), minimum = load((const Half*)(w + size * g + edges) + 16);
      for (int64_t r = 0; r < count; r++) {
        const int64_t at = (row + r) * (row_bytes / 32) + g;
        const F total = each_part([&](int i) {
          VI part;
          memcpy(&part, &sums[0][0] + 16 * r + LANES * i, sizeof part);
          return __builtin_convertvector(part, V);
        });
        acc[r] = fma(minimum, set(in.offset[at]), acc[r]);
        acc[r] = fma(step, set(in.scale[at]) * total, acc[r]);
      }
    }
    for (int64_t r = 0; r < count; r++) put_out(lin, block, acc[r], to + (row + r) * ld, add);
  }
}

// Packing a checkpoint's weights into the layouts that linear.h multiplies; library.py is the same in numpy, to the bit.
#pragma once
#include "linear.h"

enum Type : int32_t { F32 = 0, F16 = 1, BF16_BITS = 2 };  // of a checkpoint's values

// 16 values as float32
inline F load_values(const void* from, int32_t type, int64_t at) {
  if (type == F32) return load((const float*)from + at);
  if (type == F16) return load((const Half*)from + at);
  uint16_t bits[16];
  int32_t wide[16];
  memcpy(bits, (const uint16_t*)from + at, sizeof bits);
  for (int i = 0; i < 16; i++) wide[i] = (int32_t)((uint32_t)bits[i] << 16);
  F f;
  memcpy(&f, wide, sizeof f);
  return f;
}

// Whether all of 16 values lie within +-limit; NaN does not.
inline bool within(F f, float limit) {
  int32_t bits[16], top = 0, most;
  memcpy(bits, &f, sizeof bits), memcpy(&most, &limit, sizeof most);
  for (int32_t b : bits) top = std::max(top, b & 0x7fffffff);
  return top < most;
}

// A group of 32 inputs of 16 outputs, each column the outputs' values of one input. q: 4 or 8 bits of each.
struct Grid {
  VI q[32][PARTS];
  Half edges[32];  // 16 steps, 16 minimums
  // false where a value is beyond float16's range, or is none
  bool set_to(const F* column, float top) {
    F low = column[0], high = low;
    for (int i = 0; i < 32; i++) {
      if (!within(column[i], 65504.f)) return false;
      low = each_part([&](int p) { return column[i].part[p] < low.part[p] ? column[i].part[p] : low.part[p]; });
      high = each_part([&](int p) { return column[i].part[p] > high.part[p] ? column[i].part[p] : high.part[p]; });
    }
    low = low + F{}, high = high + F{};  // -0 becomes 0
    store(edges, each_part([&](int p) { return (high.part[p] - low.part[p]) / top; }));
    store(edges + 16, low);
    const F step = load(edges), minimum = load(edges + 16);
    const F inverse = each_part([&](int p) { return step.part[p] > 0.f ? 1.f / step.part[p] : V{}; });
    for (int i = 0; i < 32; i++)
      for (int p = 0; p < PARTS; p++) {
        V scaled = (column[i].part[p] - minimum.part[p]) * inverse.part[p];
        scaled = scaled < 0.f ? V{} : scaled > top ? V{} + top : scaled;
        q[i][p] = __builtin_convertvector(nearest(scaled), VI);
      }
    return true;
  }
  // 4 x 64 bytes: two runs of 4 inputs share a byte
  void put_plane(int shift, uint8_t* to) const {
    for (int j = 0; j < 4; j++)
      for (int p = 0; p < PARTS; p++) {
        VI bytes = {};
        for (int i = 0; i < 4; i++)
          bytes |= (((q[8 * j + i][p] >> shift) & 15) | ((q[8 * j + 4 + i][p] >> shift) & 15) << 4) << (8 * i);
        memcpy(to + 64 * j + 4 * LANES * p, &bytes, sizeof bytes);
      }
  }
};

inline int32_t rounded_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (int32_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// 16 outputs, each a row of `inputs` values or null for zeros. Returns false where they cannot be quantized.
inline bool pack_block(const void* const* rows, const int32_t* types, int64_t inputs, int32_t kind, uint8_t* to) {
  for (int64_t at = 0; at < inputs; at += 32) {
    float values[32], turned[32][16];
    for (int r = 0; r < 16; r++) {
      for (int h = 0; h < 32; h += 16) store(values + h, rows[r] ? load_values(rows[r], types[r], at + h) : F{});
      for (int i = 0; i < 32; i++) turned[i][r] = values[i];
    }
    if (kind == FP32) {
      memcpy(to, turned, sizeof turned), to += sizeof turned;
    } else if (kind == BF16) {
      for (int i = 0; i < 32; i += 2)
        for (int r = 0; r < 16; r++, to += 4) {
          const int32_t pair = rounded_bf16(turned[i][r]) | rounded_bf16(turned[i + 1][r]) << 16;
          memcpy(to, &pair, 4);
        }
    } else {
      F column[32];
      for (int i = 0; i < 32; i++) column[i] = load(turned[i]);
      Grid grid;
      if (!grid.set_to(column, kind == INT4 ? 15.f : 255.f)) return false;
      if (kind == INT8) grid.put_plane(4, to), to += 256;
      grid.put_plane(0, to), to += 256;
      memcpy(to, grid.edges, sizeof grid.edges), to += sizeof grid.edges;
    }
  }
  return true;
}

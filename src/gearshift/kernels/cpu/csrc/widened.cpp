// Products of float32 activations with weights of few bits whatever their format: a stretch of each output channel is
// widened to floats in the first cache and multiplied there, so that memory is read in few bits.
//
// A plain C interface, without any library's headers. Meant to be compiled for the CPU at hand.

#include "vectors.h"

namespace {

constexpr int64_t STRETCH = 1024;  // inputs that are widened at a time
constexpr int64_t TOGETHER = 2;    // channels
constexpr int64_t SMALL = 32;      // groups of fewer inputs are widened in the cache
constexpr int64_t FEW = 4;         // rows; more are multiplied by what was widened once
constexpr int64_t CHANNELS = 8;    // that stay in the first cache while rows pass
constexpr int64_t AHEAD = 1536;    // bytes of weights that are asked for before they are needed

// What the bytes of a channel say of its inputs k to k + 8, and of input k alone.

struct Signed {
  float one(const uint8_t* row, int64_t k) const { return int8_t(row[k]); }
#ifdef __F16C__
  Eight eight(const uint8_t* row, int64_t k) const {
    return (Eight)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(row + k))));
  }
#endif
};

struct Unsigned {
  float one(const uint8_t* row, int64_t k) const { return row[k]; }
#ifdef __F16C__
  Eight eight(const uint8_t* row, int64_t k) const {
    return (Eight)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(row + k))));
  }
#endif
};

struct E4m3 {  // its bits in a 16-bit float's places, where the exponents start 8 higher
  float one(const uint8_t* row, int64_t k) const { return 256 * from_half((row[k] & 0x80) << 8 | (row[k] & 0x7f) << 7); }
#ifdef __F16C__
  Eight eight(const uint8_t* row, int64_t k) const {
    const __m128i wide = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i*)(row + k))), 7);
    return 256 * (Eight)_mm256_cvtph_ps(_mm_and_si128(wide, _mm_set1_epi16(int16_t(0xbfff))));
  }
#endif
};

struct E5m2 {
  float one(const uint8_t* row, int64_t k) const { return from_half(row[k] << 8); }
#ifdef __F16C__
  Eight eight(const uint8_t* row, int64_t k) const {
    const __m128i bytes = _mm_loadl_epi64((const __m128i*)(row + k));
    return (Eight)_mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(bytes), 8));
  }
#endif
};

// Numbers that a table has: two for each code of 4, 6 or 8 bits (a weight of 2, 3 or 4 bits), four for each byte of
// two codes of 4 bits.
template <int BITS>
struct Table {
  const float* table;

  float one(const uint8_t* row, int64_t k) const {
    if (BITS == 2) return table[4 * row[k / 4] + k % 4];
    if (BITS == 4) return table[2 * row[k / 2] + k % 2];
    return table[2 * (six(row + k / 8 * 3) >> 6 * (k / 2 % 4) & 63) + k % 2];
  }

  static uint32_t six(const uint8_t* p) { return p[0] | p[1] << 8 | p[2] << 16; }

#ifdef __F16C__
  Eight eight(const uint8_t* row, int64_t k) const {
    if (BITS == 2) {
      const uint8_t* p = row + k / 4;
      return (Eight)_mm256_set_m128(_mm_loadu_ps(table + 4 * p[1]), _mm_loadu_ps(table + 4 * p[0]));
    }
    if (BITS == 4) {
      const uint8_t* p = row + k / 2;
      return (Eight)_mm256_set_m128(two(p[2], p[3]), two(p[0], p[1]));
    }
    const uint32_t bits = six(row + k / 8 * 3);
    return (Eight)_mm256_set_m128(two(bits >> 12 & 63, bits >> 18), two(bits & 63, bits >> 6 & 63));
  }

  __m128 two(uint32_t a, uint32_t b) const {
    return _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd((const double*)(table + 2 * a)), (const double*)(table + 2 * b)));
  }
#endif
};

template <class Code>
inline Eight eight(const Code& code, const uint8_t* row, int64_t k) {
#ifdef __F16C__
  return code.eight(row, k);
#else
  Eight v;
  for (int i = 0; i < 8; ++i) v[i] = code.one(row, k + i);
  return v;
#endif
}

// A scale, and where there are zeros a zero, for each group of inputs: weight = scale * (number - zero).
struct Grid {
  Floats scale, zero;
  int64_t in, group, groups;

  Grid(const void* scale, const void* zero, bool half, int64_t in, int64_t out, int64_t group)
      : scale{scale, half, out * ((in + group - 1) / group)}, zero{zero, half, this->scale.count}, in(in), group(group),
        groups((in + group - 1) / group) {}

  // Inputs `first` to `last` of channel n, whose bytes are in `row` from input `start` on.
  template <class Code>
  void widen(const Code& code, const uint8_t* row, int64_t start, int64_t n, int64_t first, int64_t last,
             float* to) const {
    float scales[STRETCH / 8 + 8], zeros[STRETCH / 8 + 8] = {};
    int64_t g = first / group;
    const bool small = group >= 8;  // so that those of all groups of a stretch have room
    for (int64_t i = 0; small && i <= (last - 1) / group - g; i += 8) {
      store(scales + i, scale.eight(n * groups + g + i));
      if (zero.at) store(zeros + i, zero.eight(n * groups + g + i));
    }
    for (int64_t k = first, i = 0; k < last; ++g, ++i) {
      const int64_t end = std::min((g + 1) * group, last);
      const float s = small ? scales[i] : scale[n * groups + g];
      const float z = small ? zeros[i] : zero.at ? zero[n * groups + g] : 0;
      for (; k + 8 <= end; k += 8) store(to + k - first, s * (eight(code, row, k - start) - z));
      for (; k < end; ++k) to[k - first] = s * (code.one(row, k - start) - z);
    }
  }
};

// Each format is asked for inputs `first` to `last` of channel n, where `first` is a multiple of STRETCH.

// Numbers that can be had wherever they are in a row of `row` bytes.
template <class Code>
struct Direct {
  Code code;
  const uint8_t* bytes;
  int64_t row;
  Grid grid;

  void fill(int64_t n, int64_t first, int64_t last, float* to) const {
    grid.widen(code, bytes + n * row, 0, n, first, last, to);
  }
};

// Codes of 2, 3 or 4 bits in blocks of 32.
template <int BITS>
struct Blocks {
  const uint8_t* bytes;
  int64_t row;
  Grid grid;

  void fill(int64_t n, int64_t first, int64_t last, float* to) const {
    uint8_t room[STRETCH];
    const uint8_t* from = bytes + n * row + first * BITS / 8;
    for (int64_t k = 0; k < last - first; k += 32) unpack<BITS>(from + k * BITS / 8, room + k);
    grid.widen(Unsigned(), room, first, n, first, last, to);
  }
};

// sums [ROWS][CHANNELS] += x [ROWS, length] . weight [CHANNELS, length]
template <int ROWS, int CHANNELS>
inline void add_products(const float* x, int64_t in, const float* weight, int64_t length, float* y, int64_t out) {
  constexpr int PARTS = ROWS * CHANNELS >= 4 ? 1 : 4;  // independent sums, which hide the latency of an addition
  vec part[ROWS][CHANNELS][PARTS] = {};
  int64_t k = 0;
  for (; k + PARTS * LANES <= length; k += PARTS * LANES) {
#pragma GCC unroll 4
    for (int i = 0; i < PARTS; ++i) {
      vec w[CHANNELS];
#pragma GCC unroll 4
      for (int c = 0; c < CHANNELS; ++c) w[c] = load<vec>(weight + c * STRETCH + k + i * LANES);
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
        const vec given = load<vec>(x + r * in + k + i * LANES);
#pragma GCC unroll 4
        for (int c = 0; c < CHANNELS; ++c) part[r][c][i] += w[c] * given;
      }
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < CHANNELS; ++c) {
      vec all = part[r][c][0];
      for (int i = 1; i < PARTS; ++i) all += part[r][c][i];
      float sum = total(all);
      for (int64_t rest = k; rest < length; ++rest) sum += x[r * in + rest] * weight[c * STRETCH + rest];
      y[r * out + c] += sum;
    }
}

template <class Format>
void by_stretches(const float* x, const Format& weight, float* y, int64_t rows, int64_t in, int64_t out, int threads) {
  share_out(out, rows * in, threads, [&](int64_t start, int64_t stop) {
    alignas(64) float wide[TOGETHER * STRETCH];
    for (int64_t n = start; n < stop; n += TOGETHER) {
      const int64_t channels = std::min(TOGETHER, stop - n);
      for (int64_t r = 0; r < rows; ++r) std::fill_n(y + r * out + n, channels, 0.0f);
      for (int64_t first = 0; first < in; first += STRETCH) {
        const int64_t last = std::min(first + STRETCH, in);
        for (int64_t c = 0; c < channels; ++c) weight.fill(n + c, first, last, wide + c * STRETCH);
        in_fours(rows, [&](auto some, int64_t row) {
          const float* from = x + row * in + first;
          float* to = y + row * out + n;
          if (channels == TOGETHER)
            add_products<some, TOGETHER>(from, in, wide, last - first, to, out);
          else
            add_products<some, 1>(from, in, wide, last - first, to, out);
        });
      }
    }
  });
}

// y[r] = x[r] . weight for ROWS rows and one channel, whose numbers are made in registers. Zeros are taken off before
// anything is added, so that a channel of zeros is one exactly.
template <class Code, int ROWS>
inline void dot(const float* x, const Code& code, const uint8_t* row, const Grid& grid, int64_t n, float* y,
                int64_t out) {
  constexpr int PARTS = ROWS == 1 ? 4 : 2;  // independent sums, which hide the latency of an addition
  Eight all[ROWS] = {};
  float rest[ROWS] = {};
  for (int64_t g = 0; g < grid.groups; ++g) {
    int64_t k = g * grid.group;
    const int64_t end = std::min(k + grid.group, grid.in);
    const float s = grid.scale[n * grid.groups + g], zero = grid.zero.at ? grid.zero[n * grid.groups + g] : 0;
    Eight part[ROWS][PARTS] = {};
    for (; k + 8 * PARTS <= end; k += 8 * PARTS) {
      __builtin_prefetch(row + k + AHEAD);
#pragma GCC unroll 4
      for (int i = 0; i < PARTS; ++i) {
        const Eight w = eight(code, row, k + 8 * i) - zero;
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) part[r][i] += w * load<Eight>(x + r * grid.in + k + 8 * i);
      }
    }
    for (; k + 8 <= end; k += 8) {
      const Eight w = eight(code, row, k) - zero;
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) part[r][0] += w * load<Eight>(x + r * grid.in + k);
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      Eight product = part[r][0];
#pragma GCC unroll 4
      for (int i = 1; i < PARTS; ++i) product += part[r][i];
      all[r] += s * product;
    }
    for (; k < end; ++k)
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) rest[r] += s * (code.one(row, k) - zero) * x[r * grid.in + k];
  }
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; ++r) y[r * out] = total(all[r]) + rest[r];
}

template <class Code>
void in_registers(const float* x, const Direct<Code>& weight, float* y, int64_t rows, int64_t in, int64_t out,
                  int threads) {
  share_out(out, rows * in, threads, [&](int64_t start, int64_t stop) {
    for (int64_t n = start; n < stop; n += CHANNELS) {
      const int64_t end = std::min(n + CHANNELS, stop);
      in_fours(rows, [&](auto some, int64_t row) {
        for (int64_t c = n; c < end; ++c)
          dot<Code, some>(x + row * in, weight.code, weight.bytes + c * weight.row, weight.grid, c, y + row * out + c,
                          out);
      });
    }
  });
}

template <class Format>
void multiply(const float* x, const Format& weight, float* y, int64_t rows, int64_t in, int64_t out, int threads) {
  by_stretches(x, weight, y, rows, in, out, threads);
}

template <class Code>
void multiply(const float* x, const Direct<Code>& weight, float* y, int64_t rows, int64_t in, int64_t out, int threads) {
  if (rows > FEW || (weight.grid.group < SMALL && weight.grid.group < in))
    by_stretches(x, weight, y, rows, in, out, threads);
  else
    in_registers(x, weight, y, rows, in, out, threads);
}

template <class Format>
void widen_all(const Format& weight, float* to, int64_t in, int64_t out, int threads) {
  share_out(out, in, threads, [&](int64_t start, int64_t stop) {
    for (int64_t n = start; n < stop; ++n)
      for (int64_t first = 0; first < in; first += STRETCH)
        weight.fill(n, first, std::min(first + STRETCH, in), to + n * in + first);
  });
}

// The product with x [rows, in] into y [rows, out], or without x the weight itself into y [out, in].
template <class Format>
void answer(const float* x, const Format& weight, float* y, int64_t rows, int64_t in, int64_t out, int threads) {
  if (x)
    multiply(x, weight, y, rows, in, out, threads);
  else
    widen_all(weight, y, in, out, threads);
}

}  // namespace

extern "C" {

// Weights = scale * (number - zero) in groups of inputs; without zeros their pointer is null. A channel has `row` bytes;
// scale and zero are in 16 bits if `half`. kind: of bytes 0 int8, 1 uint8, 2 e4m3, 3 e5m2; codes of a `table` for
// weights of 2, 3 and 4 bits 4, 5, 6; codes of 2, 3 and 4 bits in blocks of 32 inputs 7, 8, 9.
void gearshift_widened(const float* x, const uint8_t* bytes, const void* scale, const void* zero, const float* table,
                       float* y, int64_t rows, int64_t in, int64_t out, int64_t row, int64_t group, int kind, int half,
                       int threads) {
  const Grid grid(scale, zero, half != 0, in, out, group);
  const auto run = [&](const auto& weight) { answer(x, weight, y, rows, in, out, threads); };
  if (kind == 0) run(Direct<Signed>{{}, bytes, row, grid});
  if (kind == 1) run(Direct<Unsigned>{{}, bytes, row, grid});
  if (kind == 2) run(Direct<E4m3>{{}, bytes, row, grid});
  if (kind == 3) run(Direct<E5m2>{{}, bytes, row, grid});
  if (kind == 4) run(Direct<Table<2>>{{table}, bytes, row, grid});
  if (kind == 5) run(Direct<Table<3>>{{table}, bytes, row, grid});
  if (kind == 6) run(Direct<Table<4>>{{table}, bytes, row, grid});
  if (kind == 7) run(Blocks<2>{bytes, row, grid});
  if (kind == 8) run(Blocks<3>{bytes, row, grid});
  if (kind == 9) run(Blocks<4>{bytes, row, grid});
}
}

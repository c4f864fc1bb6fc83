// What stands around an int8 product of float32 activations: rounding them to codes, and turning the product of codes
// back into floats. One pass over the memory each, where a chain of tensor operations takes five to eight.
//
// A plain C interface, without any library's headers. Every row is computed by itself and in one order, so the answer
// does not depend on how many threads there are. Meant to be compiled for the CPU at hand.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

typedef float vec __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));
typedef uint8_t bytes __attribute__((vector_size(16)));
constexpr int64_t LANES = 16;
constexpr int64_t SHARE = 1 << 15;  // fewer elements than this are not worth waking a thread

inline vec load(const float* p) {
  vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

struct Range {
  float low, high;
};

// The least and the largest of some numbers; both NaN if one of them is.
Range range_of(const float* x, int64_t count) {
  float low = INFINITY, high = -INFINITY, spoilt = 0;
  int64_t i = 0;
  if (count >= LANES) {
    vec lows = load(x), highs = lows, off = lows * 0;
    for (i = LANES; i + LANES <= count; i += LANES) {
      const vec v = load(x + i);
      lows = v < lows ? v : lows;
      highs = v > highs ? v : highs;
      off += v * 0;
    }
    for (int64_t k = 0; k < LANES; ++k) {
      low = lows[k] < low ? lows[k] : low;
      high = highs[k] > high ? highs[k] : high;
      spoilt += off[k];
    }
  }
  for (; i < count; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    spoilt += x[i] * 0;
  }
  return spoilt == 0 ? Range{low, high} : Range{NAN, NAN};
}

// codes = whole part of (x - low) / step + shift, which lies within 0 and 255.
void codes_of(const float* x, uint8_t* codes, int64_t count, float low, float inverse, float shift) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    const vec scaled = (load(x + i) - low) * inverse + shift;
    const bytes small = __builtin_convertvector(__builtin_convertvector(scaled, ints), bytes);
    std::memcpy(codes + i, &small, sizeof small);
  }
  for (; i < count; ++i) codes[i] = uint8_t(int32_t((x[i] - low) * inverse + shift));
}

}  // namespace

extern "C" {

// Codes from 0 to `levels` of each row of x [rows, width], whose first is `low` [rows] and whose distance `step` [rows].
void gearshift_rows_to_codes(const float* x, uint8_t* codes, float* low, float* step, int64_t rows, int64_t width,
                             int levels, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > SHARE)
  for (int64_t r = 0; r < rows; ++r) {
    const Range range = range_of(x + r * width, width);
    const float apart = (range.high - range.low) / levels;
    low[r] = range.low;
    step[r] = apart < 1e-30f ? 1e-30f : apart;
    codes_of(x + r * width, codes + r * width, width, range.low, 1 / step[r], 0.5f);
  }
}

// y [rows, width] = y * step + low * sums + total * offsets + bias, in place: rows have step, low and total, columns
// have sums, offsets and bias. Without offsets or bias their pointers are null.
void gearshift_rows_from_codes(float* y, const float* step, const float* low, const float* total,
                               const float* __restrict sums, const float* __restrict offsets,
                               const float* __restrict bias, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > SHARE)
  for (int64_t r = 0; r < rows; ++r) {
    float* __restrict row = y + r * width;
    const float s = step[r], l = low[r];
    if (bias)
      for (int64_t c = 0; c < width; ++c) row[c] = row[c] * s + (l * sums[c] + bias[c]);
    else
      for (int64_t c = 0; c < width; ++c) row[c] = row[c] * s + l * sums[c];
    if (offsets)
      for (int64_t c = 0; c < width; ++c) row[c] += total[r] * offsets[c];
  }
}

// The least and the largest of x [count], into ends [2]; both NaN if one of them is.
void gearshift_range(const float* x, float* ends, int64_t count, int threads) {
  const int64_t parts = (count + SHARE - 1) / SHARE;
  float low = INFINITY, high = -INFINITY;
  int spoilt = 0;
#pragma omp parallel for num_threads(threads) reduction(min : low) reduction(max : high) reduction(+ : spoilt) if (parts > 1)
  for (int64_t p = 0; p < parts; ++p) {
    const int64_t first = p * SHARE, left = count - first;
    const Range found = range_of(x + first, left < SHARE ? left : SHARE);
    spoilt += found.low != found.low;
    low = found.low < low ? found.low : low;
    high = found.high > high ? found.high : high;
  }
  ends[0] = spoilt ? NAN : low;
  ends[1] = spoilt ? NAN : high;
}

// Codes of x [count] in one range: x / step + shift.
void gearshift_to_codes(const float* x, uint8_t* codes, int64_t count, float inverse, float shift, int threads) {
  const int64_t parts = (count + SHARE - 1) / SHARE;
#pragma omp parallel for num_threads(threads) if (parts > 1)
  for (int64_t p = 0; p < parts; ++p) {
    const int64_t first = p * SHARE, left = count - first;
    codes_of(x + first, codes + first, left < SHARE ? left : SHARE, 0, inverse, shift);
  }
}

}

// Products of activations with weights of 2, 3 or 4 bits in groups of 32 inputs or a multiple, the last of which may be
// shorter: activations are rounded to 8 bits in runs of at most 128 inputs within the groups, and the products of codes
// are whole numbers.
//
// A plain C interface, without any library's headers. Meant to be compiled for the CPU at hand; without AVX2 the plain
// loops serve.

#include "vectors.h"

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define HAS_VNNI
#endif

namespace {

constexpr int64_t BLOCK = 32;      // codes that are unpacked at a time
constexpr int64_t RUN = 128;       // inputs with a step in common: their products fit into 16 bits (see multiply_add)
constexpr int64_t AHEAD = 1536;    // bytes of weights that are asked for before they are needed
constexpr int64_t TILE = 1 << 14;  // bytes of weights that stay in the first cache while rows pass

// Inputs whose activations share a step: `count` of them, in `blocks` blocks from block `first` on, all of one group.
struct Run {
  int64_t first, blocks, count, group;
};

struct Shape {
  int64_t in, group, groups, width;  // width: inputs, with the last block filled up
  std::vector<Run> runs;

  Shape(int64_t in, int64_t group)
      : in(in), group(group), groups((in + group - 1) / group), width((in + BLOCK - 1) / BLOCK * BLOCK) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t last = std::min((g + 1) * group, in);
      for (int64_t k = g * group; k < last; k += RUN) {
        const int64_t count = std::min(RUN, last - k);
        runs.push_back({k / BLOCK, (count + BLOCK - 1) / BLOCK, count, g});
      }
    }
  }
};

// Activations in 8 bits: x = step * code in each run, the largest at 127. NaN and infinity end up in the step.
struct Codes {
  int64_t rows;
  std::vector<int8_t> code;      // [rows, width]
  std::vector<float> step, sum;  // of [rows, runs]; of [rows, groups]: step times the sum of the codes; see `place`

  // by_twos: blocks are multiplied two at a time, as their bytes lie: 16 codes of one, of the other, and so again.
  Codes(const float* x, int64_t rows, const Shape& shape, bool by_twos, int threads)
      : rows(rows), code(rows * shape.width), step(rows * shape.runs.size()), sum(rows * shape.groups) {
    share_out(rows, shape.in, threads, [&](int64_t start, int64_t stop) {
      for (int64_t r = start; r < stop; ++r)
        for (size_t n = 0; n < shape.runs.size(); ++n) {
          const Run& run = shape.runs[n];
          round(x + r * shape.in + run.first * BLOCK, run, by_twos, &code[r * shape.width + run.first * BLOCK],
                step[place(r, n, shape.runs.size())], sum[place(r, run.group, shape.groups)]);
        }
    });
  }

  // Where number n of row r is: those of whole fours of rows lie beside each other.
  int64_t place(int64_t r, int64_t n, int64_t count) const {
    return r < rows / 4 * 4 ? r / 4 * 4 * count + 4 * n + r % 4 : r * count + n;
  }

  static void round(const float* x, const Run& run, bool by_twos, int8_t* code, float& step, float& sum) {
    constexpr float SHIFT = 12582912;  // 1.5 * 2^23: added to a small number, leaves it rounded in the lowest bits
    int32_t bits, most = 0;            // of the largest magnitude: as integers, numbers < infinity < NaN
    for (int64_t j = 0; j < run.count; ++j) {
      std::memcpy(&bits, x + j, sizeof bits);
      most = std::max(most, bits & 0x7fffffff);
    }
    float peak;
    std::memcpy(&peak, &most, sizeof peak);
    const float codes_per_unit = peak > 1e-30f && peak < HUGE_VALF ? 127 / peak : 0;
    int8_t order[RUN] = {};
    int32_t whole = 0;
    for (int64_t j = 0; j < run.count; ++j) {
      const float shifted = x[j] * codes_per_unit + SHIFT;
      std::memcpy(&bits, &shifted, sizeof bits);
      order[j] = static_cast<int8_t>(bits);
      whole += order[j];
    }
    step = peak / 127;
    sum += step * whole;
    std::memcpy(code, order, run.blocks * BLOCK);
    if (by_twos)
      for (int64_t b = 0; b + 2 <= run.blocks; b += 2) {
        std::memcpy(code + b * BLOCK + 16, order + b * BLOCK + 32, 16);
        std::memcpy(code + b * BLOCK + 32, order + b * BLOCK + 16, 16);
      }
  }
};

typedef float Quad __attribute__((vector_size(16)));

// A Part holds sums of weight code times activation code over one run; a Four float sums of four products.
#ifdef __AVX2__
constexpr bool BY_TWOS = true;
typedef __m256i Part;
typedef __m256 Four;

inline Part multiply_add(Part part, __m256i codes, const int8_t* x) {
  const __m256i activations = _mm256_loadu_si256((const __m256i*)x);
#if !defined(HAS_VNNI)  // 16-bit lanes, which hold four times two products: 4 * 2 * 15 * 127 < 32768
  return _mm256_add_epi16(part, _mm256_maddubs_epi16(codes, activations));
#elif defined(__AVX512VNNI__)
  return _mm256_dpbusd_epi32(part, codes, activations);
#else
  return _mm256_dpbusd_avx_epi32(part, codes, activations);
#endif
}

// Two blocks, or one, of CHANNELS channels and of ROWS rows of x.
template <int BITS, int ROWS, int CHANNELS>
inline void add_two(Part (*part)[ROWS], const uint8_t* const* weight, int64_t at, const int8_t* x, int64_t width) {
#pragma GCC unroll 4
  for (int c = 0; c < CHANNELS; ++c) {
    const uint8_t* from = weight[c] + at;
    __m256i one, other;
    if (BITS == 4) {
      const __m256i pairs = _mm256_loadu_si256((const __m256i*)from), mask = _mm256_set1_epi8(15);
      one = _mm256_and_si256(pairs, mask);
      other = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), mask);
    } else {
      one = block<BITS>(from);
      other = block<BITS>(from + BLOCK * BITS / 8);
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r)
      part[c][r] = multiply_add(multiply_add(part[c][r], one, x + r * width), other, x + r * width + BLOCK);
  }
}

template <int BITS, int ROWS, int CHANNELS>
inline void add_one(Part (*part)[ROWS], const uint8_t* const* weight, int64_t at, const int8_t* x, int64_t width) {
#pragma GCC unroll 4
  for (int c = 0; c < CHANNELS; ++c)
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r)
      part[c][r] = multiply_add(part[c][r], block<BITS>(weight[c] + at), x + r * width);
}

// Four products of a run: each one's sum over the lanes, in the lower half of Four and again (in part) in the upper.
inline Four gathered(Part a, Part b, Part c, Part d) {
#ifndef HAS_VNNI
  const __m256i ones = _mm256_set1_epi16(1);
  a = _mm256_madd_epi16(a, ones), b = _mm256_madd_epi16(b, ones);
  c = _mm256_madd_epi16(c, ones), d = _mm256_madd_epi16(d, ones);
#endif
  const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
  return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd)));
}

inline Four fours(const float* p) { return _mm256_broadcast_ps((const __m128*)p); }
inline Four alike(float v) { return _mm256_set1_ps(v); }
inline Quad folded(Four sums) { return (Quad)_mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)); }
#else
constexpr bool BY_TWOS = false;
typedef int32_t Part;
typedef Quad Four;

template <int BITS, int ROWS, int CHANNELS>
inline void add_one(Part (*part)[ROWS], const uint8_t* const* weight, int64_t at, const int8_t* x, int64_t width) {
  uint8_t codes[BLOCK];
  for (int c = 0; c < CHANNELS; ++c) {
    unpack<BITS>(weight[c] + at, codes);
    for (int r = 0; r < ROWS; ++r)
      for (int j = 0; j < BLOCK; ++j) part[c][r] += codes[j] * x[r * width + j];
  }
}

template <int BITS, int ROWS, int CHANNELS>
inline void add_two(Part (*part)[ROWS], const uint8_t* const* weight, int64_t at, const int8_t* x, int64_t width) {
  add_one<BITS, ROWS, CHANNELS>(part, weight, at, x, width);
  add_one<BITS, ROWS, CHANNELS>(part, weight, at + BLOCK * BITS / 8, x + BLOCK, width);
}

inline Four gathered(Part a, Part b, Part c, Part d) { return Four{float(a), float(b), float(c), float(d)}; }
inline Four fours(const float* p) { return load<Four>(p); }
inline Four alike(float v) { return Four{v, v, v, v}; }
inline Quad folded(Four sums) { return sums; }
#endif

// Scales of some channels and what their zeros come to, as floats: those of four channels beside each other.
struct Grids {
  const Floats scales, zeros;
  int64_t groups, room;          // of a channel; the same in whole eights
  std::vector<float> scale, offset;  // [channels / 4, room, 4]

  Grids(const Floats& scales, const Floats& zeros, int64_t channels, int64_t groups)
      : scales(scales), zeros(zeros), groups(groups), room((groups + 7) / 8 * 8), scale(channels * room), offset(scale) {}

  // Those of four channels from `first` on, or of as many as there are, to the place of channel c.
  void read(int64_t first, int64_t channels, int64_t c) {
    for (int64_t g = 0; g < groups; g += 8) {
      Eight s[4], o[4];
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t at = (first + std::min(i, channels - 1)) * groups + g;
        s[i] = scales.eight(at);
        o[i] = s[i] * zeros.eight(at);
      }
      turn(s, &scale[c * room + 4 * g]);
      turn(o, &offset[c * room + 4 * g]);
    }
  }

  static void turn(const Eight* from, float* to) {
#ifdef __AVX2__
    const __m256 a = (__m256)from[0], b = (__m256)from[1], c = (__m256)from[2], d = (__m256)from[3];
    const __m256d ab = (__m256d)_mm256_unpacklo_ps(a, b), ab2 = (__m256d)_mm256_unpackhi_ps(a, b);
    const __m256d cd = (__m256d)_mm256_unpacklo_ps(c, d), cd2 = (__m256d)_mm256_unpackhi_ps(c, d);
    const __m256 one = (__m256)_mm256_unpacklo_pd(ab, cd), two = (__m256)_mm256_unpackhi_pd(ab, cd);
    const __m256 three = (__m256)_mm256_unpacklo_pd(ab2, cd2), four = (__m256)_mm256_unpackhi_pd(ab2, cd2);
    store(to, _mm256_permute2f128_ps(one, two, 0x20));
    store(to + 8, _mm256_permute2f128_ps(three, four, 0x20));
    store(to + 16, _mm256_permute2f128_ps(one, two, 0x31));
    store(to + 24, _mm256_permute2f128_ps(three, four, 0x31));
#else
    for (int64_t k = 0; k < 8; ++k)
      for (int64_t i = 0; i < 4; ++i) to[4 * k + i] = from[i][k];
#endif
  }
};

// The products of four rows with one channel, or of one row with four.
template <int BITS, int ROWS, int CHANNELS>
inline Quad dot(const Codes& x, int64_t row, const Shape& shape, const uint8_t* const* weight, const float* scale,
                const float* offset) {
  const float *step = &x.step[row * shape.runs.size()], *sum = &x.sum[row * shape.groups];
  const int8_t* codes = &x.code[row * shape.width];
  Four products = {};
  for (const Run& run : shape.runs) {
    Part part[CHANNELS][ROWS] = {};
    int64_t at = run.first * BLOCK * BITS / 8, b = 0;
    const int8_t* given = codes + run.first * BLOCK;
    for (; b + 2 <= run.blocks; b += 2) {
      add_two<BITS, ROWS, CHANNELS>(part, weight, at, given, shape.width);
      at += 2 * BLOCK * BITS / 8;
      given += 2 * BLOCK;
    }
    if (b < run.blocks) add_one<BITS, ROWS, CHANNELS>(part, weight, at, given, shape.width);
    const Part* p = part[0];
    const float* s = scale + 4 * run.group;
    products += gathered(p[0], p[1], p[2], p[3]) * (ROWS == 4 ? fours(step) * alike(*s) : fours(s) * alike(*step));
    step += ROWS;
  }
  Quad answer = folded(products);
  for (int64_t g = 0; g < shape.groups; ++g)
    answer -= ROWS == 4 ? load<Quad>(sum + 4 * g) * offset[4 * g] : load<Quad>(offset + 4 * g) * sum[g];
  return answer;
}

template <int BITS>
void multiply(const float* x, const uint8_t* codes, const Floats& scale, const Floats& zero, float* y, int64_t rows,
              const Shape& shape, int64_t out, int threads) {
  const Codes rounded(x, rows, shape, BITS == 4 && BY_TWOS, threads);
  const int64_t row_bytes = shape.width * BITS / 8, tile = std::max<int64_t>(4, TILE / row_bytes / 4 * 4);
  share_out(out, rows * shape.in, threads, [&](int64_t first, int64_t last) {
    Grids grids(scale, zero, tile, shape.groups);
    for (int64_t n = first; n < last; n += tile) {
      const int64_t channels = std::min(tile, last - n);
      for (int64_t c = 0; c < channels; c += 4) grids.read(n + c, std::min<int64_t>(4, channels - c), c);
      for (int64_t row = 0; row < rows; row += row + 4 <= rows ? 4 : 1)
        for (int64_t c = 0; c < channels; c += 4) {
          const float *s = &grids.scale[c * grids.room], *o = &grids.offset[c * grids.room];
          const int64_t some = std::min<int64_t>(4, channels - c);
          const uint8_t* weight[4];
          for (int64_t i = 0; i < 4; ++i) weight[i] = codes + (n + c + std::min(i, some - 1)) * row_bytes;
          float* to = y + row * out + n + c;
          if (row + 4 <= rows)
            for (int64_t i = 0; i < some; ++i) {
              const Quad sums = dot<BITS, 4, 1>(rounded, row, shape, weight + i, s + i, o + i);
              for (int r = 0; r < 4; ++r) to[r * out + i] = sums[r];
            }
          else {
            if (rows == 1)
              for (int64_t i = 0; i < 4; ++i)
                for (int64_t k = 0; k < row_bytes; k += 64) __builtin_prefetch(weight[i] + 4 * row_bytes + k);
            const Quad sums = dot<BITS, 1, 4>(rounded, row, shape, weight, s, o);
            for (int64_t i = 0; i < some; ++i) to[i] = sums[i];
          }
        }
    }
  });
}

}  // namespace

// y [rows, out] = x [rows, in] @ weight.T for weights of 2, 3 or 4 bits as in quant/formats/grouped.py; group is a
// multiple of 32; scale and zero in 16 bits if `half`.
extern "C" void gearshift_rounded(const float* x, const uint8_t* codes, const void* scale, const void* zero, float* y,
                                  int64_t rows, int64_t in, int64_t out, int64_t group, int64_t bits, int half,
                                  int threads) {
  const Shape shape(in, group);
  const Floats scales{scale, half != 0, out * shape.groups}, zeros{zero, half != 0, out * shape.groups};
  const auto run = bits == 2 ? multiply<2> : bits == 3 ? multiply<3> : multiply<4>;
  run(x, codes, scales, zeros, y, rows, shape, out, threads);
}

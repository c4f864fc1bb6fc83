// Products of a few rows of float32 activations with 8-bit and 4-bit weights, for language models that decode one token
// at a time: each weight is read from memory once, in its few bits, and widened in registers.
//
// A plain C interface, without any library's headers. Threads share out the output channels and each channel is summed
// in one fixed order, so the answer does not depend on how many threads there are. Meant to be compiled for the CPU at
// hand; without AVX2 the plain loops serve.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX2__
#include <immintrin.h>
#endif
#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define HAS_VNNI
#endif

namespace {

constexpr int64_t AHEAD = 1536;     // bytes of weights that are asked for before they are needed
constexpr int64_t BLOCK = 64;       // 4-bit weights are taken 64 at a time, 32 bytes
constexpr int64_t SHARE = 1 << 16;  // fewer products than this are not worth waking a thread

#if defined(__AVX512F__)
typedef float vec __attribute__((vector_size(64)));
inline vec widen(const int8_t* p) {
  return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
#elif defined(__AVX2__)
typedef float vec __attribute__((vector_size(32)));
inline vec widen(const int8_t* p) {
  return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
#else
typedef float vec __attribute__((vector_size(16)));
inline vec widen(const int8_t* p) { return vec{float(p[0]), float(p[1]), float(p[2]), float(p[3])}; }
#endif
constexpr int LANES = sizeof(vec) / sizeof(float);

template <class V>
inline V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline float total(float v) { return v; }

#ifdef __AVX2__
inline float total(__m256 v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
#else
inline float total(vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
#endif
#ifdef __AVX512F__
inline float total(__m512 v) { return _mm512_reduce_add_ps(v); }
#endif

// work(first, last) for contiguous shares of the output channels.
template <class Work>
void share_out(int64_t channels, [[maybe_unused]] int64_t products, [[maybe_unused]] int threads, const Work& work) {
#ifdef _OPENMP
  if (threads > 1 && channels * products > SHARE) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
      work(channels * part / parts, channels * (part + 1) / parts);
    }
    return;
  }
#endif
  work(0, channels);
}

// work(rows, row) for `count` rows, four at a time and then what is left; `rows` is known at compile time.
template <class Work>
void in_fours(int64_t count, const Work& work) {
  int64_t row = 0;
  for (; row + 4 <= count; row += 4) work(std::integral_constant<int, 4>(), row);
  if (count - row == 3) work(std::integral_constant<int, 3>(), row);
  if (count - row == 2) work(std::integral_constant<int, 2>(), row);
  if (count - row == 1) work(std::integral_constant<int, 1>(), row);
}

// sums[r] = x[r] . weight, for ROWS rows of x.
template <int ROWS>
inline void dot8(const float* x, const int8_t* weight, int64_t length, float* sums) {
  constexpr int PARTS = ROWS == 1 ? 4 : 2;  // independent sums, which hide the latency of an addition
  vec part[ROWS][PARTS] = {};
  int64_t k = 0;
  for (; k + PARTS * LANES <= length; k += PARTS * LANES) {
    __builtin_prefetch(weight + k + AHEAD);
#pragma GCC unroll 4
    for (int i = 0; i < PARTS; ++i) {
      const vec w = widen(weight + k + i * LANES);
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) part[r][i] += w * load<vec>(x + r * length + k + i * LANES);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    vec all = part[r][0];
    for (int i = 1; i < PARTS; ++i) all += part[r][i];
    sums[r] = total(all);
    for (int64_t rest = k; rest < length; ++rest) sums[r] += x[r * length + rest] * weight[rest];
  }
}

// Activations in 8 bits: x = step * code in each group, the largest at 127. NaN and infinity end up in the step.
struct Codes {
  std::vector<int8_t> code;      // of each 64 the 16 at 0, 32, 16 and 48: the order in which the weights unpack
  std::vector<float> step, sum;  // of each row's groups; sum: step times the sum of the codes

  Codes(const float* x, int64_t count, int64_t group) : code(count), step(count / group), sum(count / group) {
    constexpr float SHIFT = 12582912;  // 1.5 * 2^23: added to a small number, leaves it rounded in the lowest bits
    for (size_t g = 0; g < step.size(); ++g, x += group) {
      int32_t bits, most = 0;  // of the largest magnitude: as integers, numbers < infinity < NaN
      for (int64_t j = 0; j < group; ++j) {
        std::memcpy(&bits, x + j, sizeof bits);
        most = std::max(most, bits & 0x7fffffff);
      }
      float peak;
      std::memcpy(&peak, &most, sizeof peak);
      const float codes_per_unit = peak > 1e-30f && peak < HUGE_VALF ? 127 / peak : 0;
      int32_t whole = 0;
      for (int64_t k = 0; k < group; k += 16) {
        int8_t* to = &code[place(g * group + k)];
        for (int64_t j = 0; j < 16; ++j) {
          const float shifted = x[k + j] * codes_per_unit + SHIFT;
          std::memcpy(&bits, &shifted, sizeof bits);
          to[j] = static_cast<int8_t>(bits);
          whole += to[j];
        }
      }
      step[g] = peak / 127;
      sum[g] = step[g] * whole;
    }
  }

  static int64_t place(int64_t k) { return (k & ~48) | (k & 16) << 1 | (k & 32) >> 1; }
};

// A Part holds sums of weight code times activation code over at most two blocks of 64, those of the first 32 of each
// block apart from those of the last 32; a Sum holds float ones.
#ifdef __AVX2__
typedef __m256i Part;
typedef __m256 Sum;

inline Part multiply_add(Part part, __m256i codes, const int8_t* x) {
  const __m256i activations = _mm256_loadu_si256((const __m256i*)x);
#if !defined(HAS_VNNI)  // 16-bit lanes, which hold eight times two products: 8 * 2 * 15 * 127 < 32768
  return _mm256_add_epi16(part, _mm256_maddubs_epi16(codes, activations));
#elif defined(__AVX512VNNI__)
  return _mm256_dpbusd_epi32(part, codes, activations);
#else
  return _mm256_dpbusd_avx_epi32(part, codes, activations);
#endif
}

inline void add_block(Part& part, const uint8_t* weight, const int8_t* x) {
  const __m256i pairs = _mm256_loadu_si256((const __m256i*)weight), mask = _mm256_set1_epi8(15);
  part = multiply_add(part, _mm256_and_si256(pairs, mask), x);
  part = multiply_add(part, _mm256_and_si256(_mm256_srli_epi16(pairs, 4), mask), x + BLOCK / 2);
}

inline void add_scaled(Sum& sum, Part part, __m256 scale) {
#ifndef HAS_VNNI
  part = _mm256_madd_epi16(part, _mm256_set1_epi16(1));
#endif
  sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(part), scale, sum);
}
inline void add_scaled(Sum& sum, Part part, float scale) { add_scaled(sum, part, _mm256_set1_ps(scale)); }
inline void add_scaled(Sum& sum, Part part, float first, float last) {
  add_scaled(sum, part, _mm256_set_m128(_mm_set1_ps(last), _mm_set1_ps(first)));
}
#else
struct Part {
  int32_t first, last;
};
typedef float Sum;

inline void add_block(Part& part, const uint8_t* weight, const int8_t* x) {
  for (int j = 0; j < 16; ++j) {
    part.first += (weight[j] & 15) * x[j] + (weight[j] >> 4) * x[j + 32];
    part.last += (weight[j + 16] & 15) * x[j + 16] + (weight[j + 16] >> 4) * x[j + 48];
  }
}

inline void add_scaled(Sum& sum, Part part, float first, float last) { sum += first * part.first + last * part.last; }
inline void add_scaled(Sum& sum, Part part, float scale) { add_scaled(sum, part, scale, scale); }
#endif

// The number of a 16-bit float, infinities and NaN apart.
inline float from_half(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, rest = (half & 0x7fffu) << 13;
  uint32_t bits;
  float magnitude, value;
  std::memcpy(&magnitude, &rest, sizeof rest);
  magnitude *= 0x1p112f;  // the exponents of the two types start 112 apart
  std::memcpy(&bits, &magnitude, sizeof bits);
  bits |= sign;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

// Scales and zeros of groups, in 16 or 32 bits.
struct Grids {
  const void *scale, *zero;
  bool half;

  // Those of the groups from `first` on as float32: the scale, and the scale times the zero.
  void read(int64_t first, int64_t groups, float* scales, float* offsets) const {
    if (half) {
      const uint16_t *s = (const uint16_t*)scale + first, *z = (const uint16_t*)zero + first;
      for (int64_t g = 0; g < groups; ++g) {
        scales[g] = from_half(s[g]);
        offsets[g] = scales[g] * from_half(z[g]);
      }
    } else {
      const float *s = (const float*)scale + first, *z = (const float*)zero + first;
      for (int64_t g = 0; g < groups; ++g) {
        scales[g] = s[g];
        offsets[g] = s[g] * z[g];
      }
    }
  }
};

// The sum, less offset * sum of codes of all groups.
inline float shifted(Sum products, const float* offset, const float* sum, int64_t groups) {
  constexpr int64_t WIDTH = sizeof(Sum) / sizeof(float);
  int64_t g = 0;
  for (; g + WIDTH <= groups; g += WIDTH) products -= load<Sum>(offset + g) * load<Sum>(sum + g);
  float result = total(products);
  for (; g < groups; ++g) result -= offset[g] * sum[g];
  return result;
}

// sums[r] = x[r] . weight, for ROWS rows of x from `row` on.
template <int ROWS, int GROUP>
inline void dot4(const Codes& x, int64_t row, const uint8_t* weight, const float* scale, const float* offset,
                 int64_t length, float* sums) {
  constexpr int64_t SPAN = GROUP < BLOCK ? BLOCK : GROUP;
  const int64_t groups = length / GROUP;
  const int8_t* codes = x.code.data() + row * length;
  const float* step = x.step.data() + row * groups;
  Sum products[ROWS] = {};
  for (int64_t k = 0; k < length; k += SPAN) {
    Part part[ROWS] = {};
#pragma GCC unroll 2
    for (int64_t j = k; j < k + SPAN; j += BLOCK) {
      __builtin_prefetch(weight + j / 2 + AHEAD);
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) add_block(part[r], weight + j / 2, codes + r * length + j);
    }
    const int64_t g = k / GROUP;
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      const float* steps = step + r * groups + g;
      if (GROUP < BLOCK)
        add_scaled(products[r], part[r], scale[g] * steps[0], scale[g + 1] * steps[1]);
      else
        add_scaled(products[r], part[r], scale[g] * steps[0]);
    }
  }
  for (int r = 0; r < ROWS; ++r) sums[r] = shifted(products[r], offset, x.sum.data() + (row + r) * groups, groups);
}

template <int GROUP>
void multiply4(const float* x, const uint8_t* codes, const Grids& grids, float* y, int64_t rows, int64_t in,
               int64_t out, int threads) {
  const Codes rounded(x, rows * in, GROUP);
  const int64_t groups = in / GROUP;
  share_out(out, rows * in, threads, [&](int64_t first, int64_t last) {
    std::vector<float> scale(groups), offset(groups);
    in_fours(rows, [&](auto some, int64_t row) {
      for (int64_t n = first; n < last; ++n) {
        float sums[some];
        grids.read(n * groups, groups, scale.data(), offset.data());
        dot4<some, GROUP>(rounded, row, codes + n * in / 2, scale.data(), offset.data(), in, sums);
        for (int64_t r = 0; r < some; ++r) y[(row + r) * out + n] = sums[r];
      }
    });
  });
}

}  // namespace

// y [rows, out] = x [rows, in] @ (weight [out, in] * scale [out]).T
extern "C" void gearshift_matmul8(const float* x, const int8_t* weight, const float* scale, float* y, int64_t rows,
                                  int64_t in, int64_t out, int threads) {
  share_out(out, rows * in, threads, [&](int64_t first, int64_t last) {
    in_fours(rows, [&](auto some, int64_t row) {
      for (int64_t n = first; n < last; ++n) {
        float sums[some];
        dot8<some>(x + row * in, weight + n * in, in, sums);
        for (int64_t r = 0; r < some; ++r) y[(row + r) * out + n] = sums[r] * scale[n];
      }
    });
  });
}

// y [rows, out] = x [rows, in] @ weight.T with weight = scale * (code - zero) in groups of 32, 64 or 128 inputs; x is
// rounded to 8 bits in the same groups. `in` is a multiple of 64. codes [out, in / 2]: byte j of 16 that lie together
// holds code j in its low half and code j + 16 in its high half. scale, zero [out, in / group]: 16 bits if `half`.
extern "C" void gearshift_matmul4(const float* x, const uint8_t* codes, const void* scale, const void* zero, float* y,
                                  int64_t rows, int64_t in, int64_t out, int64_t group, int half, int threads) {
  const auto multiply = group == 32 ? multiply4<32> : group == 64 ? multiply4<64> : multiply4<128>;
  multiply(x, codes, Grids{scale, zero, half != 0}, y, rows, in, out, threads);
}

// The float32 weight [out, in] of such codes.
extern "C" void gearshift_unpack4(const uint8_t* codes, const void* scale, const void* zero, float* weight, int64_t in,
                                  int64_t out, int64_t group, int half, int threads) {
  const Grids grids{scale, zero, half != 0};
  const int64_t groups = in / group;
  share_out(out, in, threads, [&](int64_t first, int64_t last) {
    std::vector<float> scales(groups), offsets(groups);
    for (int64_t n = first; n < last; ++n) {
      grids.read(n * groups, groups, scales.data(), offsets.data());
      for (int64_t k = 0; k < in; k += 32) {
        const uint8_t* pair = codes + (n * in + k) / 2;
        float* to = weight + n * in + k;
        const float size = scales[k / group], offset = offsets[k / group];
        for (int j = 0; j < 16; ++j) {
          to[j] = size * (pair[j] & 15) - offset;
          to[j + 16] = size * (pair[j] >> 4) - offset;
        }
      }
    }
  });
}

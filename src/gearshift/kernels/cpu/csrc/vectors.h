// What the products of few-bit weights share: vectors of the CPU at hand, 16-bit floats, and how work is cut.
//
// Threads share out the output channels and each channel is summed in one fixed order, so the answer does not depend on
// how many threads there are.

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

namespace {

constexpr int64_t SHARE = 1 << 16;  // fewer products than this are not worth waking a thread

#if defined(__AVX512F__)
typedef float vec __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef float vec __attribute__((vector_size(32)));
#else
typedef float vec __attribute__((vector_size(16)));
#endif
typedef float Eight __attribute__((vector_size(32)));
constexpr int LANES = sizeof(vec) / sizeof(float);

template <class V>
inline V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class V>
inline void store(float* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

#ifdef __AVX2__
inline float total(__m256 v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
#else
inline float total(vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float total(Eight v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
#endif
#ifdef __AVX512F__
inline float total(__m512 v) { return _mm512_reduce_add_ps(v); }
#endif

// work(first, last) for contiguous shares of `count` channels or rows.
template <class Work>
void share_out(int64_t count, [[maybe_unused]] int64_t products, [[maybe_unused]] int threads, const Work& work) {
#ifdef _OPENMP
  if (threads > 1 && count * products > SHARE) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
      work(count * part / parts, count * (part + 1) / parts);
    }
    return;
  }
#endif
  work(0, count);
}

// work(some, first) for `count` things, four at a time and then what is left; `some` is known at compile time.
template <class Work>
inline void in_fours(int64_t count, const Work& work) {
  int64_t first = 0;
  for (; first + 4 <= count; first += 4) work(std::integral_constant<int, 4>(), first);
  if (count - first == 3) work(std::integral_constant<int, 3>(), first);
  if (count - first == 2) work(std::integral_constant<int, 2>(), first);
  if (count - first == 1) work(std::integral_constant<int, 1>(), first);
}

// The number of a 16-bit float, infinities and NaN apart.
inline float from_half(uint16_t half) {
#ifdef __F16C__
  return _cvtsh_ss(half);
#endif
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

// `count` numbers in 16 or 32 bits.
struct Floats {
  const void* at;
  bool half;
  int64_t count;

  float operator[](int64_t i) const { return half ? from_half(((const uint16_t*)at)[i]) : ((const float*)at)[i]; }

  // Eight from `first` on; beyond the last there are zeros.
  Eight eight(int64_t first) const {
    Eight v = {};
    if (first + 8 > count)
      for (int64_t i = first; i < count; ++i) v[i - first] = (*this)[i];
    else if (!half)
      return load<Eight>((const float*)at + first);
    else
#ifdef __F16C__
      return (Eight)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)((const uint16_t*)at + first)));
#else
      for (int i = 0; i < 8; ++i) v[i] = (*this)[first + i];
#endif
    return v;
  }
};

// 32 codes of 2, 3 or 4 bits as bytes, in their order.
#ifdef __AVX2__
template <int BITS>
inline __m256i block(const uint8_t* packed) {
  if constexpr (BITS == 4) {
    const __m128i pairs = _mm_loadu_si128((const __m128i*)packed);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(pairs, 4), pairs), _mm256_set1_epi8(15));
  } else {
    int64_t low;
    std::memcpy(&low, packed, sizeof low);
    const __m256i fours = _mm256_srlv_epi64(_mm256_set1_epi64x(low), _mm256_setr_epi64x(0, 2, 4, 6));
    const __m256i two = _mm256_and_si256(fours, _mm256_set1_epi8(3));
    if constexpr (BITS == 2) return two;
    int32_t high;
    std::memcpy(&high, packed + 8, sizeof high);
    const __m256i eights = _mm256_srlv_epi32(_mm256_set1_epi32(high), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_or_si256(two, _mm256_slli_epi16(_mm256_and_si256(eights, _mm256_set1_epi8(1)), 2));
  }
}
template <int BITS>
inline void unpack(const uint8_t* packed, uint8_t* codes) {
  _mm256_storeu_si256((__m256i*)codes, block<BITS>(packed));
}
#else
template <int BITS>
inline void unpack(const uint8_t* packed, uint8_t* codes) {
  for (int j = 0; j < 32; ++j) {
    if (BITS == 4) codes[j] = packed[j % 16] >> 4 * (j / 16) & 15;
    if (BITS < 4) codes[j] = packed[j % 8] >> 2 * (j / 8) & 3;
    if (BITS == 3) codes[j] |= (packed[8 + j % 4] >> j / 4 & 1) << 2;
  }
}
#endif

}  // namespace

// The scoring loops for AVX2.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "host.h"

// After the headers: functions that other files share must not need the instruction set.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,popcnt")
#endif

#include "select.h"

#define ISA avx2
#define SCORER kAvx2Scorer

namespace robustok::ISA {
namespace {

struct Simd {
    using Vector = __m256;
    static constexpr int kLanes = 8;
    static Vector load(const float* p) { return _mm256_loadu_ps(p); }
    static Vector broadcast(float x) { return _mm256_set1_ps(x); }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
    static void store(float* p, Vector a) { _mm256_storeu_ps(p, a); }
    static Vector min(Vector a, Vector b) { return _mm256_min_ps(a, b); }
    static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
    static uint32_t not_below(Vector a, Vector b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ)); }
};
constexpr int kRows = 6, kVectors = 2;  // 12 of 16 registers hold sums

}  // namespace
}  // namespace robustok::ISA

#include "host_scores.inc"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

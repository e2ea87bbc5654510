// The scoring loops for AVX-512.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "host.h"

// After the headers: functions that other files share must not need the instruction set.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,popcnt,prefer-vector-width=512")
#endif

#include "select.h"

#define ISA avx512
#define SCORER kAvx512Scorer

namespace robustok::ISA {
namespace {

struct Simd {
    using Vector = __m512;
    static constexpr int kLanes = 16;
    static Vector load(const float* p) { return _mm512_loadu_ps(p); }
    static Vector broadcast(float x) { return _mm512_set1_ps(x); }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
    static void store(float* p, Vector a) { _mm512_storeu_ps(p, a); }
    static Vector min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
    static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
    static uint32_t not_below(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }  // a bit a lane
};
constexpr int kRows = 6, kVectors = 4;  // 24 of 32 registers hold sums

}  // namespace
}  // namespace robustok::ISA

#include "host_scores.inc"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

// The scoring loops for any machine: vectors of four floats that the compiler maps to what there is.
#include <algorithm>
#include <utility>
#include <vector>

#include "host.h"
#include "select.h"

#define ISA generic
#define SCORER kGenericScorer

namespace robustok::ISA {
namespace {

struct Simd {
    typedef float Vector __attribute__((vector_size(16)));
    static constexpr int kLanes = 4;
    static Vector load(const float* p) {
        Vector v;
        memcpy(&v, p, sizeof v);
        return v;
    }
    static Vector broadcast(float x) { return Vector{x, x, x, x}; }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
    static void store(float* p, Vector a) { memcpy(p, &a, sizeof a); }
    static Vector min(Vector a, Vector b) { return a < b ? a : b; }
    static Vector max(Vector a, Vector b) { return a > b ? a : b; }
    static uint32_t not_below(Vector a, Vector b) {  // a bit a lane
        uint32_t bits = 0;
        for (int i = 0; i < kLanes; ++i) bits |= uint32_t(!(a[i] < b[i])) << i;
        return bits;
    }
};
constexpr int kRows = 4, kVectors = 2;  // 8 of 16 registers hold sums

}  // namespace
}  // namespace robustok::ISA

#include "host_scores.inc"

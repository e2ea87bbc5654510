// The definition of distance, and how far a float32 score may be from it.
#pragma once

#include "shared.h"

namespace robustok {

constexpr double kMinNorm = 1e-12;

// Sums in the order of the coordinates and without fused multiply-add, so that a distance has one value everywhere.
// (The host is compiled with -ffp-contract=off.)
ROBUSTOK_SHARED double add_square(double sum, double x) {
#if defined(__CUDA_ARCH__)
    return __dadd_rn(sum, __dmul_rn(x, x));
#else
    return sum + x * x;
#endif
}

// The next term of a distance: a square, or with `product` minus a product, which two floats have exactly.
ROBUSTOK_SHARED double add_term(double sum, float u, float e, bool product) {
    return product ? sum - double(u) * double(e) : add_square(sum, double(u) - double(e));
}

// A distance that is not finite counts as infinite.
ROBUSTOK_SHARED double finite_or_infinite(double distance) { return fabs(distance) < INFINITY ? distance : INFINITY; }

// Distance of two rows in float64: squared, or with `product` minus their inner product.
ROBUSTOK_SHARED double distance_of(const float* u, const float* e, int D, bool product) {
    double sum = 0;
    for (int d = 0; d < D; ++d) sum = add_term(sum, u[d], e[d], product);
    return finite_or_infinite(sum);
}

// Length of a row by the sum of its squares, at least kMinNorm; NaN where the row has one.
ROBUSTOK_SHARED double norm_of(double squares) { return squares < kMinNorm * kMinNorm ? kMinNorm : sqrt(squares); }

// Largest error of a score u.e - |e|^2 / 2, or with `product` u.e, computed from operands with the given relative
// rounding, in float32 sums of any order: each of the D + 1 terms passes at most D + 1 roundings, and |e|^2 / 2 and the
// thresholds a few more. The definition rounds too: a squared distance is within (D + 3) * 2^-53 of (|u| + |e|)^2, which
// counts where their lengths differ, a product within as much of |u| |e|. The last term covers underflow. NaN for a row
// that is not finite, infinite where float32 overflows: then the score says nothing. `longest_code` is the length of the
// longest finite code.
ROBUSTOK_SHARED float score_error(double row_norm, double longest_code, int D, double operand_roundoff, bool product) {
    if (!(row_norm < INFINITY)) return NAN;
    const double inner = row_norm * longest_code, sum = row_norm + longest_code;
    const double magnitude = product ? inner : inner + longest_code * longest_code / 2;
    if (magnitude > 1e37) return INFINITY;
    const double roundoff = (D + 8) * 0x1p-24 + 2.01 * operand_roundoff;
    const double definition = (D + 3) * 0x1p-53 * (product ? inner : sum * sum);
    const double error = 1.01 * (roundoff * magnitude + definition + (D + 2) * 0x1p-126);
    return error < 1e37 ? float(error) : INFINITY;
}

}  // namespace robustok

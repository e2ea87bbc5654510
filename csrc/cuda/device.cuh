// The warp as a Team of select.h, and the codebook and tokens that the tensor cores read.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>

#include <cstdint>

#include "../select.h"

namespace robustok {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kTile = 16;  // side of the blocks that the tensor cores multiply

struct WarpTeam {
    static constexpr int kFew = 8;

    __device__ int lane() const { return threadIdx.x % kWarp; }
    __device__ int size() const { return kWarp; }
    __device__ void sync() const { __syncwarp(); }
    __device__ int lanes_before(bool flag) const { return __popc(__ballot_sync(kAllLanes, flag) & ((1u << lane()) - 1)); }

    __device__ int sum(int x) const {
        for (int offset = kWarp / 2; offset; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
        return x;
    }

    template <class T>
    __device__ T max(T x) const {
        for (int offset = kWarp / 2; offset; offset /= 2) {
            const T other = __shfl_xor_sync(kAllLanes, x, offset);
            x = other > x ? other : x;
        }
        return x;
    }

    template <class T>
    __device__ T min(T x) const {
        for (int offset = kWarp / 2; offset; offset /= 2) {
            const T other = __shfl_xor_sync(kAllLanes, x, offset);
            x = other < x ? other : x;
        }
        return x;
    }

    __device__ int at_least(const __half* scores, int K, float x) const {
        int count = 0;
        for (int k = lane(); k < K; k += kWarp) count += float(scores[k]) >= x;
        return sum(count);
    }

    __device__ void range(const __half* scores, int K, float& low, float& high) const {
        float smallest = INFINITY, greatest = -INFINITY;
        for (int k = lane(); k < K; k += kWarp) {
            const float score = scores[k];
            smallest = score < smallest ? score : smallest;
            greatest = score > greatest ? score : greatest;
        }
        low = min(smallest), high = max(greatest);
    }

    __device__ Counts collect(const __half* scores, int K, float low, float high, int* list) const {
        Counts counts = {0, 0};
        for (int base = 0; base < K; base += kWarp) {
            const int k = base + lane();
            const float score = k < K ? float(scores[k]) : -INFINITY;
            const bool is_above = score > high, is_inside = k < K && score >= low && !is_above;
            const int place = counts.inside + lanes_before(is_inside);
            if (is_inside && place < kListed) list[place] = k;
            counts.inside += __popc(__ballot_sync(kAllLanes, is_inside));
            counts.above += __popc(__ballot_sync(kAllLanes, is_above));
        }
        __syncwarp();
        return counts;
    }
};

// Codes for the tensor cores: rows of at most unit length as float16, and a column -|e|^2 / 2, with `product` 0, that
// meets the last column of the tokens.
struct HalfCodes {
    const __half* tiles;  // (K padded to kTile, width), rows beyond K lose against all others
    const float* rows;    // (K, D), whose distances count
    int K;
    int D;
    int width;     // D + 1 padded to kTile
    bool product;  // whether distances are minus inner products

    __device__ double distance(const float* row, int k) const {
        return distance_of(row, rows + int64_t(k) * D, D, product);
    }
};

// Puts rows first to first + count of `scaled` (N, D + 1) in shared memory as float16, padded to `width`.
__device__ inline void load_tokens(const float* scaled, int64_t N, int64_t first, int count, const HalfCodes& codes,
                                   __half* tokens) {
    for (int i = threadIdx.x; i < count * codes.width; i += blockDim.x) {
        const int64_t n = first + i / codes.width;
        const int d = i % codes.width;
        tokens[i] = __float2half_rn(n < N && d <= codes.D ? scaled[n * (codes.D + 1) + d] : 0.0f);
    }
}

}  // namespace robustok

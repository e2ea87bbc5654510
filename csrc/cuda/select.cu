// The code of a given rank: select.h on the scores of kTile tokens at a time.
//
// The scores lie in global memory, so that K is not bounded by the shared memory of a device and several blocks fit on a
// multiprocessor. A block writes over its own again and again: they stay in the caches.
#include "device.cuh"
#include "kernels.h"

namespace robustok {
namespace {

namespace wmma = nvcuda::wmma;

constexpr int kWarps = 8;

struct Scratch {  // of one warp
    float tile[kTile * kTile];
    Candidates list;
};

// Scores (kTile tokens, K padded) in float16, computed by all warps of the block.
__device__ void score_tokens(const HalfCodes& codes, const __half* tokens, int padded, float* tile, __half* scores) {
    wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, __half, wmma::row_major> a;
    wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, __half, wmma::col_major> b;
    wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float> sums;
    for (int k = threadIdx.x / kWarp * kTile; k < padded; k += kWarps * kTile) {
        wmma::fill_fragment(sums, 0.0f);
        for (int d = 0; d < codes.width; d += kTile) {
            wmma::load_matrix_sync(a, codes.tiles + int64_t(k) * codes.width + d, codes.width);
            wmma::load_matrix_sync(b, tokens + d, codes.width);
            wmma::mma_sync(sums, a, b, sums);
        }
        wmma::store_matrix_sync(tile, sums, kTile, wmma::mem_col_major);  // [token][code]
        __syncwarp();
        for (int i = threadIdx.x % kWarp; i < kTile * kTile; i += kWarp)
            scores[int64_t(i / kTile) * padded + k + i % kTile] = __float2half_rn(tile[i]);
        __syncwarp();
    }
}

// Whether the rank of one of the tokens from `first` on is not 0.
__device__ bool any_rank(const int* ranks, int64_t N, int64_t first) {
    int any = 0;
    for (int64_t n = first; n < N && n < first + kTile; ++n) any |= ranks[n];
    return any != 0;
}

__global__ void select_kernel(const float* u, const float* scaled, const float* errors, int64_t N, HalfCodes codes,
                              int padded, const int* ranks, int64_t* out, __half* all_scores) {
    extern __shared__ __align__(128) unsigned char memory[];
    Scratch* scratch = reinterpret_cast<Scratch*>(memory);
    __half* tokens = reinterpret_cast<__half*>(scratch + kWarps);
    __half* scores = all_scores + int64_t(blockIdx.x) * kTile * padded;
    const int warp = threadIdx.x / kWarp;
    for (int64_t first = int64_t(blockIdx.x) * kTile; first < N; first += int64_t(gridDim.x) * kTile) {
        if (!any_rank(ranks, N, first)) continue;
        __syncthreads();  // the tokens before these are done
        load_tokens(scaled, N, first, kTile, codes, tokens);
        __syncthreads();
        score_tokens(codes, tokens, padded, scratch[warp].tile, scores);
        __syncthreads();
        for (int t = warp; t < kTile && first + t < N; t += kWarps) {
            const int64_t n = first + t;
            if (ranks[n] == 0) continue;  // the nearest stays
            const __half* own = scores + int64_t(t) * padded;
            const Token<__half> token = {u + n * codes.D, codes.rows, own, codes.D, codes.K, errors[n], codes.product};
            const int code = select_rank(WarpTeam{}, token, ranks[n], scratch[warp].list);
            if (threadIdx.x % kWarp == 0) out[n] = code;
        }
    }
}

}  // namespace

int64_t select_shared_bytes(int width) {
    return kWarps * int64_t(sizeof(Scratch)) + kTile * width * int64_t(sizeof(__half));
}

void select(const float* u, const float* scaled, const float* errors, int64_t N, const void* tiles, const float* rows,
            int K, int D, int width, bool product, const int* ranks, int64_t* out, void* scores, int blocks,
            void* stream) {
    const HalfCodes codes = {static_cast<const __half*>(tiles), rows, K, D, width, product};
    const int shared = int(select_shared_bytes(width));
    check(cudaFuncSetAttribute(select_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    const int padded = (K + kTile - 1) / kTile * kTile;
    select_kernel<<<unsigned(blocks), kWarps * kWarp, shared, static_cast<cudaStream_t>(stream)>>>(
        u, scaled, errors, N, codes, padded, ranks, out, static_cast<__half*>(scores));
    check(cudaGetLastError());
}

}  // namespace robustok

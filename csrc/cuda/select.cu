// The code of a given rank by selection in shared memory: select.h on the scores of kTile tokens at a time.
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
            scores[i / kTile * padded + k + i % kTile] = __float2half_rn(tile[i]);
        __syncwarp();
    }
}

__global__ void select_kernel(const float* u, const float* scaled, int64_t N, HalfCodes codes, int padded,
                              const int* ranks, int64_t* out) {
    extern __shared__ __align__(128) unsigned char memory[];
    Scratch* scratch = reinterpret_cast<Scratch*>(memory);
    __half* tokens = reinterpret_cast<__half*>(scratch + kWarps);
    __half* scores = tokens + kTile * codes.width;
    const int64_t first = int64_t(blockIdx.x) * kTile;
    const int warp = threadIdx.x / kWarp;
    load_tokens(scaled, N, first, kTile, codes, tokens);
    __syncthreads();
    score_tokens(codes, tokens, padded, scratch[warp].tile, scores);
    __syncthreads();
    for (int t = warp; t < kTile && first + t < N; t += kWarps) {
        const int64_t n = first + t;
        const int rank = ranks[n];
        if (rank == 0) continue;  // the nearest stays
        const float* row = u + n * codes.D;
        // 2^-10: operands and the score itself are rounded to float16
        const float error = codes.error_of(scaled + n * codes.D, 0x1p-10);
        const __half* own = scores + t * padded;
        const Token<__half> token = {row, codes.rows, own, codes.D, codes.K, error, codes.product};
        const int code = select_rank(WarpTeam{}, token, rank, scratch[warp].list);
        if (threadIdx.x % kWarp == 0) out[n] = code;
    }
}

}  // namespace

int64_t select_shared_bytes(int K, int width) {
    const int64_t padded = (K + kTile - 1) / kTile * kTile;
    return kWarps * int64_t(sizeof(Scratch)) + kTile * (padded + width) * int64_t(sizeof(__half));
}

void select(const float* u, const float* scaled, int64_t N, const void* tiles, const float* rows, int K, int D,
            int width, double longest, bool product, const int* ranks, int64_t* out, void* stream) {
    const HalfCodes codes = {static_cast<const __half*>(tiles), rows, K, D, width, longest, product};
    const int shared = int(select_shared_bytes(K, width));
    check(cudaFuncSetAttribute(select_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    const int64_t blocks = (N + kTile - 1) / kTile;
    const int padded = (K + kTile - 1) / kTile * kTile;
    const auto queue = static_cast<cudaStream_t>(stream);
    select_kernel<<<unsigned(blocks), kWarps * kWarp, shared, queue>>>(u, scaled, N, codes, padded, ranks, out);
    check(cudaGetLastError());
}

}  // namespace robustok

// Nearest code on float16 tensor cores, exact: scores decide where only one code is within their error of the best.
//
// A warp owns kTile tokens and meets the codebook tile by tile; no score leaves the registers. Each place of the tile
// keeps its two best scores and the tile of the best. A score is near when it is within twice the error of the best.
// Where several places have one near score, their codes are ordered by the definition; where one place has two, the token
// is listed, and resolve_ties_kernel tries every code for it.
#include "device.cuh"
#include "kernels.h"

namespace robustok {
namespace {

namespace wmma = nvcuda::wmma;
using Sums = wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float>;

constexpr int kTieWarps = 1024;  // warps that share the list, whose length only the device knows

struct Staging {  // of one warp: [place in the tile][token]
    float best[kTile * kTile];
    float second[kTile * kTile];
    float tile[kTile * kTile];
};

__device__ void score_tile(const HalfCodes& codes, const __half* tokens, int tile, Sums& sums) {
    wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, __half, wmma::row_major> a;
    wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, __half, wmma::col_major> b;
    wmma::fill_fragment(sums, 0.0f);
    for (int d = 0; d < codes.width; d += kTile) {
        wmma::load_matrix_sync(a, codes.tiles + int64_t(tile) * kTile * codes.width + d, codes.width);
        wmma::load_matrix_sync(b, tokens + d, codes.width);
        wmma::mma_sync(sums, a, b, sums);
    }
}

__device__ void best_places(const HalfCodes& codes, const __half* tokens, Staging& staging) {
    Sums best, second, tile_of, scores;
    wmma::fill_fragment(best, -INFINITY);
    wmma::fill_fragment(second, -INFINITY);
    wmma::fill_fragment(tile_of, 0.0f);
    for (int tile = 0; tile * kTile < codes.K; ++tile) {
        score_tile(codes, tokens, tile, scores);
        for (int i = 0; i < scores.num_elements; ++i) {
            const float score = scores.x[i];
            const bool better = score > best.x[i];
            second.x[i] = fmaxf(second.x[i], better ? best.x[i] : score);
            tile_of.x[i] = better ? float(tile) : tile_of.x[i];  // exact below 2^24 tiles
            best.x[i] = better ? score : best.x[i];
        }
    }
    wmma::store_matrix_sync(staging.best, best, kTile, wmma::mem_row_major);
    wmma::store_matrix_sync(staging.second, second, kTile, wmma::mem_row_major);
    wmma::store_matrix_sync(staging.tile, tile_of, kTile, wmma::mem_row_major);
    __syncwarp();
}

// The nearest code of one token by its staged places, or -1 where they do not tell it.
__device__ int decide(const HalfCodes& codes, const float* row, float error, const Staging& staging, int token) {
    const WarpTeam team;
    const int place = team.lane();
    const bool has_place = place < kTile;
    const int at = (has_place ? place : 0) * kTile + token;
    const float best = has_place ? staging.best[at] : -INFINITY;
    const float reach = team.max(best) - 2 * error;
    const bool is_near = has_place && !(best < reach);  // negated, so that NaN counts as near
    const bool is_ambiguous = has_place && !(staging.second[at] < reach);
    if (__ballot_sync(kAllLanes, is_ambiguous)) return -1;
    const int code = int(staging.tile[at]) * kTile + place;
    if (__popc(__ballot_sync(kAllLanes, is_near)) == 1) return team.max(is_near ? code : -1);
    const bool is_code = is_near && code < codes.K;
    const uint64_t bits = is_code ? bits_of(codes.distance(row, code)) : UINT64_MAX;
    const uint64_t least = team.min(bits);
    return team.min(is_code && bits == least ? code : codes.K);
}

__global__ void nearest_kernel(const float* u, const float* scaled, const float* errors, int64_t N, HalfCodes codes,
                               int64_t* out, int* tied, int* tied_count) {
    extern __shared__ __align__(128) unsigned char memory[];
    const int warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
    Staging* staging = reinterpret_cast<Staging*>(memory);
    __half* tokens = reinterpret_cast<__half*>(staging + warps);
    const int64_t first = int64_t(blockIdx.x) * warps * kTile;
    load_tokens(scaled, N, first, warps * kTile, codes, tokens);
    __syncthreads();
    best_places(codes, tokens + warp * kTile * codes.width, staging[warp]);
    for (int token = 0; token < kTile; ++token) {
        const int64_t n = first + warp * kTile + token;
        if (n >= N) break;
        const int code = decide(codes, u + n * codes.D, errors[n], staging[warp], token);
        if (threadIdx.x % kWarp) continue;
        if (code >= 0)
            out[n] = code;
        else
            tied[atomicAdd(tied_count, 1)] = int(n);
    }
}

__global__ void resolve_ties_kernel(const float* u, HalfCodes codes, int64_t* out, const int* tied, const int* tied_count) {
    const WarpTeam team;
    for (int i = blockIdx.x; i < *tied_count; i += gridDim.x) {
        const float* row = u + int64_t(tied[i]) * codes.D;
        uint64_t least = UINT64_MAX;
        int winner = codes.K;
        for (int k = team.lane(); k < codes.K; k += kWarp) {
            const uint64_t bits = bits_of(codes.distance(row, k));
            if (bits < least) least = bits, winner = k;
        }
        const uint64_t nearest = team.min(least);
        const int code = team.min(least == nearest ? winner : codes.K);
        if (team.lane() == 0) out[tied[i]] = code;
    }
}

}  // namespace

int64_t nearest_shared_bytes(int width) {
    return int64_t(sizeof(Staging)) + kTile * width * int64_t(sizeof(__half));
}

void nearest(const float* u, const float* scaled, const float* errors, int64_t N, const void* tiles, const float* rows,
             int K, int D, int width, bool product, int64_t* out, int* tied, int* tied_count, void* stream) {
    const HalfCodes codes = {static_cast<const __half*>(tiles), rows, K, D, width, product};
    const int per_warp = int(nearest_shared_bytes(width));
    const int warps = per_warp * 8 <= kPlainShared ? 8 : (per_warp * 2 <= kPlainShared ? 2 : 1);
    const int64_t blocks = (N + warps * kTile - 1) / (warps * kTile);
    const auto queue = static_cast<cudaStream_t>(stream);
    const int shared = warps * per_warp;
    check(cudaFuncSetAttribute(nearest_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    nearest_kernel<<<unsigned(blocks), warps * kWarp, shared, queue>>>(u, scaled, errors, N, codes, out, tied,
                                                                       tied_count);
    resolve_ties_kernel<<<kTieWarps, kWarp, 0, queue>>>(u, codes, out, tied, tied_count);
    check(cudaGetLastError());
}

}  // namespace robustok

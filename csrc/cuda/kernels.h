// What the CUDA side offers to the bindings. Pointers are device addresses; nothing waits for the device.
#pragma once

#include <cstdint>

namespace robustok {

constexpr int kPlainShared = 48 << 10;  // bytes of shared memory a block has without asking

// Throws std::runtime_error with CUDA's message for a status other than success.
void check(int status);

// Nearest codes (N) of rows u (N, D). The tensor cores read `scaled`, rows of at most unit length: u itself where its
// rows are, else multiples of its rows, with which the codes have the same order. tiles and what follows: HalfCodes of
// device.cuh; tied (N) and tied_count (1, zero): scratch.
void nearest(const float* u, const float* scaled, int64_t N, const void* tiles, const float* rows, int K, int D,
             int width, double longest, bool product, int64_t* out, int* tied, int* tied_count, void* stream);

// Codes at ranks (N) of rows u (N, D), written to out (N) where the rank is not 0. Arguments as `nearest`.
void select(const float* u, const float* scaled, int64_t N, const void* tiles, const float* rows, int K, int D,
            int width, double longest, bool product, const int* ranks, int64_t* out, void* stream);

// Shared memory that a block of `nearest`, with one warp, and one of `select` needs.
int64_t nearest_shared_bytes(int width);
int64_t select_shared_bytes(int K, int width);

}  // namespace robustok

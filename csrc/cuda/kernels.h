// What the CUDA side offers to the bindings. Pointers are device addresses; nothing waits for the device.
#pragma once

#include <cstdint>

namespace robustok {

constexpr int kPlainShared = 48 << 10;  // bytes of shared memory a block has without asking

// Throws std::runtime_error with CUDA's message for a status other than success.
void check(int status);

// Nearest codes (N) of unit rows u (N, D). tiles: HalfCodes of device.cuh; tied (N) and tied_count (1, zero): scratch.
void nearest(const float* u, int64_t N, const void* tiles, const float* rows, int K, int D, int width, double longest,
             int64_t* out, int* tied, int* tied_count, void* stream);

// Codes at ranks (N) of unit rows u (N, D), written to out (N) where the rank is not 0.
void select(const float* u, int64_t N, const void* tiles, const float* rows, int K, int D, int width, double longest,
            const int* ranks, int64_t* out, void* stream);

// Shared memory that a block of `select` needs.
int64_t select_shared_bytes(int K, int width);

}  // namespace robustok

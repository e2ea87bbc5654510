// What the CUDA side offers to the bindings. Pointers are device addresses; nothing waits for the device.
#pragma once

#include <cstdint>

namespace robustok {

constexpr int kPlainShared = 48 << 10;  // bytes of shared memory a block has without asking

// Throws std::runtime_error with CUDA's message for a status other than success.
void check(int status);

// Nearest codes (N) of rows u (N, D). The tensor cores read `scaled` (N, D + 1), whose scores order the codes as u does:
// rows of at most unit length, and what the last column of the codes is multiplied by. errors (N): how far these scores
// may be off. tiles and what follows: HalfCodes of device.cuh; tied (N) and tied_count (1, zero): scratch.
void nearest(const float* u, const float* scaled, const float* errors, int64_t N, const void* tiles, const float* rows,
             int K, int D, int width, bool product, int64_t* out, int* tied, int* tied_count, void* stream);

// Codes at ranks (N) of rows u (N, D), written to out (N) where the rank is not 0. Arguments as `nearest`; scores:
// scratch in global memory, (blocks, kTile, K padded) in float16, for so many blocks of threads.
void select(const float* u, const float* scaled, const float* errors, int64_t N, const void* tiles, const float* rows,
            int K, int D, int width, bool product, const int* ranks, int64_t* out, void* scores, int blocks,
            void* stream);

// Shared memory that a block of `nearest`, with one warp, and one of `select` needs.
int64_t nearest_shared_bytes(int width);
int64_t select_shared_bytes(int width);

}  // namespace robustok

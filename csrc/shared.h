// Marks for the functions that the host and the CUDA side both compile.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ROBUSTOK_SHARED static __device__ __forceinline__
#define ROBUSTOK_METHOD __device__ __forceinline__
#else
// Internal linkage: each instruction set compiles its own copy, and the linker must not merge them.
#define ROBUSTOK_SHARED static inline
#define ROBUSTOK_METHOD inline
#endif

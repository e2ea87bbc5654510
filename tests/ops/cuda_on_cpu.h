// Runs CUDA kernels on the CPU, one block after the other, so that their logic is tested where there is no GPU.
//
// The threads of a block are fibers that take turns; each waits at a barrier or a warp operation until all others of
// its block or warp are there. A kernel in which they never come, which would hang a GPU, is left unfinished. Fragments
// of the tensor cores are whole matrices in every lane; float16 operands are multiplied exactly and summed in float32.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __align__(n)
#define __shared__

#if defined(__aarch64__)  // there GCC has _Float16 in C++ from version 13 on
using __half = __fp16;
#else
using __half = _Float16;
#endif
using cudaStream_t = void*;
constexpr int cudaSuccess = 0, cudaFuncAttributeMaxDynamicSharedMemorySize = 8;
struct Dim {
    unsigned x;
};
inline Dim threadIdx, blockIdx, blockDim, gridDim;
inline unsigned char* dynamic_shared;

namespace emulator {

template <class Kernel>
inline size_t granted_shared = 48 << 10;  // bytes that a launch of the kernel may have

struct Barrier {
    int size = 0, arrived = 0, turn = 0;
};

constexpr size_t kStack = 256 << 10;
inline ucontext_t scheduler;
inline std::vector<ucontext_t> fibers;
inline unsigned current;
inline Barrier block;
inline std::vector<Barrier> warps;
inline std::vector<uint64_t> slots;
inline std::function<void()> body;
inline long progress;  // barriers passed and threads finished

inline void yield() { swapcontext(&fibers[current], &scheduler); }

inline void wait(Barrier& barrier) {
    const int turn = barrier.turn;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        ++barrier.turn;
        ++progress;
    }
    while (barrier.turn == turn) yield();
}

// What lane `source` of this warp gives.
template <class T>
T exchange(T mine, unsigned source) {
    const unsigned warp = threadIdx.x / 32;
    std::memcpy(&slots[threadIdx.x], &mine, sizeof mine);
    wait(warps[warp]);
    T theirs;
    std::memcpy(&theirs, &slots[warp * 32 + source], sizeof theirs);
    wait(warps[warp]);
    return theirs;
}

inline std::vector<bool> done;
inline void enter() {
    body();
    done[current] = true;
    ++progress;
    yield();
}

inline void run_block(unsigned threads) {
    static std::unique_ptr<unsigned char[]> stacks;
    stacks.reset(new unsigned char[threads * kStack]);
    fibers.assign(threads, {});
    done.assign(threads, false);
    slots.assign(threads, 0);
    block = {int(threads)};
    warps.assign(threads / 32, {32});
    for (unsigned t = 0; t < threads; ++t) {
        getcontext(&fibers[t]);
        fibers[t].uc_stack.ss_sp = stacks.get() + t * kStack;
        fibers[t].uc_stack.ss_size = kStack;
        makecontext(&fibers[t], enter, 0);
    }
    for (long before = -1; before != progress;) {  // until a round in which nobody got further
        before = progress;
        for (current = 0; current < threads; ++current) {
            if (done[current]) continue;
            threadIdx.x = current;
            swapcontext(&scheduler, &fibers[current]);
        }
    }
}

template <class Kernel>
auto launch(Kernel kernel, unsigned blocks, unsigned threads, size_t shared, void*) {
    return [=](auto... arguments) {
        if (shared > granted_shared<Kernel>) return;  // as a GPU does: nothing runs, and nothing is written
        std::vector<unsigned char> memory(shared + 128);
        dynamic_shared = memory.data() + (128 - reinterpret_cast<uintptr_t>(memory.data()) % 128);
        blockDim.x = threads, gridDim.x = blocks;
        body = [=] { kernel(arguments...); };
        for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block(threads);
    };
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::block); }
inline void __syncwarp() { emulator::wait(emulator::warps[threadIdx.x / 32]); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::exchange(value, (threadIdx.x % 32) ^ unsigned(mask));
}
inline unsigned __ballot_sync(unsigned, bool flag) {
    unsigned bits = 0;
    const unsigned warp = threadIdx.x / 32;
    emulator::slots[threadIdx.x] = flag;
    emulator::wait(emulator::warps[warp]);
    for (unsigned lane = 0; lane < 32; ++lane) bits |= unsigned(emulator::slots[warp * 32 + lane]) << lane;
    emulator::wait(emulator::warps[warp]);
    return bits;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline int atomicAdd(int* address, int value) { return (*address += value) - value; }
inline int cudaGetLastError() { return cudaSuccess; }
template <class Kernel>
int cudaFuncSetAttribute(Kernel, int, int bytes) {
    emulator::granted_shared<Kernel> = size_t(bytes);
    return cudaSuccess;
}

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = row_major>
struct fragment {
    static constexpr int num_elements = 256;
    T x[256];  // row-major, whatever the layout in memory
};
template <class F>
void fill_fragment(F& f, float value) {
    for (auto& x : f.x) x = value;
}
template <class Use, class T>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, row_major>& f, const T* from, unsigned stride) {
    __syncwarp();
    for (int i = 0; i < 256; ++i) f.x[i] = from[i / 16 * stride + i % 16];
}
template <class Use, class T>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, col_major>& f, const T* from, unsigned stride) {
    __syncwarp();
    for (int i = 0; i < 256; ++i) f.x[i] = from[i % 16 * stride + i / 16];
}
template <class A, class B, class C>
void mma_sync(C& d, const A& a, const B& b, const C& c) {
    __syncwarp();
    C out = c;
    for (int i = 0; i < 256; ++i)
        for (int k = 0; k < 16; ++k) out.x[i] += float(a.x[i / 16 * 16 + k]) * float(b.x[k * 16 + i % 16]);
    d = out;
}
template <class F>
void store_matrix_sync(float* to, const F& f, unsigned stride, layout order) {
    __syncwarp();
    for (int i = 0; i < 256; ++i)
        to[order == mem_row_major ? i / 16 * stride + i % 16 : i % 16 * stride + i / 16] = f.x[i];
}

}  // namespace nvcuda::wmma

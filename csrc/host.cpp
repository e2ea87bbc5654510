// Threads, and the functions of the host twin.
#include "host.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "definition.h"

namespace robustok {

const Scorer& best_scorer() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return kAvx512Scorer;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2Scorer;
#endif
    return kGenericScorer;
}

void parallel(int threads, int64_t count, const std::function<void(int64_t)>& task) {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
        for (int64_t i = next++; i < count; i = next++) task(i);
    };
    std::vector<std::thread> helpers;
    for (int64_t t = 1; t < std::min<int64_t>(threads, count); ++t) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
}

namespace {

constexpr int64_t kBlock = 1024;  // rows of the cheap loops that one task takes

void parallel_blocks(int threads, int64_t rows, const std::function<void(int64_t, int64_t)>& task) {
    const int64_t blocks = (rows + kBlock - 1) / kBlock;
    parallel(threads, blocks, [&](int64_t b) { task(b * kBlock, std::min(rows, (b + 1) * kBlock)); });
}

// A codebook packed for the best scorer; owns the panels.
struct Packed {
    const Scorer& scorer = best_scorer();
    std::unique_ptr<float[]> panels;
    Codebook book;

    Packed(const float* codes, int K, int D, int threads) : book{codes, nullptr, K, D, 0.0} {
        const int count = scorer.panels(K);
        panels.reset(new float[size_t(count) * (D + 1) * scorer.width]);
        book.panels = panels.get();
        parallel(threads, count, [&](int64_t p) { scorer.pack(book, int(p), int(p) + 1); });
        for (int k = 0; k < K; ++k) {
            const double norm = row_norm(codes + int64_t(k) * D, D);
            if (norm < INFINITY) book.longest = std::max(book.longest, norm);
        }
    }

    // Runs task(first token, count, scores) on tiles of N tokens.
    void for_tiles(int64_t N, int threads, const std::function<void(int64_t, int, float*)>& task) const {
        const size_t size = size_t(kTileRows) * scorer.padded(book.K);
        parallel(threads, (N + kTileRows - 1) / kTileRows, [&](int64_t t) {
            thread_local std::vector<float> scores;
            if (scores.size() < size) scores.resize(size);
            const int64_t first = t * kTileRows;
            task(first, int(std::min<int64_t>(kTileRows, N - first)), scores.data());
        });
    }
};

}  // namespace

void unit_rows(const float* in, float* out, int64_t rows, int D, int threads) {
    parallel_blocks(threads, rows, [=](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) {
            const double norm = row_norm(in + r * D, D);
            for (int d = 0; d < D; ++d) out[r * D + d] = float(double(in[r * D + d]) / norm);
        }
    });
}

void select(const float* u, int64_t N, const float* codes, int K, int D, const int32_t* ranks, int64_t* nearest,
            int64_t* chosen, int threads) {
    const Packed packed(codes, K, D, threads);
    packed.for_tiles(N, threads, [&](int64_t first, int count, float* scores) {
        const Tile tile = {u + first * D, count, ranks ? ranks + first : nullptr, nearest ? nearest + first : nullptr,
                           chosen ? chosen + first : nullptr};
        packed.scorer.select(packed.book, tile, scores);
    });
}

void neighbors(const float* u, int64_t N, const float* codes, int K, int D, int delta, int64_t* out, int threads) {
    const Packed packed(codes, K, D, threads);
    packed.for_tiles(N, threads, [&](int64_t first, int count, float* scores) {
        packed.scorer.neighbors(packed.book, u + first * D, count, delta, out + first * delta, scores);
    });
}

double finish(const float* u, int64_t N, int D, const float* codes, const int64_t* nearest, const int64_t* indices,
              float* z_q, float* z_q_clean, int64_t* usage, int threads) {
    std::vector<double> sums((N + kBlock - 1) / kBlock, 0.0);  // one a block: the total does not depend on the threads
    parallel_blocks(threads, N, [&](int64_t first, int64_t last) {
        double sum = 0;
        for (int64_t i = first; i < last; ++i) {
            const float* row = u + i * D;
            const float* clean = codes + nearest[i] * D;
            const float* code = codes + indices[i] * D;
            for (int d = 0; d < D; ++d) z_q[i * D + d] = row[d] + (code[d] - row[d]);
            for (int d = 0; d < D; ++d) {
                const float difference = clean[d] - row[d];
                z_q_clean[i * D + d] = row[d] + difference;
                sum += double(difference) * difference;
            }
        }
        sums[first / kBlock] = sum;
    });
    for (int64_t i = 0; i < N; ++i) ++usage[nearest[i]];
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
}

}  // namespace robustok

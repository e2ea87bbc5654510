// Threads, and the functions of the host twin.
#include "host.h"

#include <omp.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "definition.h"

namespace robustok {

std::vector<const Scorer*> scorers() {
    std::vector<const Scorer*> found;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found.push_back(&kAvx512Scorer);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kAvx2Scorer);
#endif
    found.push_back(&kGenericScorer);
    return found;
}

const Scorer*& scorer_in_use() {
    static const Scorer* chosen = scorers().front();
    return chosen;
}

// OpenMP, because torch computes with it: its threads stay awake for a while after every operation of torch and take this
// work too. Threads of our own would share the cores with them and take twice as long. As with torch's own operations, a
// process that is forked afterwards must stay with one thread, which is what torch sets in the workers of a DataLoader.
void parallel(int threads, int64_t count, const std::function<void(int64_t, int)>& task) {
#pragma omp parallel for schedule(dynamic) num_threads(int(std::max<int64_t>(1, std::min<int64_t>(threads, count))))
    for (int64_t i = 0; i < count; ++i) task(i, omp_get_thread_num());
}

namespace {

constexpr int64_t kBlock = 1024;       // rows of the cheap loops that one task takes
constexpr int64_t kScratch = 1 << 17;  // scores that a thread holds: they stay in its cache beside a panel of codes
constexpr int64_t kAllScratch = 1 << 23;  // of all threads: 32 MB

void parallel_blocks(int threads, int64_t rows, const std::function<void(int64_t, int64_t)>& task) {
    const int64_t blocks = (rows + kBlock - 1) / kBlock;
    parallel(threads, blocks, [&](int64_t b, int) { task(b * kBlock, std::min(rows, (b + 1) * kBlock)); });
}

// A codebook packed for the scorer in use, and scratch for tiles of tokens; owns both.
class PackedCodebook {
public:
    const Scorer& scorer = *scorer_in_use();
    Codebook book;

    PackedCodebook(const float* codes, int K, int D, int threads, bool product)
        : book{codes, nullptr, K, D, product, 0.0}, threads(threads) {
        const int count = scorer.panels(K);
        panels.reset(new float[size_t(count) * (D + 1) * scorer.width]);
        book.panels = panels.get();
        std::vector<double> longest(count);
        parallel(threads, count, [&](int64_t p, int) { longest[p] = scorer.pack(book, int(p)); });
        book.longest = *std::max_element(longest.begin(), longest.end());
        const int64_t room = std::min(kScratch, kAllScratch / threads) / scorer.padded(K);
        const int64_t rows = std::min<int64_t>(room, kMaxTile / scorer.vectors);
        full_rows = std::max(scorer.rows, int(rows) / scorer.rows * scorer.rows);
        scratch.reset(new float[size_t(threads) * full_rows * scorer.padded(K)]);
    }

    // Runs task(first token, count, scratch) on tiles of the tokens in [begin, end), with scratch for all scores of a
    // tile or for the best alone.
    void for_tiles(int64_t begin, int64_t end, bool best, const std::function<void(int64_t, int, float*)>& task) const {
        const int64_t share = ((end - begin) / (4 * threads) / scorer.rows + 1) * scorer.rows;  // no thread waits long
        const int64_t rows = std::min<int64_t>(share, full_rows * (best ? scorer.vectors : 1));
        parallel(threads, (end - begin + rows - 1) / rows, [&](int64_t t, int thread) {
            const int64_t first = begin + t * rows;
            float* own = scratch.get() + size_t(thread) * full_rows * scorer.padded(book.K);
            task(first, int(std::min(rows, end - first)), own);
        });
    }

private:
    int threads;
    int full_rows;  // tokens of a tile all of whose scores are kept
    std::unique_ptr<float[]> panels, scratch;
};

}  // namespace

void unit_rows(const float* in, float* out, int64_t rows, int D, int threads) {
    parallel_blocks(threads, rows, [=](int64_t first, int64_t last) {
        scorer_in_use()->unit_rows(in + first * D, out + first * D, int(last - first), D);
    });
}

void select(const float* u, int64_t N, const float* codes, int K, int D, const int32_t* ranks, int64_t* nearest,
            int64_t* chosen, int threads, bool product) {
    const PackedCodebook packed(codes, K, D, threads, product);
    int64_t ranked = ranks ? N : 0;  // the tokens before the last rank that is not 0
    while (ranked && !ranks[ranked - 1]) --ranked;
    packed.for_tiles(0, ranked, false, [&](int64_t first, int count, float* scratch) {
        const Tile tile = {u + first * D, count, ranks + first, nearest + first, chosen + first};
        packed.scorer.ranked(packed.book, tile, scratch);
    });
    packed.for_tiles(ranked, N, true, [&](int64_t first, int count, float* scratch) {
        packed.scorer.nearest(packed.book, u + first * D, count, nearest + first, scratch);
    });
    if (ranks) std::copy(nearest + ranked, nearest + N, chosen + ranked);
}

void neighbors(const float* u, int64_t N, const float* codes, int K, int D, int delta, int64_t* out, int threads,
               bool product) {
    const PackedCodebook packed(codes, K, D, threads, product);
    packed.for_tiles(0, N, false, [&](int64_t first, int count, float* scratch) {
        packed.scorer.neighbors(packed.book, u + first * D, count, delta, out + first * delta, scratch);
    });
}

double straight_through(const float* u, int64_t N, int D, const float* codes, const int64_t* indices, float* out,
                        int threads) {
    std::vector<double> sums((N + kBlock - 1) / kBlock, 0.0);  // one for each block: the total does not depend on the threads
    parallel_blocks(threads, N, [&](int64_t first, int64_t last) {
        double sum = 0;
        for (int64_t i = first; i < last; ++i) {
            const float* code = codes + indices[i] * D;
            for (int64_t j = i * D; j < (i + 1) * D; ++j) {
                const float difference = code[j - i * D] - u[j];
                out[j] = u[j] + difference;
                sum += double(difference) * difference;
            }
        }
        sums[first / kBlock] = sum;
    });
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
}

}  // namespace robustok

// The host twin of the CUDA side: what each instruction set provides, and the threaded functions built on it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace robustok {

// A codebook laid out for scoring: panels of `width` codes, each (D + 1, width): -|e|^2 / 2, with `product` 0, then e
// transposed.
struct Codebook {
    const float* rows;  // (K, D), normalised
    float* panels;      // (panels, D + 1, width)
    int K;
    int D;
    bool product;    // whether distances are minus inner products
    double longest;  // length of the longest finite code
};

// Work on one tile of tokens: rows u (count, D), ranks and result pointers at the tile's first token.
struct Tile {
    const float* u;
    int count;
    const int32_t* ranks;
    int64_t* nearest;
    int64_t* chosen;  // the code at each token's rank
};

// One implementation of the loops over rows and scores. Tiles have at most kMaxTile tokens, and scratch for as many rows
// padded to whole blocks: of the best scores, padded(K) / vectors floats a row, or of all, padded(K).
struct Scorer {
    const char* name;
    int rows, vectors;  // a block of scores that is kept in registers
    int width;          // codes in a panel
    void (*unit_rows)(const float* in, float* out, int count, int D);
    double (*pack)(const Codebook&, int panel);  // returns the length of the longest finite code in it
    void (*nearest)(const Codebook&, const float* u, int count, int64_t* nearest, float* scratch);
    void (*ranked)(const Codebook&, const Tile&, float* scratch);
    void (*neighbors)(const Codebook&, const float* u, int count, int delta, int64_t* out, float* scratch);

    int panels(int K) const { return (K + width - 1) / width; }
    int padded(int K) const { return panels(K) * width; }
};

constexpr int kMaxTile = 128;

extern const Scorer kGenericScorer;
#if defined(__x86_64__)
extern const Scorer kAvx2Scorer;
extern const Scorer kAvx512Scorer;
#endif

std::vector<const Scorer*> scorers();  // that this machine can run, the fastest first
const Scorer*& scorer_in_use();        // the first of them, until a test sets another

// Runs task(i, thread) for i in [0, count) on up to `threads` threads, the caller's included, each with its number.
void parallel(int threads, int64_t count, const std::function<void(int64_t, int)>& task);

// Normalised rows: out (rows, D) = in / |in|, divided in float64 and rounded.
void unit_rows(const float* in, float* out, int64_t rows, int D, int threads);

// Nearest codes and codes at `ranks` of rows u (N, D). Without ranks (null) nothing is written to `chosen`.
void select(const float* u, int64_t N, const float* codes, int K, int D, const int32_t* ranks, int64_t* nearest,
            int64_t* chosen, int threads, bool product);

// The delta nearest codes (N, delta) of rows u (N, D), by (distance, index).
void neighbors(const float* u, int64_t N, const float* codes, int K, int D, int delta, int64_t* out, int threads,
               bool product);

// Straight-through output (N, D) u + (e - u) with the codes e at `indices` (N). Returns the sum of (e - u)^2.
double straight_through(const float* u, int64_t N, int D, const float* codes, const int64_t* indices, float* out,
                        int threads);

}  // namespace robustok

// The host twin of the CUDA side: what each instruction set provides, and the threaded functions built on it.
#pragma once

#include <cstdint>
#include <functional>

namespace robustok {

// A codebook laid out for scoring: panels of `width` codes, each (D + 1, width): -|e|^2 / 2, then e transposed.
struct Codebook {
    const float* rows;  // (K, D), as compared
    float* panels;      // (panels, D + 1, width)
    int K;
    int D;
    double longest;  // length of the longest finite code
};

// Work on one tile of tokens: rows u (count, D), result pointers at the tile's first token.
struct Tile {
    const float* u;
    int count;
    const int32_t* ranks;  // null: all 0
    int64_t* nearest;      // null: not wanted
    int64_t* chosen;       // null: not wanted; the code at each token's rank
};

// One implementation of the scoring loops. Buffers hold kTileRows rows of `padded(K)` scores.
struct Scorer {
    const char* name;
    int width;  // codes in a panel
    void (*pack)(const Codebook&, int first_panel, int last_panel);
    void (*select)(const Codebook&, const Tile&, float* scores);
    void (*neighbors)(const Codebook&, const float* u, int count, int delta, int64_t* out, float* scores);

    int panels(int K) const { return (K + width - 1) / width; }
    int padded(int K) const { return panels(K) * width; }
};

constexpr int kTileRows = 24;

extern const Scorer kGenericScorer;
#if defined(__x86_64__)
extern const Scorer kAvx2Scorer;
extern const Scorer kAvx512Scorer;
#endif

const Scorer& best_scorer();  // of this machine

// Runs task(i) for i in [0, count) on up to `threads` threads, the caller's included.
void parallel(int threads, int64_t count, const std::function<void(int64_t)>& task);

// Rows as compared: out (rows, D) = in / |in|.
void unit_rows(const float* in, float* out, int64_t rows, int D, int threads);

// Nearest codes and codes at `ranks` of rows u (N, D); either result may be null, and ranks, which are then 0.
void select(const float* u, int64_t N, const float* codes, int K, int D, const int32_t* ranks, int64_t* nearest,
            int64_t* chosen, int threads);

// The delta nearest codes (N, delta) of rows u (N, D), by (distance, index).
void neighbors(const float* u, int64_t N, const float* codes, int K, int D, int delta, int64_t* out, int threads);

// Straight-through outputs (N, D) u + (e - u) with the codes at `indices` (z_q) and `nearest` (z_q_clean); adds the
// counts of `nearest` to usage (K). Returns the sum of (e - u)^2 over the nearest codes.
double finish(const float* u, int64_t N, int D, const float* codes, const int64_t* nearest, const int64_t* indices,
              float* z_q, float* z_q_clean, int64_t* usage, int threads);

}  // namespace robustok

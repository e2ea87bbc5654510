// Philox 4x32-10 and the perturbation draw. robustok/core/random.py says what the words of the counter mean,
// robustok/ops/vq/draws.py what a draw is.
#pragma once

#include "shared.h"

namespace robustok {

struct Words {
    uint32_t w[4];
};

ROBUSTOK_SHARED Words philox4x32(Words counter, uint32_t key0, uint32_t key1) {
    uint32_t* c = counter.w;
    for (int round = 0; round < 10; ++round) {
        const uint64_t product0 = uint64_t{0xD2511F53u} * c[0];
        const uint64_t product1 = uint64_t{0xCD9E8D57u} * c[2];
        const uint32_t next0 = uint32_t(product1 >> 32) ^ c[1] ^ key0;
        const uint32_t next2 = uint32_t(product0 >> 32) ^ c[3] ^ key1;
        c[0] = next0, c[1] = uint32_t(product1), c[2] = next2, c[3] = uint32_t(product0);
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    return counter;
}

// Alpha, delta and seed of a perturbation: a token is perturbed where its first word is below the threshold.
struct Draw {
    int64_t threshold;  // floor(alpha * 2^32)
    int64_t delta;
    uint64_t seed;
};

// Rank in [0, delta) of the code that replaces a token of an image; 0 where nothing changes.
ROBUSTOK_SHARED int draw_rank(const Draw& draw, int64_t sample_id, int64_t token) {
    const uint64_t id = uint64_t(sample_id);
    const Words counter = {{0u, uint32_t(token), uint32_t(id), uint32_t(id >> 32)}};  // stream PERTURB is 0
    const Words words = philox4x32(counter, uint32_t(draw.seed), uint32_t(draw.seed >> 32));
    if (int64_t(words.w[0]) >= draw.threshold) return 0;
    return int((uint64_t(words.w[1]) * uint64_t(draw.delta)) >> 32);
}

}  // namespace robustok

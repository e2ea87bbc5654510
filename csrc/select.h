// The code of a given rank in the order (distance, index) of one token, from its scores.
//
// A computed score differs from the true one by at most `error`. So the computed score at a rank is within `error` of the
// true score at that rank, and the code wanted has a computed score within 2 * error of it. The scores are bisected
// until few remain; those are ordered by the definition. Nothing is sorted and no list of neighbours is kept.
//
// A Team is who works on the token: one host thread, or one warp. It has
//   kFew: so few candidates are ordered for less than one more pass of bisection costs;
//   lane(), size(), sync(), and over its lanes sum, min, max and lanes_before(flag), how many lower lanes have the flag;
//   at_least(scores, K, x): how many scores of a row are >= x;
//   range(scores, K, low, high): the least and the greatest score;
//   collect(scores, K, low, high, list): puts the first kListed indices with a score in [low, high], ascending, in the
//   list and returns how many such scores there are and how many lie above.
#pragma once

#include "definition.h"

namespace robustok {

constexpr int kListed = 32;  // candidates that are ordered directly, one for each lane of a warp

template <class Score>
struct Token {
    const float* row;     // (D), normalised
    const float* codes;   // (K, D), normalised
    const Score* scores;  // (K)
    int D;
    int K;
    float error;
    bool product;  // whether distances are minus inner products

    ROBUSTOK_METHOD double distance(int k) const { return distance_of(row, codes + int64_t(k) * D, D, product); }
};

struct Candidates {  // of one team; in shared memory on a GPU
    int code[kListed];
    double distance[kListed];
};

struct Counts {
    int inside;
    int above;
};

ROBUSTOK_SHARED uint64_t bits_of(double distance) {  // in the order of the distances
    uint64_t bits;
    memcpy(&bits, &distance, sizeof bits);
    const uint64_t sign = uint64_t{1} << 63;
    return bits & sign ? ~bits : bits | sign;
}

// The listed candidate that `rank` others precede.
template <class Team, class Score>
ROBUSTOK_SHARED int listed_at_rank(const Team& team, const Token<Score>& token, int listed, int rank, Candidates& list) {
    for (int i = team.lane(); i < listed; i += team.size())
        list.distance[i] = token.distance(list.code[i]);
    team.sync();
    int winner = -1;
    for (int i = team.lane(); i < listed; i += team.size()) {
        int preceding = 0;
        for (int j = 0; j < listed; ++j)  // the list ascends by code
            preceding += list.distance[j] < list.distance[i] || (list.distance[j] == list.distance[i] && j < i);
        if (preceding == rank) winner = list.code[i];
    }
    team.sync();
    return team.max(winner);
}

// The same for any number of candidates: bisects the distances, which are computed again in each pass.
template <class Team, class Score>
struct ManyCandidates {
    const Team& team;
    const Token<Score>& token;
    float low, high;

    ROBUSTOK_METHOD bool inside(int k) const {
        const float score = token.scores[k];
        return !(score < low) && !(score > high);
    }

    ROBUSTOK_METHOD uint64_t distance(int k) const {
        return bits_of(token.distance(k));
    }

    ROBUSTOK_METHOD int up_to(uint64_t limit) const {
        int count = 0;
        for (int k = team.lane(); k < token.K; k += team.size()) count += inside(k) && distance(k) <= limit;
        return team.sum(count);
    }

    ROBUSTOK_METHOD uint64_t distance_at(int rank) const {
        uint64_t least = UINT64_MAX, most = 0;
        for (int k = team.lane(); k < token.K; k += team.size()) {
            if (!inside(k)) continue;
            const uint64_t d = distance(k);
            least = d < least ? d : least;
            most = d > most ? d : most;
        }
        least = team.min(least), most = team.max(most);
        if (up_to(least) > rank) return least;  // many are near mostly because codes are duplicates of the nearest
        while (least < most) {
            const uint64_t middle = least + (most - least) / 2;
            if (up_to(middle) > rank)
                most = middle;
            else
                least = middle + 1;
        }
        return least;
    }

    ROBUSTOK_METHOD int code_at(int rank) const {
        const uint64_t wanted = distance_at(rank);
        int left = wanted ? rank - up_to(wanted - 1) : rank;  // among the equally distant, by index
        for (int base = 0; base < token.K; base += team.size()) {
            const int k = base + team.lane();
            const bool equal = k < token.K && inside(k) && distance(k) == wanted;
            const int found = team.sum(int(equal));
            const int lower = team.lanes_before(equal);  // every lane calls it: the lanes of a warp vote together
            if (left < found) return team.max(equal && lower == left ? k : -1);
            left -= found;
        }
        return -1;  // not reached: there are more candidates than the rank
    }
};

// Bounds between which the score at `rank` lies: more than `rank` scores are >= low, not more are > high.
template <class Team, class Score>
ROBUSTOK_SHARED void bracket(const Team& team, const Token<Score>& token, int rank, float& low, float& high) {
    team.range(token.scores, token.K, low, high);
    if (rank == 0) low = high;
    int at_least_low = token.K, at_least_high = 0;
    while (at_least_low - at_least_high > Team::kFew) {
        const float middle = low + (high - low) / 2;
        if (!(low < middle && middle < high)) break;
        const int count = team.at_least(token.scores, token.K, middle);
        if (count > rank)
            low = middle, at_least_low = count;
        else
            high = middle, at_least_high = count;
    }
}

// Index of the code at `rank` in [0, K).
template <class Team, class Score>
ROBUSTOK_SHARED int select_rank(const Team& team, const Token<Score>& token, int rank, Candidates& list) {
    if (token.error != token.error) return rank;  // no distance is finite: the order is by index
    if (token.error == INFINITY) return ManyCandidates<Team, Score>{team, token, -INFINITY, INFINITY}.code_at(rank);
    float low, high;
    bracket(team, token, rank, low, high);
    low -= 2 * token.error, high += 2 * token.error;
    const Counts counts = team.collect(token.scores, token.K, low, high, list.code);
    if (counts.inside == 1) return list.code[0];
    if (counts.inside > kListed) return ManyCandidates<Team, Score>{team, token, low, high}.code_at(rank - counts.above);
    return listed_at_rank(team, token, counts.inside, rank - counts.above, list);
}

}  // namespace robustok

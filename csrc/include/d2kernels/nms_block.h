// nms and soft_nms for a team: one work item a cluster, whose segments overlap with none of another.
#pragma once

#include <cmath>

#include "d2kernels/nms.h"

namespace d2k {

// Segments cluster by cluster: in nms by falling score, in soft_nms by index.
template <class T>
struct NmsClustersOf {
    const T* segments;      // (count, 2)
    const int64_t* first;   // of each cluster, and after the last
    const int64_t* number;  // how many there are
    int64_t count;

    // Calls body(begin, size) for the clusters from, from + step, …; bad places are moved inside.
    template <class Body>
    D2K_DEVICE void each(int64_t from, int64_t step, const Body& body) const {
        const int64_t n = *number < count ? *number : count;
        for (int64_t c = from; c < n; c += step) {
            const int64_t begin = inside(first[c], 0), end = inside(first[c + 1], begin);
            body(begin, end - begin);
        }
    }

private:
    D2K_DEVICE int64_t inside(int64_t place, int64_t least) const {
        return place < least ? least : place > count ? count : place;
    }
};

struct NmsRules {
    double iou_threshold;
    bool inclusive;

    template <class T>
    D2K_DEVICE bool removes(const T* kept, const T* other) const {
        const double iou = overlap(kept[0], kept[1], other[0], other[1]);
        return inclusive ? iou >= iou_threshold : iou > iou_threshold;
    }
};

// The candidates of one round, in the team's shared memory.
template <class T>
struct NmsRoundOf {
    static constexpr int kSize = 64;
    T segments[2 * kSize];
    uint64_t removed_by[kSize];  // bit i: candidate i removes it
    bool open[kSize];
};
using NmsRound = NmsRoundOf<double>;

// left[i]: whether segment i of a cluster stays. segments (count, 2) by falling score.
template <class Team, class T>
D2K_DEVICE void suppress(Team& team, const T* segments, int64_t count, const NmsRules& rules, NmsRoundOf<T>& round,
                         uint8_t* left) {
    for_each(team, count, [&](int64_t i) { left[i] = 1; });
    if (count == 1) return;
    team.barrier();
    for (int64_t from = 0; from < count; from += NmsRound::kSize) {
        const int64_t rest = count - from, size = rest < NmsRound::kSize ? rest : NmsRound::kSize;
        for_each(team, size, [&](int64_t j) {
            round.segments[2 * j] = segments[2 * (from + j)];
            round.segments[2 * j + 1] = segments[2 * (from + j) + 1];
            round.open[j] = left[from + j];
        });
        team.barrier();
        for_each(team, size, [&](int64_t j) {
            uint64_t by = 0;
            for (int64_t i = 0; i < j && round.open[j]; ++i)
                if (round.open[i] && rules.removes(round.segments + 2 * i, round.segments + 2 * j)) by |= uint64_t{1} << i;
            round.removed_by[j] = by;
        });
        team.barrier();
        uint64_t kept = 0;  // the same on every thread
        for (int64_t j = 0; j < size; ++j)
            if (round.open[j] && !(round.removed_by[j] & kept)) kept |= uint64_t{1} << j;
        for_each(team, size, [&](int64_t j) { left[from + j] = kept >> j & 1; });
        for_each(team, rest - size, [&](int64_t r) {
            const int64_t j = from + size + r;
            for (int64_t i = 0; i < size && left[j]; ++i)
                if (kept >> i & 1 && rules.removes(round.segments + 2 * i, segments + 2 * j)) left[j] = 0;
        });
        team.barrier();
    }
}

struct NmsBest {
    double score;
    int64_t place;  // -1: none
};

struct NmsBetter {
    D2K_DEVICE NmsBest operator()(const NmsBest& a, const NmsBest& b) const {
        if (a.place < 0 || b.place < 0) return a.place < 0 ? b : a;
        const bool first = a.score != b.score ? a.score > b.score : a.place < b.place;
        return first ? a : b;
    }
};

// score[i] decays to what segment i of a cluster is kept with, if taken[i]. segments (count, 2) by index.
template <class Team, class T>
D2K_DEVICE void decay(Team& team, const T* segments, int64_t count, double sigma, double score_threshold,
                      double* score, uint8_t* taken) {
    NmsBest mine{0, -1};
    const auto consider = [&](int64_t i) {
        if (score[i] > score_threshold) mine = NmsBetter()(mine, {score[i], i});
    };
    // A segment is read and written by one thread alone.
    for_each(team, count, [&](int64_t i) {
        taken[i] = 0;
        consider(i);
    });
    for (;;) {
        const NmsBest best = team.reduce(mine, NmsBetter());
        if (best.place < 0) return;
        mine.place = -1;
        const T start = segments[2 * best.place], end = segments[2 * best.place + 1];
        for_each(team, count, [&](int64_t i) {
            if (i == best.place) taken[i] = 1;
            if (taken[i]) return;
            const double iou = overlap(start, end, segments[2 * i], segments[2 * i + 1]);
            if (score[i] > 0 && iou > 0) score[i] *= exp(-(iou * iou) / sigma);
            consider(i);
        });
    }
}

namespace cpu {
// Both on the host's team, for tests of what the device computes.
template <class T>
Status nms_as_block(const NmsClustersOf<T>& clusters, const NmsRules& rules, uint8_t* left);
template <class T>
Status soft_nms_as_block(const NmsClustersOf<T>& clusters, double sigma, double score_threshold, double* score,
                         uint8_t* taken);
}  // namespace cpu

namespace cuda {
// Bytes of device memory that nms works in: 0 where no cluster can be large.
size_t nms_workspace(int64_t count);
// left, score and taken (count), as suppress and decay say.
template <class T>
Status nms(const NmsClustersOf<T>& clusters, const NmsRules& rules, uint8_t* left, void* workspace, int device,
           void* stream);
template <class T>
Status soft_nms(const NmsClustersOf<T>& clusters, double sigma, double score_threshold, double* score, uint8_t* taken,
                int device, void* stream);
}  // namespace cuda

}  // namespace d2k

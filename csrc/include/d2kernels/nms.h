// Non-maximum suppression of segments in time, in groups.
#pragma once

#include <cstdint>

#include "d2kernels/status.h"
#include "d2kernels/team.h"

namespace d2k {

struct NmsProblem {
    const double* segments;  // (count, 2) starts and ends
    const double* scores;    // (count)
    const int64_t* groups;   // (count)
    int64_t count;
};

// Intersection over union; two empty segments overlap by 0.
D2K_DEVICE double overlap(double a_start, double a_end, double b_start, double b_end) {
    const double end = a_end < b_end ? a_end : b_end, start = a_start < b_start ? b_start : a_start;
    const double both = end > start ? end - start : 0;
    const double whole = (a_end - a_start) + (b_end - b_start) - both;
    return whole > 0 ? both / whole : 0;
}

namespace cpu {
// kept (count): the indices that are left, by falling score and index; how many in `size`.
Status nms(const NmsProblem& problem, double iou_threshold, bool inclusive, int64_t* kept, int64_t* size);
// decayed (count): the scores of `kept`, which falls by them. Those at or below score_threshold are left out.
Status soft_nms(const NmsProblem& problem, double sigma, double score_threshold, int64_t* kept, double* decayed,
                int64_t* size);
}  // namespace cpu

}  // namespace d2k

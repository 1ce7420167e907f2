// Non-maximum suppression of segments in time, in groups.
#pragma once

#include <cstdint>

#include "d2kernels/status.h"
#include "d2kernels/team.h"

namespace d2k {

// Times T are double or int64_t.
template <class T>
struct NmsProblem {
    const T* segments;      // (count, 2) starts and ends
    const double* scores;   // (count)
    const int64_t* groups;  // (count), or null: all of one
    int64_t count;

    int64_t group(int64_t i) const { return groups ? groups[i] : 0; }
};

// Between two times, the later one second. Integers are subtracted before they are converted: nanoseconds since 1970
// have more bits than a double holds.
D2K_DEVICE double between(double start, double end) { return end - start; }
D2K_DEVICE double between(int64_t start, int64_t end) {
    return static_cast<double>(static_cast<uint64_t>(end) - static_cast<uint64_t>(start));
}

// Intersection over union; two empty segments overlap by 0.
template <class T>
D2K_DEVICE double overlap(T a_start, T a_end, T b_start, T b_end) {
    const T end = a_end < b_end ? a_end : b_end, start = a_start < b_start ? b_start : a_start;
    const double both = end > start ? between(start, end) : 0;
    const double whole = between(a_start, a_end) + between(b_start, b_end) - both;
    return whole > 0 ? both / whole : 0;
}

namespace cpu {
// kept (count): the indices that are left, by falling score and index; how many in `size`.
template <class T>
Status nms(const NmsProblem<T>& problem, double iou_threshold, bool inclusive, int64_t* kept, int64_t* size);
// decayed (count): the scores of `kept`, which falls by them. Those at or below score_threshold are left out.
template <class T>
Status soft_nms(const NmsProblem<T>& problem, double sigma, double score_threshold, int64_t* kept, double* decayed,
                int64_t* size);
}  // namespace cpu

}  // namespace d2k

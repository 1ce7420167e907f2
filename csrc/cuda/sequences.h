// Which sequence a row belongs to.
#pragma once

#include <cstdint>

#include "d2kernels/ragged.h"

namespace d2k::cuda {

// The last sequence that starts at or before the row, if the row is in it, else -1.
__device__ inline int64_t sequence_of(const Sequences& sequences, int64_t row) {
    int64_t low = 0, high = sequences.count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (sequences[middle].first <= row) low = middle + 1;
        else high = middle;
    }
    if (low == 0) return -1;
    const auto range = sequences[low - 1];
    return row < range.first + range.length ? low - 1 : -1;
}

}  // namespace d2k::cuda

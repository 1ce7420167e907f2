// n sequences in one buffer of rows: sequence i is the rows offsets[i] .. offsets[i] + lengths[i].
#pragma once

#include <cstdint>

#include "d2kernels/team.h"

namespace d2k {

struct Sequences {
    const int64_t* offsets;  // (count) or more
    const int64_t* lengths;  // (count)
    int64_t count;
    int64_t total;  // rows in the buffer

    struct Range {
        int64_t first, length;
    };

    // Clamped to the buffer: bad offsets give wrong results, never foreign memory.
    D2K_DEVICE Range operator[](int64_t i) const {
        const int64_t offset = offsets[i], length = lengths[i];
        const int64_t first = offset < 0 ? 0 : offset > total ? total : offset;
        const int64_t room = total - first;
        return {first, length < 0 ? 0 : length > room ? room : length};
    }
};

// The last sequence that starts at or before the row, if the row is in it, else -1.
D2K_DEVICE int64_t sequence_of(const Sequences& sequences, int64_t row) {
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

}  // namespace d2k

// Maximal runs of scores above each of several thresholds: 1-D connected components, per sequence and class.
#pragma once

#include <cstddef>
#include <cstdint>

#include "d2kernels/ragged.h"
#include "d2kernels/status.h"
#include "d2kernels/team.h"

namespace d2k {

// One class of one sequence.
template <class T>
struct Column {
    const T* first;
    int64_t stride, length;

    // False outside the sequence, and for NaN.
    D2K_DEVICE bool above(int64_t t, T threshold) const {
        return t >= 0 && t < length && first[t * stride] > threshold;
    }
};

// One work item is one (sequence, class, threshold), in that order, which is also the order of the result.
template <class T>
struct Components {
    Sequences sequences;
    const T* scores;  // [row * row_stride + class * class_stride]
    int64_t row_stride, class_stride;
    int64_t classes;
    const T* thresholds;  // (levels), or (sequences, classes, levels) where each class has its own
    int64_t levels;
    bool own_thresholds;
    const bool* class_mask;  // (sequences, classes), or null for every class
    int64_t min_length;
    bool distinct;

    struct Item {
        int64_t series, sequence, label, level;
    };

    D2K_DEVICE int64_t items() const { return sequences.count * classes * levels; }

    D2K_DEVICE Item item(int64_t i) const {
        const int64_t series = i / levels;
        return {series, series / classes, series % classes, i % levels};
    }

    D2K_DEVICE bool wanted(const Item& item) const { return !class_mask || class_mask[item.series]; }

    D2K_DEVICE Column<T> column(const Item& item) const {
        const Sequences::Range range = sequences[item.sequence];
        return {scores + range.first * row_stride + item.label * class_stride, row_stride, range.length};
    }

    D2K_DEVICE const T* threshold(const Item& item) const {
        return thresholds + (own_thresholds ? item.series * levels : 0) + item.level;
    }
};

// The result's columns.
struct Segments {
    int64_t *sequence, *label, *threshold, *start, *end;

    // The rows of a (5, size) matrix.
    static Segments in(int64_t* matrix, int64_t size) {
        return {matrix, matrix + size, matrix + 2 * size, matrix + 3 * size, matrix + 4 * size};
    }
};

// Calls emit(rank, start, end) for each of the item's runs that is kept, in order; returns how many there are.
// A run is new at this threshold unless both its neighbours lie at or below the threshold before it: then the same
// run is above that one too. `ranked` false leaves out the ranks, which are then 0.
template <bool ranked, class Team, class T, class Emit>
D2K_DEVICE int64_t runs(Team& team, const Components<T>& problem, const typename Components<T>::Item& item,
                        const Column<T>& column, const Emit& emit) {
    const T* here = problem.threshold(item);
    const T threshold = *here;
    const bool filter = problem.distinct && item.level > 0;
    const T before = filter ? here[-1] : threshold;
    int64_t start = -1, count = 0;
    for (int64_t tile = 0; tile < column.length; tile += team.size()) {
        const int64_t t = tile + team.rank();
        const bool now = column.above(t, threshold);
        const bool first = now && !column.above(t - 1, threshold);
        const int64_t a = team.scan(first ? t : int64_t{-1}, Max{}, start);
        const bool last = now && !column.above(t + 1, threshold);
        const bool keep = last && t + 1 - a >= problem.min_length &&
                          (!filter || column.above(a - 1, before) || column.above(t + 1, before));
        int64_t rank = 0;
        if constexpr (ranked) rank = compact(team, keep, count);
        else count += keep;
        if (keep) emit(rank, a, t + 1);
    }
    return ranked ? count : team.reduce(count, Sum{});
}

template <class Team, class T>
D2K_DEVICE int64_t count_runs(Team& team, const Components<T>& problem, const typename Components<T>::Item& item,
                              const Column<T>& column) {
    return runs<false>(team, problem, item, column, [](int64_t, int64_t, int64_t) {});
}

// Writes the item's runs at [first, first + room): scores that changed since the count cannot write past it.
template <class Team, class T>
D2K_DEVICE void fill_runs(Team& team, const Components<T>& problem, const typename Components<T>::Item& item,
                          const Column<T>& column, int64_t first, int64_t room, const Segments& out) {
    runs<true>(team, problem, item, column, [&](int64_t rank, int64_t a, int64_t b) {
        if (rank >= room) return;
        const int64_t i = first + rank;
        out.sequence[i] = item.sequence;
        out.label[i] = item.label;
        out.threshold[i] = item.level;
        out.start[i] = a;
        out.end[i] = b;
    });
}

namespace cpu {
// positions (items + 1): where each item's runs go, and their number last. `threads` 0 means all that may be used.
template <class T>
Status connected_components_count(const Components<T>& problem, int64_t* positions, int threads);
template <class T>
Status connected_components_fill(const Components<T>& problem, const int64_t* positions, Segments out, int threads);
}  // namespace cpu

namespace cuda {
// Bytes of device memory that both work in, and how many places `positions` has, without the number of runs at its end.
template <class T>
size_t connected_components_workspace(const Components<T>& problem, int64_t* places);
// Of sequences that overlap, which `offsets` must not, the end of long ones may be left out.
template <class T>
Status connected_components_count(const Components<T>& problem, int64_t* positions, void* workspace, int device,
                                  void* stream);
template <class T>
Status connected_components_fill(const Components<T>& problem, const int64_t* positions, const void* workspace,
                                 Segments out, int64_t size, int device, void* stream);
}  // namespace cuda

}  // namespace d2k

// Where each sequence's k largest scores are, class by class.
#pragma once

#include <cstdint>

#include "d2kernels/dtype.h"
#include "d2kernels/ragged.h"
#include "d2kernels/status.h"

namespace d2k {

// T: float, double, BFloat16 or Half. NaN sorts above every number and -0 equals 0.
template <class T>
struct TopkIndices {
    Sequences sequences;
    const T* scores;  // (total, classes)
    int64_t classes;
    const int64_t* k;  // (sequences), clamped to [0, length]
    int64_t most;      // of an output's row
};

namespace cpu {
// out (sequences, classes, most): rows within the sequence by falling score, ties by the first; -1 past k.
template <class T>
Status topk_indices(const TopkIndices<T>& problem, int64_t* out, int threads);
}  // namespace cpu

}  // namespace d2k

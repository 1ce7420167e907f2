// Mean of the k largest scores of each sequence and class, its threshold (the k-th largest) and what lies above and on it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "d2kernels/dtype.h"
#include "d2kernels/ragged.h"
#include "d2kernels/status.h"
#include "d2kernels/team.h"

namespace d2k {

// T: float, double, BFloat16 or Half. NaN sorts above every number and -0 equals 0.
template <class T>
struct TopkPool {
    Sequences sequences;
    const T* scores;  // (total, classes)
    int64_t classes;
    const int64_t* k;  // (sequences), clamped to [1, length]

    D2K_DEVICE int64_t count(int64_t sequence, int64_t length) const {
        const int64_t wanted = k[sequence];
        return wanted < 1 ? 1 : wanted > length ? length : wanted;
    }
};

// (sequences, classes) each.
template <class T>
struct TopkPoolOut {
    T *mean, *threshold;
    int32_t *above, *tied;
};

// What the backward pass reads besides the problem.
template <class T>
struct TopkPoolSaved {
    const T *grad, *threshold;
    const int32_t *above, *tied;
};

namespace cpu {
// `threads` 0 means all that may be used.
template <class T>
Status topk_pool(const TopkPool<T>& problem, const TopkPoolOut<T>& out, int threads);
// grad_scores (total, classes), zero on gap rows.
template <class T>
Status topk_pool_backward(const TopkPool<T>& problem, const TopkPoolSaved<T>& saved, T* grad_scores, int threads);
}  // namespace cpu

}  // namespace d2k

// How far each row points away from a reference: 0.5 (1 - cosine), with torch's eps rule.
#pragma once

#include <cstdint>

#include "d2kernels/dtype.h"
#include "d2kernels/ragged.h"
#include "d2kernels/status.h"

namespace d2k {

// T: float, double, BFloat16 or Half; the reference has the type that T is summed in.
template <class T>
struct ForegroundScore {
    using V = ArithmeticOf<T>;
    Sequences sequences;
    const T* x;  // (total, width)
    int64_t width;
    const V* reference;  // (width)
    V eps;               // a smaller norm is replaced by it
};

namespace cpu {
// score (total), 0 on gap rows. `threads` 0 means all that may be used.
template <class T>
Status foreground_score(const ForegroundScore<T>& problem, T* score, int threads);
// grad (total); grad_x (total, width) and grad_reference (width), null for one that nobody asked for.
template <class T>
Status foreground_score_backward(const ForegroundScore<T>& problem, const T* grad, T* grad_x,
                                 ArithmeticOf<T>* grad_reference, int threads);
}  // namespace cpu

}  // namespace d2k

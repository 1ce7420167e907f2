// Attention-weighted sums of the rows of each sequence whose attention passes a threshold, for all columns of attention
// from one read of the rows.
#pragma once

#include <cstdint>

#include "d2kernels/dtype.h"
#include "d2kernels/ragged.h"
#include "d2kernels/status.h"

namespace d2k {

// T: float, double, BFloat16 or Half; attention and sums have the type that T is summed in.
template <class T>
struct AttentionPool {
    using V = ArithmeticOf<T>;
    Sequences sequences;
    const T* x;  // (total, width)
    int64_t width;
    const V* attention;  // (total, columns)
    int64_t columns;
    const V* thresholds;  // (columns)
    bool inclusive, normalize;

    bool selected(int64_t row, int64_t column) const {
        const V a = attention[row * columns + column], threshold = thresholds[column];
        return inclusive ? a >= threshold : a > threshold;
    }
};

// Null for a gradient that nobody asked for.
template <class T>
struct AttentionPoolGradients {
    using V = ArithmeticOf<T>;
    const T* grad;       // (sequences, columns, width)
    const V* grad_mass;  // (sequences, columns), or null for zeros
    const V* mass;       // (sequences, columns)
    T* grad_x;           // (total, width)
    V* grad_attention;   // (total, columns)
};

namespace cpu {
// embedding (sequences, columns, width), mass (sequences, columns). `threads` 0 means all that may be used.
template <class T>
Status attention_pool(const AttentionPool<T>& problem, T* embedding, ArithmeticOf<T>* mass, int threads);
template <class T>
Status attention_pool_backward(const AttentionPool<T>& problem, const AttentionPoolGradients<T>& gradients, int threads);
}  // namespace cpu

}  // namespace d2k

// Rows of a batch by the sequence that they belong to, and the arithmetic of whole rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "d2kernels/dtype.h"
#include "d2kernels/ragged.h"
#include "vectorize.h"

namespace d2k::cpu {

// Calls body(sequence or -1 for a gap, begin, end) over the rows [from, to), each of them once whatever the offsets.
template <class Body>
void each_stretch(const Sequences& sequences, int64_t from, int64_t to, const Body& body) {
    const int64_t* offsets = sequences.offsets;
    int64_t i = std::upper_bound(offsets, offsets + sequences.count, from) - offsets - 1;
    for (int64_t row = from; row < to;) {
        while (i + 1 < sequences.count && sequences[i + 1].first <= row) ++i;
        const int64_t next = i + 1 < sequences.count ? std::min(to, sequences[i + 1].first) : to;
        const Sequences::Range range = i < 0 ? Sequences::Range{0, 0} : sequences[i];
        const int64_t end = std::min(next, range.first + range.length);
        const bool inside = row >= range.first && row < end;
        body(inside ? i : -1, row, inside ? end : next);
        row = inside ? end : next;
    }
}

// 64 bytes of V, on any instruction set.
template <class V>
struct Lanes {
    static constexpr int64_t kCount = 64 / sizeof(V);
    typedef V Type __attribute__((vector_size(64)));
};

template <class T, class V = ArithmeticOf<T>>
D2K_INLINE void load(typename Lanes<V>::Type& to, const T* from) {
    if constexpr (sizeof(T) == sizeof(V)) {
        memcpy(&to, from, sizeof to);
    } else {
        V wide[Lanes<V>::kCount];
        for (int64_t l = 0; l < Lanes<V>::kCount; ++l) wide[l] = from[l];
        memcpy(&to, wide, sizeof to);
    }
}

// Sums x[j] y[j] in an order that is the same on every instruction set.
template <class T, class V = ArithmeticOf<T>>
D2K_INLINE V dot(const T* x, const V* y, int64_t size) {
    constexpr int64_t kCount = Lanes<V>::kCount, kParts = 4;
    typename Lanes<V>::Type sum[kParts] = {}, a, b;
    int64_t j = 0;
    for (; j + kParts * kCount <= size; j += kParts * kCount)
        for (int64_t p = 0; p < kParts; ++p) {
            load(a, x + j + p * kCount);
            load(b, y + j + p * kCount);
            sum[p] += a * b;
        }
    for (; j + kCount <= size; j += kCount) {
        load(a, x + j);
        load(b, y + j);
        sum[0] += a * b;
    }
    sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    V lanes[kCount];
    memcpy(lanes, &sum[0], sizeof lanes);
    for (int64_t half = kCount / 2; half > 0; half /= 2)
        for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    V rest = 0;
    for (; j < size; ++j) rest += static_cast<V>(x[j]) * y[j];
    return lanes[0] + rest;
}

// sum[j] += Σ over the rows weight[r] row[r][j], four rows at a time.
template <class T, class V = ArithmeticOf<T>>
D2K_INLINE void add_rows(V* __restrict sum, const T* const* rows, const V* weights, int64_t count, int64_t size) {
    int64_t r = 0;
    for (; r + 4 <= count; r += 4) {
        const T *a = rows[r], *b = rows[r + 1], *c = rows[r + 2], *d = rows[r + 3];
        const V p = weights[r], q = weights[r + 1], s = weights[r + 2], t = weights[r + 3];
        D2K_LANES
        for (int64_t j = 0; j < size; ++j)
            sum[j] += (p * static_cast<V>(a[j]) + q * static_cast<V>(b[j])) +
                      (s * static_cast<V>(c[j]) + t * static_cast<V>(d[j]));
    }
    for (; r < count; ++r) {
        const T* a = rows[r];
        const V p = weights[r];
        D2K_LANES
        for (int64_t j = 0; j < size; ++j) sum[j] += p * static_cast<V>(a[j]);
    }
}

}  // namespace d2k::cpu

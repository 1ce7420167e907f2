#include "columns.h"

#include "d2kernels/localize.h"
#include "vectorize.h"

namespace d2k::cpu {
namespace {

constexpr int32_t kFewLevels = 48;

template <class T>
D2K_INLINE void count(const T* scores, int64_t size, const T* levels, int32_t n, int32_t* out) {
    if (n > kFewLevels) {
        for (int64_t t = 0; t < size; ++t) {
            int32_t low = 0;
            for (int32_t left = n; left > 0;) {
                const int32_t half = left / 2 + 1, at = low + half;
                low = scores[t] > levels[at - 1] ? at : low;
                left = scores[t] > levels[at - 1] ? left - half : half - 1;
            }
            out[t] = low;
        }
        return;
    }
    for (int64_t t = 0; t < size; ++t) out[t] = 0;
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const T a = levels[i], b = levels[i + 1], c = levels[i + 2], d = levels[i + 3];
        D2K_LANES
        for (int64_t t = 0; t < size; ++t)
            out[t] += (scores[t] > a) + (scores[t] > b) + (scores[t] > c) + (scores[t] > d);
    }
    for (; i < n; ++i) {
        const T a = levels[i];
        D2K_LANES
        for (int64_t t = 0; t < size; ++t) out[t] += scores[t] > a;
    }
}

struct Table {
    const double* values;
    D2K_INLINE double operator()(int64_t j) const { return values[j]; }
};

template <bool pooled>
D2K_INLINE void score(const double* sums, int64_t length, const int64_t* start, const int64_t* end, int64_t count,
                      double margin, double* out) {
    D2K_LANES
    for (int64_t i = 0; i < count; ++i) out[i] = contrast(Table{sums}, start[i], end[i], length, margin, pooled);
}

}  // namespace

D2K_CLONES void count_levels(const float* scores, int64_t size, const float* levels, int32_t n, int32_t* out) {
    count(scores, size, levels, n, out);
}

D2K_CLONES void count_levels(const double* scores, int64_t size, const double* levels, int32_t n, int32_t* out) {
    count(scores, size, levels, n, out);
}

D2K_CLONES void contrasts(const double* sums, int64_t length, const int64_t* start, const int64_t* end, int64_t count,
                          double margin, bool pooled, double* out) {
    if (pooled) score<true>(sums, length, start, end, count, margin, out);
    else score<false>(sums, length, start, end, count, margin, out);
}

}  // namespace d2k::cpu

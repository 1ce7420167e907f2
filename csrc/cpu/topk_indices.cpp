#include "d2kernels/topk_indices.h"

#include <algorithm>
#include <new>
#include <vector>

#include "parallel.h"

namespace d2k::cpu {
namespace {

constexpr double kStep = 2;  // nanoseconds a score

template <class V>
struct Entry {
    V score;
    int64_t row;
};

// By falling score, NaN first, then by row.
template <class V>
bool before(const Entry<V>& a, const Entry<V>& b) {
    const bool nan = a.score != a.score, other = b.score != b.score;
    if (nan != other) return nan;
    if (!nan && a.score != b.score) return a.score > b.score;
    return a.row < b.row;
}

}  // namespace

template <class T>
Status topk_indices(const TopkIndices<T>& problem, int64_t* out, int threads) {
    using V = ArithmeticOf<T>;
    const int64_t n = problem.sequences.count, classes = problem.classes, most = problem.most;
    const double steps = kStep * static_cast<double>(problem.sequences.total) * static_cast<double>(classes);
    return parallel_for(n, std::max<int64_t>(1, n / 32), steps, threads, [&](int64_t begin, int64_t end) {
        std::vector<Entry<V>> entries;
        for (int64_t i = begin; i < end; ++i) {
            const auto range = problem.sequences[i];
            const int64_t k = std::clamp<int64_t>(problem.k[i], 0, std::min(range.length, most));
            entries.resize(range.length);
            for (int64_t c = 0; c < classes; ++c) {
                const T* const column = problem.scores + range.first * classes + c;
                for (int64_t t = 0; t < range.length; ++t) entries[t] = {static_cast<V>(column[t * classes]), t};
                std::partial_sort(entries.begin(), entries.begin() + k, entries.end(), before<V>);
                int64_t* const row = out + (i * classes + c) * most;
                for (int64_t j = 0; j < k; ++j) row[j] = entries[j].row;
                std::fill(row + k, row + most, int64_t{-1});
            }
        }
    });
}

#define D2K_INSTANTIATE(T) template Status topk_indices<T>(const TopkIndices<T>&, int64_t*, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

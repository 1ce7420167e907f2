#include "d2kernels/lowest_attention.h"

#include <algorithm>
#include <limits>

#include "parallel.h"
#include "vectorize.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kTile = 64;
constexpr double kSteps = 0.3;  // nanoseconds a row

template <class T>
D2K_INLINE int64_t lowest(const T* x, int64_t size) {
    using V = ArithmeticOf<T>;
    const auto below = [](V a, V b) { return a < b || (a != a && b == b); };
    V least[kTile];
    std::fill_n(least, kTile, std::numeric_limits<V>::infinity());
    int64_t t = 0;
    for (; t + kTile <= size; t += kTile) {
        D2K_LANES
        for (int64_t j = 0; j < kTile; ++j) {
            const V v = x[t + j];
            least[j] = below(v, least[j]) ? v : least[j];
        }
    }
    V all = size > t ? static_cast<V>(x[t]) : least[0];
    for (; t < size; ++t) all = below(x[t], all) ? static_cast<V>(x[t]) : all;
    for (int64_t j = 0; j < kTile; ++j) all = below(least[j], all) ? least[j] : all;
    for (t = 0; t + kTile <= size; t += kTile) {
        int some = 0;
        for (int64_t j = 0; j < kTile; ++j) some |= !below(all, x[t + j]);
        if (some) break;
    }
    while (t < size && below(all, x[t])) ++t;
    return t;
}

#define D2K_DEFINE(T) \
    D2K_CLONES_OF(T) D2K_FLATTEN int64_t lowest_row(const T* x, int64_t size) { return lowest(x, size); }
D2K_DEFINE(float)
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)

}  // namespace

template <class T>
Status lowest_attention(const Sequences& sequences, const T* attention, int64_t* place, int threads) {
    const double steps = kSteps * static_cast<double>(sequences.total);
    const int64_t chunk = std::max<int64_t>(1, sequences.count / 256);
    return parallel_for(sequences.count, chunk, steps, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const auto range = sequences[i];
            place[i] = range.length == 0 ? -1 : lowest_row(attention + range.first, range.length);
        }
    });
}

#define D2K_INSTANTIATE(T) template Status lowest_attention<T>(const Sequences&, const T*, int64_t*, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

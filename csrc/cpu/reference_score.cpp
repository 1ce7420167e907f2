#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "d2kernels/head.h"
#include "parallel.h"
#include "rows.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kRows = 64;    // rows of a work item
constexpr double kSteps = 0.15;  // nanoseconds a value

// Sums of squares that are neither infinite nor lost to underflow.
D2K_INLINE bool safe(double squares) { return squares > 1e-290 && squares < 1e290; }

// 2^-e for values below 2^e, of any size; NaN and infinity stay what they are.
template <class T>
double down_to_one(const T* x, int64_t count) {
    double largest = 0;
    for (int64_t j = 0; j < count; ++j) {
        const double v = std::fabs(static_cast<double>(static_cast<ArithmeticOf<T>>(x[j])));
        if (!(v <= largest)) largest = v;
    }
    int exponent = 0;
    if (largest > 0 && largest <= std::numeric_limits<double>::max()) std::frexp(largest, &exponent);
    return std::ldexp(1.0, -std::max(exponent, -1000));  // 2^1074 would be none
}

// The cosine of a row whose squares are not safe.
template <class T>
D2K_NOINLINE double scaled_cosine(const T* z, const double* unit, int64_t streams, int64_t width) {
    const double scale = down_to_one(z, streams * width), share = 1 / static_cast<double>(streams);
    double along = 0, square = 0;
    for (int64_t j = 0; j < width; ++j) {
        double x = 0;
        for (int64_t s = 0; s < streams; ++s)
            x += static_cast<double>(static_cast<ArithmeticOf<T>>(z[s * width + j])) * scale;
        along += x * unit[j];
        square += x * x;
    }
    return along * share / std::max(std::sqrt(square) * share, 1e-8 * scale);
}

// λ' of rows of one sequence.
template <class T>
D2K_INLINE void score(const ReferenceScore<T>& problem, const double* unit, int64_t from, int64_t to,
                      ArithmeticOf<T>* out) {
    using V = ArithmeticOf<T>;
    constexpr int64_t kLanes = 32;
    const int64_t width = problem.width, streams = problem.streams, whole = width / kLanes * kLanes;
    const double share = 1 / static_cast<double>(streams);
    for (int64_t t = from; t < to; ++t) {
        const T* const z = problem.z + t * streams * width;
        double along[kLanes] = {}, square[kLanes] = {};
        const auto add = [&](int64_t j, int64_t lane) {
            double x = static_cast<double>(static_cast<V>(z[j]));
            for (int64_t s = 1; s < streams; ++s) x += static_cast<double>(static_cast<V>(z[s * width + j]));
            along[lane] += x * unit[j];
            square[lane] += x * x;
        };
        if (streams == 2) {
            const T *__restrict a = z, *__restrict b = z + width;
            for (int64_t j = 0; j < whole; j += kLanes) {
                D2K_LANES
                for (int64_t l = 0; l < kLanes; ++l) {
                    const double x = static_cast<double>(static_cast<V>(a[j + l])) +
                                     static_cast<double>(static_cast<V>(b[j + l]));
                    along[l] += x * unit[j + l];
                    square[l] += x * x;
                }
            }
        } else {
            for (int64_t j = 0; j < whole; j += kLanes) {
                D2K_LANES
                for (int64_t l = 0; l < kLanes; ++l) add(j + l, l);
            }
        }
        for (int64_t half = kLanes / 2; half > 0; half /= 2)
            for (int64_t l = 0; l < half; ++l) {
                along[l] += along[l + half];
                square[l] += square[l + half];
            }
        for (int64_t j = whole; j < width; ++j) add(j, 0);
        const double norm = std::sqrt(square[0]) * share;
        const double cosine = safe(square[0]) ? along[0] * share / (norm < 1e-8 ? 1e-8 : norm)
                                              : scaled_cosine(z, unit, streams, width);
        out[t] = static_cast<V>(0.5 * (1 - cosine));
    }
}

#define D2K_DEFINE(T)                                                                                                \
    D2K_CLONES_OF(T) D2K_FLATTEN void score_rows(const ReferenceScore<T>& problem, const double* unit, int64_t from, \
                                                 int64_t to, ArithmeticOf<T>* out) {                                 \
        score(problem, unit, from, to, out);                                                                         \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)
#undef D2K_DEFINE

}  // namespace

template <class T>
Status reference_score(const ReferenceScore<T>& problem, ArithmeticOf<T>* updated, ArithmeticOf<T>* out, int threads) {
    using V = ArithmeticOf<T>;
    const int64_t width = problem.width, n = problem.sequences.count;
    std::vector<double> mean(width);
    int64_t counted = 0;
    for (int64_t i = 0; i < n; ++i) {
        const bool* labels = problem.labels + i * problem.classes;
        if (problem.sequences.lengths[i] < problem.min_snippets || !(problem.mass[2 * i + 1] > V(0)) ||
            std::none_of(labels, labels + problem.classes, [](bool x) { return x; }))
            continue;
        ++counted;
        const V* const candidate = problem.candidate + i * problem.stride;
        for (int64_t j = 0; j < width; ++j) mean[j] += static_cast<double>(candidate[j]);
    }
    double square = 0;
    for (int64_t j = 0; j < width; ++j) {
        const double before = problem.reference[j];
        const double now = problem.momentum * before + (1 - problem.momentum) * mean[j] / static_cast<double>(counted);
        updated[j] = static_cast<V>(counted ? now : before);
        square += static_cast<double>(updated[j]) * static_cast<double>(updated[j]);
    }
    if (!out) return kOk;
    const double scale = safe(square) ? 1 : down_to_one(updated, width);
    if (scale != 1) {
        square = 0;
        for (int64_t j = 0; j < width; ++j) {
            const double x = static_cast<double>(updated[j]) * scale;
            square += x * x;
        }
    }
    const double norm = std::max(std::sqrt(square), 1e-8 * scale);
    std::vector<double> unit(width);
    for (int64_t j = 0; j < width; ++j) unit[j] = static_cast<double>(updated[j]) * scale / norm;
    const int64_t total = problem.sequences.total, blocks = (total + kRows - 1) / kRows;
    const int64_t chunk = std::max<int64_t>(1, blocks / 256);
    const double steps = kSteps * static_cast<double>(total * problem.streams * width);
    return parallel_for(blocks, chunk, steps, threads, [&](int64_t begin, int64_t end) {
        each_stretch(problem.sequences, begin * kRows, std::min(total, end * kRows),
                     [&](int64_t i, int64_t from, int64_t to) {
                         if (i < 0) std::fill(out + from, out + to, V(0));
                         else score_rows(problem, unit.data(), from, to, out);
                     });
    });
}

#define D2K_INSTANTIATE(T) \
    template Status reference_score<T>(const ReferenceScore<T>&, ArithmeticOf<T>*, ArithmeticOf<T>*, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

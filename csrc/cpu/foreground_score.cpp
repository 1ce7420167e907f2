#include "d2kernels/foreground_score.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.h"
#include "rows.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kRows = 64;        // rows of a work item, and of one partial sum of the reference's gradient
constexpr int64_t kMostParts = 256;  // partial sums kept: more rows go into each of them
constexpr double kSteps = 0.1;       // nanoseconds a value

template <class V>
struct Direction {
    std::vector<V> unit;  // reference / max(norm, eps)
    double norm;
};

template <class V>
struct Measured {
    V cosine, norm;
    bool plain;  // else neither of them nor what is made from them by V's own arithmetic is to be had
};

// Squares between these, and what gradients divide by them, lie far inside the range of V.
template <class V>
constexpr V kLeast = sizeof(V) == 8 ? V(1e-150) : V(1e-18);
template <class V>
constexpr V kMost = sizeof(V) == 8 ? V(1e150) : V(1e18);

// A row of any size in float64, times a power of two: its norm, and its product with the unit reference.
struct Scaled {
    double scale, norm, along;

    double limit(double eps) const { return std::max(norm, eps * scale); }
    double cosine(double eps) const { return along / limit(eps); }
};

template <class T>
D2K_NOINLINE Scaled scaled(const T* x, const ArithmeticOf<T>* unit, int64_t width) {
    using V = ArithmeticOf<T>;
    double largest = 0;
    for (int64_t j = 0; j < width; ++j) {
        const double v = std::fabs(static_cast<double>(static_cast<V>(x[j])));
        if (!(v <= largest)) largest = v;  // NaN stays
    }
    Scaled out{1, 0, 0};
    if (largest == 0) return out;
    int exponent = 0;
    if (largest <= std::numeric_limits<double>::max()) std::frexp(largest, &exponent);
    out.scale = std::ldexp(1.0, -std::max(exponent, -1000));  // 2^1074 would be none
    for (int64_t j = 0; j < width; ++j) {
        const double v = static_cast<double>(static_cast<V>(x[j])) * out.scale;
        out.norm += v * v;
        out.along += v * static_cast<double>(unit[j]);
    }
    out.norm = std::sqrt(out.norm);
    return out;
}

template <class T, class V = ArithmeticOf<T>>
D2K_INLINE Measured<V> measure(const T* x, const V* unit, int64_t width, V eps) {
    constexpr int64_t kCount = Lanes<V>::kCount, kParts = 4;
    typename Lanes<V>::Type along[kParts] = {}, square[kParts] = {}, a, b;
    int64_t j = 0;
    for (; j + kParts * kCount <= width; j += kParts * kCount)
        for (int64_t p = 0; p < kParts; ++p) {
            load(a, x + j + p * kCount);
            load(b, unit + j + p * kCount);
            along[p] += a * b;
            square[p] += a * a;
        }
    for (; j + kCount <= width; j += kCount) {
        load(a, x + j);
        load(b, unit + j);
        along[0] += a * b;
        square[0] += a * a;
    }
    along[0] = (along[0] + along[1]) + (along[2] + along[3]);
    square[0] = (square[0] + square[1]) + (square[2] + square[3]);
    V sum[2 * kCount];
    memcpy(sum, &along[0], sizeof along[0]);
    memcpy(sum + kCount, &square[0], sizeof square[0]);
    for (int64_t half = kCount / 2; half > 0; half /= 2)
        for (int64_t l = 0; l < half; ++l) {
            sum[l] += sum[l + half];
            sum[kCount + l] += sum[kCount + l + half];
        }
    V dot = sum[0], squares = sum[kCount];
    for (; j < width; ++j) {
        const V v = x[j];
        dot += v * unit[j];
        squares += v * v;
    }
    const V norm = std::sqrt(squares);
    return {dot / (norm < eps ? eps : norm), norm, squares > kLeast<V> && squares < kMost<V>};
}

template <class T>
D2K_INLINE void score(const ForegroundScore<T>& problem, const ArithmeticOf<T>* unit, int64_t from, int64_t to, T* out) {
    using V = ArithmeticOf<T>;
    for (int64_t t = from; t < to; ++t) {
        const T* x = problem.x + t * problem.width;
        const auto row = measure(x, unit, problem.width, problem.eps);
        const V cosine =
            row.plain ? row.cosine : static_cast<V>(scaled(x, unit, problem.width).cosine(problem.eps));
        out[t] = stored<T>(V(0.5) * (V(1) - cosine));
    }
}

// As `differentiate` below, of one row of any size.
template <class T>
D2K_NOINLINE void differentiate_scaled(const ForegroundScore<T>& problem, const ArithmeticOf<T>* unit, const T* x,
                                       T grad, T* out, ArithmeticOf<T>* along, double* back) {
    using V = ArithmeticOf<T>;
    const Scaled row = scaled(x, unit, problem.width);
    const double half = -0.5 * static_cast<double>(static_cast<V>(grad)), limit = row.limit(problem.eps);
    const double cosine = row.cosine(problem.eps);
    const double radial = row.norm != 0 ? -half * cosine / row.norm : 0;
    for (int64_t j = 0; j < problem.width; ++j) {
        const double v = static_cast<double>(static_cast<V>(x[j])) * row.scale;
        if (out) {
            const double slope = (half * static_cast<double>(unit[j]) + radial * v) / limit;
            out[j] = stored<T>(static_cast<V>(slope * row.scale));
        }
        if (along) along[j] += static_cast<V>(half * (v / limit));
    }
    if (along) *back += half * cosine;
}

// Adds the rows' parts of the reference's gradient to along (width), Σ of x over the row's norm, and to back.
template <class T>
D2K_INLINE void differentiate(const ForegroundScore<T>& problem, const ArithmeticOf<T>* unit, const T* grad,
                              int64_t from, int64_t to, T* grad_x, ArithmeticOf<T>* along, double* back) {
    using V = ArithmeticOf<T>;
    const int64_t width = problem.width;
    for (int64_t t = from; t < to; ++t) {
        const T* __restrict x = problem.x + t * width;
        const auto [cosine, norm, plain] = measure(x, unit, width, problem.eps);
        if (!plain) {
            differentiate_scaled(problem, unit, x, grad[t], grad_x ? grad_x + t * width : nullptr, along, back);
            continue;
        }
        const V half = V(-0.5) * static_cast<V>(grad[t]), slope = half / (norm < problem.eps ? problem.eps : norm);
        if (grad_x) {
            // As in torch, eps replaces a small norm but is not differentiated; the norm's own gradient at 0 is 0.
            const V radial = norm != V(0) ? -slope * cosine / norm : V(0);
            T* __restrict out = grad_x + t * width;
            D2K_LANES
            for (int64_t j = 0; j < width; ++j) out[j] = stored<T>(slope * unit[j] + radial * static_cast<V>(x[j]));
        }
        if (along) {
            V* __restrict sum = along;
            D2K_LANES
            for (int64_t j = 0; j < width; ++j) sum[j] += slope * static_cast<V>(x[j]);
            *back += half * cosine;
        }
    }
}

#define D2K_DEFINE(T)                                                                                                \
    D2K_CLONES D2K_FLATTEN void score_rows(const ForegroundScore<T>& problem, const ArithmeticOf<T>* unit,           \
                                           int64_t from, int64_t to, T* out) {                                       \
        score(problem, unit, from, to, out);                                                                         \
    }                                                                                                                \
    D2K_CLONES D2K_FLATTEN void differentiate_rows(const ForegroundScore<T>& problem, const ArithmeticOf<T>* unit,  \
                                                   const T* grad, int64_t from, int64_t to, T* grad_x,               \
                                                   ArithmeticOf<T>* along, double* back) {                           \
        differentiate(problem, unit, grad, from, to, grad_x, along, back);                                           \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)

template <class T, class V = ArithmeticOf<T>>
Direction<V> direction(const ForegroundScore<T>& problem) {
    const std::vector<V> zero(problem.width);
    const Scaled of = scaled(problem.reference, zero.data(), problem.width);
    Direction<V> out{std::vector<V>(problem.reference, problem.reference + problem.width), of.norm / of.scale};
    const double limit = of.limit(problem.eps);
    for (V& v : out.unit) v = static_cast<V>(static_cast<double>(v) * of.scale / limit);
    return out;
}

template <class T>
double steps(const ForegroundScore<T>& problem) {
    return kSteps * static_cast<double>(problem.sequences.total) * static_cast<double>(problem.width);
}

}  // namespace

template <class T>
Status foreground_score(const ForegroundScore<T>& problem, T* out, int threads) {
    const auto unit = direction(problem).unit;
    const int64_t total = problem.sequences.total, blocks = (total + kRows - 1) / kRows;
    const int64_t chunk = std::max<int64_t>(1, blocks / 256);
    return parallel_for(blocks, chunk, steps(problem), threads, [&](int64_t begin, int64_t end) {
        each_stretch(problem.sequences, begin * kRows, std::min(total, end * kRows),
                     [&](int64_t i, int64_t from, int64_t to) {
                         if (i < 0) std::fill(out + from, out + to, stored<T>(0));
                         else score_rows(problem, unit.data(), from, to, out);
                     });
    });
}

template <class T>
Status foreground_score_backward(const ForegroundScore<T>& problem, const T* grad, T* grad_x,
                                 ArithmeticOf<T>* grad_reference, int threads) {
    using V = ArithmeticOf<T>;
    const auto [unit, norm] = direction(problem);
    const double limit = std::max(norm, static_cast<double>(problem.eps));
    const V* ahead = unit.data();
    const int64_t total = problem.sequences.total, width = problem.width;
    // The rows' number alone says how they are divided, so the sums do not depend on the threads.
    const int64_t blocks = (total + kRows - 1) / kRows, share = std::max<int64_t>(1, (blocks + kMostParts - 1) / kMostParts);
    const int64_t parts = (blocks + share - 1) / share;
    std::vector<V> sums(grad_reference ? parts * width : 0);
    std::vector<double> backs(parts);
    const Status status = parallel_for(parts, 1, 2 * steps(problem), threads, [&](int64_t begin, int64_t end) {
        std::vector<V> along(grad_reference ? width : 0);
        for (int64_t p = begin; p < end; ++p)
            for (int64_t b = p * share; b < std::min(blocks, (p + 1) * share); ++b) {
                std::fill(along.begin(), along.end(), V(0));
                each_stretch(problem.sequences, b * kRows, std::min(total, (b + 1) * kRows),
                             [&](int64_t i, int64_t from, int64_t to) {
                                 if (i >= 0) {
                                     differentiate_rows(problem, ahead, grad, from, to, grad_x,
                                                        grad_reference ? along.data() : nullptr, &backs[p]);
                                 } else if (grad_x) {
                                     std::fill(grad_x + from * width, grad_x + to * width, stored<T>(0));
                                 }
                             });
                for (int64_t j = 0; j < static_cast<int64_t>(along.size()); ++j) sums[p * width + j] += along[j];
            }
    });
    if (!grad_reference) return status;
    double back = 0;
    for (const double b : backs) back += b;
    for (int64_t j = 0; j < width; ++j) {
        V sum = 0;
        for (int64_t p = 0; p < parts; ++p) sum += sums[p * width + j];
        const double direct = norm != 0 ? static_cast<double>(problem.reference[j]) / norm : 0;
        grad_reference[j] = static_cast<V>((static_cast<double>(sum) - back * direct) / limit);
    }
    return status;
}

#define D2K_INSTANTIATE(T)                                                                                 \
    template Status foreground_score<T>(const ForegroundScore<T>&, T*, int);                               \
    template Status foreground_score_backward<T>(const ForegroundScore<T>&, const T*, T*, ArithmeticOf<T>*, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

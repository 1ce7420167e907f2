#include "d2kernels/head.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.h"
#include "rows.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kPart = 256;   // rows of a work item, all of one sequence
constexpr int64_t kRows = 64;    // rows summed in one go; partial sums bound the rounding error
constexpr double kSteps = 0.15;  // nanoseconds a value

// Rows of one sequence: sums are made of each part, whatever the number of threads.
struct Part {
    int64_t sequence, first, last;
};

std::vector<Part> parts_of(const Sequences& sequences) {
    std::vector<Part> parts;
    for (int64_t i = 0; i < sequences.count; ++i) {
        const auto range = sequences[i];
        for (int64_t t = 0; t < range.length; t += kPart)
            parts.push_back({i, range.first + t, range.first + std::min(t + kPart, range.length)});
    }
    return parts;
}

// Calls clear(begin, end) for the rows outside every sequence.
template <class Clear>
void each_gap(const Sequences& sequences, const Clear& clear) {
    each_stretch(sequences, 0, sequences.total, [&](int64_t i, int64_t from, int64_t to) {
        if (i < 0) clear(from, to);
    });
}

// 1 / (1 + e^-x) of 16 floats: a polynomial, with the same bits on every machine.
D2K_INLINE Lanes<float>::Type sigmoid(Lanes<float>::Type x) {
    typedef Lanes<float>::Type F;
    typedef int32_t I __attribute__((vector_size(sizeof(F))));
    const F zero{}, one = zero + 1.0f;
    const F far = x < zero ? x : -x, y = far < -87.0f ? zero - 87.0f : far;
    const I whole = __builtin_convertvector(y * 1.44269504f - 0.5f, I);
    const F n = __builtin_convertvector(whole, F), r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    F p = zero + 1.9875691500e-4f;
    for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = p * r + c;
    const I power = (whole + 127) << 23;
    F scale;
    memcpy(&scale, &power, sizeof scale);
    const F e = far < -87.0f ? zero : ((p * (r * r) + r) + 1.0f) * scale;
    const F large = one / (one + e), value = x < zero ? e * large : large;
    return x == x ? value : x;
}

template <class T>
D2K_INLINE void activate(const T* logits, int64_t count, ArithmeticOf<T>* out) {
    using V = ArithmeticOf<T>;
    if constexpr (sizeof(V) == sizeof(double)) {
        for (int64_t j = 0; j < count; ++j) out[j] = 1 / (1 + std::exp(-static_cast<double>(logits[j])));
    } else {
        constexpr int64_t kCount = Lanes<V>::kCount;
        typename Lanes<V>::Type x;
        int64_t j = 0;
        for (; j + kCount <= count; j += kCount) {
            load(x, logits + j);
            x = sigmoid(x);
            memcpy(out + j, &x, sizeof x);
        }
        if (j < count) {
            T rest[kCount] = {};
            std::copy_n(logits + j, count - j, rest);
            load(x, rest);
            x = sigmoid(x);
            memcpy(out + j, &x, (count - j) * sizeof(V));
        }
    }
}

template <class T>
struct Work {
    using V = ArithmeticOf<T>;
    std::vector<V> activated, partial, weights, row;
    std::vector<const T*> rows;
    std::vector<int64_t> own;

    void labels_of(const Head<T>& problem, int64_t sequence) {
        own.clear();
        for (int64_t c = 0; problem.labels && c < problem.classes; ++c)
            if (problem.labels[sequence * problem.classes + c]) own.push_back(c);
    }
};

template <class V>
D2K_INLINE V larger_or_nan(V a, V b) { return b > a || b != b ? b : a; }

// What one part adds to its sequence.
template <class V>
struct Sums {
    std::vector<V> embedding;  // (2, width)
    double mass[2] = {0, 0};
    int64_t lowest = -1;
    V least = 0;
};

template <class T>
D2K_INLINE void pool(const Head<T>& problem, const HeadOut<T>& out, const Part& part, Sums<ArithmeticOf<T>>& sums,
                     Work<T>& work) {
    using V = ArithmeticOf<T>;
    const int64_t streams = problem.streams, width = problem.width, classes = problem.classes;
    const int64_t wide = streams * classes, share = kRows * streams;
    work.labels_of(problem, part.sequence);
    work.activated.resize(kRows * wide);
    work.partial.resize(width);
    work.rows.resize(2 * share);
    work.weights.resize(2 * share);
    sums.embedding.assign(2 * width, V(0));
    for (int64_t from = part.first; from < part.last; from += kRows) {
        const int64_t to = std::min(from + kRows, part.last);
        activate(problem.logits + from * wide, (to - from) * wide, work.activated.data());
        int64_t counts[2] = {0, 0};
        for (int64_t t = from; t < to; ++t) {
            const V* __restrict each = work.activated.data() + (t - from) * wide;
            V* __restrict mean = out.activations + t * classes;
            for (int64_t c = 0; c < classes; ++c) mean[c] = each[c];
            for (int64_t s = 1; s < streams; ++s)
                for (int64_t c = 0; c < classes; ++c) mean[c] += each[s * classes + c];
            if (streams > 1)
                for (int64_t c = 0; c < classes; ++c) mean[c] /= static_cast<V>(streams);
            V best = mean[0], own = work.own.empty() ? V(0) : mean[work.own[0]];
            for (int64_t c = 1; c < classes; ++c) best = larger_or_nan(best, mean[c]);
            for (const int64_t c : work.own) own = larger_or_nan(own, mean[c]);
            out.attention[t] = best;
            if (out.own) out.own[t] = own;
            if (sums.lowest < 0 || best < sums.least || (best != best && sums.least == sums.least)) {
                sums.lowest = t;
                sums.least = best;
            }
            const bool chosen[2] = {problem.foreground(best), problem.background(best)};
            const V weight[2] = {best, V(1) - best};
            for (int side = 0; side < 2; ++side) {
                if (!chosen[side]) continue;
                sums.mass[side] += weight[side];
                for (int64_t s = 0; s < streams; ++s) {
                    const int64_t at = side * share + counts[side]++;
                    work.rows[at] = problem.z + (t * streams + s) * width;
                    work.weights[at] = weight[side];
                }
            }
        }
        for (int side = 0; side < 2; ++side) {
            if (counts[side] == 0) continue;
            V* __restrict partial = work.partial.data();
            V* __restrict sum = sums.embedding.data() + side * width;
            std::fill_n(partial, width, V(0));
            add_rows(partial, work.rows.data() + side * share, work.weights.data() + side * share, counts[side], width);
            D2K_LANES
            for (int64_t j = 0; j < width; ++j) sum[j] += partial[j];
        }
    }
}

// Per sequence: each side's gradient by a row of a stream and by an attention of 1, and what all of a side's rows share.
template <class V>
struct Slopes {
    std::vector<V> table;     // (sequences, 2, width)
    std::vector<V> constant;  // (sequences, 2)
};

template <class T>
D2K_INLINE void spread(const Head<T>& problem, const HeadOut<T>& saved, const ArithmeticOf<T>* grad, int64_t at,
                       Slopes<ArithmeticOf<T>>& slopes) {
    using V = ArithmeticOf<T>;
    const int64_t width = problem.width;
    const V mass = problem.normalize ? saved.mass[at] : V(1);
    V* __restrict table = slopes.table.data() + at * width;
    const V* __restrict g = grad + at * width;
    const V factor = mass != V(0) ? V(1) / (mass * static_cast<V>(problem.streams)) : V(0);
    D2K_LANES
    for (int64_t j = 0; j < width; ++j) table[j] = g[j] * factor;
    const V along = dot(saved.embedding + at * width, table, width) * static_cast<V>(problem.streams);
    slopes.constant[at] = problem.normalize ? along : V(0);
}

template <class T>
D2K_INLINE void differentiate(const Head<T>& problem, const HeadOut<T>& saved, const HeadGradients<T>& gradients,
                              const Part& part, const Slopes<ArithmeticOf<T>>& slopes, Work<T>& work) {
    using V = ArithmeticOf<T>;
    const int64_t streams = problem.streams, width = problem.width, classes = problem.classes;
    const int64_t wide = streams * classes, i = part.sequence;
    const bool pooled = gradients.embedding != nullptr;
    const V* const table = pooled ? slopes.table.data() + 2 * i * width : nullptr;
    work.labels_of(problem, i);
    work.activated.resize(kRows * wide);
    work.row.resize(classes);
    for (int64_t from = part.first; from < part.last; from += kRows) {
        const int64_t to = std::min(from + kRows, part.last);
        activate(problem.logits + from * wide, (to - from) * wide, work.activated.data());
        for (int64_t t = from; t < to; ++t) {
            const V attention = saved.attention[t];
            const T* const z = problem.z + t * streams * width;
            T* const to_z = gradients.z + t * streams * width;
            const bool chosen[2] = {pooled && problem.foreground(attention), pooled && problem.background(attention)};
            V by_attention = gradients.attention ? gradients.attention[t] : V(0);
            for (int side = 0; side < 2; ++side) {
                if (!chosen[side]) continue;
                V along = 0;
                for (int64_t s = 0; s < streams; ++s) along += dot(z + s * width, table + side * width, width);
                along -= slopes.constant[2 * i + side];
                by_attention += side ? -along : along;
            }
            if (chosen[0] || chosen[1]) {
                const V f = chosen[0] ? attention : V(0), b = chosen[1] ? V(1) - attention : V(0);
                const V *__restrict front = table, *__restrict back = table + width;
                const bool one = chosen[0] != chosen[1];
                const V* __restrict only = chosen[0] ? front : back;
                const V weight = chosen[0] ? f : b;
                for (int64_t s = 0; s < streams; ++s) {
                    T* __restrict dz = to_z + s * width;
                    if (one) {
                        D2K_LANES
                        for (int64_t j = 0; j < width; ++j) dz[j] = stored<T>(weight * only[j]);
                    } else {
                        D2K_LANES
                        for (int64_t j = 0; j < width; ++j) dz[j] = stored<T>(f * front[j] + b * back[j]);
                    }
                }
            } else {
                std::fill_n(to_z, streams * width, stored<T>(0));
            }

            // Ties share a maximum's gradient, as in torch.amax.
            const V* __restrict mean = saved.activations + t * classes;
            V* __restrict row = work.row.data();
            int64_t ties = 0, own_ties = 0;
            for (int64_t c = 0; c < classes; ++c) ties += mean[c] == attention;
            const V each = by_attention / static_cast<V>(ties > 0 ? ties : 1);
            for (int64_t c = 0; c < classes; ++c)
                row[c] = (gradients.activations ? gradients.activations[t * classes + c] : V(0)) +
                         (mean[c] == attention ? each : V(0));
            const V by_own = gradients.own ? gradients.own[t] : V(0);
            if (by_own != V(0)) {
                for (const int64_t c : work.own) own_ties += mean[c] == saved.own[t];
                for (const int64_t c : work.own)
                    if (mean[c] == saved.own[t]) row[c] += by_own / static_cast<V>(own_ties);
            }
            for (int64_t c = 0; c < classes; ++c) row[c] /= static_cast<V>(streams);
            for (int64_t s = 0; s < streams; ++s) {
                const V* __restrict value = work.activated.data() + (t - from) * wide + s * classes;
                T* __restrict dl = gradients.logits + t * wide + s * classes;
                for (int64_t c = 0; c < classes; ++c) dl[c] = stored<T>(row[c] * (value[c] * (V(1) - value[c])));
            }
        }
    }
}

#define D2K_DEFINE(T)                                                                                               \
    D2K_CLONES_OF(T) D2K_FLATTEN void pool_part(const Head<T>& problem, const HeadOut<T>& out, const Part& part,   \
                                          Sums<ArithmeticOf<T>>& sums, Work<T>& work) {                            \
        pool(problem, out, part, sums, work);                                                                      \
    }                                                                                                               \
    D2K_CLONES_OF(T) D2K_FLATTEN void spread_one(const Head<T>& problem, const HeadOut<T>& saved,                  \
                                           const ArithmeticOf<T>* grad, int64_t at,                                 \
                                           Slopes<ArithmeticOf<T>>& slopes) {                                      \
        spread(problem, saved, grad, at, slopes);                                                                  \
    }                                                                                                               \
    D2K_CLONES_OF(T) D2K_FLATTEN void differentiate_part(const Head<T>& problem, const HeadOut<T>& saved,         \
                                                   const HeadGradients<T>& gradients, const Part& part,           \
                                                   const Slopes<ArithmeticOf<T>>& slopes, Work<T>& work) {        \
        differentiate(problem, saved, gradients, part, slopes, work);                                              \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)
#undef D2K_DEFINE

template <class T>
double steps(const Sequences& sequences, const T& problem) {
    const double values = static_cast<double>(problem.streams) * static_cast<double>(problem.width + 8 * problem.classes);
    return kSteps * static_cast<double>(sequences.total) * values;
}

}  // namespace

template <class T>
Status head(const Head<T>& problem, const HeadOut<T>& out, int threads) {
    using V = ArithmeticOf<T>;
    const std::vector<Part> parts = parts_of(problem.sequences);
    const auto count = static_cast<int64_t>(parts.size());
    const int64_t width = problem.width, classes = problem.classes;
    std::vector<Sums<V>> sums(count);
    each_gap(problem.sequences, [&](int64_t from, int64_t to) {
        std::fill(out.activations + from * classes, out.activations + to * classes, V(0));
        std::fill(out.attention + from, out.attention + to, V(0));
        if (out.own) std::fill(out.own + from, out.own + to, V(0));
    });
    const Status status =
        parallel_for(count, 1, steps(problem.sequences, problem), threads, [&](int64_t begin, int64_t end) {
            Work<T> work;
            for (int64_t i = begin; i < end; ++i) pool_part(problem, out, parts[i], sums[i], work);
        });
    if (status != kOk) return status;
    const V streams = static_cast<V>(problem.streams);
    int64_t at = 0;
    for (int64_t i = 0; i < problem.sequences.count; ++i) {
        V* const embedding = out.embedding + 2 * i * width;
        std::fill_n(embedding, 2 * width, V(0));
        double mass[2] = {0, 0};
        int64_t lowest = -1;
        V least = 0;
        for (; at < count && parts[at].sequence == i; ++at) {
            const Sums<V>& part = sums[at];
            for (int64_t j = 0; j < 2 * width; ++j) embedding[j] += part.embedding[j];
            for (int side = 0; side < 2; ++side) mass[side] += part.mass[side];
            if (lowest < 0 || part.least < least || (part.least != part.least && least == least)) {
                lowest = part.lowest;
                least = part.least;
            }
        }
        for (int side = 0; side < 2; ++side) {
            const V whole = static_cast<V>(mass[side]);
            out.mass[2 * i + side] = whole;
            const V divisor = problem.normalize ? whole * streams : streams;
            for (int64_t j = 0; j < width; ++j) {
                V& x = embedding[side * width + j];
                x = divisor != V(0) ? x / divisor : V(0);
            }
        }
        if (!out.lowest) continue;
        V* const x = out.lowest + i * width;
        std::fill_n(x, width, V(0));
        if (lowest < 0) continue;
        for (int64_t s = 0; s < problem.streams; ++s)
            for (int64_t j = 0; j < width; ++j) x[j] += static_cast<V>(problem.z[(lowest * problem.streams + s) * width + j]);
        for (int64_t j = 0; j < width; ++j) x[j] /= streams;
    }
    return kOk;
}

template <class T>
Status head_backward(const Head<T>& problem, const HeadOut<T>& saved, const HeadGradients<T>& gradients, int threads) {
    using V = ArithmeticOf<T>;
    const std::vector<Part> parts = parts_of(problem.sequences);
    const auto count = static_cast<int64_t>(parts.size());
    const int64_t n = problem.sequences.count, wide = problem.streams * problem.classes;
    Slopes<V> slopes;
    if (gradients.embedding) {
        slopes.table.resize(2 * n * problem.width);
        slopes.constant.resize(2 * n);
        for (int64_t at = 0; at < 2 * n; ++at) spread_one(problem, saved, gradients.embedding, at, slopes);
    }
    each_gap(problem.sequences, [&](int64_t from, int64_t to) {
        const int64_t row = problem.streams * problem.width;
        std::fill(gradients.z + from * row, gradients.z + to * row, stored<T>(0));
        std::fill(gradients.logits + from * wide, gradients.logits + to * wide, stored<T>(0));
    });
    return parallel_for(count, 1, 2 * steps(problem.sequences, problem), threads, [&](int64_t begin, int64_t end) {
        Work<T> work;
        for (int64_t i = begin; i < end; ++i) differentiate_part(problem, saved, gradients, parts[i], slopes, work);
    });
}

#define D2K_INSTANTIATE(T)                                                                                       \
    template Status head<T>(const Head<T>&, const HeadOut<T>&, int);                                             \
    template Status head_backward<T>(const Head<T>&, const HeadOut<T>&, const HeadGradients<T>&, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

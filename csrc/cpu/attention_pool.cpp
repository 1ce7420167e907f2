#include "d2kernels/attention_pool.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "rows.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kBlock = 1024;  // channels of a work item
constexpr int64_t kRows = 64;    // rows summed in one go; partial sums bound the rounding error of long sequences
constexpr double kSteps = 0.15;  // nanoseconds a value

template <class T>
struct Work {
    using V = ArithmeticOf<T>;
    std::vector<V> sum, part, weights, table;
    std::vector<const T*> rows;
};

// The channels [begin, end) of one sequence.
template <class T>
D2K_INLINE void pool(const AttentionPool<T>& problem, T* embedding, ArithmeticOf<T>* mass, int64_t sequence,
                     int64_t begin, int64_t end, Work<T>& work) {
    using V = ArithmeticOf<T>;
    const auto range = problem.sequences[sequence];
    const int64_t columns = problem.columns, size = end - begin, last = range.first + range.length;
    work.sum.assign(columns * size, V(0));
    work.part.resize(size);
    work.weights.resize(kRows);
    work.rows.resize(kRows);
    for (int64_t from = range.first; from < last; from += kRows)
        for (int64_t a = 0; a < columns; ++a) {
            int64_t count = 0;
            for (int64_t t = from; t < std::min(from + kRows, last); ++t) {
                work.rows[count] = problem.x + t * problem.width + begin;
                work.weights[count] = problem.attention[t * columns + a];
                count += problem.selected(t, a);
            }
            if (count == 0) continue;
            V* __restrict part = work.part.data();
            V* __restrict sum = work.sum.data() + a * size;
            std::fill_n(part, size, V(0));
            add_rows(part, work.rows.data(), work.weights.data(), count, size);
            D2K_LANES
            for (int64_t j = 0; j < size; ++j) sum[j] += part[j];
        }
    for (int64_t a = 0; a < columns; ++a) {
        double exact = 0;
        for (int64_t t = range.first; t < last; ++t)
            if (problem.selected(t, a)) exact += problem.attention[t * columns + a];
        const V all = static_cast<V>(exact);
        if (begin == 0) mass[sequence * columns + a] = all;
        const V* __restrict sum = work.sum.data() + a * size;
        T* __restrict out = embedding + (sequence * columns + a) * problem.width + begin;
        if (!problem.normalize) {
            D2K_LANES
            for (int64_t j = 0; j < size; ++j) out[j] = stored<T>(sum[j]);
        } else {
            D2K_LANES
            for (int64_t j = 0; j < size; ++j) out[j] = stored<T>(all != V(0) ? sum[j] / all : V(0));
        }
    }
}

// The rows [from, to) of one sequence. grad_attention gets the embedding's part; the mass's comes later.
template <class T>
D2K_INLINE void differentiate(const AttentionPool<T>& problem, const AttentionPoolGradients<T>& gradients,
                              int64_t sequence, int64_t from, int64_t to, Work<T>& work) {
    using V = ArithmeticOf<T>;
    const int64_t columns = problem.columns, width = problem.width;
    const T* grad = gradients.grad + sequence * columns * width;
    const V* table;
    if constexpr (sizeof(T) == sizeof(V)) table = grad;
    if (sizeof(T) != sizeof(V) || problem.normalize) {
        work.table.resize(columns * width);
        for (int64_t a = 0; a < columns; ++a) {
            const V mass = problem.normalize ? gradients.mass[sequence * columns + a] : V(1);
            V* __restrict row = work.table.data() + a * width;
            const T* __restrict g = grad + a * width;
            D2K_LANES
            for (int64_t j = 0; j < width; ++j) row[j] = mass != V(0) ? static_cast<V>(g[j]) / mass : V(0);
        }
        table = work.table.data();
    }
    work.sum.resize(width);
    for (int64_t t = from; t < to; ++t) {
        int64_t chosen = 0;
        const V* first = nullptr;
        V weight = 0;
        for (int64_t a = 0; a < columns; ++a) {
            const bool selected = problem.selected(t, a);
            if (gradients.grad_attention) {
                gradients.grad_attention[t * columns + a] =
                    selected ? dot(problem.x + t * width, table + a * width, width) : V(0);
            }
            if (!selected) continue;
            if (++chosen == 1) {
                first = table + a * width;
                weight = problem.attention[t * columns + a];
            }
        }
        if (!gradients.grad_x) continue;
        T* __restrict out = gradients.grad_x + t * width;
        if (chosen == 0) {
            std::fill_n(out, width, stored<T>(0));
        } else if (chosen == 1) {
            D2K_LANES
            for (int64_t j = 0; j < width; ++j) out[j] = stored<T>(weight * first[j]);
        } else {
            V* __restrict sum = work.sum.data();
            std::fill_n(sum, width, V(0));
            for (int64_t a = 0; a < columns; ++a) {
                if (!problem.selected(t, a)) continue;
                const V w = problem.attention[t * columns + a];
                const V* __restrict row = table + a * width;
                D2K_LANES
                for (int64_t j = 0; j < width; ++j) sum[j] += w * row[j];
            }
            D2K_LANES
            for (int64_t j = 0; j < width; ++j) out[j] = stored<T>(sum[j]);
        }
    }
}

#define D2K_DEFINE(T)                                                                                               \
    D2K_CLONES D2K_FLATTEN void pool_block(const AttentionPool<T>& problem, T* embedding, ArithmeticOf<T>* mass,   \
                                           int64_t i, int64_t begin, int64_t end, Work<T>& work) {                 \
        pool(problem, embedding, mass, i, begin, end, work);                                                       \
    }                                                                                                               \
    D2K_CLONES D2K_FLATTEN void differentiate_rows(const AttentionPool<T>& problem,                                \
                                                   const AttentionPoolGradients<T>& gradients, int64_t i,          \
                                                   int64_t from, int64_t to, Work<T>& work) {                      \
        differentiate(problem, gradients, i, from, to, work);                                                      \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)

// Adds to each selected row's gradient what reaches it through the mass.
template <class T>
void add_through_mass(const AttentionPool<T>& problem, const AttentionPoolGradients<T>& gradients) {
    using V = ArithmeticOf<T>;
    const int64_t columns = problem.columns, n = problem.sequences.count;
    std::vector<V> through(n * columns);
    if (gradients.grad_mass) std::copy_n(gradients.grad_mass, n * columns, through.begin());
    for (int64_t i = 0; problem.normalize && i < n; ++i) {
        const auto range = problem.sequences[i];
        for (int64_t a = 0; a < columns; ++a) {
            const V mass = gradients.mass[i * columns + a];
            double spread = 0;
            for (int64_t t = range.first; t < range.first + range.length; ++t)
                if (problem.selected(t, a))
                    spread += gradients.grad_attention[t * columns + a] * problem.attention[t * columns + a];
            if (mass != V(0)) through[i * columns + a] -= static_cast<V>(spread) / mass;
        }
    }
    each_stretch(problem.sequences, 0, problem.sequences.total, [&](int64_t i, int64_t from, int64_t to) {
        if (i < 0) return;
        for (int64_t t = from; t < to; ++t)
            for (int64_t a = 0; a < columns; ++a)
                if (problem.selected(t, a)) gradients.grad_attention[t * columns + a] += through[i * columns + a];
    });
}

}  // namespace

template <class T>
Status attention_pool(const AttentionPool<T>& problem, T* embedding, ArithmeticOf<T>* mass, int threads) {
    const int64_t n = problem.sequences.count, blocks = std::max<int64_t>(1, (problem.width + kBlock - 1) / kBlock);
    int64_t rows = 0;
    for (int64_t i = 0; i < n; ++i) rows += problem.sequences[i].length;
    const double steps = kSteps * static_cast<double>(rows) * static_cast<double>(problem.width);
    const int64_t items = n * blocks;
    return parallel_for(items, std::max<int64_t>(1, items / 256), steps, threads, [&](int64_t begin, int64_t end) {
        Work<T> work;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t first = i % blocks * kBlock;
            pool_block(problem, embedding, mass, i / blocks, first, std::min(first + kBlock, problem.width), work);
        }
    });
}

template <class T>
Status attention_pool_backward(const AttentionPool<T>& problem, const AttentionPoolGradients<T>& gradients,
                               int threads) {
    const int64_t total = problem.sequences.total, blocks = (total + kRows - 1) / kRows;
    const double steps = 2 * kSteps * static_cast<double>(total) * static_cast<double>(problem.width);
    const int64_t chunk = std::max<int64_t>(1, blocks / 256);
    const Status status = parallel_for(blocks, chunk, steps, threads, [&](int64_t begin, int64_t end) {
        Work<T> work;
        each_stretch(problem.sequences, begin * kRows, std::min(total, end * kRows),
                     [&](int64_t i, int64_t from, int64_t to) {
                         if (i >= 0) return differentiate_rows(problem, gradients, i, from, to, work);
                         const int64_t rows = to - from, columns = problem.columns;
                         if (gradients.grad_x)
                             std::fill_n(gradients.grad_x + from * problem.width, rows * problem.width, stored<T>(0));
                         if (gradients.grad_attention)
                             std::fill_n(gradients.grad_attention + from * columns, rows * columns, ArithmeticOf<T>(0));
                     });
    });
    if (status == kOk && gradients.grad_attention) add_through_mass(problem, gradients);
    return status;
}

#define D2K_INSTANTIATE(T)                                                                           \
    template Status attention_pool<T>(const AttentionPool<T>&, T*, ArithmeticOf<T>*, int);           \
    template Status attention_pool_backward<T>(const AttentionPool<T>&, const AttentionPoolGradients<T>&, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

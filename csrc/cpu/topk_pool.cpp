#include "d2kernels/topk_pool.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "parallel.h"
#include "topk_select.h"

namespace d2k::cpu {
namespace {

// Scores of one work item, read again and again: they stay in the L2; or where no block of classes does, in the L3.
constexpr int64_t kCached = 192 << 10, kFar = 4 << 20;
constexpr double kForwardSteps = 0.3, kBackwardSteps = 0.15;  // nanoseconds a score

// Classes of a work item: all of them where a sequence's scores are few, else what fills vectors.
int64_t block(int64_t rows, int64_t classes) {
    if (rows * classes <= kCached) return classes;
    const int64_t fit = kCached / rows / kVector * kVector;
    return fit == 0 && rows * classes <= kFar ? classes : std::min(classes, std::max(fit, kVector));
}

// The distance of neighbours, as integers, among values of T that were widened.
template <class T>
constexpr int kStep = 1;
template <>
constexpr int kStep<BFloat16> = 1 << 16;
template <>
constexpr int kStep<Half> = 1 << 13;

// One selection for floats of 16 and 32 bits: it is what takes long to compile.
#define D2K_DEFINE(V)                                                                                        \
    D2K_CLONES_OF(V) D2K_FLATTEN void select_each(Selector<V>& selector, const Matrix<V>& matrix, int64_t k, \
                                            Selected<V>* out) {                                              \
        selector.run(matrix, k, out);                                                                        \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
#undef D2K_DEFINE

#define D2K_DEFINE(T)                                                                                        \
    D2K_CLONES_OF(T) void gather(const T* __restrict from, int64_t rows, int64_t width, int64_t stride,      \
                           ArithmeticOf<T>* __restrict to) {                                                 \
        for (int64_t t = 0; t < rows; ++t)                                                                   \
            for (int64_t c = 0; c < width; ++c) to[t * width + c] = from[t * stride + c];                    \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)
#undef D2K_DEFINE

template <class T>
struct Work {
    using V = ArithmeticOf<T>;
    Selector<V> selector{kStep<T>};
    std::unique_ptr<V[]> values;  // not a vector, which would be written twice
    int64_t room = 0;
    std::vector<Selected<V>> selected;
};

// The classes [begin, end) of one sequence.
template <class T>
void forward(const TopkPool<T>& problem, const TopkPoolOut<T>& out, int64_t sequence, int64_t begin,
                        int64_t end, Work<T>& work) {
    using V = ArithmeticOf<T>;
    const auto range = problem.sequences[sequence];
    const int64_t width = end - begin, at = sequence * problem.classes + begin;
    if (range.length == 0) {
        std::fill_n(out.mean + at, width, stored<T>(0));
        if (!out.threshold) return;
        std::fill_n(out.threshold + at, width, stored<T>(0));
        std::fill_n(out.above + at, width, 0);
        std::fill_n(out.tied + at, width, 0);
        return;
    }
    const T* first = problem.scores + range.first * problem.classes + begin;
    const V* values;
    if constexpr (sizeof(T) == sizeof(V)) values = first;
    if (sizeof(T) != sizeof(V) || width != problem.classes) {
        if (work.room < range.length * width) {
            work.room = range.length * width;
            work.values.reset(new V[work.room]);
        }
        gather(first, range.length, width, problem.classes, work.values.get());
        values = work.values.get();
    }
    const int64_t k = problem.count(sequence, range.length);
    work.selected.resize(width);
    select_each(work.selector, {values, range.length, width}, k, work.selected.data());
    for (int64_t c = 0; c < width; ++c) {
        const Selected<V>& s = work.selected[c];
        out.mean[at + c] = stored<T>(
            static_cast<V>((s.above_sum + static_cast<double>(k - s.above) * s.threshold) / static_cast<double>(k)));
        if (!out.threshold) continue;
        out.threshold[at + c] = stored<T>(s.threshold);
        out.above[at + c] = static_cast<int32_t>(s.above);
        out.tied[at + c] = static_cast<int32_t>(s.tied);
    }
}

template <class T>
struct Shares {
    using V = ArithmeticOf<T>;
    std::vector<V> threshold, above, tied;
};

template <class T>
D2K_INLINE void backward(const TopkPool<T>& problem, const TopkPoolSaved<T>& saved, T* grad, int64_t sequence,
                         int64_t from, int64_t to, Shares<T>& shares) {
    using V = ArithmeticOf<T>;
    const auto range = problem.sequences[sequence];
    const int64_t classes = problem.classes, at = sequence * classes;
    const V k = static_cast<V>(problem.count(sequence, range.length));
    const int64_t width = Matrix<V>{nullptr, 0, classes}.fold() * classes;
    shares.threshold.resize(width), shares.above.resize(width), shares.tied.resize(width);
    V* __restrict threshold = shares.threshold.data();
    V* __restrict above = shares.above.data();
    V* __restrict tied = shares.tied.data();
    for (int64_t j = 0; j < width; ++j) {
        const int64_t c = at + j % classes;
        const V edge = saved.threshold[c], whole = static_cast<V>(saved.grad[c]) / k;
        const V share = whole * (k - static_cast<V>(saved.above[c])) / static_cast<V>(std::max(saved.tied[c], 1));
        const bool nan = edge != edge;
        // Above infinity is NaN alone, the ties of a threshold that is NaN.
        threshold[j] = nan ? std::numeric_limits<V>::infinity() : edge;
        above[j] = nan ? share : whole;
        tied[j] = nan ? V(0) : share;
    }
    for (int64_t i = from * classes; i < to * classes; i += width) {
        const T* __restrict x = problem.scores + i;
        T* __restrict g = grad + i;
        const int64_t lanes = std::min(width, to * classes - i);
        D2K_LANES
        for (int64_t j = 0; j < lanes; ++j) {
            const V v = x[j];
            g[j] = stored<T>(!(v <= threshold[j]) ? above[j] : v == threshold[j] ? tied[j] : V(0));
        }
    }
}

#define D2K_DEFINE(T)                                                                                              \
    D2K_CLONES_OF(T) D2K_FLATTEN void backward_rows(const TopkPool<T>& problem, const TopkPoolSaved<T>& saved, T* grad, \
                                              int64_t i, int64_t from, int64_t to, Shares<T>& shares) {           \
        backward(problem, saved, grad, i, from, to, shares);                                                      \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)

}  // namespace

template <class T>
Status topk_pool(const TopkPool<T>& problem, const TopkPoolOut<T>& out, int threads) {
    const int64_t n = problem.sequences.count;
    if (n == 0 || problem.classes == 0) return kOk;
    // A sequence's blocks follow from its own length alone, so its bits do not depend on its neighbours.
    int64_t smallest = problem.classes, rows = 0;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t length = problem.sequences[i].length;
        smallest = std::min(smallest, block(std::max<int64_t>(length, 1), problem.classes));
        rows += length;
    }
    const int64_t most = (problem.classes + smallest - 1) / smallest, items = n * most;
    const double steps = kForwardSteps * static_cast<double>(rows) * static_cast<double>(problem.classes);
    return parallel_for(items, std::max<int64_t>(1, items / 32), steps, threads, [&](int64_t begin, int64_t end) {
        Work<T> work;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t sequence = i / most, width = block(problem.sequences[sequence].length, problem.classes);
            const int64_t first = i % most * width;
            if (first < problem.classes)
                forward(problem, out, sequence, first, std::min(first + width, problem.classes), work);
        }
    });
}

template <class T>
Status topk_pool_backward(const TopkPool<T>& problem, const TopkPoolSaved<T>& saved, T* grad_scores, int threads) {
    const Sequences& sequences = problem.sequences;
    const int64_t classes = problem.classes, n = sequences.count;
    if (sequences.total == 0 || classes == 0) return kOk;
    bool rising = true;
    for (int64_t i = 1; i < n; ++i) rising &= sequences[i - 1].first + sequences[i - 1].length <= sequences[i].first;
    const auto clear = [&](int64_t from, int64_t to) {
        std::fill(grad_scores + from * classes, grad_scores + to * classes, stored<T>(0));
    };
    if (!rising || n == 0) clear(0, sequences.total);
    const double steps = kBackwardSteps * static_cast<double>(sequences.total) * static_cast<double>(classes);
    return parallel_for(n, std::max<int64_t>(1, n / 256), steps, rising ? threads : 1, [&](int64_t begin, int64_t end) {
        Shares<T> shares;
        for (int64_t i = begin; i < end; ++i) {
            const auto range = sequences[i];
            if (rising) {
                if (i == 0) clear(0, range.first);
                clear(range.first + range.length, i + 1 < n ? sequences[i + 1].first : sequences.total);
            }
            backward_rows(problem, saved, grad_scores, i, range.first, range.first + range.length, shares);
        }
    });
}

#define D2K_INSTANTIATE(T)                                                                                          \
    template Status topk_pool<T>(const TopkPool<T>&, const TopkPoolOut<T>&, int);                                   \
    template Status topk_pool_backward<T>(const TopkPool<T>&, const TopkPoolSaved<T>&, T*, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

#include "d2kernels/condition_number.h"

#include <algorithm>
#include <new>
#include <vector>

#include "aligned.h"
#include "extremes.h"
#include "pack.h"
#include "parallel.h"
#include "vectorize.h"
#include "widen.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kFew = 4;  // fewer matrices leave a pack too empty

// Several instruction sets each.
#define D2K_PHASES(T, Real)                                                                                        \
    D2K_CLONES D2K_FLATTEN void before(const ConditionNumber<T>& problem, int64_t first,                           \
                                       const ExtremesWork<Real>& work, double* doubles, Range* ranges) {           \
        HostTeam team;                                                                                             \
        prepare_all(team, problem, first, work, doubles, ranges);                                                  \
    }                                                                                                              \
    D2K_CLONES D2K_FLATTEN void after(const ConditionNumber<T>& problem, int64_t first, const Extremes<Real>& e,   \
                                      double* doubles, const Range* ranges) {                                      \
        HostTeam team;                                                                                             \
        finish_all(team, problem, first, e, doubles, ranges);                                                      \
    }
#if defined(__GNUC__)
#define D2K_REALS(T) D2K_PHASES(T, double) D2K_PHASES(T, Pack)
#else
#define D2K_REALS(T) D2K_PHASES(T, double)
#endif
#define D2K_DEFINE(T)                                                                                              \
    D2K_REALS(T)                                                                                                   \
    D2K_CLONES D2K_FLATTEN void closed(const ConditionNumber<T>& problem, int64_t first, int64_t end) {            \
        for (int64_t i = first; i < end; i += kPacked<Pack>) condition_numbers_2x2<Pack>(problem, i);              \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
#undef D2K_DEFINE
#undef D2K_REALS
#undef D2K_PHASES

#define D2K_DEFINE(T)                                                                                              \
    D2K_CLONES void scale(T grad, const double* slope, int64_t size, T* gradient) {                                \
        const auto g = static_cast<double>(grad);                                                                  \
        for (int64_t i = 0; i < size; ++i) gradient[i] = stored<T>(static_cast<ArithmeticOf<T>>(g * slope[i]));    \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)
#undef D2K_DEFINE

// Nanoseconds a matrix, about.
double steps(const Plan& plan) {
    const double p = plan.p, q = plan.q;
    return 200 + 0.15 * (p * q * q + 8 * q * q * q) + 2.0 * plan.rows * plan.columns;
}

// Decomposes the matrices [begin, end), as many at a time as a Real holds.
template <class Real, class T>
void run(const ConditionNumber<T>& problem, int64_t begin, int64_t end) {
    const Plan plan = problem.plan();
    const int64_t doubles = problem.doubles();
    Aligned<Real> memory(ExtremesWork<Real>::size(plan) + (doubles + kPacked<Real> - 1) / kPacked<Real>);
    Scratch scratch = memory.scratch();
    const auto work = ExtremesWork<Real>::in(scratch, plan);
    double* const extra = scratch.take<double>(doubles);
    for (int64_t i = begin; i < end; i += kPacked<Real>) {
        Range ranges[kPacked<Real>];
        Extremes<Real> e;
        before(problem, i, work, extra, ranges);
        decompose(plan, work, problem.atol, problem.rtol, ranges, &e);
        after(problem, i, e, extra, ranges);
    }
}

template <class T>
Status of_matrices(const ConditionNumber<T>& problem, int threads) {
    constexpr int64_t packed = kPacked<Pack>;
    const auto each = [&](int64_t size, double steps, const auto& body) {
        return parallel_for((problem.batch + size - 1) / size, 1, steps * problem.batch, threads,
                            [&](int64_t begin, int64_t end) {
                                body(begin * size, std::min(problem.batch, end * size));
                            });
    };
    if (problem.closed()) return each(512, 20, [&](int64_t begin, int64_t end) { closed(problem, begin, end); });
    const Plan plan = problem.plan();
    if (problem.batch < kFew || !packs())
        return each(1, steps(plan), [&](int64_t begin, int64_t end) { run<double>(problem, begin, end); });
    return each(packed, steps(plan), [&](int64_t begin, int64_t end) { run<Pack>(problem, begin, end); });
}

}  // namespace

void prepare_one(const ConditionNumber<double>& problem, const ExtremesWork<double>& work, double* doubles,
                 Range* range) {
    before(problem, 0, work, doubles, range);
}

void finish_one(const ConditionNumber<double>& problem, const Extremes<double>& e, double* doubles,
                const Range* range) {
    after(problem, 0, e, doubles, range);
}

template <class T>
Status condition_number(const ConditionNumber<T>& problem, int threads) {
    if constexpr (sizeof(T) > 2) {
        return of_matrices(problem, threads);
    } else {
        try {
            const auto a = widened(problem.a, problem.batch * problem.size_a());
            const auto b = widened(problem.b, problem.batch * problem.size_b());
            std::vector<float> value(problem.batch);
            const ConditionNumber<float> wide{a.data(), problem.b ? b.data() : nullptr, problem.batch, problem.rows,
                                              problem.inner, problem.columns, problem.atol, problem.rtol, problem.log,
                                              value.data(), problem.slope_a, problem.slope_b};
            const Status status = of_matrices(wide, threads);
            if (status == kOk) narrow(value, problem.value);
            return status;
        } catch (const std::bad_alloc&) {
            return kOutOfMemory;
        }
    }
}

template <class T>
Status scale_slopes(const T* grad, const double* slope, int64_t batch, int64_t size, T* gradient, int threads) {
    const int64_t chunk = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, size));
    return parallel_for(batch, chunk, 0.5 * batch * size, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) scale(grad[i], slope + i * size, size, gradient + i * size);
    });
}

#define D2K_INSTANTIATE(T)                                                                             \
    template Status condition_number<T>(const ConditionNumber<T>&, int);                               \
    template Status scale_slopes<T>(const T*, const double*, int64_t, int64_t, T*, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

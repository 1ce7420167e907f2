#include "d2kernels/svd.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

#include "aligned.h"
#include "pack.h"
#include "parallel.h"
#include "vectorize.h"
#include "widen.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kFew = 4;  // fewer matrices leave a pack too empty

#define D2K_WHOLE(target, Real)                                                                 \
    target D2K_FLATTEN void decompose(const Plan& plan, const SvdWork<Real>& work) {            \
        HostTeam team;                                                                          \
        decompose_whole(team, plan, work);                                                      \
    }
// Lane by lane: no instruction set makes these faster.
#define D2K_PHASES(T, Real)                                                                                       \
    D2K_FLATTEN void before(const Svd<T>& problem, int64_t first, const SvdWork<Real>& work,           \
                                       Range* ranges) {                                                           \
        HostTeam team;                                                                                            \
        load_all(team, problem, first, work, ranges);                                                             \
    }                                                                                                             \
    D2K_FLATTEN void after(const Svd<T>& problem, int64_t first, const SvdWork<Real>& work,            \
                                      const Range* ranges) {                                                      \
        HostTeam team;                                                                                            \
        write_all(team, problem, first, work, ranges);                                                            \
    }
#if defined(__GNUC__)
#define D2K_DEFINE(T) D2K_PHASES(T, double) D2K_PHASES(T, Pack)
#if D2K_TARGETS
D2K_WHOLE(__attribute__((target("arch=x86-64-v4"))), Pack)
D2K_WHOLE(__attribute__((target("arch=x86-64-v3"))), Pack)
__attribute__((target("default"))) void decompose(const Plan&, const SvdWork<Pack>&) { std::abort(); }  // see packs()
#else
D2K_WHOLE(, Pack)
#endif
#else
#define D2K_DEFINE(T) D2K_PHASES(T, double)
#endif
D2K_WHOLE(D2K_CLONES_OF(double), double)
D2K_DEFINE(float)
D2K_DEFINE(double)
#undef D2K_DEFINE
#undef D2K_PHASES
#undef D2K_WHOLE

// Decomposes the matrices [begin, end), as many at a time as a Real holds.
template <class Real, class T>
void run(const Svd<T>& problem, int64_t begin, int64_t end) {
    const Plan plan = problem.plan();
    Aligned<Real> memory(SvdWork<Real>::size(plan));
    Scratch scratch = memory.scratch();
    const auto work = SvdWork<Real>::in(scratch, plan);
    for (int64_t i = begin; i < end; i += kPacked<Real>) {
        Range ranges[kPacked<Real>];
        before(problem, i, work, ranges);
        decompose(plan, work);
        after(problem, i, work, ranges);
    }
}

template <class T>
Status decompose_each(const Svd<T>& problem, int64_t* failed, int threads) {
    const Plan plan = problem.plan();
    const double p = plan.p, q = plan.q, steps = 100 + 0.3 * (2 * p * q * q + 10 * q * q * q) + 4 * p * q;
    const int64_t size = problem.batch < kFew || !packs() ? 1 : kPacked<Pack>;
    const Status status = parallel_for(
        (problem.batch + size - 1) / size, 1, steps * problem.batch, threads, [&](int64_t begin, int64_t end) {
            begin *= size;
            end = std::min(problem.batch, end * size);
            if (size == 1) run<double>(problem, begin, end);
            else run<Pack>(problem, begin, end);
        });
    *failed = -1;
    for (int64_t i = problem.batch - 1; status == kOk && i >= 0; --i) {
        const ArithmeticOf<T> s = problem.s[i * plan.q];
        if (s != s) *failed = i;
    }
    return status;
}

}  // namespace

template <class T>
Status svd(const Svd<T>& problem, int64_t* failed, int threads) {
    if constexpr (sizeof(T) > 2) {
        return decompose_each(problem, failed, threads);
    } else {
        try {
            const int64_t m = problem.rows, n = problem.columns, k = std::min(m, n), batch = problem.batch;
            const auto a = widened(problem.a, batch * m * n);
            std::vector<float> u(batch * m * k), s(batch * k), vh(batch * k * n);
            const Status status =
                decompose_each(Svd<float>{a.data(), batch, m, n, u.data(), s.data(), vh.data()}, failed, threads);
            if (status != kOk) return status;
            narrow(u, problem.u);
            narrow(s, problem.s);
            narrow(vh, problem.vh);
            return kOk;
        } catch (const std::bad_alloc&) {
            return kOutOfMemory;
        }
    }
}

#define D2K_INSTANTIATE(T) template Status svd<T>(const Svd<T>&, int64_t*, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

#include "d2kernels/svd_backward.h"

#include <algorithm>
#include <new>
#include <vector>

#include "aligned.h"
#include "parallel.h"
#include "vectorize.h"
#include "widen.h"

namespace d2k::cpu {
namespace {

#define D2K_DEFINE(T)                                                                                              \
    D2K_CLONES D2K_FLATTEN void one(const SvdBackward<T>& problem, int64_t item, const SvdBackwardWork& work) { \
        HostTeam team;                                                                                             \
        d2k::svd_backward(team, problem, item, work);                                                              \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
#undef D2K_DEFINE

template <class T>
Status each(const SvdBackward<T>& problem, int threads) {
    const double m = problem.rows, n = problem.columns, k = problem.k();
    // Nanoseconds a matrix, about.
    const double steps = 60 + 0.15 * m * n * k + (problem.vectors() ? 100 + 0.2 * (m + n) * k * k : 0);
    return parallel_for(problem.batch, 1, steps * problem.batch, threads, [&](int64_t begin, int64_t end) {
        Aligned<double> memory(SvdBackwardWork::size(problem));
        Scratch scratch = memory.scratch();
        const auto work = SvdBackwardWork::in(scratch, problem);
        for (int64_t i = begin; i < end; ++i) one(problem, i, work);
    });
}

}  // namespace

template <class T>
Status svd_backward(const SvdBackward<T>& problem, int threads) {
    if constexpr (sizeof(T) > 2) {
        return each(problem, threads);
    } else {
        try {
            const int64_t m = problem.rows, n = problem.columns, k = problem.k(), batch = problem.batch;
            const auto wide = [&](const T* from, int64_t size) { return widened(from, batch * size); };
            const auto address = [](const std::vector<float>& x) { return x.empty() ? nullptr : x.data(); };
            const auto grad_u = wide(problem.grad_u, m * k), grad_s = wide(problem.grad_s, k),
                       grad_vh = wide(problem.grad_vh, k * n), u = wide(problem.u, m * k), s = wide(problem.s, k),
                       vh = wide(problem.vh, k * n);
            std::vector<float> gradient(batch * m * n);
            const SvdBackward<float> same{address(grad_u), address(grad_s), address(grad_vh), u.data(), s.data(),
                                          vh.data(), batch, m, n, gradient.data()};
            const Status status = each(same, threads);
            if (status == kOk) narrow(gradient, problem.gradient);
            return status;
        } catch (const std::bad_alloc&) {
            return kOutOfMemory;
        }
    }
}

#define D2K_INSTANTIATE(T) template Status svd_backward<T>(const SvdBackward<T>&, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

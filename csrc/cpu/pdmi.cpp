#include "d2kernels/pdmi.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "aligned.h"
#include "extremes.h"
#include "parallel.h"
#include "vectorize.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kManyColumns = 16;       // from which on bisection is faster than Jacobi's rotations
constexpr double kForwardSteps = 0.6, kBackwardSteps = 0.6;  // nanoseconds a row

#define D2K_DEFINE(T)                                                                                               \
    D2K_CLONES_OF(T) D2K_FLATTEN void forward(const PdmiSnippet<T>& problem, const PdmiSnippetOut<T>& out, int64_t i) { \
        HostTeam team;                                                                                              \
        d2k::pdmi_snippet(team, problem, out, i);                                                                   \
    }                                                                                                               \
    D2K_CLONES_OF(T) D2K_FLATTEN void backward(const PdmiSnippet<T>& problem, const PdmiSnippetSaved<T>& saved, T* on, \
                                         T* off, int64_t i) {                                                       \
        HostTeam team;                                                                                              \
        d2k::pdmi_snippet_backward(team, problem, saved, on, off, i);                                               \
    }                                                                                                               \
    D2K_CLONES_OF(T) D2K_FLATTEN ConditionNumber<double> joint(const PdmiVideo<T>& problem, const PdmiVideoWork& work, \
                                                         bool& finite) {                                            \
        HostTeam team;                                                                                              \
        return video_joint(team, problem, work, finite);                                                            \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)
#undef D2K_DEFINE

}  // namespace

template <class T>
Status pdmi_snippet(const PdmiSnippet<T>& problem, const PdmiSnippetOut<T>& out, int threads) {
    const double steps = kForwardSteps * problem.sequences.total + 100.0 * problem.sequences.count;
    return parallel_for(problem.sequences.count, 1, steps, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) forward(problem, out, i);
    });
}

template <class T>
Status pdmi_snippet_backward(const PdmiSnippet<T>& problem, const PdmiSnippetSaved<T>& saved, T* on, T* off,
                             int threads) {
    const int64_t total = problem.sequences.total;
    // Without `off`, the attention is the background's too: `on` gets the sum.
    std::vector<T> beside(static_cast<size_t>(off ? 0 : total));
    T* const of_background = off ? off : beside.data();
    std::fill_n(on, total, stored<T>(0));
    std::fill_n(of_background, total, stored<T>(0));
    const double steps = kBackwardSteps * total;
    const Status status = parallel_for(problem.sequences.count, 1, steps, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) backward(problem, saved, on, of_background, i);
    });
    using Real = ArithmeticOf<T>;
    for (int64_t t = 0; !off && t < total; ++t) on[t] = stored<T>(Real(on[t]) + Real(beside[t]));
    return status;
}

template <class T>
Status pdmi_video(const PdmiVideo<T>& problem, int64_t most, bool* found) {
    if (found) *found = true;
    return parallel_for(1, 1, 0, 1, [&](int64_t, int64_t) {
        HostTeam team;
        Aligned<double> memory(PdmiVideoWork::bytes(problem) / 8);
        Scratch scratch = memory.scratch();
        PdmiVideoWork work = PdmiVideoWork::in(scratch, problem);
        bool finite = true;
        const ConditionNumber<double> factors = joint(problem, work, finite);
        Extremes<double> e{};
        if (finite && factors.rows > 0 && factors.inner > 0) {
            Range range;
            work.extremes = ExtremesWork<double>::in(scratch, factors.plan());
            const Plan plan = factors.plan();
            Decomposed<double> decomposed;
            const auto decompose_all = [&] {
                prepare_one(factors, work.extremes, work.doubles, &range);
                decompose_values(plan, work.extremes, problem.atol, problem.rtol, &range, &decomposed);
            };
            // Of a value alone, which is rounded to float32.
            bool bisected = !problem.slope && sizeof(T) < sizeof(double) && plan.q >= kManyColumns;
            if (bisected) {
                prepare_one(factors, work.extremes, work.doubles, &range);
                bisected = decompose_well_conditioned(plan, work.extremes, problem.atol, problem.rtol, &range,
                                                      &decomposed.chosen);
            }
            if (!bisected && plan.q > most) {
                *found = false;
                return;
            }
            if (!bisected) decompose_all();
            const Chosen<double>& of = decomposed.chosen;
            if (!problem.slope && slopes_are_finite(team, problem, work, factors.rows, factors.inner, of.smallest,
                                                    range.exponent)) {
                const bool many = of.rank > 1 && of.smallest < of.largest;
                put(problem.value, many ? std::log(of.largest / of.smallest) : 0);
                *problem.rank = static_cast<int64_t>(of.rank);
                return;
            }
            if (bisected) decompose_all();
            find_vectors(plan, work.extremes, decomposed, &e);
            finish_one(factors, e, work.doubles, &range);
        } else {
            std::fill_n(work.slope_q, factors.inner * problem.classes, 0.0);
        }
        write_video(team, problem, work, factors.inner, finite, e.rank);
    });
}

#define D2K_INSTANTIATE(T)                                                                                        \
    template Status pdmi_snippet<T>(const PdmiSnippet<T>&, const PdmiSnippetOut<T>&, int);                        \
    template Status pdmi_snippet_backward<T>(const PdmiSnippet<T>&, const PdmiSnippetSaved<T>&, T*, T*, int);     \
    template Status pdmi_video<T>(const PdmiVideo<T>&, int64_t, bool*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

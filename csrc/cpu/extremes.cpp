#include "extremes.h"

#include <cstdlib>

#include "bidiagonal.h"
#include "vectorize.h"

namespace d2k::cpu {

D2K_CLONES_OF(double) D2K_FLATTEN void decompose_values(const Plan& plan, const ExtremesWork<double>& work, double atol,
                                                        double rtol, Range* ranges, Decomposed<double>* out) {
    HostTeam team;
    *out = decomposed(team, plan, work, atol, rtol, ranges);
}

D2K_CLONES D2K_FLATTEN bool decompose_well_conditioned(const Plan& plan, const ExtremesWork<double>& work, double atol,
                                                       double rtol, Range* range, Chosen<double>* out) {
    constexpr double kMost = 0x1p20, kLeast = 1 + 0x1p-10, kApart = 1 + 0x1p-20;  // of η, and of what counts for sure
    HostTeam team;
    const int64_t q = plan.q;
    if (plan.reduced) multiply_reduced(team, plan, work, range);
    double *const diagonal = work.g.diagonal, *const above = work.w.diagonal;
    bidiagonalize(team, work.g, above, work.square, work.vectors);
    for (int64_t i = 0; i < q; ++i) {
        diagonal[i] *= diagonal[i];
        above[i] = i + 1 < q ? above[i] * above[i] : 0;
    }
    double of[2];
    bisect(diagonal, above, q, of);
    const double limit = larger(range->scale() * atol, rtol * of[0]);
    if (!(of[1] > kApart * limit && of[0] <= kMost * of[1] && of[0] >= kLeast * of[1])) return false;
    *out = {0, 0, of[0], of[1], static_cast<double>(q), of[1]};
    return true;
}

D2K_CLONES_OF(double) D2K_FLATTEN void find_vectors(const Plan& plan, const ExtremesWork<double>& work,
                                                    const Decomposed<double>& found, Extremes<double>* out) {
    HostTeam team;
    *out = vectors(team, plan, work, found.columns, found.chosen);
}

void decompose(const Plan& plan, const ExtremesWork<double>& work, double atol, double rtol, Range* ranges,
               Extremes<double>* out) {
    Decomposed<double> found;
    decompose_values(plan, work, atol, rtol, ranges, &found);
    find_vectors(plan, work, found, out);
}

#if defined(__GNUC__)
namespace {

#define D2K_DEFINE(target)                                                                                     \
    target D2K_FLATTEN void of_pack(const Plan& plan, const ExtremesWork<Pack>& work, double atol,             \
                                    double rtol, Range* ranges, Extremes<Pack>* out) {                         \
        HostTeam team;                                                                                         \
        *out = extremes(team, plan, work, atol, rtol, ranges);                                                 \
    }
#if D2K_TARGETS
D2K_DEFINE(__attribute__((target("arch=x86-64-v4"))))
D2K_DEFINE(__attribute__((target("arch=x86-64-v3"))))
__attribute__((target("default"))) void of_pack(const Plan&, const ExtremesWork<Pack>&, double, double, Range*,
                                                Extremes<Pack>*) {
    std::abort();  // see packs()
}
#else
D2K_DEFINE()
#endif

}  // namespace

void decompose(const Plan& plan, const ExtremesWork<Pack>& work, double atol, double rtol, Range* ranges,
               Extremes<Pack>* out) {
    of_pack(plan, work, atol, rtol, ranges, out);
}
#endif

}  // namespace d2k::cpu

#include "extremes.h"

#include "vectorize.h"

namespace d2k::cpu {

#define D2K_DEFINE(Real)                                                                                      \
    D2K_CLONES D2K_FLATTEN void decompose(const Plan& plan, const ExtremesWork<Real>& work, double atol,      \
                                          double rtol, Range* ranges, Extremes<Real>* out) {                  \
        HostTeam team;                                                                                        \
        *out = extremes(team, plan, work, atol, rtol, ranges);                                                \
    }
D2K_DEFINE(double)
#if defined(__GNUC__)
D2K_DEFINE(Pack)
#endif

}  // namespace d2k::cpu

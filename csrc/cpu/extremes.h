// d2kernels/extremes.h compiled for several instruction sets, for one matrix and for a pack.
#pragma once

#include "d2kernels/extremes.h"
#include "pack.h"

namespace d2k::cpu {

void decompose(const Plan& plan, const ExtremesWork<double>& work, double atol, double rtol, Range* ranges,
               Extremes<double>* out);
#if defined(__GNUC__)
void decompose(const Plan& plan, const ExtremesWork<Pack>& work, double atol, double rtol, Range* ranges,
               Extremes<Pack>* out);
#endif

}  // namespace d2k::cpu

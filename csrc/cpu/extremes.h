// d2kernels/extremes.h compiled for several instruction sets, for one matrix and for a pack.
#pragma once

#include "d2kernels/condition_number.h"
#include "pack.h"

namespace d2k::cpu {

void decompose(const Plan& plan, const ExtremesWork<double>& work, double atol, double rtol, Range* ranges,
               Extremes<double>* out);
// The values of a matrix whose columns are all far from dependent, by bidiagonal.h: false where they are not, or where the
// logarithm of their ratio would be off by more than a quarter of float32's rounding. `work` is to be prepared again then.
bool decompose_well_conditioned(const Plan& plan, const ExtremesWork<double>& work, double atol, double rtol, Range* range,
                                Chosen<double>* out);
// The same in two steps: the values, and then their vectors.
void decompose_values(const Plan& plan, const ExtremesWork<double>& work, double atol, double rtol, Range* ranges,
                      Decomposed<double>* out);
void find_vectors(const Plan& plan, const ExtremesWork<double>& work, const Decomposed<double>& found,
                  Extremes<double>* out);
#if defined(__GNUC__)
void decompose(const Plan& plan, const ExtremesWork<Pack>& work, double atol, double rtol, Range* ranges,
               Extremes<Pack>* out);
#endif

// `prepare_all` and `finish_all` of a product of doubles.
void prepare_one(const ConditionNumber<double>& problem, const ExtremesWork<double>& work, double* doubles,
                 Range* range);
void finish_one(const ConditionNumber<double>& problem, const Extremes<double>& e, double* doubles,
                const Range* range);

}  // namespace d2k::cpu

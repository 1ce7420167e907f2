// What a training step leaves behind: whether the optimiser must not move, the reference that goes on, the log's sums.
#pragma once

#include <cfloat>
#include <cstdint>

#include "d2kernels/real.h"
#include "d2kernels/status.h"
#include "d2kernels/team.h"

namespace d2k {

struct StepRecord {
    static constexpr int kTerms = 4;
    const float* terms[kTerms];  // the total first, never null; another that is null counts as 0
    const float* norm;           // of the whole gradient
    const int64_t* left_out;     // terms that were left out, or null
    const float* reference;      // (width), after the step
    int64_t width;

    float* kept;       // (width): becomes the reference where all of it is finite
    float* sums;       // (kTerms + 3): terms, norm, skipped, left_out; what is not finite counts as 0
    float* found_inf;  // 1 where the total is 0 or a gradient or the total is not finite, else 0
};

D2K_DEVICE bool is_finite(float x) { return magnitude(static_cast<double>(x)) <= DBL_MAX; }

template <class Team>
D2K_DEVICE void step_record(Team& team, const StepRecord& record) {
    bool finite = true;
    for (int64_t j = team.rank(); j < record.width; j += team.size()) finite &= is_finite(record.reference[j]);
    finite = all(team, finite);
    if (finite) for_each(team, record.width, [&](int64_t j) { record.kept[j] = record.reference[j]; });
    if (team.rank() != 0) return;
    const float total = *record.terms[0], norm = *record.norm;
    const bool skip = total == 0 || !is_finite(total) || !is_finite(norm);
    *record.found_inf = skip ? 1.0f : 0.0f;
    const auto add = [&](int at, float x) { record.sums[at] += is_finite(x) ? x : 0.0f; };
    for (int i = 0; i < StepRecord::kTerms; ++i)
        if (record.terms[i]) add(i, *record.terms[i]);
    add(StepRecord::kTerms, norm);
    add(StepRecord::kTerms + 1, *record.found_inf);
    if (record.left_out) add(StepRecord::kTerms + 2, static_cast<float>(*record.left_out));
}

namespace cpu {
Status step_record(const StepRecord& record);
}  // namespace cpu

namespace cuda {
Status step_record(const StepRecord& record, int device, void* stream);
}  // namespace cuda

}  // namespace d2k

// The vectorised loops over a column's scores and runs.
#pragma once

#include <cstdint>

namespace d2k::cpu {

// How many of the rising levels lie below each score; NaN lies above none.
void count_levels(const float* scores, int64_t count, const float* levels, int32_t size, int32_t* out);
void count_levels(const double* scores, int64_t count, const double* levels, int32_t size, int32_t* out);

// contrast() of every run, from the prefix sums (length + 1) of its column.
void contrasts(const double* sums, int64_t length, const int64_t* start, const int64_t* end, int64_t count,
               double margin, bool pooled, double* out);

}  // namespace d2k::cpu

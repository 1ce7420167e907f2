// Dropout of one row.
#pragma once

#include <cstdint>

namespace d2k::cpu {

// y = x · scale where the element's word is at least `threshold`, else 0; `first` is the row's first counter.
void drop_row(const float* x, int64_t channels, uint64_t first, uint64_t seed, uint32_t threshold, float scale, float* y);

}  // namespace d2k::cpu

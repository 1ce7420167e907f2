// Dropout whose mask is a function of a seed and an element's place (Philox-4x32, 7 rounds; Salmon et al., SC 2011).
#pragma once

#include <cstdint>

#include "d2kernels/dtype.h"
#include "d2kernels/status.h"

namespace d2k::cpu {

// y (rows, channels) = x · scale where the element's word is at least `threshold`, else 0; x and y may be the same.
// Word j of counter (first_row + row) · ceil(channels / 4) + i is that of channel 4i + j. `threads` 0 means all that may
// be used.
template <class T>
Status dropout(const T* x, int64_t rows, int64_t channels, uint64_t seed, int64_t first_row, uint32_t threshold,
               double scale, T* y, int threads);

}  // namespace d2k::cpu

// Convolution of kernel 3 in tiles of 4 rows by 6 products instead of 12: Winograd's F(4, 3) (Lavin & Gray, CVPR 2016)
// with the points 0, ±2/3, ±3/2 and infinity, whose rounding is about twice that of plain sums.
// y = Aᵀ [(G w) ⊙ (Bᵀ x)]. A sequence's tiles begin with it, so that its rows do not depend on its neighbours.
#pragma once

#include "convolution.h"

namespace d2k::cpu {

// The convolution of `shape`, 3 taps of dilation 1, or the way back through it; sums are finished as `out` says.
Status winograd(const Convolution& shape, const Input& x, const float* weight, bool back, const Output& out, int threads);

// grad_weight (groups · c_out, c_in, 3) of `inner` and x.
// `finite` is cleared where a product is not: tiles spread such rows to taps that do not see them.
Status winograd_weight_gradient(const Convolution& shape, const Input& inner, const Input& x, float* grad_weight,
                                bool* finite, int threads);

}  // namespace d2k::cpu

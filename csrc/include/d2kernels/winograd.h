// Convolution of kernel 3 in tiles of 4 rows by 6 products instead of 12: Winograd's F(4, 3) (Lavin & Gray, CVPR 2016)
// with the points 0, ±2/3, ±3/2 and infinity, whose rounding is about twice that of plain sums.
// y = Aᵀ [(G w) ⊙ (Bᵀ x)]; these are the maps before and after the products, which are the caller's.
#pragma once

#include <cstdint>

#include "d2kernels/status.h"

namespace d2k::cpu {

constexpr int kWinogradPoints = 6, kWinogradRows = 4;

// A buffer's rows: channels next to each other, rows `stride` floats apart.
struct BufferRows {
    float* data;
    int64_t rows, channels, stride;
};

// v (6, tiles, channels) = Bᵀ of the buffer's rows 4t − 1 to 4t + 4; rows outside the buffer are zero.
Status winograd_input(const BufferRows& x, int64_t tiles, float* v, int threads);

// z (6, channels, tiles) = A of the gradient's rows 4t to 4t + 3; rows outside the buffer are zero.
Status winograd_gradient(const BufferRows& grad, int64_t tiles, float* z, int threads);

// The buffer's rows = Aᵀ of `products` (6 of (tiles, channels)), + bias (channels) unless null.
Status winograd_output(const float* const* products, int64_t tiles, const float* bias, const BufferRows& y, int threads);

// u (6, size) = G w of weights w (size, 3).
Status winograd_weight(const float* w, int64_t size, float* u, int threads);

// grad (size, 3) = Gᵀ of `products` (6 of (size)).
Status winograd_weight_gradient(const float* const* products, int64_t size, float* grad, int threads);

}  // namespace d2k::cpu

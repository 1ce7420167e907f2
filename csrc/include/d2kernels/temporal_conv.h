// Convolution along time of ragged float32 rows on the CPU, and both gradients, by packed products of our own: each row
// block's taps are packed side by side, zero outside their sequence, so that nothing is padded and no row is moved.
#pragma once

#include <cstdint>

#include "d2kernels/ragged.h"
#include "d2kernels/status.h"

namespace d2k::cpu {

// Channels per group; taps is odd. `winograd` takes 3 taps of dilation 1 by fewer products.
struct Convolution {
    Sequences sequences;
    int64_t c_in, c_out, groups, taps, dilation;
    bool winograd = false;
};

// Dropout as dropout.h makes it; threshold 0 for none.
struct Dropping {
    uint64_t seed;
    int64_t first_row;
    uint32_t threshold;
    float scale;
};

// Whether this machine and this build have the products.
bool convolves();

// out (total, groups · c_out) = drop(LeakyReLU(conv(x) + bias) + x), each unless left out; zero on gap rows.
// x is (total, groups · c_in), rows x_stride apart; weight (groups · c_out, c_in, taps); slope null for no activation;
// sign, unless null, one bit an element of what the activation passed, zeroed before.
Status temporal_conv(const Convolution& shape, const float* x, int64_t x_stride, const float* weight, const float* bias,
                     const float* slope, bool residual, const Dropping& dropping, float* out, uint8_t* sign, int threads);

// Before the activation: inner (total, groups · c_out) of grad, whose rows are grad_stride apart, by `out` or the bits
// of `sign`; rows of sequences only, none where inner is null. Unless null, `dropped` gets drop(grad) in rows like
// inner's, and bias_gradient the sum of inner over rows.
Status temporal_conv_inner(const Convolution& shape, const float* grad, int64_t grad_stride, const float* out,
                           const uint8_t* sign, const float* slope, const Dropping& dropping, float* inner,
                           float* dropped, float* bias_gradient, int threads);

// grad_x (total, groups · c_in) of inner, rows inner_stride apart, + residual (rows residual_stride apart; it may be
// grad_x itself) unless null; zero on gap rows.
Status temporal_conv_input_gradient(const Convolution& shape, const float* inner, int64_t inner_stride,
                                    const float* weight, const float* residual, int64_t residual_stride, float* grad_x,
                                    int threads);

// grad_weight (groups · c_out, c_in, taps).
Status temporal_conv_weight_gradient(const Convolution& shape, const float* inner, int64_t inner_stride, const float* x,
                                     int64_t x_stride, float* grad_weight, int threads);

}  // namespace d2k::cpu

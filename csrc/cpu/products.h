// Products of float32 matrices in register tiles, one set of tiles for each instruction set; the machine's is chosen
// where the program runs. Every sum is taken in the order of its rows or columns by fused multiply-adds and then added to
// what is there, so that all sets give the same bits.
#pragma once

#include <cstdint>

#include "d2kernels/temporal_conv.h"

namespace d2k::cpu {

constexpr int64_t kDepth = 768;               // what is reduced while a tile is in registers, taps and channels
constexpr int64_t kPackedStride = kDepth + 16;  // not a multiple of a page, whose lines would share a cache set
constexpr int kMostRows = 14, kMostColumns = 32;  // of any set's tile

struct Span {
    int64_t begin, end;
};

// Rows that are `stride` apart.
struct Matrix {
    const float* data;
    int64_t stride;
};

// Factors of a tile: those of a tap lie `step` floats beyond the ones of the tap before. What other tiles will read is
// asked for meanwhile, unless null: from `ahead` on, by `ahead_step` bytes for each depth of each tap.
struct Taps {
    const float *a, *b;
    int64_t stride;  // of a's rows
    int64_t a_step, b_step, count, depth;
    const char* ahead;
    int64_t ahead_step;
};

// What rows of sums become: LeakyReLU(sums + bias) + residual, each unless null. Bit `first` + j of `sign` is set where
// the activation passes column j, in bytes that hold zeros before.
struct Finish {
    const float* bias;
    const float* slope;
    Matrix residual;
    float* out;
    int64_t stride;
    uint8_t* sign;
    int64_t sign_stride, first;
};

struct Products {
    int rows;   // of a tile at most
    int lanes;  // of a vector; a tile is one or two of them wide

    // c (m, n · lanes), rows `stride` apart, = or += Σ a (m, depth) times b (depth, n · lanes) over taps; the rows of a are
    // kPackedStride apart.
    void (*tile)(int m, int n, const Taps& taps, float* c, int64_t stride, bool add);

    // c (m, n · lanes) = or += Σ a[r]ᵀ b[r + shift] over the rows of spans; a (…, m) and b (…, n · lanes). What lies `ahead`
    // floats beyond a's rows is asked for meanwhile.
    void (*outer)(int m, int n, const Matrix& a, const Matrix& b, const Span* spans, int64_t count, int64_t shift,
                  int64_t ahead, float* c, bool add);

    // `size` columns of rows of sums that are `stride` apart.
    void (*finish)(int64_t rows, const float* sums, int64_t stride, int64_t size, const Finish& to);

    // inner = grad where `out` is above 0 or its bit is set, else grad · slope; added to `total`, unless null.
    void (*before_activation)(const float* grad, int64_t size, const float* out, const uint8_t* bits, float slope,
                              float* inner, float* total);

    void (*add)(const float* x, int64_t size, float* total);

    // Dropout of a row's columns from the first of `counter` on; x and y may be the same.
    void (*drop)(const Dropping& dropping, const float* x, int64_t size, uint64_t counter, float* y);

    // `size` columns of rows that are `stride` apart to rows kPackedStride apart, which are then zero up to a whole vector.
    void (*pack)(const float* x, int64_t stride, int64_t rows, int64_t size, float* packed);

    // Weights of `outputs`, each channels · taps floats and `stride` floats after the one before, to
    // packed[t · step + k · n · lanes + j], which is zero up to n whole vectors.
    void (*pack_outputs)(const float* weight, int64_t stride, int64_t outputs, int64_t taps, int64_t channels, int n,
                         float* packed, int64_t step);

    // An output's weights of `inputs`, taps side by side, to packed[(taps - 1 - t) · step + j], likewise.
    void (*pack_inputs)(const float* weight, int64_t inputs, int64_t taps, int n, float* packed, int64_t step);
};

// Null where there are none for this machine.
const Products* products();

extern const Products* const kProductsAvx2;
extern const Products* const kProductsAvx512;

}  // namespace d2k::cpu

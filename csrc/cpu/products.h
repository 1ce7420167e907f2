// Products of float32 matrices in register tiles, one set of tiles for each instruction set; the machine's is chosen
// where the program runs. Every sum is taken in the order of its rows or columns by fused multiply-adds and then added to
// what is there, so that all sets give the same bits.
#pragma once

#include <cstdint>

namespace d2k::cpu {

constexpr int64_t kDepth = 768;               // of a packed row: what is reduced while a tile is in registers
constexpr int64_t kPackedStride = kDepth + 16;  // not a multiple of a page, whose lines would share a cache set
constexpr int kMostRows = 14, kMostColumns = 32;  // of any set's tile

struct Span {
    int64_t begin, end;
};

struct Products {
    int rows;   // of a tile at most
    int lanes;  // of a vector; a tile is one or two of them wide

    // c (m, n · lanes), rows `stride` apart, = or += a (m, depth), rows kPackedStride apart, times b (depth, n · lanes).
    void (*tile)(int m, int n, const float* a, const float* b, int64_t depth, float* c, int64_t stride, bool add);

    // c (m, n · lanes) = or += Σ a[r]ᵀ b[r + shift] over the rows of spans; a (…, m) and b (…, n · lanes) are packed.
    void (*outer)(int m, int n, const float* a, const float* b, const Span* spans, int64_t count, int64_t shift, float* c,
                  bool add);

    // out = LeakyReLU(sums + bias) + residual over `size` columns, each unless null; bit `first` + j of `sign` is set
    // where the activation passes column j, in bytes that hold zeros before.
    void (*finish)(const float* sums, int64_t size, const float* bias, const float* slope, const float* residual, float* out,
                   uint8_t* sign, int64_t first);

    // inner = grad where `out` is above 0 or its bit is set, else grad · slope; added to `total`, unless null.
    void (*before_activation)(const float* grad, int64_t size, const float* out, const uint8_t* bits, float slope,
                              float* inner, float* total);

    void (*add)(const float* x, int64_t size, float* total);

    // `size` columns of rows that are `stride` apart to rows kPackedStride apart, which are then zero up to a whole vector.
    void (*pack)(const float* x, int64_t stride, int64_t rows, int64_t size, float* packed);
};

// Null where there are none for this machine.
const Products* products();

extern const Products* const kProductsAvx2;
extern const Products* const kProductsAvx512;

}  // namespace d2k::cpu

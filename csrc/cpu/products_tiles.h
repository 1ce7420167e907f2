// The tiles of products.h for one instruction set: included after `Isa`, its vectors and operations, is defined under
// that set's target pragma. Nothing here may be shared with code for other sets: no std templates.

template <int m, int n>
void tile(const float* a, const float* b, int64_t depth, float* c, int64_t stride, bool add) {
    Isa::V sum[m][n];
#pragma GCC unroll 14
    for (int i = 0; i < m; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < n; ++j) sum[i][j] = Isa::all(0.0f);
    for (int64_t k = 0; k < depth; ++k, ++a, b += n * Isa::lanes) {
        Isa::V of_b[n];
#pragma GCC unroll 2
        for (int j = 0; j < n; ++j) of_b[j] = Isa::load(b + j * Isa::lanes);
#pragma GCC unroll 14
        for (int i = 0; i < m; ++i) {
            const Isa::V of_a = Isa::all(a[i * kPackedStride]);
#pragma GCC unroll 2
            for (int j = 0; j < n; ++j) sum[i][j] = Isa::fused(of_a, of_b[j], sum[i][j]);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < m; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < n; ++j) {
            float* to = c + i * stride + j * Isa::lanes;
            Isa::store(to, add ? Isa::plus(Isa::load(to), sum[i][j]) : sum[i][j]);
        }
}

template <int m, int n>
void outer(const float* a, const float* b, const Span* spans, int64_t count, int64_t shift, float* c, bool add) {
    Isa::V sum[m][n];
#pragma GCC unroll 14
    for (int i = 0; i < m; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < n; ++j) sum[i][j] = Isa::all(0.0f);
    for (int64_t s = 0; s < count; ++s) {
        const float* x = a + spans[s].begin * m;
        const float* y = b + (spans[s].begin + shift) * (n * Isa::lanes);
        for (int64_t r = spans[s].begin; r < spans[s].end; ++r, x += m, y += n * Isa::lanes) {
            Isa::V of_y[n];
#pragma GCC unroll 2
            for (int j = 0; j < n; ++j) of_y[j] = Isa::load(y + j * Isa::lanes);
#pragma GCC unroll 14
            for (int i = 0; i < m; ++i) {
                const Isa::V of_x = Isa::all(x[i]);
#pragma GCC unroll 2
                for (int j = 0; j < n; ++j) sum[i][j] = Isa::fused(of_x, of_y[j], sum[i][j]);
            }
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < m; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < n; ++j) {
            float* to = c + (i * n + j) * Isa::lanes;
            Isa::store(to, add ? Isa::plus(Isa::load(to), sum[i][j]) : sum[i][j]);
        }
}

using Tile = void (*)(const float*, const float*, int64_t, float*, int64_t, bool);
using Outer = void (*)(const float*, const float*, const Span*, int64_t, int64_t, float*, bool);

// By width and number of rows.
template <int... m>
struct Tables {
    static constexpr Tile tiles[2][sizeof...(m)] = {{tile<m + 1, 1>...}, {tile<m + 1, 2>...}};
    static constexpr Outer outers[2][sizeof...(m)] = {{outer<m + 1, 1>...}, {outer<m + 1, 2>...}};
};

void any_tile(int m, int n, const float* a, const float* b, int64_t depth, float* c, int64_t stride, bool add) {
    Isa::Rows::tiles[n - 1][m - 1](a, b, depth, c, stride, add);
}

void any_outer(int m, int n, const float* a, const float* b, const Span* spans, int64_t count, int64_t shift, float* c,
               bool add) {
    Isa::Rows::outers[n - 1][m - 1](a, b, spans, count, shift, c, add);
}

// `count` lanes of x, a whole vector where there are as many.
Isa::V load_up_to(const float* x, int64_t count) {
    return count >= Isa::lanes ? Isa::load(x) : Isa::load_some(x, static_cast<int>(count));
}

void store_up_to(float* to, Isa::V x, int64_t count) {
    count >= Isa::lanes ? Isa::store(to, x) : Isa::store_some(to, x, static_cast<int>(count));
}

// Sets bits from `first` on, in bytes that hold zeros there before.
void set_bits(uint8_t* sign, int64_t first, uint32_t bits) {
    bits <<= first % 8;
    for (sign += first / 8; bits; bits >>= 8, ++sign) *sign |= static_cast<uint8_t>(bits);
}

void finish(const float* sums, int64_t size, const float* bias, const float* slope, const float* residual, float* out,
            uint8_t* sign, int64_t first) {
    for (int64_t j = 0; j < size; j += Isa::lanes) {
        const int64_t left = size - j;
        Isa::V y = load_up_to(sums + j, left);
        if (bias) y = Isa::plus(y, load_up_to(bias + j, left));
        const Isa::Mask passes = Isa::positive(y);
        if (sign) set_bits(sign, first + j, Isa::bits(passes) & (left < Isa::lanes ? (1u << left) - 1 : ~0u));
        if (slope) y = Isa::choose(passes, y, Isa::times(y, Isa::all(*slope)));
        if (residual) y = Isa::plus(y, load_up_to(residual + j, left));
        store_up_to(out + j, y, left);
    }
}

void before_activation(const float* grad, int64_t size, const float* out, const uint8_t* bits, float slope, float* inner,
                       float* total) {
    for (int64_t j = 0; j < size; j += Isa::lanes) {
        const int64_t left = size - j;
        Isa::V g = load_up_to(grad + j, left);
        const Isa::Mask passes = out ? Isa::positive(load_up_to(out + j, left)) : Isa::of_bits(bits + j / 8, left);
        g = Isa::choose(passes, g, Isa::times(g, Isa::all(slope)));
        store_up_to(inner + j, g, left);
        if (total) store_up_to(total + j, Isa::plus(load_up_to(total + j, left), g), left);
    }
}

void pack(const float* x, int64_t stride, int64_t rows, int64_t size, float* packed) {
    for (int64_t r = 0; r < rows; ++r, x += stride, packed += kPackedStride)
        for (int64_t j = 0; j < size; j += Isa::lanes) Isa::store(packed + j, load_up_to(x + j, size - j));
}

void add(const float* x, int64_t size, float* total) {
    for (int64_t j = 0; j < size; j += Isa::lanes)
        store_up_to(total + j, Isa::plus(load_up_to(total + j, size - j), load_up_to(x + j, size - j)), size - j);
}

// The tiles of products.h for one instruction set: included after `Isa`, its vectors and operations, is defined under
// that set's target pragma. Nothing here may be shared with code for other sets: no std templates.

template <int m, int n>
void tile(const Taps& taps, float* c, int64_t stride, bool add) {
    Isa::V sum[m][n];
#pragma GCC unroll 14
    for (int i = 0; i < m; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < n; ++j) sum[i][j] = Isa::all(0.0f);
    for (int64_t t = 0; t < taps.count; ++t) {
        const float *a = taps.a + t * taps.a_step, *b = taps.b + t * taps.b_step;
        for (const float* const end = a + taps.depth; a < end; ++a, b += n * Isa::lanes) {
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
void outer(const Matrix& a, const Matrix& b, const Span* spans, int64_t count, int64_t shift, float* c, bool add) {
    Isa::V sum[m][n];
#pragma GCC unroll 14
    for (int i = 0; i < m; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < n; ++j) sum[i][j] = Isa::all(0.0f);
    for (int64_t s = 0; s < count; ++s) {
        const float* x = a.data + spans[s].begin * a.stride;
        const float* y = b.data + (spans[s].begin + shift) * b.stride;
        for (int64_t r = spans[s].begin; r < spans[s].end; ++r, x += a.stride, y += b.stride) {
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

using Tile = void (*)(const Taps&, float*, int64_t, bool);
using Outer = void (*)(const Matrix&, const Matrix&, const Span*, int64_t, int64_t, float*, bool);

// By width and number of rows.
template <int... m>
struct Tables {
    static constexpr Tile tiles[2][sizeof...(m)] = {{tile<m + 1, 1>...}, {tile<m + 1, 2>...}};
    static constexpr Outer outers[2][sizeof...(m)] = {{outer<m + 1, 1>...}, {outer<m + 1, 2>...}};
};

void any_tile(int m, int n, const Taps& taps, float* c, int64_t stride, bool add) {
    Isa::Rows::tiles[n - 1][m - 1](taps, c, stride, add);
}

void any_outer(int m, int n, const Matrix& a, const Matrix& b, const Span* spans, int64_t count, int64_t shift, float* c,
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
void set_bits(uint8_t* sign, int64_t first, int64_t size, uint32_t bits) {
    if (first % 8 == 0 && size >= Isa::lanes) {
        for (int i = 0; i < Isa::lanes / 8; ++i) sign[first / 8 + i] = static_cast<uint8_t>(bits >> 8 * i);
        return;
    }
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
        if (sign) set_bits(sign, first + j, left, Isa::bits(passes) & (left < Isa::lanes ? (1u << left) - 1 : ~0u));
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

// Philox-4x32 of a lane of 64 bits a counter: what multiplies is the lower half, whatever the upper one holds.
void drop(const Dropping& dropping, const float* x, int64_t size, uint64_t counter, float* y) {
    const Isa::W m0 = Isa::words(0xd2511f53), m1 = Isa::words(0xcd9e8d57), lower = Isa::words(0xffffffff);
    for (int64_t j = 0; j < size; j += 2 * Isa::lanes, counter += Isa::lanes / 2) {
        Isa::W a = Isa::counters(counter), b = Isa::down(a), c = Isa::words(0), d = c;
        uint32_t low = static_cast<uint32_t>(dropping.seed), high = static_cast<uint32_t>(dropping.seed >> 32);
#pragma GCC unroll 7
        for (int round = 0; round < 7; ++round, low += 0x9e3779b9u, high += 0xbb67ae85u) {
            const Isa::W p = Isa::product(a, m0), q = Isa::product(c, m1);
            a = Isa::exclusive(Isa::exclusive(Isa::down(q), b), Isa::words(low));
            c = Isa::exclusive(Isa::exclusive(Isa::down(p), d), Isa::words(high));
            b = q;
            d = p;
        }
        a = Isa::either(Isa::both(a, lower), Isa::up(b));
        c = Isa::either(Isa::both(c, lower), Isa::up(d));
        const Isa::W by_four[2] = {Isa::firsts(a, c), Isa::seconds(a, c)};
        for (int i = 0; i < 2 && j + i * Isa::lanes < size; ++i) {
            const int64_t at = j + i * Isa::lanes, left = size - at;
            const Isa::V scaled = Isa::times(load_up_to(x + at, left), Isa::all(dropping.scale));
            store_up_to(y + at, Isa::choose(Isa::at_least(by_four[i], dropping.threshold), scaled, Isa::all(0.0f)), left);
        }
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

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

void finish(const float* sums, int64_t size, const float* bias, const float* slope, const float* residual, float* out,
            uint8_t* sign, int64_t first) {
    const bool whole_bytes = first % 8 == 0;
    int64_t j = 0;
    for (; j + Isa::lanes <= size; j += Isa::lanes) {
        if (sign && !whole_bytes) break;
        Isa::V y = Isa::load(sums + j);
        if (bias) y = Isa::plus(y, Isa::load(bias + j));
        if (sign) Isa::store_bits(sign + (first + j) / 8, Isa::positive(y));
        if (slope) y = Isa::choose(Isa::positive(y), y, Isa::times(y, Isa::all(*slope)));
        if (residual) y = Isa::plus(y, Isa::load(residual + j));
        Isa::store(out + j, y);
    }
    for (; j < size; ++j) {
        float y = bias ? sums[j] + bias[j] : sums[j];
        const bool passes = y > 0;
        if (sign && passes) sign[(first + j) / 8] |= static_cast<uint8_t>(1u << ((first + j) % 8));
        if (slope && !passes) y *= *slope;
        out[j] = residual ? y + residual[j] : y;
    }
}

void before_activation(const float* grad, int64_t size, const float* out, const uint8_t* bits, float slope, float* inner,
                       float* total) {
    int64_t j = 0;
    for (; j + Isa::lanes <= size; j += Isa::lanes) {
        Isa::V g = Isa::load(grad + j);
        const Isa::Mask passes = out ? Isa::positive(Isa::load(out + j)) : Isa::load_bits(bits + j / 8);
        g = Isa::choose(passes, g, Isa::times(g, Isa::all(slope)));
        Isa::store(inner + j, g);
        if (total) Isa::store(total + j, Isa::plus(Isa::load(total + j), g));
    }
    for (; j < size; ++j) {
        const bool passes = out ? out[j] > 0 : (bits[j / 8] >> (j % 8) & 1) != 0;
        inner[j] = passes ? grad[j] : grad[j] * slope;
        if (total) total[j] += inner[j];
    }
}

void pack(const float* x, int64_t stride, int64_t rows, int64_t size, float* packed) {
    for (int64_t r = 0; r < rows; ++r, x += stride, packed += kPackedStride) {
        int64_t j = 0;
        for (; j + Isa::lanes <= size; j += Isa::lanes) Isa::store(packed + j, Isa::load(x + j));
        if (j < size) Isa::store(packed + j, Isa::load_some(x + j, static_cast<int>(size - j)));
    }
}

void add(const float* x, int64_t size, float* total) {
    int64_t j = 0;
    for (; j + Isa::lanes <= size; j += Isa::lanes)
        Isa::store(total + j, Isa::plus(Isa::load(total + j), Isa::load(x + j)));
    for (; j < size; ++j) total[j] += x[j];
}

// The tiles of products.h for one instruction set: included after `Isa`, its vectors and operations, is defined under
// that set's target pragma. Nothing here may be shared with code for other sets: no std templates.

template <int m, int n>
void tile(const Taps& taps, float* c, int64_t stride, bool add) {
    if (add)
#pragma GCC unroll 14
        for (int i = 0; i < m; ++i)
#pragma GCC unroll 2
            for (int j = 0; j < n; ++j) __builtin_prefetch(c + i * stride + j * Isa::lanes, 1);
    Isa::V sum[m][n];
#pragma GCC unroll 14
    for (int i = 0; i < m; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < n; ++j) sum[i][j] = Isa::all(0.0f);
    // Three rows of each pointer, which an address reaches by one register's multiples.
    constexpr int pointers = (m + 2) / 3;
    const int64_t stride_of_a = taps.stride;
    const char* ahead = taps.ahead ? taps.ahead : reinterpret_cast<const char*>(taps.b);
    for (int64_t t = 0; t < taps.count; ++t) {
        const float *a[pointers], *b = taps.b + t * taps.b_step;
#pragma GCC unroll 5
        for (int i = 0; i < pointers; ++i) {
            a[i] = taps.a + t * taps.a_step + 3 * i * stride_of_a;
            asm("" : "+r"(a[i]));
        }
        for (const float* const end = b + taps.depth * n * Isa::lanes; b < end; b += n * Isa::lanes, ahead += taps.ahead_step) {
            __builtin_prefetch(ahead);
            Isa::V of_b[n];
#pragma GCC unroll 2
            for (int j = 0; j < n; ++j) of_b[j] = Isa::load(b + j * Isa::lanes);
#pragma GCC unroll 14
            for (int i = 0; i < m; ++i) {
                const Isa::V of_a = Isa::all(a[i / 3][i % 3 * stride_of_a]);
#pragma GCC unroll 2
                for (int j = 0; j < n; ++j) sum[i][j] = Isa::fused(of_a, of_b[j], sum[i][j]);
            }
#pragma GCC unroll 5
            for (int i = 0; i < pointers; ++i) ++a[i];
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
void outer(const Matrix& a, const Matrix& b, const Span* spans, int64_t count, int64_t shift, int64_t ahead, float* c,
           bool add) {
    Isa::V sum[m][n];
#pragma GCC unroll 14
    for (int i = 0; i < m; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < n; ++j) sum[i][j] = Isa::all(0.0f);
    for (int64_t s = 0; s < count; ++s) {
        const float* x = a.data + spans[s].begin * a.stride;
        const float* y = b.data + (spans[s].begin + shift) * b.stride;
        for (int64_t r = spans[s].begin; r < spans[s].end; ++r, x += a.stride, y += b.stride) {
            __builtin_prefetch(x + ahead);
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
using Outer = void (*)(const Matrix&, const Matrix&, const Span*, int64_t, int64_t, int64_t, float*, bool);

// By width and number of rows.
template <int... m>
struct Tables {
    static constexpr Tile tiles[2][sizeof...(m)] = {{tile<m + 1, 1>...}, {tile<m + 1, 2>...}};
    static constexpr Outer outers[2][sizeof...(m)] = {{outer<m + 1, 1>...}, {outer<m + 1, 2>...}};
};

void any_tile(int m, int n, const Taps& taps, float* c, int64_t stride, bool add) {
    Isa::Rows::tiles[n - 1][m - 1](taps, c, stride, add);
}

void any_outer(int m, int n, const Matrix& a, const Matrix& b, const Span* spans, int64_t count, int64_t shift,
               int64_t ahead, float* c, bool add) {
    Isa::Rows::outers[n - 1][m - 1](a, b, spans, count, shift, ahead, c, add);
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

// One vector, or its first `count` lanes.
template <bool biased, bool signs, bool activates, bool adds, bool all>
inline void finish_vector(const float* sums, const float* bias, const Isa::V& slope, const float* residual, float* out,
                          uint8_t* sign, int64_t first, int count) {
    const auto load = [count](const float* x) { return all ? Isa::load(x) : Isa::load_some(x, count); };
    Isa::V y = load(sums);
    if (biased) y = Isa::plus(y, load(bias));
    const Isa::Mask passes = Isa::positive(y);
    if (signs) set_bits(sign, first, count, all ? Isa::bits(passes) : Isa::bits(passes) & ((1u << count) - 1));
    if (activates) y = Isa::choose(passes, y, Isa::times(y, slope));
    if (adds) y = Isa::plus(y, load(residual));
    if (all) Isa::store(out, y);
    else Isa::store_some(out, y, count);
}

template <bool biased, bool signs, bool activates, bool adds>
void finish_as(int64_t rows, const float* sums, int64_t stride, int64_t size, const Finish& to) {
    const Isa::V slope = Isa::all(activates ? *to.slope : 1.0f);
    const float *bias = to.bias, *residual = to.residual.data;
    float* out = to.out;
    uint8_t* sign = to.sign;
    for (int64_t r = 0; r < rows; ++r) {
        int64_t j = 0;
        for (; j + Isa::lanes <= size; j += Isa::lanes)
            finish_vector<biased, signs, activates, adds, true>(sums + j, biased ? bias + j : nullptr, slope, adds ? residual + j : nullptr, out + j, sign,
                                                                to.first + j, Isa::lanes);
        if (j < size)
            finish_vector<biased, signs, activates, adds, false>(sums + j, biased ? bias + j : nullptr, slope, adds ? residual + j : nullptr, out + j, sign,
                                                                 to.first + j, static_cast<int>(size - j));
        sums += stride;
        out += to.stride;
        if (signs) sign += to.sign_stride;
        if (adds) residual += to.residual.stride;
    }
}

// By what there is: bias 1, sign 2, slope 4, residual 8.
using FinishRows = void (*)(int64_t, const float*, int64_t, int64_t, const Finish&);
template <int... choice>
struct Finishes {
    static constexpr FinishRows all[] = {
        finish_as<(choice & 1) != 0, (choice & 2) != 0, (choice & 4) != 0, (choice & 8) != 0>...};
};

void finish(int64_t rows, const float* sums, int64_t stride, int64_t size, const Finish& to) {
    const int choice = (to.bias ? 1 : 0) | (to.sign ? 2 : 0) | (to.slope ? 4 : 0) | (to.residual.data ? 8 : 0);
    Finishes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>::all[choice](rows, sums, stride, size, to);
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

void pack_outputs(const float* weight, int64_t stride, int64_t outputs, int64_t taps, int64_t channels, int n,
                  float* packed, int64_t step) {
    const int64_t width = n * Isa::lanes, size = channels * taps;
    for (int64_t first = 0; first < width; first += Isa::lanes) {
        int64_t t = 0, k = 0;
        for (int64_t at = 0; at < size; at += Isa::lanes) {
            Isa::V v[Isa::lanes];
#pragma GCC unroll 16
            for (int i = 0; i < Isa::lanes; ++i)
                v[i] = first + i < outputs ? load_up_to(weight + (first + i) * stride + at, size - at) : Isa::all(0.0f);
            Isa::transpose(v);
            const int count = static_cast<int>(size - at < Isa::lanes ? size - at : Isa::lanes);
            for (int i = 0; i < count; ++i) {
                Isa::store(packed + t * step + k * width + first, v[i]);
                if (++t == taps) t = 0, ++k;
            }
        }
    }
}

// Of `taps` vectors side by side, every taps-th lane.
template <int taps>
void apart(const float* weight, int64_t inputs, int n, float* packed, int64_t step) {
    for (int64_t j = 0; j < n * Isa::lanes; j += Isa::lanes, weight += taps * Isa::lanes) {
        Isa::V v[taps];
#pragma GCC unroll 5
        for (int i = 0; i < taps; ++i) {
            const int64_t left = (inputs - j) * taps - i * Isa::lanes;
            v[i] = left > 0 ? load_up_to(weight + i * Isa::lanes, left) : Isa::all(0.0f);
        }
#pragma GCC unroll 5
        for (int t = 0; t < taps; ++t) Isa::store(packed + (taps - 1 - t) * step + j, Isa::template every<taps>(v, t));
    }
}

void pack_inputs(const float* weight, int64_t inputs, int64_t taps, int n, float* packed, int64_t step) {
    if (taps == 1) return apart<1>(weight, inputs, n, packed, step);
    if (taps == 3) return apart<3>(weight, inputs, n, packed, step);
    if (taps == 5) return apart<5>(weight, inputs, n, packed, step);
    for (int64_t t = 0; t < taps; ++t)
        for (int64_t j = 0; j < n * Isa::lanes; ++j) packed[(taps - 1 - t) * step + j] = j < inputs ? weight[j * taps + t] : 0.0f;
}

void add(const float* x, int64_t size, float* total) {
    for (int64_t j = 0; j < size; j += Isa::lanes)
        store_up_to(total + j, Isa::plus(load_up_to(total + j, size - j), load_up_to(x + j, size - j)), size - j);
}

#include "d2kernels/winograd.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "vectorize.h"

namespace d2k::cpu {
namespace {

constexpr int P = kWinogradPoints, M = kWinogradRows;
constexpr int64_t kTiles = 16, kChannels = 64;  // a block that is turned on its way out
constexpr double kSteps = 1.0;                  // nanoseconds an element of a tile
// The points ±a and ±b, with a b = 1.
constexpr float a = 2.0f / 3, b = 1.5f, a2 = 4.0f / 9, b2 = 2.25f, both = 97.0f / 36;
// 1 / Π (p − q) over the other finite points q, for p = ±a and p = ±b.
constexpr float na = 1 / (2 * a2 * (a2 - b2)), nb = 1 / (2 * b2 * (b2 - a2));

D2K_INLINE void input_map(const float* const* x, int64_t size, float* const* v) {
    D2K_LANES
    for (int64_t j = 0; j < size; ++j) {
        const float x0 = x[0][j], x1 = x[1][j], x2 = x[2][j], x3 = x[3][j], x4 = x[4][j], x5 = x[5][j];
        const float even_a = x4 - b2 * x2, odd_a = a * x3 - b * x1;  // a b² = b
        const float even_b = x4 - a2 * x2, odd_b = b * x3 - a * x1;
        v[0][j] = x0 - both * x2 + x4;
        v[1][j] = even_a + odd_a;
        v[2][j] = even_a - odd_a;
        v[3][j] = even_b + odd_b;
        v[4][j] = even_b - odd_b;
        v[5][j] = x1 - both * x3 + x5;
    }
}

D2K_INLINE void gradient_map(const float* const* x, int64_t size, float* const* z) {
    D2K_LANES
    for (int64_t j = 0; j < size; ++j) {
        const float x0 = x[0][j], x1 = x[1][j], x2 = x[2][j], x3 = x[3][j];
        const float even_a = x0 + a2 * x2, odd_a = a * x1 + a * a2 * x3;
        const float even_b = x0 + b2 * x2, odd_b = b * x1 + b * b2 * x3;
        z[0][j] = x0;
        z[1][j] = even_a + odd_a;
        z[2][j] = even_a - odd_a;
        z[3][j] = even_b + odd_b;
        z[4][j] = even_b - odd_b;
        z[5][j] = x3;
    }
}

D2K_INLINE void output_map(const float* const* m, const float* bias, int64_t size, float* const* y) {
    D2K_LANES
    for (int64_t j = 0; j < size; ++j) {
        const float even_a = m[1][j] + m[2][j], odd_a = m[1][j] - m[2][j];
        const float even_b = m[3][j] + m[4][j], odd_b = m[3][j] - m[4][j];
        y[0][j] = (m[0][j] + even_a) + even_b + bias[j];
        y[1][j] = a * odd_a + b * odd_b + bias[j];
        y[2][j] = a2 * even_a + b2 * even_b + bias[j];
        y[3][j] = a * a2 * odd_a + b * b2 * odd_b + m[5][j] + bias[j];
    }
}

// Kept apart, so that each is compiled for several instruction sets.
D2K_CLONES D2K_FLATTEN void input_row(const float* const* x, int64_t size, float* const* v) { input_map(x, size, v); }

D2K_CLONES D2K_FLATTEN void output_row(const float* const* m, const float* bias, int64_t size, float* const* y) {
    output_map(m, bias, size, y);
}

// Tiles [first, first + count) of channels [at, at + size), turned: z[p][channel][tile].
D2K_CLONES D2K_FLATTEN void gradient_block(const float* const* rows, int64_t first, int64_t count, int64_t at, int64_t size,
                                           int64_t tiles, int64_t channels, float* z) {
    float block[P][kTiles][kChannels];
    for (int64_t t = 0; t < count; ++t) {
        const float* x[M];
        float* to[P];
        for (int i = 0; i < M; ++i) x[i] = rows[M * t + i] + at;
        for (int p = 0; p < P; ++p) to[p] = block[p][t];
        gradient_map(x, size, to);
    }
    for (int p = 0; p < P; ++p)
        for (int64_t j = 0; j < size; ++j) {
            float* line = z + (p * channels + at + j) * tiles + first;
            for (int64_t t = 0; t < count; ++t) line[t] = block[p][t][j];
        }
}

D2K_CLONES D2K_FLATTEN void weight_rows(const float* w, int64_t begin, int64_t end, int64_t size, float* u) {
    D2K_LANES
    for (int64_t i = begin; i < end; ++i) {
        const float w0 = w[3 * i], w1 = w[3 * i + 1], w2 = w[3 * i + 2];
        const float even_a = na * w0 + na * a2 * w2, odd_a = na * a * w1;
        const float even_b = nb * w0 + nb * b2 * w2, odd_b = nb * b * w1;
        u[i] = w0;
        u[size + i] = even_a + odd_a;
        u[2 * size + i] = even_a - odd_a;
        u[3 * size + i] = even_b + odd_b;
        u[4 * size + i] = even_b - odd_b;
        u[5 * size + i] = w2;
    }
}

D2K_CLONES D2K_FLATTEN void weight_gradient_rows(const float* const* m, int64_t begin, int64_t end, float* grad) {
    D2K_LANES
    for (int64_t i = begin; i < end; ++i) {
        const float even_a = na * (m[1][i] + m[2][i]), odd_a = na * (m[1][i] - m[2][i]);
        const float even_b = nb * (m[3][i] + m[4][i]), odd_b = nb * (m[3][i] - m[4][i]);
        grad[3 * i] = m[0][i] + even_a + even_b;
        grad[3 * i + 1] = a * odd_a + b * odd_b;
        grad[3 * i + 2] = a2 * even_a + b2 * even_b + m[5][i];
    }
}

const float* row_or(const float* zeros, const BufferRows& x, int64_t row) {
    return row >= 0 && row < x.rows ? x.data + row * x.stride : zeros;
}

}  // namespace

Status winograd_input(const BufferRows& x, int64_t tiles, float* v, int threads) {
    const std::vector<float> zeros(static_cast<size_t>(std::max<int64_t>(x.channels, 0)));
    const double steps = kSteps * static_cast<double>(tiles) * static_cast<double>(x.channels);
    return parallel_for(tiles, 16, steps, threads, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const float* from[P];
            float* to[P];
            for (int i = 0; i < P; ++i) {
                from[i] = row_or(zeros.data(), x, M * t - 1 + i);
                to[i] = v + (i * tiles + t) * x.channels;
            }
            input_row(from, x.channels, to);
        }
    });
}

Status winograd_gradient(const BufferRows& grad, int64_t tiles, float* z, int threads) {
    const std::vector<float> zeros(static_cast<size_t>(std::max<int64_t>(grad.channels, 0)));
    const double steps = kSteps * static_cast<double>(tiles) * static_cast<double>(grad.channels);
    return parallel_for((tiles + kTiles - 1) / kTiles, 1, steps, threads, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin * kTiles; t < std::min(tiles, end * kTiles); t += kTiles) {
            const float* rows[M * kTiles];
            for (int64_t i = 0; i < M * kTiles; ++i) rows[i] = row_or(zeros.data(), grad, M * t + i);
            for (int64_t at = 0; at < grad.channels; at += kChannels)
                gradient_block(rows, t, std::min(kTiles, tiles - t), at, std::min(kChannels, grad.channels - at), tiles,
                               grad.channels, z);
        }
    });
}

Status winograd_output(const float* const* products, int64_t tiles, const float* bias, const BufferRows& y, int threads) {
    const std::vector<float> zeros(static_cast<size_t>(std::max<int64_t>(y.channels, 0)));
    const double steps = kSteps * static_cast<double>(tiles) * static_cast<double>(y.channels);
    return parallel_for(tiles, 16, steps, threads, [&](int64_t begin, int64_t end) {
        std::vector<float> beyond(zeros.size());
        for (int64_t t = begin; t < end; ++t) {
            const float* from[P];
            float* to[M];
            for (int p = 0; p < P; ++p) from[p] = products[p] + t * y.channels;
            for (int i = 0; i < M; ++i) to[i] = M * t + i < y.rows ? y.data + (M * t + i) * y.stride : beyond.data();
            output_row(from, bias == nullptr ? zeros.data() : bias, y.channels, to);
        }
    });
}

Status winograd_weight(const float* w, int64_t size, float* u, int threads) {
    return parallel_for(size, 1 << 14, kSteps * static_cast<double>(size), threads,
                        [&](int64_t begin, int64_t end) { weight_rows(w, begin, end, size, u); });
}

Status winograd_weight_gradient(const float* const* products, int64_t size, float* grad, int threads) {
    return parallel_for(size, 1 << 14, kSteps * static_cast<double>(size), threads,
                        [&](int64_t begin, int64_t end) { weight_gradient_rows(products, begin, end, grad); });
}

}  // namespace d2k::cpu

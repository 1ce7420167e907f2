#include "winograd.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "convolution.h"
#include "parallel.h"
#include "vectorize.h"

namespace d2k::cpu {
namespace {

constexpr int P = 6, M = 4;            // products and rows of a tile
constexpr int64_t kBlockTiles = 56;    // at a time: their products stay in the second cache
constexpr int64_t kAlias = 8;          // weights' rows a page apart that a set of the first cache holds
// The points ±a and ±b, with a b = 1.
constexpr float a = 2.0f / 3, b = 1.5f, a2 = 4.0f / 9, b2 = 2.25f, both = 97.0f / 36;
// 1 / Π (p − q) over the other finite points q, for p = ±a and p = ±b.
constexpr float na = 1 / (2 * a2 * (a2 - b2)), nb = 1 / (2 * b2 * (b2 - a2));

D2K_CLONES D2K_FLATTEN void input_map(const float* const* x, int64_t size, float* const* v) {
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

D2K_CLONES D2K_FLATTEN void gradient_map(const float* const* x, int64_t size, float* const* z) {
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

D2K_CLONES D2K_FLATTEN void output_map(const float* const* m, int64_t size, float* const* y) {
    D2K_LANES
    for (int64_t j = 0; j < size; ++j) {
        const float even_a = m[1][j] + m[2][j], odd_a = m[1][j] - m[2][j];
        const float even_b = m[3][j] + m[4][j], odd_b = m[3][j] - m[4][j];
        y[0][j] = (m[0][j] + even_a) + even_b;
        y[1][j] = a * odd_a + b * odd_b;
        y[2][j] = a2 * even_a + b2 * even_b;
        y[3][j] = a * a2 * odd_a + b * b2 * odd_b + m[5][j];
    }
}

// G of `count` columns' weights, whose taps lie `step` apart, the last first where `back`: out[p · apart + column].
D2K_CLONES D2K_FLATTEN void weight_map(const float* w, int64_t step, int64_t count, bool back, float* out, int64_t apart) {
    const int64_t first = back ? 2 : 0, last = 2 - first;
    D2K_LANES
    for (int64_t j = 0; j < count; ++j) {
        const float w0 = w[j * step + first], w1 = w[j * step + 1], w2 = w[j * step + last];
        const float even_a = na * w0 + na * a2 * w2, odd_a = na * a * w1;
        const float even_b = nb * w0 + nb * b2 * w2, odd_b = nb * b * w1;
        out[j] = w0;
        out[apart + j] = even_a + odd_a;
        out[2 * apart + j] = even_a - odd_a;
        out[3 * apart + j] = even_b + odd_b;
        out[4 * apart + j] = even_b - odd_b;
        out[5 * apart + j] = w2;
    }
}

// Gᵀ of the products of `count` columns, `apart` between points: grad[3 · column + tap].
D2K_CLONES D2K_FLATTEN void weight_gradient_map(const float* m, int64_t apart, int64_t count, bool add, float* grad) {
    D2K_LANES
    for (int64_t j = 0; j < count; ++j) {
        const float even_a = na * (m[apart + j] + m[2 * apart + j]), odd_a = na * (m[apart + j] - m[2 * apart + j]);
        const float even_b = nb * (m[3 * apart + j] + m[4 * apart + j]), odd_b = nb * (m[3 * apart + j] - m[4 * apart + j]);
        const float g0 = m[j] + even_a + even_b, g1 = a * odd_a + b * odd_b;
        const float g2 = a2 * even_a + b2 * even_b + m[5 * apart + j];
        grad[3 * j] = add ? grad[3 * j] + g0 : g0;
        grad[3 * j + 1] = add ? grad[3 * j + 1] + g1 : g1;
        grad[3 * j + 2] = add ? grad[3 * j + 2] + g2 : g2;
    }
}

D2K_CLONES D2K_FLATTEN bool finite_numbers(const float* x, int64_t size) {
    constexpr uint32_t kExponent = 0x7f800000;
    uint32_t worst = 0;
    for (int64_t j = 0; j < size; ++j) {
        uint32_t bits;
        memcpy(&bits, x + j, sizeof bits);
        worst = std::max(worst, bits & kExponent);
    }
    return worst != kExponent;
}

// Four rows of one sequence, whose rows are [begin, end), from `row` on.
struct Tile {
    int64_t row, begin, end;

    // Row i of the tile, of which there may be more than the sequence has.
    const float* of(int64_t i, const Input& x, int64_t channel, const float* zeros) const {
        const int64_t r = row + i;
        return r >= begin && r < end ? x.data + r * x.stride + channel : zeros;
    }
};

std::vector<Tile> tiles_of(const Sequences& sequences) {
    std::vector<Tile> tiles;
    const Rows rows(sequences);
    rows.each(0, rows.count(), [&](const Stretch& s, int64_t, int64_t, int64_t) {
        for (int64_t row = s.begin; row < s.end; row += M) tiles.push_back({row, s.begin, s.end});
    });
    return tiles;
}

// Weights on their way to a panel of columns: (point, channel) of column j at (point · from + channel) · width + j.
struct Weights {
    const float* weight;
    int64_t from, to, c_in;
    bool back;

    void pack(const Panel& panel, int64_t width, int64_t begin, int64_t end) const {
        const int64_t step = back ? 3 : 3 * c_in, apart = from * width;
        for (int64_t j = 0; j < panel.width; j += kAlias)
            for (int64_t k = begin; k < end; ++k) {
                const float* w = back ? weight + ((panel.group * from + k) * c_in + panel.first + j) * 3
                                      : weight + ((panel.group * to + panel.first + j) * c_in + k) * 3;
                weight_map(w, step, std::min(kAlias, panel.width - j), back, panel.packed + k * width + j, apart);
            }
        if (panel.width < width)
            for (int64_t p = 0; p < P; ++p)
                for (int64_t k = begin; k < end; ++k)
                    std::fill_n(panel.packed + (p * from + k) * width + panel.width, width - panel.width, 0.0f);
    }
};

// The channels [at, at + size) of x as the products of a block of tiles take them: v[p · apart + tile · kPackedStride].
void pack_tiles(const Tile* tiles, int64_t count, const Input& x, int64_t at, int64_t size, int64_t apart, float* v) {
    static constexpr float zeros[kDepth] = {};
    for (int64_t t = 0; t < count; ++t, v += kPackedStride) {
        const float* rows[P];
        float* out[P];
        for (int i = 0; i < P; ++i) {
            rows[i] = tiles[t].of(i - 1, x, at, zeros);
            out[i] = v + i * apart;
        }
        input_map(rows, size, out);
    }
}

}  // namespace

Status winograd(const Convolution& shape, const Input& x, const float* weight, bool back, const Output& out, int threads) {
    const Products& by = *products();
    const Weights way{weight, back ? shape.c_out : shape.c_in, back ? shape.c_in : shape.c_out, shape.c_in, back};
    const int64_t channels = shape.groups * way.to, wide = 2 * by.lanes;
    zero_gaps(shape.sequences, channels, out.data);
    const std::vector<Tile> tiles = tiles_of(shape.sequences);
    const int64_t count = static_cast<int64_t>(tiles.size());
    if (count == 0 || channels == 0) return kOk;
    const int64_t chunk = pieces(way.from, pieces(way.from, kDepth));
    std::vector<Panel> all = panels(shape.groups, way.to, by.lanes);
    const int64_t blocks = 2 * pieces(count, 2 * kBlockTiles), most_tiles = pieces(count, blocks);

    // As many panels at a time as the caches hold.
    const int64_t most = std::clamp<int64_t>(kPackedWeights / (P * way.from * wide), 1, kMostWidth / wide);
    Floats weights(std::min<int64_t>(most, static_cast<int64_t>(all.size())) * P * way.from * wide);
    for (size_t begin = 0; begin < all.size();) {
        const size_t end = std::min(all.size(), begin + static_cast<size_t>(most));
        for (size_t p = begin; p < end; ++p) all[p].packed = weights.get() + static_cast<int64_t>(p - begin) * P * way.from * wide;
        const double floats = static_cast<double>(static_cast<int64_t>(end - begin) * P * way.from * wide);
        Status status = parallel_for(pieces(way.from, kTogether), 1, floats, threads, [&](int64_t from, int64_t to) {
            for (size_t p = begin; p < end; ++p)
                way.pack(all[p], all[p].vectors * by.lanes, from * kTogether, std::min(way.from, to * kTogether));
        });
        if (status != kOk) return status;

        const double steps = 2 * floats * static_cast<double>(count) / kFlops;
        status = parallel_for(blocks, 1, steps, threads, [&](int64_t from, int64_t to) {
            thread_local Floats kept_tiles, kept_products;
            const int64_t v_apart = most_tiles * kPackedStride;
            float* const v = kept_tiles.reserve(P * v_apart);
            for (int64_t block = from; block < to; ++block) {
                const int64_t first = part(block, blocks, count), size = part(block + 1, blocks, count) - first;
                for (size_t g_begin = begin; g_begin < end;) {
                    size_t g_end = g_begin;
                    const int64_t group = all[g_begin].group, base = all[g_begin].first;
                    while (g_end < end && all[g_end].group == group) ++g_end;
                    const int64_t width = static_cast<int64_t>(g_end - g_begin) * wide, apart = most_tiles * width;
                    float* const m = kept_products.reserve(P * apart + M * width);
                    for (int64_t at = 0; at < way.from; at += chunk) {
                        const int64_t depth = std::min(way.from - at, chunk);
                        pack_tiles(&tiles[static_cast<size_t>(first)], size, x, group * way.from + at, depth, v_apart, v);
                        for (size_t p = g_begin; p < g_end; ++p) {
                            const int64_t panel_width = all[p].vectors * by.lanes, high = pieces(size, by.rows);
                            for (int64_t point = 0; point < P; ++point)
                                for (int64_t i = 0; i < high; ++i) {
                                    const int64_t r = part(i, high, size), rows = part(i + 1, high, size) - r;
                                    const Taps taps{v + point * v_apart + r * kPackedStride,
                                                    all[p].packed + (point * way.from + at) * panel_width,
                                                    kPackedStride, 0, 0, 1, depth, nullptr, 0};
                                    by.tile(static_cast<int>(rows), all[p].vectors, taps,
                                            m + point * apart + r * width + (all[p].first - base), width, at > 0);
                                }
                        }
                    }
                    const int64_t columns = all[g_end - 1].first + all[g_end - 1].width - base;
                    for (int64_t t = 0; t < size; ++t) {
                        const Tile& tile = tiles[static_cast<size_t>(first + t)];
                        const float* of_point[P];
                        float* sums[M];
                        for (int p = 0; p < P; ++p) of_point[p] = m + p * apart + t * width;
                        for (int i = 0; i < M; ++i) sums[i] = m + P * apart + i * width;
                        output_map(of_point, columns, sums);
                        for (int i = 0; i < M && tile.row + i < tile.end; ++i)
                            finish_rows(by, out, tile.row + i, 1, channels, group * way.to + base, columns, sums[i], width);
                    }
                    g_begin = g_end;
                }
            }
        });
        if (status != kOk) return status;
        begin = end;
    }
    return kOk;
}

Status winograd_weight_gradient(const Convolution& shape, const Input& inner, const Input& x, float* grad_weight,
                                bool* finite, int threads) {
    const Products& by = *products();
    const std::vector<Tile> tiles = tiles_of(shape.sequences);
    const int64_t count = static_cast<int64_t>(tiles.size()), high = pieces(shape.c_out, by.rows);
    const std::vector<Panel> wide = panels(1, shape.c_in, by.lanes);
    const int64_t panel_count = static_cast<int64_t>(wide.size());
    int64_t padded = 0;
    for (const Panel& panel : wide) padded += panel.vectors * by.lanes;
    const int64_t chunk = std::min(count, std::max(kPart, kPackedRows / (P * (shape.c_out + padded)) / kPart * kPart));
    Floats z(P * chunk * shape.c_out), v(P * chunk * padded);
    std::atomic<bool> all{true};

    for (int64_t group = 0; group < shape.groups; ++group)
        for (int64_t first = 0; first < count; first += chunk) {
            const int64_t size = std::min(count - first, chunk);
            // Tile t's points of columns [o, o + m): z at P · chunk · o + (point · chunk + t) · m, and v likewise.
            const double bytes = 4.0 * static_cast<double>(P * size * (shape.c_out + padded));
            Status status = parallel_for(pieces(size, kAlias), 1, bytes, threads, [&](int64_t from, int64_t to) {
                thread_local Floats kept;
                float* const row = kept.reserve(P * std::max(shape.c_out, padded) + std::max(shape.c_in, shape.c_out));
                float* const zeros = row + P * std::max(shape.c_out, padded);
                std::fill_n(zeros, std::max(shape.c_in, shape.c_out), 0.0f);
                for (int64_t t = from * kAlias; t < std::min(size, to * kAlias); ++t) {
                    const Tile& tile = tiles[static_cast<size_t>(first + t)];
                    const float* rows[P];
                    float* out[P];
                    for (int i = 0; i < M; ++i) rows[i] = tile.of(i, inner, group * shape.c_out, zeros);
                    for (int p = 0; p < P; ++p) out[p] = row + p * shape.c_out;
                    gradient_map(rows, shape.c_out, out);
                    for (int64_t i = 0; i < high; ++i) {
                        const int64_t o = part(i, high, shape.c_out), m = part(i + 1, high, shape.c_out) - o;
                        for (int p = 0; p < P; ++p)
                            memcpy(z.get() + P * chunk * o + (p * chunk + t) * m, out[p] + o, static_cast<size_t>(m) * sizeof(float));
                    }
                    for (int i = 0; i < P; ++i) rows[i] = tile.of(i - 1, x, group * shape.c_in, zeros);
                    for (int p = 0; p < P; ++p) out[p] = row + p * padded;
                    input_map(rows, shape.c_in, out);
                    for (int p = 0; p < P; ++p) std::fill(out[p] + shape.c_in, out[p] + padded, 0.0f);
                    for (const Panel& panel : wide) {
                        const int64_t width = panel.vectors * by.lanes;
                        for (int p = 0; p < P; ++p)
                            memcpy(v.get() + P * chunk * panel.first + (p * chunk + t) * width, out[p] + panel.first,
                                   static_cast<size_t>(width) * sizeof(float));
                    }
                }
            });
            if (status != kOk) return status;

            const double steps = 2.0 * P * static_cast<double>(size * shape.c_out * shape.c_in) / kFlops;
            const int64_t tasks = panel_count * high;
            status = parallel_for(tasks, std::clamp<int64_t>(tasks / 256, 1, 8), steps, threads, [&](int64_t from, int64_t to) {
                alignas(64) float sums[P * kMostRows * kMostColumns];
                for (int64_t task = from; task < to; ++task) {
                    const int64_t i = task % high, p = task / high;
                    const Panel& panel = wide[static_cast<size_t>(p)];
                    const int64_t o = part(i, high, shape.c_out), m = part(i + 1, high, shape.c_out) - o;
                    const int64_t width = panel.vectors * by.lanes;
                    for (int64_t point = 0; point < P; ++point)
                        for (int64_t at = 0; at < size; at += kPart) {
                            const Span span{at, std::min(size, at + kPart)};
                            by.outer(static_cast<int>(m), panel.vectors, {z.get() + P * chunk * o + point * chunk * m, m},
                                     {v.get() + P * chunk * panel.first + point * chunk * width, width}, &span, 1, 0,
                                     kPart * m, sums + point * m * width, at > 0);
                        }
                    if (!finite_numbers(sums, P * m * width)) all = false;
                    for (int64_t r = 0; r < m; ++r)
                        weight_gradient_map(sums + r * width, m * width, panel.width, first > 0,
                                            grad_weight + ((group * shape.c_out + o + r) * shape.c_in + panel.first) * 3);
                }
            });
            if (status != kOk) return status;
        }
    *finite = all;
    return kOk;
}

}  // namespace d2k::cpu

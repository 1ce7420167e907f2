#include "d2kernels/temporal_conv.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "convolution.h"
#include "parallel.h"
#include "winograd.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kBlockRows = 126;           // of the result at a time: their taps stay in the second cache
constexpr int64_t kLongBlockRows = 252;       // where weights come from the last cache, for each block anew
constexpr int64_t kLongBlockWeights = 1 << 18;  // floats, from which on that is so
constexpr int64_t kChunk = 2048;              // rows of the weight gradient that are packed at a time
constexpr int64_t kShortRow = 256;            // floats: 512 are slower where they lie than packed
constexpr int64_t kReach = 64;                // rows beyond a block that are packed with it
constexpr int64_t kReachShare = 8;            // of the rows may be zero rows in between
constexpr int64_t kWhole = 16;                // channels, a line of the caches
constexpr int64_t kSumRows = 64;              // of the bias gradient, likewise
constexpr double kBytes = 8;                  // a nanosecond

// Calls body with the number of taps, a constant where it is a usual one.
template <class Body>
void for_taps(int64_t taps, const Body& body) {
    if (taps == 1) body(std::integral_constant<int64_t, 1>{});
    else if (taps == 3) body(std::integral_constant<int64_t, 3>{});
    else if (taps == 5) body(std::integral_constant<int64_t, 5>{});
    else body(taps);
}

// One direction of the convolution: what is reduced is (tap, channel), taps slowest.
struct Direction {
    const float* weight;
    int64_t from, to, taps, c_in;
    bool back;

    // Packs channels [begin, end) of the panels: (tap, channel) of column j at ((tap · from + channel) · width + j).
    void pack(const Panel* panels, size_t count, int lanes, int64_t begin, int64_t end) const {
        for_taps(taps, [&](auto each) {
            if (!back)
                for (size_t p = 0; p < count; ++p) pack_on(panels[p], panels[p].vectors * lanes, begin, end, each);
            else
                // As the weights lie.
                for (int64_t k = begin; k < end; ++k)
                    for (size_t p = 0; p < count; ++p) pack_back(panels[p], panels[p].vectors * lanes, k, each);
        });
    }

    template <class Taps>
    void pack_back(const Panel& panel, int64_t width, int64_t k, Taps count) const {
        const float* w = weight + ((panel.group * from + k) * c_in + panel.first) * count;
        for (int64_t t = 0; t < count; ++t) {
            float* packed = panel.packed + ((count - 1 - t) * from + k) * width;
            for (int64_t j = 0; j < panel.width; ++j) packed[j] = w[j * count + t];
            for (int64_t j = panel.width; j < width; ++j) packed[j] = 0;
        }
    }

    template <class Taps>
    void pack_on(const Panel& panel, int64_t width, int64_t begin, int64_t end, Taps count) const {
        for (int64_t j = 0; j < width; ++j) {
            const float* w = weight + (panel.group * to + panel.first + j) * c_in * count;
            for (int64_t k = begin; k < end; ++k)
                for (int64_t t = 0; t < count; ++t)
                    panel.packed[(t * from + k) * width + j] = j < panel.width ? w[k * count + t] : 0.0f;
        }
    }
};

void zero_packed(int64_t rows, int64_t size, float* packed) {
    for (int64_t r = 0; r < rows; ++r) memset(packed + r * kPackedStride, 0, static_cast<size_t>(size) * sizeof(float));
}

// The taps of places [first, last), channels [begin, end) of x, side by side.
void pack_apart(const Products& by, const Rows& rows, int64_t first, int64_t last, const Input& x, const Convolution& shape,
                int64_t begin, int64_t end, float* packed) {
    for (int64_t t = 0; t < shape.taps; ++t, packed += end - begin) {
        const int64_t shift = (t - shape.taps / 2) * shape.dilation;
        rows.each(first, last, [&](const Stretch& s, int64_t row, int64_t count, int64_t place) {
            float* out = packed + (place - first) * kPackedStride;
            const int64_t low = std::clamp<int64_t>(s.begin - shift - row, 0, count);
            const int64_t high = std::clamp<int64_t>(s.end - shift - row, low, count);
            zero_packed(low, end - begin, out);
            if (low < high)
                by.pack(x.data + (row + low + shift) * x.stride + begin, x.stride, high - low, end - begin,
                        out + low * kPackedStride);
            zero_packed(count - high, end - begin, out + high * kPackedStride);
        });
    }
}

// Places [first, last) once, zero where there is no row: one tap's rows are another's, shifted.
void pack_together(const Products& by, const Rows& rows, int64_t first, int64_t last, const Input& x, int64_t begin, int64_t end,
                   float* packed) {
    int64_t filled = first;
    rows.each(first, last, [&](const Stretch&, int64_t row, int64_t count, int64_t place) {
        zero_packed(place - filled, end - begin, packed + (filled - first) * kPackedStride);
        by.pack(x.data + row * x.stride + begin, x.stride, count, end - begin, packed + (place - first) * kPackedStride);
        filled = place + count;
    });
    zero_packed(last - filled, end - begin, packed + (filled - first) * kPackedStride);
}

// Whether zero rows between sequences, `reach` each, cost less than taps packed apart. Both add in the same order.
bool together(const Rows& rows, int64_t reach) {
    return reach <= kReach && (rows.stretches() - 1) * reach <= rows.count() / kReachShare;
}

// Channels whose products are summed before sums are added.
int64_t channels_at_a_time(int64_t taps, int64_t channels) {
    int64_t most = std::max<int64_t>(kDepth / taps, 1);
    if (most > kWhole) most -= most % kWhole;
    const int64_t size = pieces(channels, pieces(channels, most));
    return std::min(most, pieces(size, kWhole) * kWhole);
}

Status convolve(const Convolution& shape, const Rows& without, const Input& x, const Direction& way, const Output& out,
                int threads) {
    if (shape.winograd) return winograd(shape, x, way.weight, way.back, out, threads);
    const Products& by = *products();
    const int64_t channels = shape.groups * way.to;
    zero_gaps(shape.sequences, channels, out.data);
    if (without.count() == 0 || channels == 0) return kOk;
    const int64_t reach = shape.dilation * (way.taps / 2);
    const bool shifts = together(without, reach);
    const Rows rows(without, shifts ? reach : 0);
    const int64_t depth = way.taps * way.from, count = rows.count(), chunk = channels_at_a_time(way.taps, way.from);
    std::vector<Panel> all = panels(shape.groups, way.to, by.lanes);
    const int64_t block_rows = depth * way.to > kLongBlockWeights ? kLongBlockRows : kBlockRows;
    const int64_t tiles = pieces(count, by.rows), blocks = std::min(tiles, 2 * pieces(count, 2 * block_rows));
    const int64_t most_rows = pieces(tiles, blocks) * by.rows;

    // As many panels at a time as the caches hold.
    const int64_t most = std::clamp<int64_t>(kPackedWeights / std::max<int64_t>(depth * 2 * by.lanes, 1), 1,
                                             kMostWidth / (2 * by.lanes));
    Floats weights(std::min<int64_t>(most, static_cast<int64_t>(all.size())) * depth * 2 * by.lanes);
    for (size_t begin = 0; begin < all.size();) {
        const size_t end = std::min(all.size(), begin + static_cast<size_t>(most));
        for (size_t p = begin; p < end; ++p) all[p].packed = weights.get() + (p - begin) * depth * 2 * by.lanes;
        const double floats = static_cast<double>(end - begin) * static_cast<double>(depth) * 2 * by.lanes;
        Status status = parallel_for(pieces(way.from, kTogether), 1, floats, threads, [&](int64_t from, int64_t to) {
            way.pack(&all[begin], end - begin, by.lanes, from * kTogether, std::min(way.from, to * kTogether));
        });
        if (status != kOk) return status;

        const double steps = 2 * floats * static_cast<double>(count) / kFlops;
        status = parallel_for(blocks, 1, steps, threads, [&](int64_t from, int64_t to) {
            thread_local Floats kept_taps, kept_sums;
            float* const packed = kept_taps.reserve((most_rows + (shifts ? 2 * reach : 0)) * kPackedStride);
            for (int64_t b = from; b < to; ++b) {
                const int64_t first_tile = part(b, blocks, tiles), last_tile = part(b + 1, blocks, tiles);
                const int64_t first = part(first_tile, tiles, count), last = part(last_tile, tiles, count);
                for (size_t g_begin = begin; g_begin < end;) {
                    size_t g_end = g_begin;
                    const int64_t group = all[g_begin].group, base = all[g_begin].first;
                    while (g_end < end && all[g_end].group == group) ++g_end;
                    const int64_t width = static_cast<int64_t>(g_end - g_begin) * 2 * by.lanes;
                    float* const sums = kept_sums.reserve(most_rows * width);
                    for (int64_t at = 0; at < way.from; at += chunk) {
                        const int64_t size = std::min(way.from - at, chunk), channel = group * way.from + at;
                        if (shifts) pack_together(by, rows, first - reach, last + reach, x, channel, channel + size, packed);
                        else pack_apart(by, rows, first, last, x, shape, channel, channel + size, packed);
                        for (size_t p = g_begin; p < g_end; ++p) {
                            const Panel& panel = all[p];
                            const int64_t panel_width = panel.vectors * by.lanes;
                            Taps taps{nullptr, panel.packed + at * panel_width, shifts ? shape.dilation * kPackedStride : size,
                                      way.from * panel_width, way.taps, size};
                            float* const to_panel = sums + (panel.first - base);
                            for (int64_t t = first_tile; t < last_tile; ++t) {
                                const int64_t r = part(t, tiles, count) - first, next = part(t + 1, tiles, count) - first;
                                taps.a = packed + r * kPackedStride;
                                by.tile(static_cast<int>(next - r), panel.vectors, taps, to_panel + r * width, width, at > 0);
                            }
                        }
                    }
                    const Panel& last_panel = all[g_end - 1];
                    const int64_t columns = last_panel.first + last_panel.width - base;
                    rows.each(first, last, [&](const Stretch&, int64_t row, int64_t size, int64_t place) {
                        for (int64_t r = 0; r < size; ++r)
                            finish_row(by, out, row + r, channels, group * way.to + base, columns,
                                       sums + (place - first + r) * width);
                    });
                    g_begin = g_end;
                }
            }
        });
        if (status != kOk) return status;
        begin = end;
    }
    return kOk;
}

// Dropout of rows of sequences, from x (rows `stride` apart) to y.
void drop_rows(const Dropping& dropping, const float* x, int64_t row, int64_t channels, float* y) {
    products()->drop(dropping, x, channels, counter(dropping, row, channels), y);
}

}  // namespace

const Products* products() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    static const Products* const chosen = __builtin_cpu_supports("x86-64-v4")   ? kProductsAvx512
                                          : __builtin_cpu_supports("x86-64-v3") ? kProductsAvx2
                                                                                : nullptr;
    return chosen;
#else
    return nullptr;
#endif
}

bool convolves() { return products() != nullptr; }

Status temporal_conv(const Convolution& shape, const float* x, int64_t x_stride, const float* weight, const float* bias,
                     const float* slope, bool residual, const Dropping& dropping, float* out, uint8_t* sign, int threads) {
    const Rows rows(shape.sequences);
    const int64_t channels = shape.groups * shape.c_out;
    const Direction way{weight, shape.c_in, shape.c_out, shape.taps, shape.c_in, false};
    const bool drops = dropping.threshold > 0, at_once = drops && shape.c_out % 4 == 0;
    const Output to{bias, slope, {residual ? x : nullptr, x_stride}, at_once ? &dropping : nullptr, out, sign};
    const Status status = convolve(shape, rows, {x, x_stride}, way, to, threads);
    if (status != kOk || !drops || at_once || rows.count() == 0) return status;
    const double steps = static_cast<double>(rows.count()) * static_cast<double>(channels);
    return parallel_for(rows.count(), kSumRows, steps, threads, [&](int64_t from, int64_t end) {
        rows.each(from, end, [&](const Stretch&, int64_t row, int64_t size, int64_t) {
            for (int64_t r = row; r < row + size; ++r)
                drop_rows(dropping, out + r * channels, r, channels, out + r * channels);
        });
    });
}

Status temporal_conv_input_gradient(const Convolution& shape, const float* inner, int64_t inner_stride,
                                    const float* weight, const float* residual, int64_t residual_stride, float* grad_x,
                                    int threads) {
    const Rows rows(shape.sequences);
    const Direction way{weight, shape.c_out, shape.c_in, shape.taps, shape.c_in, true};
    const Output to{nullptr, nullptr, {residual, residual_stride}, nullptr, grad_x, nullptr};
    return convolve(shape, rows, {inner, inner_stride}, way, to, threads);
}

Status temporal_conv_inner(const Convolution& shape, const float* grad, int64_t grad_stride, const float* out,
                           const uint8_t* sign, const float* slope, const Dropping& dropping, float* inner,
                           float* dropped, float* bias_gradient, int threads) {
    const Products& by = *products();
    const Rows rows(shape.sequences);
    const int64_t channels = shape.groups * shape.c_out, bits = (channels + 7) / 8, parts = pieces(rows.count(), kSumRows);
    std::vector<float> totals(static_cast<size_t>(bias_gradient ? parts * channels : 0));
    const double steps = static_cast<double>(rows.count()) * static_cast<double>(channels) * 12 / kBytes;
    const Status status = parallel_for(parts, 1, steps, threads, [&](int64_t begin, int64_t end) {
        Floats scratch(dropping.threshold ? channels : 0);
        for (int64_t p = begin; p < end; ++p) {
            float* total = bias_gradient ? totals.data() + p * channels : nullptr;
            rows.each(p * kSumRows, std::min(rows.count(), (p + 1) * kSumRows), [&](const Stretch&, int64_t row, int64_t size,
                                                                                   int64_t) {
                for (int64_t r = row; r < row + size; ++r) {
                    const float* g = grad + r * grad_stride;
                    float* to = inner ? inner + r * channels : nullptr;
                    if (dropping.threshold) {
                        float* kept = slope ? scratch.get() : to;
                        if (dropped) kept = dropped + r * channels;
                        drop_rows(dropping, g, r, channels, kept);
                        if (!slope && kept != to) memcpy(to, kept, static_cast<size_t>(channels) * sizeof(float));
                        g = kept;
                    }
                    if (slope)
                        by.before_activation(g, channels, out ? out + r * channels : nullptr, out ? nullptr : sign + r * bits,
                                             *slope, to, total);
                    else if (total)
                        by.add(g, channels, total);
                }
            });
        }
    });
    if (status != kOk || !bias_gradient) return status;
    // In pairs, whatever the number of threads.
    for (int64_t apart = 1; apart < parts; apart *= 2)
        for (int64_t p = 0; p + apart < parts; p += 2 * apart)
            by.add(totals.data() + (p + apart) * channels, channels, totals.data() + p * channels);
    if (parts > 0) memcpy(bias_gradient, totals.data(), static_cast<size_t>(channels) * sizeof(float));
    else memset(bias_gradient, 0, static_cast<size_t>(channels) * sizeof(float));
    return kOk;
}

Status temporal_conv_weight_gradient(const Convolution& shape, const float* inner, int64_t inner_stride, const float* x,
                                     int64_t x_stride, float* grad_weight, int threads) {
    const Products& by = *products();
    const Rows rows(shape.sequences);
    const int64_t count = rows.count(), taps = shape.taps;
    if (count == 0) {
        memset(grad_weight, 0, static_cast<size_t>(shape.groups * shape.c_out * shape.c_in * taps) * sizeof(float));
        return kOk;
    }
    if (shape.winograd) {
        bool finite;
        const Status status =
            winograd_weight_gradient(shape, {inner, inner_stride}, {x, x_stride}, grad_weight, &finite, threads);
        if (status != kOk || finite) return status;
    }
    // Rows beyond a chunk that its taps reach; no tap reaches farther than a sequence.
    const int64_t reach = std::min(shape.dilation * (taps / 2), std::max<int64_t>(rows.longest() - 1, 0));
    const int64_t chunk = std::min(count, std::max(kChunk, 2 * reach));
    const int64_t high = pieces(shape.c_out, by.rows);
    const std::vector<Panel> wide = panels(1, shape.c_in, by.lanes);
    // Short rows of whole vectors are read where they lie.
    const bool lie = shape.c_in % by.lanes == 0 && std::max(x_stride, inner_stride) <= kShortRow;
    int64_t padded = 0;
    for (const Panel& panel : wide) padded += panel.vectors * by.lanes;
    const int64_t a_size = chunk * shape.c_out, b_rows = std::min(count, chunk + 2 * reach), b_size = b_rows * padded;
    const int64_t together = lie ? shape.groups : std::clamp<int64_t>(kPackedRows / (a_size + b_size), 1, shape.groups);
    Floats a(lie ? 0 : together * a_size), b(lie ? 0 : together * b_size);
    const int64_t panel_count = static_cast<int64_t>(wide.size());

    for (int64_t group = 0; group < shape.groups; group += together) {
        const int64_t groups = std::min(together, shape.groups - group);
        for (int64_t first = 0; first < count; first += chunk) {
            const int64_t last = std::min(count, first + chunk);
            const int64_t b_first = std::max<int64_t>(first - reach, 0), b_last = std::min(count, last + reach);
            const double bytes = 8.0 * static_cast<double>(groups) * static_cast<double>(a_size + b_size);
            constexpr int64_t kRows = 64;
            Status status = lie ? kOk : parallel_for(pieces(b_last - b_first, kRows), 1, bytes / kBytes, threads, [&](int64_t from, int64_t to) {
                rows.each(b_first + from * kRows, std::min(b_last, b_first + to * kRows), [&](const Stretch&, int64_t row,
                                                                                             int64_t size, int64_t place) {
                    for (int64_t g = 0; g < groups; ++g) {
                        float* packed = b.get() + g * b_size;
                        for (const Panel& panel : wide) {
                            const int64_t width = panel.vectors * by.lanes;
                            copy_columns(x + row * x_stride + (group + g) * shape.c_in + panel.first, x_stride, size,
                                         panel.width, width, packed + (place - b_first) * width);
                            packed += b_rows * width;
                        }
                    }
                    const int64_t begin = std::max(place, first), end = std::min(place + size, last);
                    if (begin >= end) return;
                    for (int64_t g = 0; g < groups; ++g)
                        for (int64_t i = 0; i < high; ++i) {
                            const int64_t o = part(i, high, shape.c_out), m = part(i + 1, high, shape.c_out) - o;
                            kCopyPanel[m - 1](inner + (row + begin - place) * inner_stride + (group + g) * shape.c_out + o,
                                              inner_stride, end - begin,
                                              a.get() + g * a_size + o * chunk + (begin - first) * m);
                        }
                });
            });
            if (status != kOk) return status;

            // What each tap adds of each part of the chunk: rows whose tap lies in their sequence.
            const int64_t parts = pieces(last - first, kPart);
            std::vector<Span> spans;
            std::vector<size_t> from_span;
            for (int64_t p = 0; p < parts; ++p)
                for (int64_t t = 0; t < taps; ++t) {
                    from_span.push_back(spans.size());
                    const int64_t shift = (t - taps / 2) * shape.dilation;
                    const int64_t p_first = first + p * kPart, p_last = std::min(last, p_first + kPart);
                    rows.each(p_first, p_last, [&](const Stretch& s, int64_t row, int64_t size, int64_t place) {
                        const int64_t low = std::max(row, s.begin - shift), top = std::min(row + size, s.end - shift);
                        const int64_t to = lie ? 0 : place - row - first;
                        if (low < top) spans.push_back({low + to, top + to});
                    });
                }
            from_span.push_back(spans.size());

            const double steps = 2.0 * static_cast<double>((last - first) * groups * shape.c_out * shape.c_in * taps) / kFlops;
            const int64_t tasks = groups * panel_count * high;
            status = parallel_for(tasks, std::clamp<int64_t>(tasks / 256, 1, 8), steps, threads, [&](int64_t from, int64_t to) {
                thread_local Floats kept;
                float* const sums = kept.reserve(taps * kMostRows * kMostColumns);
                for (int64_t task = from; task < to; ++task) {
                    const int64_t i = task % high, p = task / high % panel_count, g = task / high / panel_count;
                    const Panel& panel = wide[static_cast<size_t>(p)];
                    const int64_t o = part(i, high, shape.c_out), m = part(i + 1, high, shape.c_out) - o;
                    const int64_t width = panel.vectors * by.lanes;
                    Matrix of_a{inner + (group + g) * shape.c_out + o, inner_stride};
                    Matrix of_b{x + (group + g) * shape.c_in + panel.first, x_stride};
                    if (!lie) {
                        of_a = {a.get() + g * a_size + o * chunk, m};
                        // All panels before this one are of full width.
                        of_b = {b.get() + g * b_size + p * b_rows * 2 * by.lanes + (first - b_first) * width, width};
                    }
                    for (int64_t piece = 0; piece < parts; ++piece)
                        for (int64_t t = 0; t < taps; ++t) {
                            const size_t at = from_span[static_cast<size_t>(piece * taps + t)];
                            const size_t next = from_span[static_cast<size_t>(piece * taps + t + 1)];
                            by.outer(static_cast<int>(m), panel.vectors, of_a, of_b, spans.data() + at,
                                     static_cast<int64_t>(next - at), (t - taps / 2) * shape.dilation, sums + t * m * width,
                                     piece > 0);
                        }
                    for_taps(taps, [&](auto each) {
                        for (int64_t r = 0; r < m; ++r) {
                            float* out = grad_weight + (((group + g) * shape.c_out + o + r) * shape.c_in + panel.first) * each;
                            for (int64_t c = 0; c < panel.width; ++c)
                                for (int64_t t = 0; t < each; ++t) {
                                    const float sum = sums[(t * m + r) * width + c];
                                    out[c * each + t] = first == 0 ? sum : out[c * each + t] + sum;
                                }
                        }
                    });
                }
            });
            if (status != kOk) return status;
        }
    }
    return kOk;
}

}  // namespace d2k::cpu

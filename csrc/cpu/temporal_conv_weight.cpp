#include <algorithm>
#include <cstring>
#include <vector>

#include "convolution.h"
#include "parallel.h"
#include "winograd.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kChunk = 2048;              // rows of the weight gradient that are packed at a time

}  // namespace

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
                    float* const of_out = grad_weight + (((group + g) * shape.c_out + o) * shape.c_in + panel.first) * taps;
                    // Written in the end, to lines that come from memory meanwhile.
                    for (int64_t r = 0; r < m; ++r)
                        for (int64_t c = 0; c < panel.width * taps; c += kWhole)
                            __builtin_prefetch(of_out + r * shape.c_in * taps + c, 1, 2);
                    for (int64_t piece = 0; piece < parts; ++piece)
                        for (int64_t t = 0; t < taps; ++t) {
                            const size_t at = from_span[static_cast<size_t>(piece * taps + t)];
                            const size_t next = from_span[static_cast<size_t>(piece * taps + t + 1)];
                            by.outer(static_cast<int>(m), panel.vectors, of_a, of_b, spans.data() + at,
                                     static_cast<int64_t>(next - at), (t - taps / 2) * shape.dilation, lie ? 0 : kPart * m,
                                     sums + t * m * width, piece > 0);
                        }
                    for_taps(taps, [&](auto each) {
                        for (int64_t r = 0; r < m; ++r) {
                            float* out = of_out + r * shape.c_in * each;
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

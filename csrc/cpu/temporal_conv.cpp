#include "d2kernels/temporal_conv.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "convolution.h"
#include "parallel.h"
#include "winograd.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kBlockRows = 126;           // of the result at a time: their taps stay in the second cache
constexpr int64_t kLongBlockRows = 252;       // where weights come from the last cache, for each block anew
constexpr int64_t kFarWeights = 1 << 18;      // floats, from which on that is so
constexpr int64_t kReach = 64;                // rows beyond a block that are packed with it
constexpr int64_t kReachShare = 8;            // of the rows may be zero rows in between
constexpr int64_t kSumRows = 64;              // of the bias gradient, added up at a time, in the first cache
constexpr int64_t kFloat = sizeof(float);

// Places `count` panels in `packed`, which is read from one end to the other: (group, chunk, panel, tap, channel, column).
void place_panels(Panel* panels, size_t count, int lanes, int64_t depth, float* packed) {
    for (size_t begin = 0, end = 0; begin < count; begin = end) {
        int64_t beside = 0;
        for (; end < count && panels[end].group == panels[begin].group; ++end) beside += panels[end].vectors * lanes;
        int64_t before = 0;
        for (size_t p = begin; p < end; before += panels[p++].vectors * lanes) {
            panels[p].packed = packed;
            panels[p].beside = beside;
            panels[p].before = before;
        }
        packed += depth * beside;
    }
}

// One direction of the convolution.
struct Direction {
    const float* weight;
    int64_t from, to, taps, c_in;
    bool back;
    int64_t chunk;  // channels whose products are summed before sums are added

    // A panel's weights of the chunk of `size` channels from `at` on: (tap, channel) of column j at
    // (tap · size + channel - at) · width + j.
    float* place(const Panel& panel, int64_t at, int64_t size) const {
        return panel.packed + (at * panel.beside + size * panel.before) * taps;
    }

    // Packs channels [begin, end) of the panels.
    void pack(const Products& by, const Panel* panels, size_t count, int64_t begin, int64_t end) const {
        for (int64_t next; begin < end; begin = next) {
            const int64_t at = begin / chunk * chunk, size = std::min(chunk, from - at);
            next = std::min(end, at + size);
            const auto pack_part = [&](const Panel& panel, int64_t k) {
                const int64_t width = panel.vectors * by.lanes, step = size * width;
                float* const packed = place(panel, at, size) + (k - at) * width;
                if (back)
                    by.pack_inputs(weight + ((panel.group * from + k) * c_in + panel.first) * taps, panel.width, taps,
                                   panel.vectors, packed, step);
                else
                    by.pack_outputs(weight + ((panel.group * to + panel.first) * c_in + k) * taps, c_in * taps, panel.width,
                                    taps, next - k, panel.vectors, packed, step);
            };
            if (!back)
                for (const Panel* p = panels; p < panels + count; ++p) pack_part(*p, begin);
            else
                // As the weights lie.
                for (int64_t k = begin; k < next; ++k)
                    for (const Panel* p = panels; p < panels + count; ++p) pack_part(*p, k);
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

// Rows of one sequence in a tile, from its place `at` on.
struct Run {
    int64_t at, row, count;
};

struct Tile {
    int64_t first, last;  // places
    size_t begin, end;    // of its runs
    bool lies;            // its taps' rows are read where they lie: all of one sequence
};

// A block's rows in tiles of nearly equal heights, with their taps' rows where they do not lie as tiles read them.
class Block {
public:
    // Tiles [from, to) of `count` over the places of rows; those whose taps are all of one sequence may `lie`.
    void cut(const Rows& rows, int64_t count, int64_t from, int64_t to, int64_t reach, bool lie) {
        tiles.clear();
        runs.clear();
        for (int64_t t = from; t < to; ++t) {
            Tile tile{part(t, count, rows.count()), part(t + 1, count, rows.count()), runs.size(), 0, false};
            rows.each(tile.first, tile.last, [&](const Stretch& s, int64_t row, int64_t size, int64_t place) {
                runs.push_back({place - tile.first, row, size});
                tile.lies = lie && size == tile.last - tile.first && s.begin + reach <= row && row + size + reach <= s.end;
            });
            tile.end = runs.size();
            tiles.push_back(tile);
        }
    }

    // Calls body(first, last, floats of packed rows before them) for the places of tiles next to each other that do not
    // lie.
    template <class Body>
    void each_packed(const Body& body) const {
        for (size_t t = 0, next; t < tiles.size(); t = next) {
            next = t + 1;
            if (tiles[t].lies) continue;
            while (next < tiles.size() && !tiles[next].lies) ++next;
            body(tiles[t].first, tiles[next - 1].last, (tiles[t].first - tiles[0].first) * kPackedStride);
        }
    }

    std::vector<Tile> tiles;
    std::vector<Run> runs;
};

// Asks for the lines that finish_rows will write.
void expect_rows(const Output& out, int64_t row, int64_t count, int64_t channels, int64_t first, int64_t size) {
    const float* y = out.data + row * channels + first;
    for (int64_t r = 0; r < count; ++r, y += channels) {
        __builtin_prefetch(y, 1);
        __builtin_prefetch(y + size - 1, 1);
    }
}

Status convolve(const Convolution& shape, const Rows& without, const Input& x, const Direction& way, const Output& out,
                int threads) {
    if (shape.winograd) return winograd(shape, x, way.weight, way.back, out, threads);
    const Products& by = *products();
    const int64_t channels = shape.groups * way.to;
    zero_gaps(shape.sequences, channels, out.data);
    if (without.count() == 0 || channels == 0) return kOk;
    const int64_t reach = shape.dilation * (way.taps / 2);
    const bool shifts = together(without, reach), lie = x.stride <= kShortRow, sums_stay = way.chunk < way.from;
    const Rows rows(without, shifts ? reach : 0);
    const int64_t depth = way.taps * way.from, count = rows.count();
    std::vector<Panel> all = panels(shape.groups, way.to, by.lanes);
    const int64_t block_rows = depth * way.to > kFarWeights ? kLongBlockRows : kBlockRows;
    const int64_t tiles = pieces(count, by.rows), blocks = std::min(tiles, 2 * pieces(count, 2 * block_rows));
    const int64_t most_rows = pieces(tiles, blocks) * by.rows;

    // As many panels at a time as the caches hold.
    const int64_t most = std::clamp<int64_t>(kPackedWeights / std::max<int64_t>(depth * 2 * by.lanes, 1), 1,
                                             kMostWidth / (2 * by.lanes));
    const int64_t most_width = std::min<int64_t>(most, static_cast<int64_t>(all.size())) * 2 * by.lanes;
    const bool far = depth * most_width > kFarWeights;
    Floats weights(depth * most_width);
    for (size_t begin = 0; begin < all.size();) {
        const size_t end = std::min(all.size(), begin + static_cast<size_t>(most));
        place_panels(&all[begin], end - begin, by.lanes, depth, weights.get());
        const double floats = static_cast<double>(end - begin) * static_cast<double>(depth) * 2 * by.lanes;
        Status status = parallel_for(pieces(way.from, kTogether), 1, floats, threads, [&](int64_t from, int64_t to) {
            way.pack(by, &all[begin], end - begin, from * kTogether, std::min(way.from, to * kTogether));
        });
        if (status != kOk) return status;

        const double steps = 2 * floats * static_cast<double>(count) / kFlops;
        status = parallel_for(blocks, 1, steps, threads, [&](int64_t from, int64_t to) {
            thread_local Floats kept_taps, kept_sums;
            thread_local Block block;
            float* const packed = kept_taps.reserve((most_rows + (shifts ? 2 * reach : 0)) * kPackedStride);
            float* const sums = kept_sums.reserve(sums_stay ? most_rows * most_width : kMostRows * kMostColumns);
            const char* ahead = nullptr;
            int64_t next_step = 0;
            // One panel's products with a chunk of channels; it is the group's last one where a tile `ends`.
            const auto multiply = [&](const Panel& panel, int64_t at, int64_t size, bool ends) {
                const int64_t width = panel.vectors * by.lanes;
                float* to_tile = sums + (sums_stay ? panel.before * most_rows : 0);
                Taps taps{};
                taps.count = way.taps;
                taps.depth = size;
                taps.b = way.place(panel, at, size);
                taps.b_step = size * width;
                if (far) {
                    // What is read after this panel comes from the last cache meanwhile.
                    ahead = reinterpret_cast<const char*>(taps.b + way.taps * taps.b_step);
                    taps.ahead_step = pieces(width * kFloat, static_cast<int64_t>(block.tiles.size()));
                } else {
                    taps.ahead_step = next_step;
                }
                for (const Tile& tile : block.tiles) {
                    const int64_t height = tile.last - tile.first;
                    if (tile.lies) {
                        taps.a = x.data + (block.runs[tile.begin].row - reach) * x.stride + panel.group * way.from + at;
                        taps.stride = x.stride;
                        taps.a_step = shape.dilation * x.stride;
                    } else {
                        taps.a = packed + (tile.first - block.tiles[0].first) * kPackedStride;
                        taps.stride = kPackedStride;
                        taps.a_step = shifts ? shape.dilation * kPackedStride : size;
                    }
                    for (size_t r = tile.begin; ends && r < tile.end; ++r)
                        expect_rows(out, block.runs[r].row, block.runs[r].count, channels, panel.group * way.to + panel.first, panel.width);
                    taps.ahead = ahead;
                    by.tile(static_cast<int>(height), panel.vectors, taps, to_tile, width, at > 0);
                    ahead += way.taps * size * taps.ahead_step;
                    for (size_t r = tile.begin; ends && r < tile.end; ++r)
                        finish_rows(by, out, block.runs[r].row, block.runs[r].count, channels, panel.group * way.to + panel.first,
                                    panel.width, to_tile + block.runs[r].at * width, width);
                    if (sums_stay) to_tile += height * width;
                }
            };
            for (int64_t b = from; b < to; ++b) {
                block.cut(rows, tiles, part(b, blocks, tiles), part(b + 1, blocks, tiles), reach, lie);
                const Run& last = block.runs.empty() ? Run{0, 0, 0} : block.runs.back();
                ahead = reinterpret_cast<const char*>(x.data + (last.row + last.count) * x.stride);
                next_step = pieces((block.tiles.back().last - block.tiles.front().first) * x.stride * kFloat,
                                   static_cast<int64_t>((end - begin) * block.tiles.size()) * depth);
                for (size_t group_begin = begin, group_end; group_begin < end; group_begin = group_end) {
                    const int64_t group = all[group_begin].group;
                    for (group_end = group_begin; group_end < end && all[group_end].group == group;) ++group_end;
                    for (int64_t at = 0; at < way.from; at += way.chunk) {
                        const int64_t size = std::min(way.from - at, way.chunk), channel = group * way.from + at;
                        block.each_packed([&](int64_t first, int64_t last, int64_t before) {
                            if (shifts)
                                pack_together(by, rows, first - reach, last + reach, x, channel, channel + size, packed + before);
                            else pack_apart(by, rows, first, last, x, shape, channel, channel + size, packed + before);
                        });
                        for (size_t p = group_begin; p < group_end; ++p) multiply(all[p], at, size, at + size == way.from);
                    }
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
    const int64_t chunk = channels_at_a_time(shape.taps, shape.c_in);
    const Direction way{weight, shape.c_in, shape.c_out, shape.taps, shape.c_in, false, chunk};
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
    const int64_t chunk = channels_at_a_time(shape.taps, shape.c_out);
    const Direction way{weight, shape.c_out, shape.c_in, shape.taps, shape.c_in, true, chunk};
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

}  // namespace d2k::cpu

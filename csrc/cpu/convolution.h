// What convolutions of ragged rows by packed products have in common: rows counted without what lies between sequences,
// panels of columns, and the way out of a row's sums.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "d2kernels/temporal_conv.h"
#include "products.h"
#include "rows.h"

namespace d2k::cpu {

constexpr int64_t kMostWidth = 512;           // columns at a time, whose sums stay in the second cache
constexpr int64_t kPackedWeights = 3 << 20;   // floats: what all threads read stays in the last cache
constexpr int64_t kPackedRows = 8 << 20;      // floats
constexpr int64_t kPart = 256;                // rows that are summed before sums are added: bounds the rounding
constexpr int64_t kTogether = 64;             // channels whose weights are packed at a time, in the first cache
constexpr int64_t kShortRow = 256;            // floats: longer ones are slower where they lie than packed
constexpr int64_t kWhole = 16;                // channels, a line of the caches
constexpr double kBytes = 8;                  // a nanosecond
constexpr double kFlops = 50;                 // a nanosecond

struct Free {
    void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
};

// Floats that are not initialised, from an address that is a multiple of 64.
class Floats {
public:
    explicit Floats(int64_t size = 0) { reserve(size); }
    float* reserve(int64_t size) {
        if (size > size_) {
            data_.reset();
            size_ = 0;  // as long as there is nothing: memory may be lacking
            data_.reset(static_cast<float*>(::operator new(static_cast<size_t>(size) * sizeof(float), std::align_val_t{64})));
            size_ = size;
        }
        return data_.get();
    }
    float* get() const { return data_.get(); }

private:
    std::unique_ptr<float, Free> data_;
    int64_t size_ = 0;
};

// The rows of sequences, counted without what lies between them, or with `apart` places after each sequence.
struct Stretch {
    int64_t at;          // of the first, counted so
    int64_t begin, end;  // rows
};

class Rows {
public:
    explicit Rows(const Sequences& sequences) {
        each_stretch(sequences, 0, sequences.total, [&](int64_t i, int64_t begin, int64_t end) {
            if (i < 0) return;
            stretches_.push_back({count_, begin, end});
            count_ += end - begin;
        });
    }
    // The same rows with places for the zero rows that `reach` takes in between.
    Rows(const Rows& rows, int64_t reach) : stretches_(rows.stretches_) {
        for (size_t i = 0; i < stretches_.size(); ++i) stretches_[i].at += static_cast<int64_t>(i) * reach;
        count_ = rows.count_ + std::max<int64_t>(rows.stretches() - 1, 0) * reach;
    }
    int64_t count() const { return count_; }
    int64_t stretches() const { return static_cast<int64_t>(stretches_.size()); }
    int64_t longest() const {
        int64_t most = 0;
        for (const Stretch& s : stretches_) most = std::max(most, s.end - s.begin);
        return most;
    }
    // body(stretch, first row, rows, their place) of what lies in the places [from, to).
    template <class Body>
    void each(int64_t from, int64_t to, const Body& body) const {
        auto s = std::upper_bound(stretches_.begin(), stretches_.end(), from,
                                  [](int64_t at, const Stretch& stretch) { return at < stretch.at; });
        if (s != stretches_.begin()) --s;
        for (; s != stretches_.end() && s->at < to; ++s) {
            const int64_t first = std::max(from, s->at), last = std::min(to, s->at + (s->end - s->begin));
            if (first < last) body(*s, s->begin + (first - s->at), last - first, first);
        }
    }

private:
    std::vector<Stretch> stretches_;
    int64_t count_ = 0;
};

// Columns of the result that one tile is wide.
struct Panel {
    int64_t group, first, width;
    int vectors;
    // Where its weights are packed, or those of all panels of its group that are packed with it: how wide these are, and
    // those before this one.
    float* packed;
    int64_t beside, before;
};

inline int64_t pieces(int64_t size, int64_t most) { return (size + most - 1) / most; }

// The i-th of `count` nearly equal parts of [0, size).
inline int64_t part(int64_t i, int64_t count, int64_t size) { return i * size / count; }

inline std::vector<Panel> panels(int64_t groups, int64_t columns, int lanes) {
    std::vector<Panel> all;
    for (int64_t g = 0; g < groups; ++g)
        for (int64_t at = 0; at < columns; at += 2 * lanes) {
            const int64_t width = std::min<int64_t>(columns - at, 2 * lanes);
            all.push_back({g, at, width, width > lanes ? 2 : 1, nullptr, 0, 0});
        }
    return all;
}

struct Input {
    const float* data;
    int64_t stride;
};

struct Output {
    const float* bias;
    const float* slope;
    Input residual;
    const Dropping* dropping;  // null for none; columns of a group are then whole counters
    float* data;
    uint8_t* sign;
};

// Of dropout, a row's first.
inline uint64_t counter(const Dropping& dropping, int64_t row, int64_t channels) {
    return static_cast<uint64_t>(dropping.first_row + row) * static_cast<uint64_t>((channels + 3) / 4);
}

// `count` rows' columns [first, first + size) from their sums.
inline void finish_rows(const Products& by, const Output& out, int64_t row, int64_t count, int64_t channels, int64_t first,
                 int64_t size, const float* sums, int64_t stride) {
    const int64_t bits = (channels + 7) / 8;
    const float* residual = out.residual.data ? out.residual.data + row * out.residual.stride + first : nullptr;
    float* y = out.data + row * channels + first;
    by.finish(count, sums, stride, size,
              {out.bias ? out.bias + first : nullptr, out.slope, {residual, out.residual.stride}, y, channels,
               out.sign ? out.sign + row * bits : nullptr, bits, first});
    if (out.dropping)
        for (int64_t r = 0; r < count; ++r, y += channels)
            by.drop(*out.dropping, y, size, counter(*out.dropping, row + r, channels) + static_cast<uint64_t>(first / 4), y);
}

inline void zero_gaps(const Sequences& sequences, int64_t channels, float* out) {
    each_stretch(sequences, 0, sequences.total, [&](int64_t i, int64_t begin, int64_t end) {
        if (i < 0) memset(out + begin * channels, 0, static_cast<size_t>((end - begin) * channels) * sizeof(float));
    });
}

// Calls body with the number of taps, a constant where it is a usual one.
template <class Body>
void for_taps(int64_t taps, const Body& body) {
    if (taps == 1) body(std::integral_constant<int64_t, 1>{});
    else if (taps == 3) body(std::integral_constant<int64_t, 3>{});
    else if (taps == 5) body(std::integral_constant<int64_t, 5>{});
    else body(taps);
}

template <int m>
void copy_panel(const float* from, int64_t stride, int64_t rows, float* to) {
    for (int64_t r = 0; r < rows; ++r, from += stride, to += m) memcpy(to, from, m * sizeof(float));
}

using CopyPanel = void (*)(const float*, int64_t, int64_t, float*);
constexpr CopyPanel kCopyPanel[] = {copy_panel<1>,  copy_panel<2>,  copy_panel<3>,  copy_panel<4>,  copy_panel<5>,
                                    copy_panel<6>,  copy_panel<7>,  copy_panel<8>,  copy_panel<9>,  copy_panel<10>,
                                    copy_panel<11>, copy_panel<12>, copy_panel<13>, copy_panel<14>};

// `width` columns of rows, in rows of `padded`.
inline void copy_columns(const float* from, int64_t stride, int64_t rows, int64_t width, int64_t padded, float* to) {
    if (width == padded && padded == 32) return copy_panel<32>(from, stride, rows, to);
    if (width == padded && padded == 16) return copy_panel<16>(from, stride, rows, to);
    for (int64_t r = 0; r < rows; ++r, from += stride, to += padded) {
        memcpy(to, from, static_cast<size_t>(width) * sizeof(float));
        memset(to + width, 0, static_cast<size_t>(padded - width) * sizeof(float));
    }
}

}  // namespace d2k::cpu

// The k-th largest of each column of a matrix: a bracket around it is narrowed for all columns at once by counting,
// from a sample's estimate on, until so few values are left in it that they are picked out.
//
// A row of the matrix is `classes` long; several rows side by side make a tile of `width` lanes that fills vectors, and
// lane j belongs to class j % classes. Every loop over lanes is a vector loop.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "d2kernels/dtype.h"
#include "vectorize.h"

namespace d2k::cpu {

constexpr int64_t kVector = 16;    // lanes of the widest vector
constexpr int64_t kWide = 128;     // lanes from which on a vector that is not full no longer matters
constexpr int64_t kSampled = 16;   // tiles in the smallest sample
constexpr int64_t kMostSampled = 64;
constexpr double kSpread = 2.0;    // standard deviations from the sample's estimate to the pivots on both sides
constexpr int64_t kUnrolled = 8;   // tiles that a lane goes through at once
constexpr int kPivots = 3;
constexpr int kPasses = 10;
constexpr int64_t kPicked = 12;    // values in a bracket that are picked out one by one, or
constexpr int64_t kRowsPicked = 128;  // one in so many rows
constexpr int64_t kMostRows = int64_t{1} << 30;  // that 32 bits count

template <class V>
struct Bits;
template <>
struct Bits<float> {
    using Type = int32_t;
};
template <>
struct Bits<double> {
    using Type = int64_t;
};

// Integers in the order of the values; -0 is before 0.
template <class V>
D2K_INLINE typename Bits<V>::Type ordered(V x) {
    using I = typename Bits<V>::Type;
    const I i = bit_cast<I>(x);
    return i < 0 ? i ^ std::numeric_limits<I>::max() : i;
}

template <class V>
D2K_INLINE V value_of(typename Bits<V>::Type i) {
    using I = typename Bits<V>::Type;
    return bit_cast<V>(i < 0 ? i ^ std::numeric_limits<I>::max() : i);
}

// NaN sorts above every number.
template <class V>
D2K_INLINE bool greater(V a, V b) { return !(a <= b) && b == b; }

template <class V>
struct Matrix {
    const V* values;
    int64_t rows, classes;

    int64_t fold() const {
        int64_t fold = 1;
        while (fold * classes % kVector && fold * classes < kWide) fold *= 2;
        return fold;
    }
};

template <class V>
struct Selected {
    V threshold;
    double above_sum;
    int64_t above, tied;
};

// Of one column: any values, at any cost.
template <class V>
D2K_NOINLINE Selected<V> select_column(V* values, int64_t size, int64_t k) {
    std::nth_element(values, values + k - 1, values + size, [](V a, V b) { return greater(a, b); });
    Selected<V> out{values[k - 1], 0, 0, 0};
    const bool nan = out.threshold != out.threshold;
    for (int64_t i = 0; i < size; ++i) {
        if (greater(values[i], out.threshold)) {
            out.above_sum += values[i];
            ++out.above;
        } else {
            out.tied += values[i] == out.threshold || (nan && values[i] != values[i]);
        }
    }
    return out;
}

template <class V>
class Selector {
    using I = typename Bits<V>::Type;

public:
    // The values are multiples of `step` as integers, a power of two: values of 16 bits that were widened.
    explicit Selector(I step) : step_(step) {}

    // out (classes)
    D2K_INLINE void run(const Matrix<V>& matrix, int64_t k, Selected<V>* out) {
        matrix_ = matrix;
        k_ = k;
        fold_ = matrix.fold();
        width_ = fold_ * matrix.classes;
        tiles_ = matrix.rows / fold_;
        rest_ = (matrix.rows - tiles_ * fold_) * matrix.classes;
        if (tiles_ < kSampled || matrix.rows > kMostRows) {
            for (int64_t c = 0; c < matrix.classes; ++c) out[c] = select(c);
            return;
        }
        allocate();
        sample();
        first_count();
        for (int pass = 1; pass < kPasses && open(); ++pass) {
            if (stalled_) snap();
            aim();
            count();
        }
        collect(out);
    }

private:
    // The next value below a finite one.
    D2K_INLINE V before(V x) const {
        const I i = bit_cast<I>(x);
        return bit_cast<V>(i > 0 ? i - step_ : i < 0 ? i + step_ : std::numeric_limits<I>::min() + step_);
    }

    // A value nearby that could be one of the matrix.
    D2K_INLINE V settled(V x) const { return bit_cast<V>(bit_cast<I>(x) & ~(step_ - 1)); }

    int64_t classes() const { return matrix_.classes; }

    D2K_INLINE void allocate() {
        const int64_t c = classes(), w = width_;
        pivots_.resize(kPivots * w);
        lanes_.resize(5 * w);
        counts_.resize(kPivots * w);
        low_.resize(c), high_.resize(c), above_low_.resize(c), above_high_.resize(c), size_.resize(c);
        hard_.resize(c), wide_.resize(c);
    }

    // body(first value, lanes): kUnrolled tiles, one tile, or the last rows that fill no tile.
    template <class Many, class One>
    D2K_INLINE void each_tile(const Many& many, const One& one) const {
        int64_t t = 0;
        for (; t + kUnrolled <= tiles_; t += kUnrolled) many(matrix_.values + t * width_, width_);
        for (; t < tiles_; ++t) one(matrix_.values + t * width_, width_);
        if (rest_) one(matrix_.values + tiles_ * width_, rest_);
    }

    // lanes (width) are combined into their classes' first lanes, pairwise, so that equal values stay exact.
    template <class T, class Op>
    D2K_INLINE void fold(T* __restrict lanes, const Op& op) const {
        for (int64_t half = width_ / 2; half >= classes(); half /= 2)
            D2K_LANES
            for (int64_t j = 0; j < half; ++j) lanes[j] = op(lanes[j], lanes[j + half]);
    }

    template <class T>
    D2K_INLINE void unfold(T* __restrict lanes) const {
        for (int64_t f = 1; f < fold_; ++f) std::copy(lanes, lanes + classes(), lanes + f * classes());
    }

    // Sorts a sample lane by lane and takes from it three values, at the k-th largest's rank and to both sides.
    D2K_INLINE void sample() {
        int64_t sampled = kSampled;
        while (sampled < kMostSampled && 16 * sampled <= tiles_) sampled *= 2;
        sample_.resize(sampled * width_);
        const int64_t step = tiles_ / sampled;
        for (int64_t i = 0; i < sampled; ++i)
            std::copy_n(matrix_.values + (i * step + step / 2) * width_, width_, sample_.data() + i * width_);
        for (int64_t p = 1; p < sampled; p *= 2)
            for (int64_t q = p; q >= 1; q /= 2)
                for (int64_t i = q % p; i + q < sampled; i += 2 * q)
                    for (int64_t j = 0; j < q && i + j + q < sampled; ++j)
                        if ((i + j) / (2 * p) == (i + j + q) / (2 * p)) exchange(i + j, i + j + q);

        const int64_t classes = this->classes();
        const double part = static_cast<double>(k_) / matrix_.rows, rank = part * (sampled + 1) - 1;
        const double spread = 0.1 + kSpread * std::sqrt(sampled * part * (1 - part) / fold_);
        V* __restrict most = lanes_.data();
        std::copy_n(sample_.data(), width_, most);
        fold(most, [](V a, V b) { return b > a ? b : a; });
        for (int p = 0; p < kPivots; ++p) {
            const double at = std::clamp(rank + (p - 1) * spread, 0.0, sampled - 1.0);
            const int64_t i = std::min<int64_t>(at, sampled - 2);
            const V weight = static_cast<V>(at - i);
            const V* __restrict a = sample_.data() + i * width_;
            const V* __restrict b = a + width_;
            V* __restrict pivot = pivots_.data() + p * width_;
            D2K_LANES
            for (int64_t j = 0; j < width_; ++j) pivot[j] = a[j] + (b[j] - a[j]) * weight;
            fold(pivot, [](V x, V y) { return x + y; });
            D2K_LANES
            for (int64_t c = 0; c < classes; ++c) pivot[c] = settled(pivot[c] / static_cast<V>(fold_));
            // Just below, so that ties at the estimate, or at the largest value, end up between two pivots.
            D2K_LANES
            for (int64_t c = 0; c < classes; ++c) {
                const V below = before(pivot[c]);
                pivot[c] = p > 0 || pivot[c] >= most[c] ? below : pivot[c];
            }
            unfold(pivot);
        }
    }

    D2K_INLINE void exchange(int64_t a, int64_t b) {
        V* __restrict x = sample_.data() + a * width_;
        V* __restrict y = sample_.data() + b * width_;
        D2K_LANES
        for (int64_t j = 0; j < width_; ++j) {
            const V more = x[j] < y[j] ? y[j] : x[j], less = x[j] < y[j] ? x[j] : y[j];
            x[j] = more;
            y[j] = less;
        }
    }

    template <int64_t U, bool extremes>
    D2K_INLINE void count_tile(const V* __restrict x, int64_t lanes) {
        const V* __restrict p = pivots_.data();
        V* __restrict least = lanes_.data();
        V* __restrict most = least + width_;
        I* __restrict n = counts_.data();
        const int64_t w = width_;
        D2K_LANES
        for (int64_t j = 0; j < lanes; ++j) {
            I n0 = n[j], n1 = n[w + j], n2 = n[2 * w + j];
            const V p0 = p[j], p1 = p[w + j], p2 = p[2 * w + j];
            V low = extremes ? least[j] : V(0), high = extremes ? most[j] : V(0);
#pragma GCC unroll 8
            for (int64_t u = 0; u < U; ++u) {
                const V v = x[u * w + j];
                n0 = v <= p0 ? n0 : n0 + 1;
                n1 = v <= p1 ? n1 : n1 + 1;
                n2 = v <= p2 ? n2 : n2 + 1;
                if constexpr (extremes) {
                    low = v < low ? v : low;
                    high = v > high ? v : high;
                }
            }
            n[j] = n0;
            n[w + j] = n1;
            n[2 * w + j] = n2;
            if constexpr (extremes) {
                least[j] = low;
                most[j] = high;
            }
        }
    }

    template <bool extremes>
    D2K_INLINE void count_all() {
        std::fill(counts_.begin(), counts_.end(), I(0));
        each_tile([&](const V* x, int64_t lanes) { count_tile<kUnrolled, extremes>(x, lanes); },
                  [&](const V* x, int64_t lanes) { count_tile<1, extremes>(x, lanes); });
        for (int p = 0; p < kPivots; ++p) fold(counts_.data() + p * width_, [](I a, I b) { return a + b; });
    }

    // Above low there are at least k values, above high fewer.
    D2K_INLINE void narrow() {
        V* __restrict low = low_.data();
        V* __restrict high = high_.data();
        I* __restrict above_low = above_low_.data();
        I* __restrict above_high = above_high_.data();
        const I k = static_cast<I>(k_);
        const int64_t classes = this->classes();
        for (int p = 0; p < kPivots; ++p) {
            const V* __restrict pivot = pivots_.data() + p * width_;
            const I* __restrict n = counts_.data() + p * width_;
            D2K_LANES
            for (int64_t c = 0; c < classes; ++c) {
                const bool up = n[c] >= k && pivot[c] > low[c], down = n[c] < k && pivot[c] < high[c];
                low[c] = up ? pivot[c] : low[c];
                above_low[c] = up ? n[c] : above_low[c];
                high[c] = down ? pivot[c] : high[c];
                above_high[c] = down ? n[c] : above_high[c];
            }
        }
    }

    D2K_INLINE void first_count() {
        const V infinity = std::numeric_limits<V>::infinity();
        V* __restrict least = lanes_.data();
        V* __restrict most = least + width_;
        std::fill_n(least, width_, infinity);
        std::fill_n(most, width_, -infinity);
        count_all<true>();
        fold(least, [](V a, V b) { return b < a ? b : a; });
        fold(most, [](V a, V b) { return b > a ? b : a; });
        for (int64_t c = 0; c < classes(); ++c) {
            low_[c] = before(least[c]);
            high_[c] = most[c];
            hard_[c] = !(most[c] - least[c] < infinity);
            above_low_[c] = static_cast<I>(matrix_.rows);
            above_high_[c] = 0;  // a guess that NaN disproves: collect counts again
        }
        narrow();
        for (int64_t c = 0; c < classes(); ++c) {
            size_[c] = hard_[c] ? 0 : above_low_[c] - above_high_[c];
            wide_[c] = 1;
        }
    }

    D2K_INLINE bool collapsed(int64_t c) const { return !(before(high_[c]) > low_[c]); }

    // Whether some class still has too many values in its bracket.
    D2K_INLINE bool open() const {
        int some = 0;
        for (int64_t c = 0; c < classes(); ++c) some |= size_[c] > picked() && !collapsed(c);
        return some;
    }

    int64_t picked() const { return std::max(kPicked, matrix_.rows / kRowsPicked); }

    // The bracket's ends move to the outermost values in it, which ends a bracket that holds one value many times.
    D2K_INLINE void snap() {
        const V infinity = std::numeric_limits<V>::infinity();
        V* __restrict least = lanes_.data();
        V* __restrict most = least + width_;
        V* __restrict low = most + width_;
        V* __restrict high = low + width_;
        std::fill_n(least, width_, infinity);
        std::fill_n(most, width_, -infinity);
        std::copy_n(low_.data(), classes(), low);
        std::copy_n(high_.data(), classes(), high);
        unfold(low);
        unfold(high);
        const auto one = [&](const V* __restrict x, int64_t lanes) {
            D2K_LANES
            for (int64_t j = 0; j < lanes; ++j) {
                const V v = x[j];
                least[j] = v > low[j] && v < least[j] ? v : least[j];
                most[j] = v <= high[j] && v > most[j] ? v : most[j];
            }
        };
        each_tile([&](const V* x, int64_t) { for (int64_t u = 0; u < kUnrolled; ++u) one(x + u * width_, width_); }, one);
        fold(least, [](V a, V b) { return b < a ? b : a; });
        fold(most, [](V a, V b) { return b > a ? b : a; });
        for (int64_t c = 0; c < classes(); ++c) {
            low_[c] = before(least[c]);
            high_[c] = most[c];
        }
    }

    // Three pivots inside each bracket, from its values' number as if they were spread evenly; the outer ones the
    // further out the less that was so, and next to the ends where those have just met values.
    D2K_INLINE void aim() {
        V* __restrict pivot = pivots_.data();
        const V* __restrict least = lanes_.data();
        const bool snapped = stalled_;
        const V* __restrict low = low_.data();
        const V* __restrict high = high_.data();
        const V* __restrict wide = wide_.data();
        const I* __restrict above_high = above_high_.data();
        const I* __restrict size = size_.data();
        const I k = static_cast<I>(k_);
        const int64_t w = width_, classes = this->classes();
        D2K_LANES
        for (int64_t c = 0; c < classes; ++c) {
            const V m = static_cast<V>(size[c]), rank = static_cast<V>(k - above_high[c]) - V(0.5);
            const V at = rank / m, spread = wide[c] * (V(0.5) + std::sqrt(std::abs(rank * (V(1) - at)))) / m;
            const V nearest = at / (V(1) + wide[c]), furthest = (at + wide[c]) / (V(1) + wide[c]);
            const V more = at - spread > nearest ? at - spread : nearest;
            const V less = at + spread < furthest ? at + spread : furthest;
            // Values of many magnitudes are spread more evenly by their bits; halves, so that they cannot overflow.
            const bool by_bits = wide[c] > V(1);
            const I from = ordered(low[c]) / 2, to = ordered(high[c]) / 2;
            const V room = by_bits ? static_cast<V>(to - from) : high[c] - low[c];
            const V a = room * more, b = room * at, d = room * less;
            const V up = settled(by_bits ? value_of<V>(2 * (to - static_cast<I>(a))) : high[c] - a);
            pivot[w + c] = settled(by_bits ? value_of<V>(2 * (to - static_cast<I>(b))) : high[c] - b);
            const V down = settled(by_bits ? value_of<V>(2 * (to - static_cast<I>(d))) : high[c] - d);
            pivot[c] = snapped ? before(high[c]) : up;
            pivot[2 * w + c] = snapped ? least[c] : before(down);
        }
        for (int p = 0; p < kPivots; ++p) unfold(pivot + p * w);
    }

    D2K_INLINE void count() {
        count_all<false>();
        narrow();
        const I* __restrict above_low = above_low_.data();
        const I* __restrict above_high = above_high_.data();
        const char* __restrict hard = hard_.data();
        I* __restrict size = size_.data();
        V* __restrict wide = wide_.data();
        const int64_t classes = this->classes();
        const I most = static_cast<I>(picked());
        int stalled = 0;
        for (int64_t c = 0; c < classes; ++c) {
            const I now = hard[c] ? 0 : above_low[c] - above_high[c];
            stalled |= now == size[c] && now > most && wide[c] > 1;
            wide[c] = 2 * now > size[c] ? 4 * wide[c] : V(1);
            size[c] = now;
        }
        stalled_ = stalled;
    }

    // Sums and counts what lies above each bracket, and picks out what lies in it.
    D2K_INLINE void collect(Selected<V>* out) {
        V* __restrict low = lanes_.data();
        V* __restrict high = low + width_;
        V* __restrict sum = high + width_;
        I* __restrict above = counts_.data();
        I* __restrict hits = above + width_;
        const int64_t w = width_, most = picked();
        for (int64_t c = 0; c < classes(); ++c) {
            const bool ends = collapsed(c);
            hard_[c] |= !ends && size_[c] > most;
            low[c] = ends || hard_[c] ? high_[c] : low_[c];
            high[c] = high_[c];
        }
        unfold(low);
        unfold(high);
        totals_.assign(w, 0.0);
        std::fill_n(above, w, I(0));
        inside_.resize(classes() * (most + 1));
        found_.assign(classes(), 0);
        const auto tile = [&](auto unrolled, const V* __restrict x, int64_t lanes) {
            constexpr int64_t U = decltype(unrolled)::value;
            D2K_LANES
            for (int64_t j = 0; j < lanes; ++j) {
                const V from = low[j], to = high[j];
                V s = 0;
                I n = above[j], in = 0;
#pragma GCC unroll 8
                for (int64_t u = 0; u < U; ++u) {
                    const V v = x[u * w + j];
                    const bool over = !(v <= to);
                    s += over ? v : V(0);
                    n += over;
                    in += !(v <= from);
                }
                sum[j] = s;
                hits[j] = in - (n - above[j]);
                above[j] = n;
            }
            double* __restrict totals = totals_.data();
            D2K_LANES
            for (int64_t j = 0; j < lanes; ++j) totals[j] += sum[j];
            for (int64_t j = 0; j < lanes; ++j) {
                if (hits[j] == 0) continue;
                const int64_t c = j % classes();
                const V from = low[j], to = high[j];
                V* __restrict inside = inside_.data() + c * (most + 1);
                int64_t at = found_[c];
                for (int64_t u = 0; u < U; ++u) {
                    const V v = x[u * w + j];
                    inside[at] = v;
                    at += v > from && v <= to && at < most;
                }
                found_[c] = at;
            }
        };
        each_tile([&](const V* x, int64_t n) { tile(std::integral_constant<int64_t, kUnrolled>{}, x, n); },
                  [&](const V* x, int64_t n) { tile(std::integral_constant<int64_t, 1>{}, x, n); });
        fold(above, [](I a, I b) { return a + b; });
        fold(totals_.data(), [](double a, double b) { return a + b; });
        for (int64_t c = 0; c < classes(); ++c) out[c] = finish(c);
    }

    D2K_INLINE Selected<V> finish(int64_t c) {
        const int64_t above = counts_[c], more = k_ - above, found = found_[c];
        if (hard_[c] || above != above_high_[c]) return select(c);
        if (collapsed(c)) return {high_[c], totals_[c], above, size_[c]};
        if (found != size_[c] || more < 1 || more > found) return select(c);
        V* inside = inside_.data() + c * (picked() + 1);
        if (found > 2 * kPicked) {
            Selected<V> out = select_column(inside, found, more);
            out.above += above;
            out.above_sum += totals_[c];
            return out;
        }
        for (int64_t i = 1; i < found; ++i) {
            const V v = inside[i];
            int64_t j = i;
            for (; j > 0 && inside[j - 1] < v; --j) inside[j] = inside[j - 1];
            inside[j] = v;
        }
        Selected<V> out{inside[more - 1], totals_[c], above, 0};
        for (int64_t i = 0; i < found && !(inside[i] < out.threshold); ++i) {
            const bool over = inside[i] > out.threshold;
            out.above_sum += over ? inside[i] : V(0);
            out.above += over;
            out.tied += !over;
        }
        return out;
    }

    Selected<V> select(int64_t c) {
        column_.resize(matrix_.rows);
        for (int64_t t = 0; t < matrix_.rows; ++t) column_[t] = matrix_.values[t * classes() + c];
        return select_column(column_.data(), matrix_.rows, k_);
    }

    const I step_;
    Matrix<V> matrix_{};
    int64_t k_ = 0, fold_ = 0, width_ = 0, tiles_ = 0, rest_ = 0;
    bool stalled_ = false;
    std::vector<V> sample_, pivots_, lanes_, low_, high_, wide_, inside_, column_;
    std::vector<I> counts_, above_low_, above_high_, size_;
    std::vector<int64_t> found_;
    std::vector<double> totals_;
    std::vector<char> hard_;  // classes of which a bracket cannot be had: infinities, or ties of many kinds
};

}  // namespace d2k::cpu

// Ratio of the largest to the smallest singular value that counts, of matrices or of products kept factored.
#pragma once

#include <cstdint>
#include <type_traits>

#include "d2kernels/extremes.h"
#include "d2kernels/status.h"
#include "d2kernels/two_by_two.h"

namespace d2k {

template <class T>
struct ConditionNumber {
    InputOf<T> a, b;  // (batch, rows, inner) and (batch, inner, columns); b null: a is (batch, rows, columns)
    int64_t batch, rows, inner, columns;
    double atol, rtol;
    bool log;

    OutputOf<T> value;          // (batch)
    double *slope_a, *slope_b;  // ∂ value by a and b, each or both null

    D2K_DEVICE bool closed() const { return !b && rows == 2 && columns == 2; }
    D2K_DEVICE Plan plan() const { return b ? Plan::product(rows, inner, columns) : Plan::whole(rows, columns); }
    D2K_DEVICE int64_t size_a() const { return rows * (b ? inner : columns); }
    D2K_DEVICE int64_t size_b() const { return b ? inner * columns : 0; }

    // Doubles that `prepare` and `finish` need beside the ExtremesWork: a product, or four vectors and four of them.
    D2K_DEVICE int64_t doubles() const {
        const int64_t product = b && !plan().reduced ? rows * columns : 0, vectors = 2 * (rows + columns + 2 * inner);
        return product > vectors ? product : vectors;
    }
};

// product[i, j] = Σ a[i, l] b[l, j], each factor divided by its power of 2. Both are finite.
template <class Team, class A, class B>
D2K_DEVICE void multiply(Team& team, const A& a, const B& b, int64_t rows, int64_t inner, int64_t columns,
                         const Power& scale_a, const Power& scale_b, double* product) {
    if constexpr (Group<Team>::width == 1) {
        // A tile of sums takes a few of b's rows at a time, all in the cache; what is 0 in a, as most labels are, is left out.
        constexpr int64_t high = 32, deep = 32, wide = 64;
        for (int64_t top = team.rank() * high; top < rows; top += team.size() * high)
            for (int64_t first = 0; first < columns; first += wide) {
                const int64_t end = rows - top < high ? rows : top + high;
                const int64_t width = columns - first < wide ? columns - first : wide;
                for (int64_t i = top; i < end; ++i)
                    for (int64_t j = 0; j < width; ++j) product[i * columns + first + j] = 0;
                for (int64_t from = 0; from < inner; from += deep) {
                    const int64_t depth = inner - from < deep ? inner - from : deep;
                    double y[deep][wide];
                    for (int64_t l = 0; l < depth; ++l)
                        for (int64_t j = 0; j < width; ++j)
                            y[l][j] = scale_b * static_cast<double>(b[(from + l) * columns + first + j]);
                    for (int64_t i = top; i < end; ++i) {
                        double* const sums = product + (i * columns + first);
                        for (int64_t l = 0; l < depth; ++l) {
                            const double x = scale_a * static_cast<double>(a[i * inner + from + l]);
                            if (x == 0) continue;
                            for (int64_t j = 0; j < width; ++j) sums[j] += x * y[l][j];
                        }
                    }
                }
            }
    } else {
        for_each(team, rows * columns, [&](int64_t at) {
            const int64_t i = at / columns, j = at % columns;
            double sum = 0;
            D2K_ROLLED
            for (int64_t l = 0; l < inner; ++l)
                sum += scale_a * static_cast<double>(a[i * inner + l]) *
                       (scale_b * static_cast<double>(b[l * columns + j]));
            product[at] = sum;
        });
    }
}

// Loads matrix `item` into a lane; what the plan decomposes has exponent and finiteness as returned.
template <class Team, class T, class Real>
D2K_DEVICE Range prepare(Team& team, const ConditionNumber<T>& problem, const Plan& plan, int64_t item,
                         const ExtremesWork<Real>& work, double* doubles, int lane) {
    const int64_t m = problem.rows, n = problem.columns;
    const auto a = problem.a + item * problem.size_a();
    const auto b = problem.b + item * problem.size_b();
    const int factors = problem.b ? 2 : 1;
    int exponent_a = 0, exponent_b = 0;
    bool finite = true, nan = false;
    // One reading's code for both factors.
    D2K_ROLLED
    for (int f = 0; f < factors; ++f) {
        const Range range = range_of(team, either(f, b, a), f ? problem.size_b() : problem.size_a());
        exponent_a = f ? exponent_a : range.exponent;
        exponent_b = f ? range.exponent : 0;
        finite &= range.finite;
        nan |= range.nan;
    }
    if (!problem.b || plan.reduced) {
        D2K_ROLLED
        for (int f = 0; f < factors; ++f) {
            const Columns<Real>& whole = work.g.columns;
            const Columns<Real> to{f ? work.b.first : problem.b ? work.a.columns.first : whole.first,
                                   f ? work.b.ld : problem.b ? work.a.columns.ld : whole.ld};
            load(team, either(f, b, a), f ? problem.inner : m, problem.b && !f ? problem.inner : n,
                 problem.b ? f == 1 : plan.turned, Range{f ? exponent_b : exponent_a, finite, nan}, to, lane);
        }
        return {exponent_a + exponent_b, finite, nan};
    }
    if (finite)
        multiply(team, a, b, m, problem.inner, n, Range{exponent_a, true, false}.scale(),
                 Range{exponent_b, true, false}.scale(), doubles);
    else
        for_each(team, m * n, [&](int64_t i) { doubles[i] = 0; });
    team.barrier();
    const Range of_product = range_of(team, doubles, m * n);
    load(team, doubles, m, n, plan.turned, of_product, work.g.columns, lane);
    team.barrier();
    return {exponent_a + exponent_b + of_product.exponent, finite, nan};
}

template <class Team>
D2K_DEVICE void copy_lane(Team& team, const double* from, int64_t count, int stride, double* to) {
    for_each(team, count, [&](int64_t i) { to[i] = from[i * stride]; });
}

// Writes the value and the slopes of matrix `item` from a lane's singular values and vectors.
template <class Team, class T, class Real>
D2K_DEVICE void finish(Team& team, const ConditionNumber<T>& problem, int64_t item, const Extremes<Real>& e,
                       const Range& range, int lane, double* doubles) {
    const int64_t m = problem.rows, k = problem.inner, n = problem.columns;
    const double largest = lane_of(&e.largest, lane), smallest = lane_of(&e.smallest, lane);
    const bool flat = any(team, !range.finite || lane_of(&e.rank, lane) < 2 || smallest >= largest);
    const double eta = !range.finite ? range.undefined() : flat ? 1 : largest / smallest;
    if (team.rank() == 0) put(problem.value + item, problem.log ? ::log(eta) : eta);
    const bool of_a = problem.slope_a != nullptr, of_b = problem.slope_b != nullptr && problem.b;
    if (!of_a && !of_b) return;
    double* const slope_a = of_a ? problem.slope_a + item * problem.size_a() : nullptr;
    double* const slope_b = of_b ? problem.slope_b + item * problem.size_b() : nullptr;
    if (flat) {
        const double none = range.finite ? 0 : NAN;
        for_each(team, of_a ? problem.size_a() : 0, [&](int64_t i) { slope_a[i] = none; });
        for_each(team, of_b ? problem.size_b() : 0, [&](int64_t i) { slope_b[i] = none; });
        return;
    }
    // Two vectors each: left, and right with all the factors.
    double *const left = doubles, *const right = left + 2 * m;
    const Power scale = range.scale();
    const double of = problem.log ? 1 : eta;
    D2K_ROLLED
    for (int x = 0; x < 2; ++x) {
        for_each(team, m, [&](int64_t i) { left[x * m + i] = lane_of(e.left + (x * e.next + i), lane); });
        for_each(team, n, [&](int64_t i) {
            const double factor = x == 0 ? of / largest : -of / smallest;
            right[x * n + i] = scale * (factor * lane_of(e.right + (x * e.next + i), lane));
        });
    }
    team.barrier();
    // slope_a is the slope of the product times bᵀ, slope_b is aᵀ times it.
    double *const by_b = right + 2 * n, *const by_a = by_b + 2 * k;
    const auto outer = [&] {
        // A block counts in 32 bits, which divide in a fifth of the instructions.
        using Index = std::conditional_t<Group<Team>::width == 1, int64_t, int>;
        constexpr Index tile = Group<Team>::width == 1 ? 1 << 30 : 1;
        // One product's code for both slopes.
        D2K_ROLLED
        for (int f = of_a ? 0 : 1; f < (of_b ? 2 : 1); ++f) {
            double* const to = f ? slope_b : slope_a;
            const auto rows = static_cast<Index>(f ? k : m), columns = static_cast<Index>(problem.b && !f ? k : n);
            const Index tiles = (columns + tile - 1) / tile;
            const double *const l = f ? by_a : left, *const r = problem.b && !f ? by_b : right;
            for_each(team, rows * tiles, [&](Index at) {
                const Index i = at / tiles, first = at % tiles * tile;
                const Index end = columns - first < tile ? columns : first + tile;
                const double x = l[i], y = l[rows + i];
                D2K_ROLLED
                for (Index j = first; j < end; ++j) to[i * columns + j] = x * r[j] + y * r[columns + j];
            });
        }
    };
    if (!problem.b) return outer();
    const auto a = problem.a + item * problem.size_a();
    const auto b = problem.b + item * problem.size_b();
    const Group<Team> group(team);
    if constexpr (Group<Team>::width == 1) {
        for_columns(group, int64_t{0}, of_a ? k : 0, [&](int64_t l, bool) {
            for (int x = 0; x < 2; ++x) {
                const auto row = b + l * n;
                const double* const r = right + x * n;
                const int64_t whole = n / kParts * kParts;
                double parts[kParts] = {};
                for (int64_t j = 0; j < whole; j += kParts)
                    for (int h = 0; h < kParts; ++h) parts[h] += static_cast<double>(row[j + h]) * r[j + h];
                double sum = group.sum(parts);
                for (int64_t j = whole; j < n; ++j) sum += static_cast<double>(row[j]) * r[j];
                by_b[x * k + l] = sum;
            }
        });
        for (int x = 0; x < (of_b ? 2 : 0); ++x) multiply(team, left + x * m, a, 1, m, k, Power(0), Power(0), by_a + x * k);
    } else {
        // One sum's code for b's rows and for a's columns, of both vectors.
        D2K_ROLLED
        for (int f = of_a ? 0 : 1; f < (of_b ? 2 : 1); ++f)
            for_columns(group, 0, static_cast<int>(k), [&](int l, bool here) {
                const int count = static_cast<int>(here ? f ? m : n : 0), step = static_cast<int>(f ? k : 1);
                const T* const from = f ? a + l : b + l * n;
                const double *const one = f ? left : right, *const other = one + (f ? m : n);
                double first[1] = {}, second[1] = {};
                D2K_ROLLED
                for (int i = group.part(); i < count; i += kParts) {
                    const auto value = static_cast<double>(from[i * step]);
                    first[0] += value * one[i];
                    second[0] += value * other[i];
                }
                const double sums[2] = {group.sum(first), group.sum(second)};
                double* const to = f ? by_a : by_b;
                if (here && group.part() == 0) to[l] = sums[0];
                if (here && group.part() == 0) to[k + l] = sums[1];
            });
    }
    team.barrier();
    outer();
}

// The items [first, first + kPacked), as far as there are any; ranges has kPacked elements, for finish_all.
template <class Team, class Real, class T>
D2K_DEVICE void prepare_all(Team& team, const ConditionNumber<T>& problem, int64_t first,
                            const ExtremesWork<Real>& work, double* doubles, Range* ranges) {
    for (int l = 0; l < kPacked<Real>; ++l) {
        // Lanes past the batch do the last matrix again.
        const int64_t item = first + l < problem.batch ? first + l : problem.batch - 1;
        ranges[l] = prepare(team, problem, problem.plan(), item, work, doubles, l);
    }
}

template <class Team, class Real, class T>
D2K_DEVICE void finish_all(Team& team, const ConditionNumber<T>& problem, int64_t first, const Extremes<Real>& e,
                           double* doubles, const Range* ranges) {
    for (int l = 0; l < kPacked<Real> && first + l < problem.batch; ++l)
        finish(team, problem, first + l, e, ranges[l], l, doubles);
    team.barrier();
}

// The same for 2 × 2 matrices, one thread a pack.
template <class Real, class T>
D2K_DEVICE void condition_numbers_2x2(const ConditionNumber<T>& problem, int64_t first) {
    constexpr int lanes = kPacked<Real>;
    Real m[4];
    Range ranges[lanes];
    for (int l = 0; l < lanes; ++l) {
        const int64_t item = first + l < problem.batch ? first + l : problem.batch - 1;
        double entries[4], most = 0;
        ranges[l].finite = true;
        ranges[l].nan = false;
        for (int i = 0; i < 4; ++i) {
            entries[i] = static_cast<double>(problem.a[item * 4 + i]);
            ranges[l].finite &= magnitude(entries[i]) <= DBL_MAX;
            ranges[l].nan |= entries[i] != entries[i];
            most = larger(most, magnitude(entries[i]));
        }
        ranges[l].exponent = ranges[l].finite ? exponent(most) : 0;
        const Power scale = ranges[l].scale();
        for (int i = 0; i < 4; ++i)
            lane_of(m + i, l) = ranges[l].finite ? scale * entries[i] : 0.0;
    }
    const auto e = TwoByTwo<Real>::of(m[0], m[1], m[2], m[3]);
    for (int l = 0; l < lanes && first + l < problem.batch; ++l) {
        const double largest = lane_of(&e.largest, l), smallest = lane_of(&e.smallest, l);
        const Power scale = ranges[l].scale();
        const double relative = problem.rtol * largest, absolute = scale * problem.atol;
        const bool finite = ranges[l].finite;
        const bool flat = !finite || !(smallest > relative && smallest > absolute) || smallest >= largest;
        const double eta = !finite ? ranges[l].undefined() : flat ? 1 : largest / smallest;
        put(problem.value + (first + l), problem.log ? ::log(eta) : eta);
        const double factor = problem.log ? 1 : eta;
        for (int i = 0; problem.slope_a && i < 4; ++i)
            problem.slope_a[(first + l) * 4 + i] =
                !finite ? NAN : flat ? 0 : scale * (factor * lane_of(e.slope + i, l));
    }
}

namespace cpu {
template <class T>
Status condition_number(const ConditionNumber<T>& problem, int threads);
// gradient = grad[matrix] slope, (batch, size) each.
template <class T>
Status scale_slopes(const T* grad, const double* slope, int64_t batch, int64_t size, T* gradient, int threads);
}  // namespace cpu

namespace cuda {
// Bytes of device memory that the call works in, 0 where a matrix fits the block's own.
Status condition_number_workspace(const ConditionNumber<AnyFloat>& problem, int device, size_t* bytes);
Status condition_number(const ConditionNumber<AnyFloat>& problem, void* workspace, size_t bytes, int device,
                        void* stream);
template <class T>
Status scale_slopes(const T* grad, const double* slope, int64_t batch, int64_t size, T* gradient, int device,
                    void* stream);
}  // namespace cuda

}  // namespace d2k

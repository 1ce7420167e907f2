// The gradient of a thin singular value decomposition.
#pragma once

#include <cfloat>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "d2kernels/extremes.h"
#include "d2kernels/status.h"

namespace d2k {

// gradient = U [skew(Uᵀ gU) / E S + S skew(Vᵀ gV) / E + diag(gS)] Vᵀ and the parts outside U's and V's spans; see the
// reference. One product for U's and V's parts alike: X Vᵀ + U diag(1/σ) gVᵀ with X = U C + gU diag(1/σ), of which what is
// divided by σ is left out where U or V is square.
template <class T>
struct SvdBackward {
    InputOf<T> grad_u, grad_s, grad_vh;  // as u, s and vh, or null
    InputOf<T> u, s, vh;                 // (batch, rows, k), (batch, k), (batch, k, columns); k = min(rows, columns)
    int64_t batch, rows, columns;
    OutputOf<T> gradient;  // (batch, rows, columns)

    D2K_DEVICE int64_t k() const { return rows < columns ? rows : columns; }
    D2K_DEVICE bool vectors() const { return grad_u || grad_vh; }
    // Whether a gradient may have a part outside the vectors' span.
    D2K_DEVICE bool outside_u() const { return grad_u && rows > columns; }
    D2K_DEVICE bool outside_v() const { return grad_vh && columns > rows; }
};

// What one matrix works in, by rows of `ld` numbers each. What no gradient needs is null.
struct SvdBackwardWork {
    Columns<double> u, grad_u;            // grad_u becomes X
    Columns<double> vh, grad_vh, grad_v;  // grad_v: grad_vh transposed
    Columns<double> of_u, of_v;           // Uᵀ gU, which becomes C, and Vᵀ gV
    double *s, *grad_s, *inverse;         // (k)

    template <class T>
    D2K_DEVICE static int64_t size(const SvdBackward<T>& problem) {
        int64_t next = 0;
        of(problem, [&](int64_t count) {
            next += count;
            return static_cast<double*>(nullptr);
        });
        return next;
    }

    // Null in `u` where the scratch is too small.
    template <class T>
    D2K_DEVICE static SvdBackwardWork in(Scratch& scratch, const SvdBackward<T>& problem) {
        double* next = scratch.take<double>(size(problem));
        if (!kFits && !next) return {};
        return of(problem, [&](int64_t count) { return (next += count) - count; });
    }

private:
    template <class T, class Take>
    D2K_DEVICE static SvdBackwardWork of(const SvdBackward<T>& problem, const Take& take) {
        const int64_t m = problem.rows, n = problem.columns, k = problem.k();
        const auto matrix = [&](bool there, int64_t rows, int64_t columns) {
            const int64_t ld = padded(columns);
            return Columns<double>{there ? take(rows * ld) : nullptr, ld};
        };
        SvdBackwardWork work;
        work.u = matrix(true, m, k);
        work.grad_u = matrix(problem.vectors(), m, k);
        work.vh = matrix(true, k, n);
        work.grad_vh = matrix(problem.outside_v(), k, n);
        work.grad_v = matrix(bool(problem.grad_vh), n, k);
        work.of_u = matrix(problem.vectors(), k, k);
        work.of_v = matrix(bool(problem.grad_vh), k, k);
        for (double** numbers : {&work.s, &work.grad_s, &work.inverse}) *numbers = take(k);
        return work;
    }
};

// A part of a product: Σ_l a[i, l] along[l] b[l, j], before which the parts so far are times a power of 2. Nothing where
// a is null; `along` is 1 where that is.
struct Term {
    const double *a, *along, *b;
    Power before;
};

// a[i, l] is a[i · row + l · step], b[l, j] is b[l · ld + j].
template <class Index>
struct Layout {
    Index row, step, ld;
};

// Columns side by side, in one vector where the compiler has them.
#if defined(__GNUC__) && !defined(__CUDACC__)
template <int width>
struct Beside {
    typedef double Type __attribute__((vector_size(width * sizeof(double))));
};
#else
template <int width>
struct Beside {
    using Type = Beside;
    double numbers[width];

    D2K_DEVICE double operator[](int i) const { return numbers[i]; }
    D2K_DEVICE Beside operator*(double x) const {
        Beside y;
        for (int i = 0; i < width; ++i) y.numbers[i] = numbers[i] * x;
        return y;
    }
    D2K_DEVICE friend Beside operator*(double x, const Beside& y) { return y * x; }
    D2K_DEVICE Beside& operator+=(const Beside& other) {
        for (int i = 0; i < width; ++i) numbers[i] += other.numbers[i];
        return *this;
    }
};
#endif

// Sums of a tile: of `rows` rows, and of as many columns as there are numbers in a Lanes.
template <int rows, class Lanes, class Index, class TermOf>
D2K_DEVICE void add_terms(const Layout<Index>& layout, Index inner, int terms, const TermOf& term, Index i, Index j,
                          Lanes (&sums)[rows]) {
    D2K_ROLLED
    for (int t = 0; t < terms; ++t) {
        const Term one = term(t);
        for (Lanes& x : sums) x = x * one.before.first * one.before.second;
        if (!one.a) continue;
        const double *a = one.a + i * layout.row, *b = one.b + j;
        const auto add = [&](auto scaled) {
            for (Index l = 0; l < inner; ++l, a += layout.step, b += layout.ld) {
                Lanes across;
                memcpy(&across, b, sizeof across);
                if (scaled) across = one.along[l] * across;
                D2K_UNROLLED
                for (int r = 0; r < rows; ++r) sums[r] += a[r * layout.row] * across;
            }
        };
        // Two loops where they are fast, one where they are code to load.
        if constexpr (sizeof(Lanes) == sizeof(double)) add(one.along != nullptr);
        else if (one.along) add(std::true_type{});
        else add(std::false_type{});
    }
}

// body(i, j, the sum of the terms) for every entry; `inner` is every term's, and b's rows have ld numbers, of which those
// behind `columns` may be anything.
template <class Team, class Index, class TermOf, class Body>
D2K_DEVICE void multiply_terms(Team& team, const Layout<Index>& layout, Index rows, Index inner, Index columns,
                               int terms, const TermOf& term, const Body& body) {
    if constexpr (Group<Team>::width == 1) {
        // Tiles whose sums stay in registers.
        const auto tile = [&](auto height, auto width, Index i, Index j) {
            typename Beside<width>::Type sums[height] = {};
            add_terms(layout, inner, terms, term, i, j, sums);
            for (int r = 0; r < height; ++r)
                for (int c = 0; c < width && j + c < columns; ++c) body(i + r, j + c, sums[r][c]);
        };
        const auto across = [&](auto height, Index i) {
            Index j = 0;
            for (; j + 2 * kParts <= layout.ld; j += 2 * kParts) tile(height, std::integral_constant<int, 2 * kParts>{}, i, j);
            if (j < columns) tile(height, std::integral_constant<int, kParts>{}, i, j);
        };
        Index i = 0;
        for (; i + 8 <= rows; i += 8) across(std::integral_constant<int, 8>{}, i);
        for (; i + 4 <= rows; i += 4) across(std::integral_constant<int, 4>{}, i);
        for (; i < rows; ++i) across(std::integral_constant<int, 1>{}, i);
    } else {
        for_each(team, rows * columns, [&](Index at) {
            const Index i = at / columns, j = at % columns;
            double sums[1] = {};
            add_terms(layout, inner, terms, term, i, j, sums);
            body(i, j, sums[0]);
        });
    }
}

D2K_DEVICE bool is_double(const double*) { return true; }
template <class T>
D2K_DEVICE bool is_double(const T*) { return false; }
D2K_DEVICE bool is_double(const Floats& x) { return x.is_double(); }

// Matrix `item` of the batch.
template <class Team, class T>
D2K_DEVICE void svd_backward(Team& team, const SvdBackward<T>& problem, int64_t item, const SvdBackwardWork& work) {
    using Index = std::conditional_t<Group<Team>::width == 1, int64_t, int>;
    const int64_t m = problem.rows, n = problem.columns;
    const auto k = static_cast<Index>(problem.k());
    const Range range{0, true, false};
    // One reading's code for all.
    D2K_ROLLED
    for (int f = 0; f < 5; ++f) {
        const bool left = f < 2, gradient = f == 1 || f > 2;
        if (f == 1 ? !problem.grad_u : f == 3 ? !problem.outside_v() : f == 4 && !problem.grad_vh) continue;
        const auto source = either(left, either(gradient, problem.grad_u, problem.u),
                                   either(gradient, problem.grad_vh, problem.vh));
        const auto to = [&](const Columns<double>& a, const Columns<double>& b) {
            return Columns<double>{gradient ? a.first : b.first, a.ld};
        };
        const Columns<double> matrix =
            left ? to(work.grad_u, work.u) : f == 4 ? work.grad_v : to(work.grad_vh, work.vh);
        const int64_t size = left ? m * k : k * n;
        load(team, source + item * size, left ? m : k, left ? k : n, f != 4, range, matrix, 0);
    }
    double most = 0;
    for (Index c = static_cast<Index>(team.rank()); c < k; c += team.size()) {
        work.s[c] = static_cast<double>(problem.s[item * k + c]);
        work.grad_s[c] = problem.grad_s ? static_cast<double>(problem.grad_s[item * k + c]) : 0;
        most = larger(most, work.s[c]);
    }
    team.barrier();
    most = team.reduce(most, Larger());
    // Divided by a power of 2, so that no square overflows; what comes through U and V grows by it.
    const Power down(most <= DBL_MAX ? -exponent(most) : 0);

    const bool of_u = bool(problem.grad_u), of_v = bool(problem.grad_vh);
    const bool outside_u = problem.outside_u(), outside_v = problem.outside_v();
    if (of_u || of_v) {
        // Values are as far apart as their own type can tell.
        const bool wide = is_double(problem.u);
        const auto rounded = [&](double x) { return wide ? x : static_cast<double>(static_cast<float>(x)); };
        const double eps = wide ? DBL_EPSILON : static_cast<double>(FLT_EPSILON);
        const double least = rounded(10 * eps * (down * work.s[0]));
        for_each(team, k, [&](Index c) {
            const double x = down * work.s[c];
            work.inverse[c] = magnitude(x) <= least ? 0 : 1 / x;
        });

        // One product's code for Uᵀ gU and Vᵀ gV.
        D2K_ROLLED
        for (int f = of_u ? 0 : 1; f < (of_v ? 2 : 1); ++f) {
            const Term one{f ? work.vh.first : work.u.first, nullptr, f ? work.grad_v.first : work.grad_u.first, Power(0)};
            double* const first = f ? work.of_v.first : work.of_u.first;
            const auto ld = static_cast<Index>(work.of_u.ld);
            const Layout<Index> layout{f ? static_cast<Index>(work.vh.ld) : 1, f ? 1 : ld, ld};
            multiply_terms(team, layout, k, static_cast<Index>(f ? n : m), k, 1, [&](int) { return one; },
                           [&](Index i, Index j, double x) { first[i * ld + j] = x; });
        }
        team.barrier();
        const auto ld = static_cast<Index>(work.of_u.ld);
        const auto turn = [&](Index i, Index j) {
            const double a = down * work.s[i], b = down * work.s[j];
            // Factored: small distinct values have squares that differ by less than rounding.
            const double less = rounded(b - a), more = rounded(b + a);
            const double gap = magnitude(less) <= least || magnitude(more) <= least ? 0 : 1 / (less * more);
            double *const up = work.of_u.first + (i * ld + j), *const low = work.of_u.first + (j * ld + i);
            double above = 0, below = 0;
            if (of_u) {
                const double x = *up, y = *low, both = (x - y) * gap;
                above = both * b - (outside_u ? x * work.inverse[j] : 0);
                below = both * a - (outside_u ? y * work.inverse[i] : 0);
            }
            if (of_v) {
                const double x = work.of_v.first[i * ld + j], y = work.of_v.first[j * ld + i], both = (x - y) * gap;
                above += both * a - (outside_v ? y * work.inverse[i] : 0);
                below += both * b - (outside_v ? x * work.inverse[j] : 0);
            }
            *up = above;
            *low = below;
        };
        if constexpr (Group<Team>::width == 1) {
            for (Index i = 0; i < k; ++i)
                for (Index j = i; j < k; ++j) turn(i, j);
        } else {
            for_each(team, k * k, [&](Index at) {
                if (at / k <= at % k) turn(at / k, at % k);
            });
        }
        team.barrier();
        const Term one{work.u.first, nullptr, work.of_u.first, Power(0)};
        double* const x = work.grad_u.first;
        multiply_terms(team, Layout<Index>{ld, 1, ld}, static_cast<Index>(m), k, k, 1, [&](int) { return one; },
                       [&](Index i, Index j, double sum) {
                           x[i * ld + j] = outside_u ? sum + x[i * ld + j] * work.inverse[j] : sum;
                       });
    }
    team.barrier();
    // X Vᵀ + U diag(1/σ) gVᵀ, divided as σ was, and U diag(gS) Vᵀ, as far as there are any.
    const auto gradient = problem.gradient + item * m * n;
    const auto terms = [&](int t) {
        const bool here = t == 0 ? of_u || of_v : t == 1 ? outside_v : bool(problem.grad_s);
        return Term{here ? t == 0 ? work.grad_u.first : work.u.first : nullptr,
                    t == 0 ? nullptr : t == 1 ? work.inverse : work.grad_s,
                    t == 1 ? work.grad_vh.first : work.vh.first, t == 2 ? down : Power(0)};
    };
    const Layout<Index> layout{static_cast<Index>(work.u.ld), 1, static_cast<Index>(work.vh.ld)};
    multiply_terms(team, layout, static_cast<Index>(m), k, static_cast<Index>(n), 3, terms,
                   [&](Index i, Index j, double sum) { put(gradient + (i * static_cast<Index>(n) + j), sum); });
}

namespace cpu {
template <class T>
Status svd_backward(const SvdBackward<T>& problem, int threads);
}  // namespace cpu

namespace cuda {
// Bytes of device memory that the call works in, 0 where a matrix fits the block's own.
Status svd_backward_workspace(const SvdBackward<AnyFloat>& problem, int device, size_t* bytes);
Status svd_backward(const SvdBackward<AnyFloat>& problem, void* workspace, size_t bytes, int device, void* stream);
}  // namespace cuda

}  // namespace d2k

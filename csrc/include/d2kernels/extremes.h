// The largest singular value of a small matrix, the smallest that counts, and their singular vectors.
#pragma once

#include <cfloat>
#include <cstdint>
#include <type_traits>

#include "d2kernels/floats.h"
#include "d2kernels/jacobi.h"

namespace d2k {

// How a matrix M of `rows` × `columns`, or a product of inner dimension `inner`, becomes the p × q matrix G, p >= q,
// that is decomposed: M or Mᵀ; or, where inner is the smallest, (R B)ᵀ for M = Q R B. `turned`: G is a transpose.
struct Plan {
    int64_t rows, inner, columns;
    bool reduced, turned;
    int64_t p, q;

    D2K_DEVICE static Plan whole(int64_t rows, int64_t columns) {
        const bool wide = rows < columns;
        return {rows, 0, columns, false, wide, wide ? columns : rows, wide ? rows : columns};
    }

    D2K_DEVICE static Plan product(int64_t rows, int64_t inner, int64_t columns) {
        if (inner >= rows || inner >= columns) return whole(rows, columns);
        return {rows, inner, columns, true, true, columns, inner};
    }

    D2K_DEVICE int64_t longest() const { return padded(rows > columns ? rows : columns); }
};

// Whether a team's scratch is known to hold what its plan needs: a launcher has asked for it.
#ifdef __CUDA_ARCH__
constexpr bool kFits = true;
#else
constexpr bool kFits = false;
#endif

template <class Real>
struct ExtremesWork {
    Triangle<Real> a;  // of Q R, where the plan is reduced
    Columns<Real> b;   // B's rows
    Triangle<Real> g;
    Real *order, *square;
    Triangle<Real> w;  // of Rᵀ
    Columns<Real> x;
    Real* vectors;  // six of the plan's longest length

    // Null in `vectors` where the scratch is too small.
    D2K_DEVICE static ExtremesWork in(Scratch& scratch, const Plan& plan) {
        ExtremesWork work{};
        Real* next = scratch.take<Real>(size(plan));
        if (!kFits && !next) return work;
        const auto take = [&](int64_t count) { return (next += count) - count; };
        const auto triangle = [&](int64_t rows, int64_t count) {
            return Triangle<Real>{{take(count * padded(rows)), padded(rows)}, rows, count, take(count), take(count)};
        };
        if (plan.reduced) {
            work.a = triangle(plan.rows, plan.inner);
            work.b = {take(plan.inner * padded(plan.columns)), padded(plan.columns)};
        }
        work.g = triangle(plan.p, plan.q);
        work.order = take(plan.q);
        work.square = take(plan.q);
        work.w = triangle(plan.q, plan.q);
        work.x = {take(plan.q * padded(plan.q)), padded(plan.q)};
        work.vectors = take(6 * plan.longest());
        return work;
    }

    // Numbers in it.
    D2K_DEVICE static int64_t size(const Plan& plan) {
        const int64_t g = plan.q * (padded(plan.p) + 4), w = 2 * plan.q * (padded(plan.q) + 1);
        const int64_t ab = plan.reduced ? plan.inner * (padded(plan.rows) + 2 + padded(plan.columns)) : 0;
        return ab + g + w + 6 * plan.longest();
    }

    // As many as any product of at most so many rows, columns and inner ones needs.
    D2K_DEVICE static int64_t bound(int64_t rows, int64_t inner, int64_t columns) {
        const int64_t side = rows < columns ? rows : columns, q = inner < side ? inner : side;
        return size({rows, q, columns, true, true, rows < columns ? columns : rows, q});
    }
};

// Of each matrix of a pack: singular values of the scaled matrix, which is M / 2^exponent.
template <class Real>
struct Extremes {
    Real largest, smallest, rank;
    Real *left, *right;  // of the largest, in M's rows and columns, and `next` numbers on of the smallest
    int64_t next;
};

// A source's largest exponent, 0 where not all of it is finite, and whether it holds NaN.
struct Range {
    int exponent;
    bool finite, nan;

    // η of what is not finite.
    D2K_DEVICE double undefined() const { return nan ? NAN : HUGE_VAL; }

    // 1 / 2^exponent, as far as a double can tell it from infinity and 0.
    D2K_DEVICE Power scale() const { return Power(exponent < -2000 ? 2000 : exponent > 2000 ? -2000 : -exponent); }
};

// Of the bits of what is not negative; a team may have a faster way.
template <class Team>
D2K_DEVICE uint64_t largest_bits(Team& team, uint64_t bits) { return team.reduce(bits, Max{}); }

template <class Team, class Source>
D2K_DEVICE Range range_of(Team& team, const Source& source, int64_t count) {
    // Magnitudes' bits are in their order, behind infinity's those of NaN.
    constexpr uint64_t sign = uint64_t{1} << 63, infinity = uint64_t{0x7ff} << 52;
    uint64_t most = 0;
    if constexpr (Group<Team>::width == 1) {
        // Signed, which more machines compare.
        int64_t largest = 0;
        for (int64_t i = team.rank(); i < count; i += team.size())
            largest = Max()(largest, static_cast<int64_t>(bit_cast<uint64_t>(static_cast<double>(source[i])) & ~sign));
        most = largest_bits(team, static_cast<uint64_t>(largest));
    } else {
        const int size = team.size(), end = static_cast<int>(count);
        D2K_ROLLED
        for (int i = team.rank(); i < end; i += kRead * size) {
            double values[kRead];
            read(source, i, size, end, values);
            for (const double x : values) most = Max()(most, bit_cast<uint64_t>(x) & ~sign);
        }
        most = largest_bits(team, most);
    }
    const bool finite = most < infinity;
    return {finite ? exponent(bit_cast<double>(most)) : 0, finite, most > infinity};
}

// Columns of one lane, from the rows or the columns of a row-major source, divided by 2^exponent; 0 if not finite.
template <class Team, class Source, class Real>
D2K_DEVICE void load(Team& team, const Source& source, int64_t rows, int64_t columns, bool by_rows, const Range& range,
                     const Columns<Real>& to, int lane) {
    const Power scale = range.scale();
    // A block counts in 32 bits, which more memory could not hold.
    using Index = std::conditional_t<Group<Team>::width == 1, int64_t, int>;
    const auto count = static_cast<Index>(by_rows ? rows : columns), length = static_cast<Index>(by_rows ? columns : rows);
    const auto step = static_cast<Index>(by_rows ? 1 : columns), next = static_cast<Index>(by_rows ? columns : 1);
    const auto ld = static_cast<Index>(to.ld);
    const Group<Team> group(team);
    for (auto c = static_cast<Index>(group.index()); c < count; c += static_cast<Index>(group.count())) {
        const auto from = source + c * next;
        Real* const column = to.first + c * ld;
        if constexpr (Group<Team>::width == 1) {
            own_rows(group, 0, ld, [&](int64_t i) {
                lane_of(column + i, lane) =
                    range.finite && i < length ? scale * static_cast<double>(from[i * step]) : 0.0;
            });
        } else {
            D2K_ROLLED
            for (int i = group.part(); i < ld; i += kRead * kParts) {
                double values[kRead];
                read(from, i * step, kParts * step, range.finite ? length * step : 0, values);
                D2K_UNROLLED
                for (int j = 0; j < kRead; ++j)
                    if (i + j * kParts < ld) column[i + j * kParts] = scale * values[j];
            }
        }
    }
}

// (R B)ᵀ of the factors that were loaded, into work.g; `ranges` become its own.
template <class Team, class Real>
D2K_DEVICE void multiply_reduced(Team& team, const Plan& plan, const ExtremesWork<Real>& work, Range* ranges) {
    const Group<Team> group(team);
    constexpr int lanes = kPacked<Real>;
    const int64_t q = plan.q;
    work.a.factorize(team);
    Real most(0.0);
    for (int64_t c = group.index(); c < q; c += group.count()) {
        Real* const to = work.g.columns[c];
        own_rows(group, 0, work.b.ld, [&](int64_t i) { to[i] = work.a.diagonal[c] * work.b[c][i]; });
        for (int64_t l = c + 1; l < q; ++l) {
            const Real factor = work.a.columns[l][c];
            own_rows(group, 0, work.b.ld, [&](int64_t i) { to[i] = to[i] + factor * work.b[l][i]; });
        }
        own_rows(group, 0, work.b.ld, [&](int64_t i) { most = larger(most, magnitude(to[i])); });
    }
    most = team.reduce(most, Larger());
    Real first, second;
    for (int l = 0; l < lanes; ++l) {
        const int e = exponent(lane_of(&most, l));
        const Power scale(-e);
        lane_of(&first, l) = scale.first;
        lane_of(&second, l) = scale.second;
        ranges[l].exponent += e;
    }
    for (int64_t c = group.index(); c < q; c += group.count())
        own_rows(group, 0, work.b.ld,
                 [&](int64_t i) { work.g.columns[c][i] = work.g.columns[c][i] * first * second; });
    team.barrier();
}

// The triangle in work.x that has G's singular values, by its columns; how many there are of them. A block leaves it at one
// QR with pivoting: its transposed triangle is in work.w too.
template <class Team, class Real>
D2K_DEVICE int64_t precondition(Team& team, const Plan& plan, const ExtremesWork<Real>& work, double atol, double rtol,
                                Range* ranges) {
    const Group<Team> group(team);
    constexpr int lanes = kPacked<Real>;
    const int64_t q = plan.q;
    const double noise = static_cast<double>(plan.rows > plan.columns ? plan.rows : plan.columns) * DBL_EPSILON;
    if constexpr (Group<Team>::width > 1) {
        return precondition_block(team, work, work.a, plan.reduced, false, static_cast<int>(q), [&] {
            if (plan.reduced) {
                const int e = exponent(multiply_block(team, work.w.columns, static_cast<int>(q), work.b, work.g.columns));
                const Power scale(-e);
                ranges->exponent += e;
                for_each(team, q * work.b.ld, [&](int64_t i) { work.g.columns.first[i] = scale * work.g.columns.first[i]; });
                team.barrier();
            }
            return Cutoff<double>{ranges->scale() * atol, rtol, noise};
        });
    } else {
        if (plan.reduced) multiply_reduced(team, plan, work, ranges);
        Real limit;
        for (int l = 0; l < lanes; ++l) lane_of(&limit, l) = ranges[l].scale() * atol;
        const int64_t k = factorize_pivoted(team, work.g, Cutoff<Real>{limit, rtol, noise}, work.order,
                                            work.square);

        const Triangle<Real> w{work.w.columns, q, k, work.w.diagonal, work.w.tau};
        turn_triangle(team, work.g, k, w.columns, q);
        w.factorize(team);
        turn_triangle(team, w, k, work.x, k);
        return k;
    }
}

// The columns with the largest square and with the smallest that counts, by the limit or rtol; the first of equals.
template <class Real>
struct Chosen {
    Real first, last, largest, smallest, rank, least;  // columns, their lengths, how many count, the least that is not 0
};

template <class Team, class Real>
D2K_DEVICE Chosen<Real> choose(Team& team, const Real* square, int64_t count, Real limit, double rtol) {
    Pivot<Real> first{Real(0.0), Real(0.0)};
    D2K_ROLLED
    for (int64_t c = team.rank(); c < count; c += team.size())
        first = LargerPivot()(first, Pivot<Real>{square[c], Real(static_cast<double>(c))});
    first = team.reduce(first, LargerPivot());
    const Real largest = root(first.square);
    limit = larger(limit, largest * rtol);
    Pivot<Real> last{Real(-DBL_MAX), Real(0.0)};  // of the negative squares
    Real rank(0.0), least(DBL_MAX);
    D2K_ROLLED
    for (int64_t c = team.rank(); c < count; c += team.size()) {
        const Real s = square[c];
        const auto counts = root(s) > limit;
        rank = rank + select(counts, Real(1.0), Real(0.0));
        last = LargerPivot()(last, Pivot<Real>{select(counts, -s, Real(-DBL_MAX)), Real(static_cast<double>(c))});
        least = smaller(least, select(s > 0.0, s, Real(DBL_MAX)));
    }
    rank = team.reduce(rank, Sum());
    last = team.reduce(last, LargerPivot());
    least = root(team.reduce(least, Smaller()));
    const auto none = rank == Real(0.0);
    const Real smallest = select(none, Real(1.0), root(select(none, Real(0.0), -last.square)));
    return {first.column, last.column, largest, smallest, rank, least};
}

// The singular vectors, from k columns of work.x that are orthogonal. G P = Q R and Rᵀ = U Σ Vᵀ, so that G's right vectors are
// P U and its left ones Q V.
template <class Team>
D2K_DEVICE Extremes<double> vectors_by_block(Team& team, const Plan& plan, const ExtremesWork<double>& work, int k,
                                             const Chosen<double>& chosen) {
    const int q = static_cast<int>(plan.q), next = static_cast<int>(plan.longest());
    const double largest = chosen.largest, smallest = chosen.smallest, least = chosen.least;
    const double safe = chosen.rank == 0 ? 1 : largest;
    const double over = chosen.rank == 0 ? 0 : 1 / largest, over_last = chosen.rank == 0 ? 0 : 1 / smallest;
    double *const u = work.vectors, *const v = u + 2 * next, *const out = v + 2 * next;
    for_each(team, 6 * next, [&](int i) { work.vectors[i] = 0; });
    team.barrier();
    for_each(team, q, [&](int i) {
        u[i] = k ? column(work.x, static_cast<int>(chosen.first))[i] * over : 0;
        u[next + i] = k ? column(work.x, static_cast<int>(chosen.last))[i] * over_last : 0;
    });
    team.barrier();
    // v is R u / σ, accurate for a large σ, or solves Rᵀ v = u σ, accurate for a small one.
    for_each(team, k, [&](int i) { v[next + i] = smallest * u[next + i]; });
    team.barrier();
    solve_block(team, work.w.columns, k, v + next);
    const bool solve = (smallest * smallest < safe * least) | (smallest == least);
    for_each(team, k, [&](int c) {
        double a = 0, b = 0;
        D2K_ROLLED
        for (int i = c; i < q; ++i) {
            const double entry = column(work.w.columns, c)[i];
            a += entry * u[i];
            b += entry * u[next + i];
        }
        v[c] = a * over;
        v[next + c] = solve ? v[next + c] : b * over_last;
    });
    for_each(team, q, [&](int i) {
        const auto to = static_cast<int>(work.order[i]);
        out[to] = u[i];
        out[next + to] = u[next + i];
    });
    team.barrier();
    const Reflectors before = plan.reduced ? Reflectors::of(work.a, q) : Reflectors::of(work.g, 0);
    rotate_few(team, Reflectors::of(work.g, k), before, plan.reduced ? 4 : 2, Columns<double>{v, next});
    if (plan.turned) return {safe, smallest, chosen.rank, out, v, next};
    return {safe, smallest, chosen.rank, v, out, next};
}

// The same from work.w's triangle, of whose transpose work.x's columns are turns.
template <class Team, class Real>
D2K_DEVICE Extremes<Real> vectors(Team& team, const Plan& plan, const ExtremesWork<Real>& work, int64_t k,
                                  const Chosen<Real>& chosen) {
    const Group<Team> group(team);
    constexpr int lanes = kPacked<Real>;
    const int64_t q = plan.q, longest = plan.longest();
    const Triangle<Real> w{work.w.columns, q, k, work.w.diagonal, work.w.tau};
    const Real largest = chosen.largest, smallest = chosen.smallest, rank = chosen.rank, least = chosen.least;
    const Real safe = select(rank == Real(0.0), Real(1.0), largest);
    for_each(team, 6 * longest, [&](int64_t i) { work.vectors[i] = Real(0.0); });
    team.barrier();
    Real *const u = work.vectors, *const v = u + 2 * longest, *const out = v + 2 * longest;
    for_each(team, k, [&](int64_t i) {
        Real a(0.0), b(0.0);
        for (int64_t c = 0; c < k; ++c) {
            const Real x = work.x[c][i], column(static_cast<double>(c));
            a = select(chosen.first == column, x, a);
            b = select(chosen.last == column, x, b);
        }
        u[i] = a / safe;
        u[longest + i] = b / smallest;
    });
    team.barrier();
    // v is Lᵀ u / σ, accurate for a large σ, or L⁻¹ u σ, accurate for a small one.
    for (int64_t i = 0; i < k; ++i) {
        // v is still 0 from row i on, where the column holds a reflector.
        const Real sum = dot(group, w.columns[i], v + longest, 0, padded(i));
        const auto empty = w.diagonal[i] == Real(0.0);
        const Real solved = (smallest * u[longest + i] - sum) / select(empty, Real(1.0), w.diagonal[i]);
        v[longest + i] = select(empty, Real(0.0), solved);
    }
    team.barrier();
    const auto solve = smallest * smallest < safe * least;
    for_each(team, k, [&](int64_t c) {
        Real a = w.diagonal[c] * u[c], b = w.diagonal[c] * u[longest + c];
        for (int64_t i = c + 1; i < k; ++i) {
            a = a + w.columns[i][c] * u[i];
            b = b + w.columns[i][c] * u[longest + i];
        }
        v[c] = a / safe;
        v[longest + c] = select(solve | (smallest == least), v[longest + c], b / smallest);
    });
    team.barrier();
    for (int64_t i = group.index(); i < 4; i += group.count()) {
        if (i < 2) work.g.rotate(group, k, u + i * longest);
        else w.rotate(group, k, u + i * longest);
    }
    team.barrier();
    for_each(team, q, [&](int64_t i) {
        for (int l = 0; l < lanes; ++l) {
            const auto to = static_cast<int64_t>(lane_of(work.order + i, l));
            for (int x = 0; x < 2; ++x) lane_of(out + x * longest + to, l) = lane_of(v + x * longest + i, l);
        }
    });
    team.barrier();
    if (plan.reduced) {
        for (int64_t i = group.index(); i < 2; i += group.count()) work.a.rotate(group, q, out + i * longest);
        team.barrier();
    }
    if (plan.turned) return {safe, smallest, rank, out, u, longest};
    return {safe, smallest, rank, u, out, longest};
}

template <class Real>
struct Decomposed {
    int64_t columns;  // that are left of work.x
    Chosen<Real> chosen;
};

// The singular values alone; `ranges` of each lane's matrix as it was loaded; their exponents become the final ones.
template <class Team, class Real>
D2K_DEVICE Decomposed<Real> decomposed(Team& team, const Plan& plan, const ExtremesWork<Real>& work, double atol,
                                       double rtol, Range* ranges) {
    constexpr int lanes = kPacked<Real>;
    team.barrier();
    const int64_t k = precondition(team, plan, work, atol, rtol, ranges);
    orthogonalize(team, work.x, static_cast<const Columns<Real>*>(nullptr), plan.q, k, work.square, work.vectors);
    Real limit;
    for (int l = 0; l < lanes; ++l) lane_of(&limit, l) = ranges[l].scale() * atol;

    return {k, choose(team, static_cast<const Real*>(work.square), k, limit, rtol)};
}

// As ExtremesWork says.
template <class Team, class Real>
D2K_DEVICE Extremes<Real> extremes(Team& team, const Plan& plan, const ExtremesWork<Real>& work, double atol,
                                   double rtol, Range* ranges) {
    const Decomposed<Real> d = decomposed(team, plan, work, atol, rtol, ranges);
    if constexpr (Group<Team>::width > 1)
        return vectors_by_block(team, plan, work, static_cast<int>(d.columns), d.chosen);
    else
        return vectors(team, plan, work, d.columns, d.chosen);
}

}  // namespace d2k

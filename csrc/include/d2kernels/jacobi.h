// Singular values and vectors of a small matrix by a team: Householder QR with column pivoting, QR of the transposed
// triangle, and one-sided Jacobi on what is left (Drmač and Veselić, SIAM J. Matrix Anal. Appl. 29, 2008).
//
// Columns are padded with zeros to a multiple of four rows and summed in four parts, so that every number of matrices at
// once adds in the same order. A block has its own versions, in jacobi_block.h. Matrices come scaled: their largest entry is in [1, 2) or 0.
#pragma once

#include <cfloat>
#include <cstdint>

#include "d2kernels/real.h"
#include "d2kernels/team.h"

namespace d2k {

constexpr int kParts = 4;
constexpr int kMostSweeps = 40;
constexpr double kNegligible = 0x1p-200;  // a part of a matrix that is smaller than this share of it is 0

D2K_DEVICE int64_t padded(int64_t rows) { return (rows + kParts - 1) / kParts * kParts; }

// The threads of a team that work on one column together, each on every width-th row.
template <class Team>
struct Group {
    static constexpr int width = 1;
    const Team& team;

    D2K_DEVICE explicit Group(const Team& t) : team(t) {}
    D2K_DEVICE int64_t index() const { return team.rank(); }
    D2K_DEVICE int64_t count() const { return team.size(); }
    D2K_DEVICE int part() const { return 0; }
    D2K_DEVICE void sync() const {}

    template <class Real>
    D2K_DEVICE Real sum(const Real (&parts)[kParts]) const { return (parts[0] + parts[2]) + (parts[1] + parts[3]); }
    // Of what each thread has: the sum, and the largest.
    D2K_DEVICE double whole(double x) const { return x; }
    D2K_DEVICE double most(double x) const { return x; }
};

#ifdef __CUDACC__
// Four neighbours in a warp. All of its lanes call each of these, whatever their group has to do.
struct Quad {
    static constexpr int width = kParts;
    const int size;

    __device__ int index() const { return static_cast<int>(threadIdx.x) / width; }
    __device__ int count() const { return size / width; }
    __device__ int part() const { return threadIdx.x % width; }
    __device__ void sync() const { __syncwarp(); }

    __device__ double sum(const double (&parts)[1]) const {
        double x = parts[0];
        x += __shfl_xor_sync(~0u, x, 2);
        x += __shfl_xor_sync(~0u, x, 1);
        return x;
    }

    __device__ double whole(double x) const { return sum({x}); }
    __device__ double most(double x) const {
        x = larger(x, __shfl_xor_sync(~0u, x, 2));
        return larger(x, __shfl_xor_sync(~0u, x, 1));
    }

    // What one of the four has.
    __device__ double from(double x, int part) const { return __shfl_sync(~0u, x, part, width); }
    // Whether it holds in any group of the warp.
    __device__ bool any(bool holds) const { return __any_sync(~0u, holds); }
};

template <int Threads>
struct Group<BlockTeam<Threads>> : Quad {
    __device__ explicit Group(const BlockTeam<Threads>&) : Quad{Threads} {}
};
#endif

// body(c, here) for the columns [first, count), one a group; every group takes as many turns, `here` where it has one.
template <class Team, class Int, class Body>
D2K_DEVICE void for_columns(const Group<Team>& group, Int first, Int count, const Body& body) {
    const auto groups = static_cast<Int>(group.count());
    D2K_ROLLED
    for (Int c = first + static_cast<Int>(group.index()), left = count - first; left > 0; c += groups, left -= groups)
        body(c, c < count);
}

template <class Real>
struct Columns {
    Real* first;
    int64_t ld;  // a multiple of kParts; rows past the matrix are 0

    D2K_DEVICE Real* operator[](int64_t c) const { return first + c * ld; }
};

// Σ x[i] y[i] over rows [from, to), in eight parts; `to` is a multiple of kParts.
template <class Team, class Real>
D2K_DEVICE Real dot(const Group<Team>& group, const Real* x, const Real* y, int64_t from, int64_t to) {
    constexpr int width = Group<Team>::width, own = kParts / width;
    Real low[own], high[own];
    for (int j = 0; j < own; ++j) low[j] = high[j] = Real(0.0);
    int64_t i = from / kParts * kParts;
    if (i < from && i < to) {
        for (int j = 0; j < own; ++j) {
            const int64_t row = i + group.part() + j;
            if (row >= from) low[j] = x[row] * y[row];
        }
        i += kParts;
    }
    const auto at = [&](int64_t j) { return i + group.part() + j; };
    D2K_ROLLED
    for (; i + kParts < to; i += 2 * kParts)
        for (int j = 0; j < own; ++j) {
            low[j] = low[j] + x[at(j)] * y[at(j)];
            high[j] = high[j] + x[at(j + kParts)] * y[at(j + kParts)];
        }
    if (i < to)
        for (int j = 0; j < own; ++j) low[j] = low[j] + x[at(j)] * y[at(j)];
    for (int j = 0; j < own; ++j) low[j] = low[j] + high[j];
    return group.sum(low);
}

#if defined(__GNUC__) && !defined(__CUDACC__)
// The same sums, four at a time.
D2K_DEVICE double dot(const Group<HostTeam>&, const double* x, const double* y, int64_t from, int64_t to) {
    typedef double V __attribute__((vector_size(kParts * sizeof(double)), aligned(sizeof(double)), may_alias));
    V low{}, high{};
    int64_t i = from / kParts * kParts;
    if (i < from && i < to) {
        for (int64_t row = from; row < i + kParts; ++row) low[row - i] = x[row] * y[row];
        i += kParts;
    }
    const auto add = [&](V& sum, int64_t at) {
        sum += *reinterpret_cast<const V*>(x + at) * *reinterpret_cast<const V*>(y + at);
    };
    for (; i + kParts < to; i += 2 * kParts) {
        add(low, i);
        add(high, i + kParts);
    }
    if (i < to) add(low, i);
    low += high;
    return (low[0] + low[2]) + (low[1] + low[3]);
}
#endif

// body(row) for the rows [from, to) that this thread of the group owns; no row's body touches another row.
template <class Team, class Body>
D2K_DEVICE void own_rows(const Group<Team>& group, int64_t from, int64_t to, const Body& body) {
    constexpr int width = Group<Team>::width;
    int64_t i = from;
    if constexpr (width > 1) i += (group.part() - from % width + width) % width;
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#pragma GCC ivdep
#endif
    D2K_ROLLED
    for (; i < to; i += width) body(i);
}

template <class Team, class Real>
D2K_DEVICE Real squares(const Group<Team>& group, const Real* x, int64_t from, int64_t to) {
    return dot(group, x, x, from, to);
}

// y -= tau v (vᵀ y) with v = (0 …, 1 at `pivot`, x below).
template <class Team, class Real>
D2K_DEVICE void reflect(const Group<Team>& group, const Real* x, Real tau, int64_t pivot, int64_t ld, Real* y) {
    const Real w = tau * (dot(group, x, y, pivot + 1, ld) + y[pivot]);
    y[pivot] = y[pivot] - w;
    own_rows(group, pivot + 1, ld, [&](int64_t i) { y[i] = y[i] - w * x[i]; });
}

// R's diagonal and the reflectors' factors; R is above the diagonal of the columns, the reflectors below.
template <class Real>
struct Triangle {
    Columns<Real> columns;
    int64_t rows, count;
    Real *diagonal, *tau;

    // Writes R into the diagonal at j and the reflector below it; every thread of the team calls it.
    template <class Team>
    D2K_DEVICE Real eliminate(Team& team, const Group<Team>& group, int64_t j) const {
        Real* x = columns[j];
        const Real alpha = x[j], below = squares(group, x, j + 1, columns.ld);
        const Real length = root(alpha * alpha + below);
        const Real beta = select(alpha < 0.0, length, -length);
        const auto nothing = below == Real(0.0);
        const Real factor = select(nothing, Real(0.0), (beta - alpha) / select(nothing, Real(1.0), beta));
        const Real scale = select(nothing, Real(0.0), Real(1.0) / select(nothing, Real(1.0), alpha - beta));
        team.barrier();
        for_each(team, columns.ld - (j + 1), [&](int64_t i) { x[j + 1 + i] = x[j + 1 + i] * scale; });
        if (team.rank() == 0) {
            diagonal[j] = select(nothing, alpha, beta);
            tau[j] = factor;
        }
        team.barrier();
        return factor;
    }

    template <class Team>
    D2K_DEVICE void factorize(Team& team) const {
        const Group<Team> group(team);
        for (int64_t j = 0; j < count; ++j) {
            const Real factor = eliminate(team, group, j);
            for (int64_t c = j + 1 + group.index(); c < count; c += group.count())
                reflect(group, columns[j], factor, j, columns.ld, columns[c]);
            team.barrier();
        }
    }

    // y = Q y for the first `reflectors` of them; y has ld rows.
    template <class Team>
    D2K_DEVICE void rotate(const Group<Team>& group, int64_t reflectors, Real* y) const {
        for (int64_t j = reflectors - 1; j >= 0; --j) reflect(group, columns[j], tau[j], j, columns.ld, y);
    }
};

// What may be dropped: atol and rtol as for counting singular values, and `noise`, a share that is rounding.
template <class Real>
struct Cutoff {
    Real atol;
    double rtol, noise;

    // Square of the Frobenius norm that may be dropped from a matrix whose largest column has this square. What is
    // dropped changes no singular value by more than its own square over twice that value.
    D2K_DEVICE Real square(Real largest) const {
        const Real counted = larger(atol * atol, largest * (rtol * rtol));
        const Real rounding = smaller(counted, largest * (noise * noise)) * 0.25;
        return larger(rounding, largest * (kNegligible * kNegligible));
    }
};

template <class Real>
struct Pivot {
    Real square, column;
};

struct LargerPivot {
    template <class Real>
    D2K_DEVICE Pivot<Real> operator()(const Pivot<Real>& a, const Pivot<Real>& b) const {
        const auto other = (a.square < b.square) | ((a.square == b.square) & (b.column < a.column));
        return {select(other, b.square, a.square), select(other, b.column, a.column)};
    }
};

// As `factorize` with column pivoting: order[j] is the column that came to j. Returns how many columns are left after
// those that the cutoff drops; columns past a matrix's own rank are 0.
template <class Team, class Real>
D2K_DEVICE int64_t factorize_pivoted(Team& team, const Triangle<Real>& qr, const Cutoff<Real>& cutoff, Real* order,
                                     Real* square) {
    const Group<Team> group(team);
    const Columns<Real> x = qr.columns;
    for (int64_t c = group.index(); c < qr.count; c += group.count()) {
        const Real s = squares(group, x[c], 0, x.ld);
        group.sync();
        if (group.part() == 0) {
            square[c] = s;
            order[c] = Real(static_cast<double>(c));
        }
    }
    team.barrier();
    Real limit(0.0);
    for (int64_t j = 0; j < qr.count; ++j) {
        Pivot<Real> best{Real(-1.0), Real(static_cast<double>(j))};
        D2K_ROLLED
        for (int64_t c = j + team.rank(); c < qr.count; c += team.size())
            best = LargerPivot()(best, Pivot<Real>{square[c], Real(static_cast<double>(c))});
        best = team.reduce(best, LargerPivot());
        if (j == 0) limit = cutoff.square(best.square);
        const auto dropped = best.square * static_cast<double>(qr.count - j) <= limit;
        if (!any_lane(!dropped)) return j;
        if (any_lane(dropped & (best.square > 0.0))) {
            for (int64_t c = j + group.index(); c < qr.count; c += group.count())
                own_rows(group, j, x.ld, [&](int64_t i) { x[c][i] = select(dropped, Real(0.0), x[c][i]); });
            team.barrier();
            for_each(team, qr.count - j, [&](int64_t c) { square[j + c] = select(dropped, Real(0.0), square[j + c]); });
            best.column = select(dropped, Real(static_cast<double>(j)), best.column);
            team.barrier();
        }
        for (int64_t c = j + 1; c < qr.count; ++c) {
            const auto here = best.column == Real(static_cast<double>(c));
            if (!any_lane(here)) continue;
            for_each(team, x.ld, [&](int64_t i) {
                const Real a = x[j][i], b = x[c][i];
                x[j][i] = select(here, b, a);
                x[c][i] = select(here, a, b);
            });
            if (team.rank() == 0) {
                const Real a = order[j], b = order[c];
                order[j] = select(here, b, a);
                order[c] = select(here, a, b);
            }
        }
        team.barrier();
        const Real factor = qr.eliminate(team, group, j);
        for (int64_t c = j + 1 + group.index(); c < qr.count; c += group.count()) {
            reflect(group, x[j], factor, j, x.ld, x[c]);
            const Real s = squares(group, x[c], j + 1, x.ld);
            group.sync();
            if (group.part() == 0) square[c] = s;
        }
        team.barrier();
    }
    return qr.count;
}

// The first k rows of R as columns of `rows` rows: Rᵀ.
template <class Team, class Real>
D2K_DEVICE void turn_triangle(Team& team, const Triangle<Real>& r, int64_t k, const Columns<Real>& to, int64_t rows) {
    const Group<Team> group(team);
    for (int64_t c = group.index(); c < k; c += group.count())
        own_rows(group, 0, to.ld, [&](int64_t i) {
            to[c][i] = i < c || i >= rows ? Real(0.0) : i == c ? r.diagonal[c] : r.columns[i][c];
        });
    team.barrier();
}

// Two columns that meet in a round: every two meet once in `wheel` rounds, where the last column stands still.
template <class Int>
struct Pair {
    Int first, second;

    D2K_DEVICE static Pair of(Int round, Int n, Int wheel) {
        const Int forth = round + n, back = round - n;
        const Int a = forth >= wheel ? forth - wheel : forth, b = n == 0 ? wheel : back < 0 ? back + wheel : back;
        return a < b ? Pair{a, b} : Pair{b, a};
    }
};

// Rotates the columns of x until they are orthogonal, and those of `basis` with them where there is one; square[c]
// is then each column's square. Pairs of a round are disjoint, and the rounds do not depend on `count`, the columns
// that are not 0 in some matrix: the others of `players` sit out. `angles` holds players + 1 numbers.
template <class Team, class Real>
D2K_DEVICE void orthogonalize(Team& team, const Columns<Real>& x, const Columns<Real>* basis, int64_t players,
                              int64_t count, Real* square, Real* angles) {
    if constexpr (Group<Team>::width > 1) {
        orthogonalize_block(team, x, basis, static_cast<int>(count), square);
    } else {
        const Group<Team> group(team);
        const double tolerance = DBL_EPSILON * DBL_EPSILON * static_cast<double>(x.ld);
        const int64_t even = players + players % 2, wheel = even - 1;
        Real *const tangent = angles, *const cosine = angles + even / 2;
        for (int sweep = 0; sweep < kMostSweeps; ++sweep) {
            for (int64_t c = group.index(); c < count; c += group.count()) {
                const Real s = squares(group, x[c], 0, x.ld);
                if (group.part() == 0) square[c] = s;
            }
            team.barrier();
            bool rotated = false;
            for (int64_t round = 0; round < wheel; ++round) {
                // All angles first: their square roots and divisions overlap.
                for (int64_t n = group.index(); n < even / 2; n += group.count()) {
                    const auto pair = Pair<int64_t>::of(round, n, wheel);
                    if (pair.second >= count) continue;
                    const Real *const p = x[pair.first], *const q = x[pair.second];
                    const Real pp = square[pair.first], qq = square[pair.second];
                    const Real g = dot(group, p, q, 0, x.ld);
                    const auto apart = g * g > tolerance * pp * qq;
                    const Real d = qq - pp, h = g + g;
                    const Real t = select(apart, select(d < 0.0, -h, h) / (magnitude(d) + root(d * d + h * h) + DBL_MIN),
                                          Real(0.0));
                    group.sync();
                    if (group.part() == 0) {
                        tangent[n] = t;
                        cosine[n] = Real(1.0) / root(t * t + 1.0);
                        square[pair.first] = larger(pp - t * g, Real(0.0));
                        square[pair.second] = larger(qq + t * g, Real(0.0));
                    }
                }
                group.sync();
                for (int64_t n = group.index(); n < even / 2; n += group.count()) {
                    const auto pair = Pair<int64_t>::of(round, n, wheel);
                    if (pair.second >= count || !any_lane((tangent[n] < 0.0) | (tangent[n] > 0.0))) continue;
                    rotated = true;
                    const Real c = cosine[n], s = c * tangent[n];
                    const auto turn = [&](Real* u, Real* v, int64_t rows) {
                        own_rows(group, 0, rows, [&](int64_t r) {
                            const Real first = u[r], second = v[r];
                            u[r] = c * first - s * second;
                            v[r] = s * first + c * second;
                        });
                    };
                    turn(x[pair.first], x[pair.second], x.ld);
                    if (basis) turn((*basis)[pair.first], (*basis)[pair.second], basis->ld);
                }
                team.barrier();
            }
            if (!any(team, rotated)) return;
        }
        for (int64_t c = group.index(); c < count; c += group.count()) {
            const Real s = squares(group, x[c], 0, x.ld);
            if (group.part() == 0) square[c] = s;
        }
        team.barrier();
    }
}

}  // namespace d2k

#include "d2kernels/jacobi_block.h"

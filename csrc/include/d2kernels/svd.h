// Thin singular value decompositions of small matrices.
#pragma once

#include <cstdint>

#include "d2kernels/extremes.h"
#include "d2kernels/status.h"

namespace d2k {

// a (batch, rows, columns) = u diag(s) vh, s falling; k = min(rows, columns). All NaN for a matrix with NaN or infinity.
template <class T>
struct Svd {
    InputOf<T> a;
    int64_t batch, rows, columns;
    OutputOf<T> u, s, vh;  // (batch, rows, k), (batch, k), (batch, k, columns)

    D2K_DEVICE Plan plan() const { return Plan::whole(rows, columns); }
};

template <class Real>
struct SvdWork {
    Triangle<Real> g;
    Real *order, *square, *place, *angles;
    Triangle<Real> w;  // of Rᵀ
    Columns<Real> x, basis, left, right;

    // Null in `right` where the scratch is too small.
    D2K_DEVICE static SvdWork in(Scratch& scratch, const Plan& plan) {
        const int64_t p = padded(plan.p), q = padded(plan.q), n = plan.q;
        Real* next = scratch.take<Real>(size(plan));
        if (!kFits && !next) return {};
        const auto take = [&](int64_t count) { return (next += count) - count; };
        const Triangle<Real> g{{take(n * p), p}, plan.p, n, take(n), take(n)};
        Real *const order = take(n), *const square = take(n), *const place = take(n), *const angles = take(n + 1);
        const Triangle<Real> w{{take(n * q), q}, n, n, take(n), take(n)};
        Real *const x = take(n * q), *const basis = take(n * q), *const left = take(n * p), *const right = take(n * q);
        return {g, order, square, place, angles, w, {x, q}, {basis, q}, {left, p}, {right, q}};
    }

    // Numbers in it.
    D2K_DEVICE static int64_t size(const Plan& plan) {
        return 2 * plan.q * padded(plan.p) + 4 * plan.q * padded(plan.q) + 8 * plan.q + 1;
    }
};

// Of the matrix that was loaded into work.g: its singular values' roots in work.square, vectors in left and right.
template <class Team, class Real>
D2K_DEVICE void decompose_whole(Team& team, const Plan& plan, const SvdWork<Real>& work) {
    const Group<Team> group(team);
    const int64_t q = plan.q;
    team.barrier();
    const Cutoff<Real> cutoff{Real(0.0), 0, 0};
    int64_t k;
    if constexpr (Group<Team>::width > 1) {
        k = precondition_block(team, work, work.g, false, true, static_cast<int>(q), [&] { return cutoff; });
    } else {
        k = factorize_pivoted(team, work.g, cutoff, work.order, work.square);
        const Triangle<Real> turned{work.w.columns, q, k, work.w.diagonal, work.w.tau};
        turn_triangle(team, work.g, k, turned.columns, q);
        turned.factorize(team);
        turn_triangle(team, turned, k, work.x, k);
    }
    const Triangle<Real> w{work.w.columns, q, k, work.w.diagonal, work.w.tau};
    for (int64_t c = group.index(); c < k; c += group.count())
        own_rows(group, 0, work.basis.ld, [&](int64_t i) { work.basis[c][i] = Real(i == c ? 1.0 : 0.0); });
    team.barrier();
    orthogonalize(team, work.x, &work.basis, q, k, work.square, work.angles);

    for_each(team, q, [&](int64_t c) {
        work.square[c] = c < k ? root(work.square[c]) : Real(0.0);
    });
    team.barrier();
    for_columns(group, int64_t{0}, q, [&](int64_t c, bool here) {
        if (here) {
            // A column that is 0 is as good as the axis that it stands for: it never turned.
            const auto none = work.square[c] == Real(0.0);
            const Real over = Real(1.0) / select(none, Real(1.0), work.square[c]);
            own_rows(group, 0, work.left.ld, [&](int64_t i) {
                const Real axis(i == c ? 1.0 : 0.0);
                work.left[c][i] = c < k && i < k ? select(none, axis, work.x[c][i] * over) : axis;
            });
            own_rows(group, 0, work.right.ld, [&](int64_t i) {
                work.right[c][i] = c < k && i < k ? work.basis[c][i] : Real(i == c ? 1.0 : 0.0);
            });
        }
        if constexpr (Group<Team>::width == 1) {
            work.g.rotate(group, k, work.left[c]);
            w.rotate(group, k, work.right[c]);
        }
        if (!here || group.part() != 0) return;
        Real before(0.0);
        D2K_ROLLED
        for (int64_t other = 0; other < q; ++other) {
            const auto larger = work.square[other] > work.square[c];
            const auto first = (work.square[other] == work.square[c]) & (Real(static_cast<double>(other)) <
                                                                         Real(static_cast<double>(c)));
            before = before + select(larger | first, Real(1.0), Real(0.0));
        }
        work.place[c] = before;
    });
    team.barrier();
    if constexpr (Group<Team>::width > 1) {
        // One rotation's code for both sides.
        D2K_ROLLED
        for (int side = 0; side < 2; ++side) {
            const Triangle<double> triangle = either(side == 0, work.g, w);
            const Columns<double> to{side == 0 ? work.left.first : work.right.first,
                                     side == 0 ? work.left.ld : work.right.ld};
            rotate_columns(team, triangle, static_cast<int>(q), static_cast<int>(k), to);
        }
    }
}

// The items [first, first + kPacked), as far as there are any; ranges has kPacked elements.
template <class Team, class Real, class T>
D2K_DEVICE void load_all(Team& team, const Svd<T>& problem, int64_t first, const SvdWork<Real>& work, Range* ranges) {
    const int64_t size = problem.rows * problem.columns;
    const Plan plan = problem.plan();
    for (int l = 0; l < kPacked<Real>; ++l) {
        // Lanes past the batch do the last matrix again.
        const int64_t item = first + l < problem.batch ? first + l : problem.batch - 1;
        ranges[l] = range_of(team, problem.a + item * size, size);
        load(team, problem.a + item * size, problem.rows, problem.columns, plan.turned, ranges[l], work.g.columns, l);
    }
}

template <class Team, class Real, class T>
D2K_DEVICE void write_all(Team& team, const Svd<T>& problem, int64_t first, const SvdWork<Real>& work,
                          const Range* ranges) {
    const Group<Team> group(team);
    const Plan plan = problem.plan();
    const int64_t m = problem.rows, n = problem.columns, q = plan.q;
    for (int l = 0; l < kPacked<Real> && first + l < problem.batch; ++l) {
        const auto u = problem.u + (first + l) * m * q;
        const auto s = problem.s + (first + l) * q;
        const auto vh = problem.vh + (first + l) * q * n;
        if (!ranges[l].finite) {
            for_each(team, m * q, [&](int64_t i) { put(u + i, NAN); });
            for_each(team, q, [&](int64_t i) { put(s + i, NAN); });
            for_each(team, q * n, [&](int64_t i) { put(vh + i, NAN); });
            continue;
        }
        const Power scale(ranges[l].exponent);
        // The long vectors are A's left ones unless A was turned; the others' rows go back to where pivoting took them.
        const auto tall = plan.turned ? vh : u, flat = plan.turned ? u : vh;
        const int64_t tall_row = plan.turned ? 1 : q, tall_column = plan.turned ? n : 1;
        const int64_t flat_row = plan.turned ? q : 1, flat_column = plan.turned ? 1 : n;
        for (int64_t c = group.index(); c < q; c += group.count()) {
            const auto at = static_cast<int64_t>(lane_of(work.place + c, l));
            if (group.part() == 0) put(s + at, scale * lane_of(work.square + c, l));
            own_rows(group, 0, plan.p, [&](int64_t i) {
                put(tall + (i * tall_row + at * tall_column), lane_of(work.left[c] + i, l));
            });
            own_rows(group, 0, q, [&](int64_t i) {
                const auto row = static_cast<int64_t>(lane_of(work.order + i, l));
                put(flat + (row * flat_row + at * flat_column), lane_of(work.right[c] + i, l));
            });
        }
    }
    team.barrier();
}

namespace cpu {
// *failed: the first matrix with NaN or infinity, or -1.
template <class T>
Status svd(const Svd<T>& problem, int64_t* failed, int threads);
}  // namespace cpu

namespace cuda {
// Bytes of device memory that the call works in, 0 where a matrix fits the block's own.
Status svd_workspace(const Svd<AnyFloat>& problem, int device, size_t* bytes);
Status svd(const Svd<AnyFloat>& problem, void* workspace, size_t bytes, int device, void* stream);
}  // namespace cuda

}  // namespace d2k

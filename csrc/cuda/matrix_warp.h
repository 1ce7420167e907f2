// What jacobi_block.h does, for one warp and at most 20 rows: a lane holds a column in registers, so that
// dot products need no shuffles, pivoting moves nothing, and rounds of rotations no memory.
#pragma once

#include "matrix_team.h"

namespace d2k {
namespace cuda {

// The chip's first 20 bits of 1/√x and 1/x, for a normal x with a normal result.
__device__ __forceinline__ double near_reciprocal_root(double x) {
    double y;
    asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    return y;
}

__device__ __forceinline__ double near_reciprocal(double x) {
    double y;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    return y;
}

constexpr int kFewRows = 12, kMostRows = 20;  // that a lane's registers hold

// A lane's column of at most Rows rows; the rows past the matrix are 0.
template <int Rows>
struct Lane {
    static constexpr int kSums = 4;
    double rows[Rows];

    __device__ void load(const double* from, int count) {
        D2K_UNROLLED
        for (int i = 0; i < Rows; ++i) rows[i] = i < count ? from[i] : 0.0;
    }

    __device__ void store(double* to, int count) const {
        D2K_UNROLLED
        for (int i = 0; i < Rows; ++i)
            if (i < count) to[i] = rows[i];
    }

    // That of another lane; all lanes call it.
    __device__ Lane of(int lane) const {
        Lane other;
        D2K_UNROLLED
        for (int i = 0; i < Rows; ++i) other.rows[i] = __shfl_sync(~0u, rows[i], lane);
        return other;
    }

    __device__ double dot(const Lane& other) const {
        double sums[kSums] = {};
        D2K_UNROLLED
        for (int i = 0; i < Rows; ++i) sums[i % kSums] += rows[i] * other.rows[i];
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }

    // this - factor other
    __device__ void subtract(double factor, const Lane& other) {
        D2K_UNROLLED
        for (int i = 0; i < Rows; ++i) rows[i] -= factor * other.rows[i];
    }

    __device__ void scale(double factor) {
        D2K_UNROLLED
        for (int i = 0; i < Rows; ++i) rows[i] *= factor;
    }
};

// As factorize_block, and then turn_triangle to `to` and `copy` where those are not null; R goes nowhere else. `thin`: the
// lanes behind the columns hold the axes, and the columns become Q's first ones; else they become reflectors.
template <int Rows>
__device__ __forceinline__ int factorize_lanes(MatrixTeam& team, const Triangle<double>& qr, bool pivoted, bool thin,
                                               const Cutoff<double>& cutoff, double* order, double* to, double* copy,
                                               int to_ld) {
    const int lane = team.rank(), count = static_cast<int>(qr.count), ld = static_cast<int>(qr.columns.ld);
    const int axis = lane - count;  // whose row of Q this lane finds
    const bool own = lane < count, finds = thin && axis >= 0 && axis < ld;
    Lane<Rows> y;
    y.load(column(qr.columns, own ? lane : 0), own ? ld : 0);
    D2K_UNROLLED
    for (int i = 0; i < Rows; ++i) y.rows[i] = finds && i == axis ? 1 : y.rows[i];
    double* q = qr.columns.first + (thin ? axis : lane);  // this lane's row of Q's columns, or of the reflectors
    double* turned = to + lane;
    const bool inside = lane < ld;
    double square = y.dot(y), limit = -1, rest = count;
    int place = -1, j = 0;  // where this lane's column has come to
    if (pivoted) limit = cutoff.square(largest_magnitude(team, own ? square : 0.0));
    unsigned bits, most;
    double own_beta, own_over;
    // What the next pivot is found by: squares are not negative, so that their bits are in their order. And what each lane's
    // own column's reflector I - gamma v vᵀ needs, v = (0 …, head, the column below). Of a column that is as good as 0 head
    // is 0, and gamma anything.
    const auto look = [&] {
        bits = own && place < 0 ? static_cast<unsigned>(__double2hiint(square)) : 0;
        most = largest_of(bits);
        const bool nothing = square < DBL_MIN;
        const double safe = nothing ? 1 : square, root = safe * reciprocal_root(safe), alpha = y.rows[0];
        own_beta = nothing ? alpha : alpha < 0 ? root : -root;
        own_over = safe + magnitude(alpha) * root;
    };
    look();
    __syncwarp();
    D2K_ROLLED
    for (; j < count; ++j, rest -= 1) {
        const bool part = own && place < 0;
        // The largest square to 20 bits, the first of equals.
        const unsigned has = __ballot_sync(~0u, part && bits == most);
        const int pivot = pivoted ? __ffs(static_cast<int>(has)) - 1 : j;
        // By a vote, which the compiler knows to be the same for all.
        if (!__any_sync(~0u, part && square * rest > limit)) break;
        double* const stage = team.stage(j % 2);
        if (lane == pivot) {
            place = j;
            D2K_UNROLLED
            for (int i = 0; i < Rows; ++i) stage[i] = y.rows[i];
            stage[Rows] = own_beta;
            stage[Rows + 1] = own_over;
        }
        __syncwarp();
        Lane<Rows> v;
        const double beta = stage[Rows], over = stage[Rows + 1];
        v.load(stage, Rows);
        const double head = v.rows[0] - beta, gamma = reciprocal(over);
        v.rows[0] = head;
        const double factor = gamma * v.dot(y);
        const double entry = place == j ? beta : y.rows[0] - factor * head;
        D2K_UNROLLED
        for (int i = 1; i < Rows; ++i) y.rows[i - 1] = y.rows[i] - factor * v.rows[i];
        y.rows[Rows - 1] = 0;
        square = y.dot(y);
        look();
        if (finds) *q = entry;
        if (!thin) {
            // As jacobi.h keeps reflectors: 1 at the pivot, and tau.
            if (inside && lane > j) *q = reciprocal(head == 0 ? 1 : head) * stage[lane - j];
            if (lane == j) qr.tau[j] = gamma * head * head;
        }
        if (lane < to_ld) *turned = own && (pivoted || lane >= j) ? entry : 0;
        q += ld;
        turned += to_ld;
    }
    __syncwarp();
    if (!pivoted) return j;
    // Rows of the turned triangle go to their places, those of the columns that are left behind the others.
    const bool left = own && place < 0;
    const unsigned before = __ballot_sync(~0u, left) & ((1u << lane) - 1);
    place = left ? j + __popc(before) : own ? place : lane;
    if (own) order[place] = static_cast<double>(lane);
    D2K_UNROLLED
    for (int c = 0; c < Rows; ++c) y.rows[c] = c < j && lane < to_ld ? to[c * to_ld + lane] : 0;
    __syncwarp();
    D2K_UNROLLED
    for (int c = 0; c < Rows; ++c)
        if (c < j && lane < to_ld) {
            const double entry = place >= c ? y.rows[c] : 0;
            to[c * to_ld + place] = entry;
            if (copy) copy[c * to_ld + place] = entry;
        }
    __syncwarp();
    return j;
}

// As in Pair: lanes meet whose numbers are 2 round, and the wheel meets that which would meet itself.
__device__ __forceinline__ int partner_of(int lane, int round, int wheel) {
    const int sum = 2 * round - lane, across = sum < 0 ? sum + wheel : sum >= wheel ? sum - wheel : sum;
    return lane > wheel ? lane : lane == wheel ? round : lane == round ? wheel : across;
}

constexpr int kCoarse = 4;  // sweeps before those whose angles are found more finely

// As orthogonalize_block.
template <int Rows>
__device__ __forceinline__ void orthogonalize_lanes(MatrixTeam& team, const Columns<double>& x,
                                                    const Columns<double>* basis, int count, double* square) {
    const int lane = team.rank(), ld = static_cast<int>(x.ld), even = count + count % 2, wheel = even - 1;
    const bool own = lane < count;
    const double tolerance = DBL_EPSILON * DBL_EPSILON * static_cast<double>(ld);
    Lane<Rows> mine, turned;
    mine.load(column(x, own ? lane : 0), own ? ld : 0);
    if (basis) turned.load(column(*basis, own ? lane : 0), own ? ld : 0);
    double pp = mine.dot(mine);
    bool rotated = true;
    const auto turn = [&](auto finely, int most) {
        constexpr bool fine = decltype(finely)::value;
        D2K_ROLLED
        for (int sweep = 0; sweep < most && rotated; ++sweep) {
            rotated = false;
            int partner = partner_of(lane, 0, wheel);
            // A column is `scale` times what is held; over = 1 / scale. Cosines are found in the next round, beside its dot
            // product, so that nobody waits for them.
            double scale = 1, over = 1, wide = 1, near = 1;  // wide: 1 + tan² θ
            const auto turn_scale = [&] {
                const double cosine = reciprocal_root_from(near, wide);
                scale *= cosine;
                over *= wide * cosine;
            };
            D2K_ROLLED
            for (int round = 0; round < wheel; ++round) {
                const int next = partner_of(lane, round + 1, wheel);
                const Lane<Rows> other = mine.of(partner);
                const double qq = __shfl_sync(~0u, pp, partner);
                turn_scale();
                const double other_scale = __shfl_sync(~0u, scale, partner);
                const double h = 2 * (scale * other_scale) * mine.dot(other), d = qq - pp, n = d * d + h * h;  // tan 2θ = h/d
                const bool apart = h * h > 4 * tolerance * pp * qq && n >= DBL_MIN;
                const bool back = (d < 0) | ((d == 0) & (lane > partner));
                // tan θ to 20 bits, by which the rotation is exact: it leaves 2^-18 of the cosine at most.
                const double over_n = near_reciprocal_root(n);
                double size = h * near_reciprocal(d + (back ? -n : n) * over_n);
                // A step of Newton's on h tan² θ + 2 d tan θ = h leaves 2^-36.
                if (fine) size = fma(h - size * fma(h, size, 2 * d), (back ? -0.5 : 0.5) * over_n, size);
                const double t = apart ? size : 0, factor = t * (other_scale * over);
                wide = 1 + t * t;
                near = near_reciprocal_root(wide);
                mine.subtract(factor, other);
                if (basis) turned.subtract(factor, turned.of(partner));
                partner = next;
                // Turns as small leave cosines of at most 2^-49, fine ones 2^-46: those need no other sweep.
                rotated |= apart & ((t * t > (fine ? 0x1p-50 : 0x1p-54)) | (h * h > (fine ? 0x1p-48 : 0x1p-60) * pp * qq));
                pp = larger(pp - 0.5 * t * h, 0.0);
            }
            rotated = __any_sync(~0u, rotated);
            turn_scale();
            mine.scale(scale);
            if (basis) turned.scale(scale);
            pp = mine.dot(mine);
        }
    };
    // The fifth sweep finds cosines of which 20 bits of an angle leave too much: one that leaves less is the last.
    turn(std::false_type{}, kCoarse);
    turn(std::true_type{}, kMostSweeps - kCoarse);
    if (own) {
        square[lane] = pp;
        mine.store(column(x, lane), ld);
        if (basis) turned.store(column(*basis, lane), ld);
    }
    __syncwarp();
}

// As multiply_block, with a row of `b` and of `to` a lane.
template <int Rows>
__device__ __forceinline__ double multiply_lanes(MatrixTeam& team, const Columns<double>& r, int count,
                                                 const Columns<double>& b, const Columns<double>& to) {
    const int lane = team.rank(), ld = static_cast<int>(b.ld);
    Lane<Rows> row;
    D2K_UNROLLED
    for (int l = 0; l < Rows; ++l) row.rows[l] = l < count && lane < ld ? column(b, l)[lane] : 0;
    double most = 0;
    D2K_ROLLED
    for (int c = 0; c < count; ++c) {
        Lane<Rows> factors;
        factors.load(column(r, c), count);
        const double x = factors.dot(row);
        if (lane < ld) column(to, c)[lane] = x;
        most = larger(most, magnitude(x));
    }
    team.barrier();
    return largest_magnitude(team, most);
}

// As rotate_columns.
template <int Rows>
__device__ __forceinline__ void rotate_lanes(MatrixTeam& team, const Triangle<double>& qr, int count, int reflectors,
                                             const Columns<double>& columns) {
    const int lane = team.rank();
    const bool own = lane < count;
    const int ld = static_cast<int>(qr.columns.ld);
    double* const to = column(columns, own ? lane : 0);
    Lane<Rows> y, v;
    y.load(to, own ? ld : 0);
    D2K_ROLLED
    for (int j = reflectors - 1; j >= 0; --j) {
        const double* const x = column(qr.columns, j);
        D2K_UNROLLED
        for (int i = 0; i < Rows; ++i) v.rows[i] = i > j && i < ld ? x[i] : i == j ? 1 : 0;
        y.subtract(qr.tau[j] * v.dot(y), v);
    }
    if (own) y.store(to, ld);
    team.barrier();
}

// As rotate_few, eight lanes a column: every reflector waits for the one before, and the least for three shuffles.
__device__ __forceinline__ void rotate_four(MatrixTeam& team, const Reflectors& first, const Reflectors& second, int count,
                                            const Columns<double>& columns) {
    constexpr int kOwn = 4, kLanes = 8;
    const int c = team.rank() / kLanes, part = team.rank() % kLanes;
    const bool own = c < count;
    const Reflectors qr = either(c < 2, first, second);
    const int ld = static_cast<int>(qr.columns.ld), most = first.count < second.count ? second.count : first.count;
    double* const to = column(columns, own ? c : 0);
    double y[kOwn], v[kOwn], tau;
    const auto load = [&](int j, double (&rows)[kOwn]) {
        const bool here = j >= 0 && j < qr.count;
        const double* const x = column(qr.columns, here ? j : 0);
        D2K_UNROLLED
        for (int m = 0; m < kOwn; ++m) {
            const int i = part + m * kLanes;
            rows[m] = here && i > j && i < ld ? x[i] : i == j ? 1 : 0;
        }
        return here ? qr.tau[j] : 0.0;
    };
    D2K_UNROLLED
    for (int m = 0; m < kOwn; ++m) {
        const int i = part + m * kLanes;
        y[m] = own && i < ld ? to[i] : 0;
    }
    tau = load(most - 1, v);
    D2K_ROLLED
    for (int j = most - 1; j >= 0; --j) {
        double next[kOwn];
        const double next_tau = load(j - 1, next);
        double sum = (v[0] * y[0] + v[1] * y[1]) + (v[2] * y[2] + v[3] * y[3]);
        D2K_UNROLLED
        for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        const double factor = tau * sum;
        D2K_UNROLLED
        for (int m = 0; m < kOwn; ++m) {
            y[m] -= factor * v[m];
            v[m] = next[m];
        }
        tau = next_tau;
    }
    D2K_UNROLLED
    for (int m = 0; m < kOwn; ++m)
        if (own && part + m * kLanes < ld) to[part + m * kLanes] = y[m];
    team.barrier();
}

// The same by Q's columns, where those were kept: a lane finds a row of two products.
template <int Rows>
__device__ __forceinline__ void multiply_thin(MatrixTeam& team, const Reflectors& q, const Columns<double>& two) {
    const int lane = team.rank(), ld = static_cast<int>(q.columns.ld);
    Lane<Rows> row, y;
    D2K_UNROLLED
    for (int c = 0; c < Rows; ++c) row.rows[c] = c < q.count && lane < ld ? column(q.columns, c)[lane] : 0;
    double result[2];
    D2K_UNROLLED
    for (int x = 0; x < 2; ++x) {
        y.load(column(two, x), q.count);
        result[x] = row.dot(y);
    }
    __syncwarp();
    D2K_UNROLLED
    for (int x = 0; x < 2; ++x)
        if (lane < ld) column(two, x)[lane] = result[x];
    __syncwarp();
}

// As solve_block, each lane for its own number.
__device__ __forceinline__ void solve_lanes(MatrixTeam& team, const Columns<double>& l, int count, double* x) {
    const int lane = team.rank();
    const bool own = lane < count;
    const double* row = l.first + (own ? lane : 0);  // of this lane, in column i
    const double diagonal = own ? column(l, lane)[lane] : 0, over = diagonal == 0 ? 0 : 1 / diagonal;
    double number = own ? x[lane] : 0, factor = *row;
#pragma unroll 2
    for (int i = 0; i < count; ++i) {
        row += i + 1 < count ? l.ld : 0;
        const double next = *row, solved = __shfl_sync(~0u, number * over, i);
        number = lane == i ? solved : lane > i ? number - factor * solved : number;
        factor = next;
    }
    if (own) x[lane] = number;
}

// Whether the lanes behind a factorization's columns find Q itself.
__device__ __forceinline__ bool finds_thin(const MatrixTeam& team, const Columns<double>& columns, int64_t count) {
    return team.by_lanes() && columns.ld + count <= 32;
}

// Overloads of jacobi_block.h's, for which they are called where the matrix is small enough.
__device__ __forceinline__ int factorize_turned(MatrixTeam& team, const Triangle<double>& qr, bool pivoted, bool thin,
                                                const Cutoff<double>& cutoff, double* order, double* square,
                                                const Columns<double>& to, double* copy, int rows) {
    if (!team.by_lanes())
        return d2k::factorize_turned<MatrixTeam>(team, qr, pivoted, thin, cutoff, order, square, to, copy, rows);
    return factorize_lanes<kMostRows>(team, qr, pivoted, thin && finds_thin(team, qr.columns, qr.count), cutoff, order,
                                      to.first, copy, static_cast<int>(to.ld));
}

__device__ __forceinline__ double multiply_block(MatrixTeam& team, const Columns<double>& r, int count,
                                                 const Columns<double>& b, const Columns<double>& to) {
    if (!team.by_lanes()) return d2k::multiply_block<MatrixTeam>(team, r, count, b, to);
    return multiply_lanes<kMostRows>(team, r, count, b, to);
}

__device__ __forceinline__ void rotate_columns(MatrixTeam& team, const Triangle<double>& qr, int count, int reflectors,
                                               const Columns<double>& y) {
    if (!team.by_lanes()) return d2k::rotate_columns<MatrixTeam>(team, qr, count, reflectors, y);
    rotate_lanes<kMostRows>(team, qr, count, reflectors, y);
}

// The first warp does it for the whole team.
template <class Body>
__device__ __forceinline__ void by_first_warp(MatrixTeam& team, const Body& body) {
    if (team.first_warp()) {
        MatrixTeam warp = team.lanes();
        body(warp);
    }
    team.barrier();
}

__device__ __forceinline__ void rotate_few(MatrixTeam& team, const Reflectors& first, const Reflectors& second, int count,
                                           const Columns<double>& y) {
    if (first.columns.ld > 32 || second.columns.ld > 32) return d2k::rotate_few<MatrixTeam>(team, first, second, count, y);
    // Either factorization may have left Q itself, the other one reflectors.
    const bool of_first = finds_thin(team, first.columns, first.all);
    const bool of_second = count == 4 && finds_thin(team, second.columns, second.all);
    // One product's code for both.
    D2K_ROLLED
    for (int f = 0; f < 2; ++f)
        if (f == 0 ? of_first : of_second)
            multiply_thin<kMostRows>(team, either(f == 0, first, second), Columns<double>{column(y, 2 * f), y.ld});
    if (of_first && (of_second || count < 4)) return;
    const Reflectors one{first.columns, first.tau, of_first ? 0 : first.count, first.all};
    const Reflectors other{second.columns, second.tau, of_second ? 0 : second.count, second.all};
    by_first_warp(team, [&](MatrixTeam& warp) { rotate_four(warp, one, other, count, y); });
}

__device__ __forceinline__ void solve_block(MatrixTeam& team, const Columns<double>& l, int count, double* x) {
    if (count > 32) return d2k::solve_block<MatrixTeam>(team, l, count, x);
    by_first_warp(team, [&](MatrixTeam& warp) { solve_lanes(warp, l, count, x); });
}

__device__ __forceinline__ void orthogonalize_block(MatrixTeam& team, const Columns<double>& x,
                                                    const Columns<double>* basis, int count, double* square) {
    if (x.ld > kMostRows) return d2k::orthogonalize_block<MatrixTeam>(team, x, basis, count, square);
    by_first_warp(team, [&](MatrixTeam& warp) {
        if (x.ld <= kFewRows) orthogonalize_lanes<kFewRows>(warp, x, basis, count, square);
        else orthogonalize_lanes<kMostRows>(warp, x, basis, count, square);
    });
}

// A lane a column; minima by the largest of what their bits lack.
__device__ __forceinline__ Chosen<double> choose(MatrixTeam& team, const double* square, int64_t count, double limit,
                                                 double rtol) {
    if (!team.by_lanes()) return d2k::choose<MatrixTeam, double>(team, square, count, limit, rtol);
    const int lane = team.rank();
    const bool own = lane < count;
    const double s = own ? square[lane] : 0, length = root(s);
    const auto bits = bit_cast<uint64_t>(s);
    const auto first_of = [&](bool holds) { return Max()(__ffs(static_cast<int>(__ballot_sync(~0u, holds))), 1) - 1; };
    const uint64_t most = team.largest(bits);
    const int first = first_of(own && bits == most);
    const double largest = __shfl_sync(~0u, length, first);
    const bool counts = own && length > larger(limit, largest * rtol);
    const int rank = __popc(__ballot_sync(~0u, counts));
    const uint64_t lacks = team.largest(counts ? ~bits : 0), lacks_least = team.largest(s > 0 ? ~bits : 0);
    const int last = first_of(counts && ~bits == lacks), least = first_of(s > 0 && ~bits == lacks_least);
    const double smallest = __shfl_sync(~0u, length, last);
    return {static_cast<double>(first), static_cast<double>(last), largest, rank ? smallest : 1.0,
            static_cast<double>(rank), __shfl_sync(~0u, length, least)};
}

// Matrices of at most so many rows and columns are the first warp's.
__device__ __forceinline__ bool fits_lanes(const Plan& plan) { return plan.longest() <= kMostRows; }

// As d2k::extremes, with one code for the whole team and for the first warp alone.
__device__ __forceinline__ Extremes<double> extremes(MatrixTeam& team, const Plan& plan, const ExtremesWork<double>& work,
                                                     double atol, double rtol, Range* range) {
    MatrixTeam some = fits_lanes(plan) ? team.lanes() : team;
    MatrixTeam::Storage& storage = team.storage();
    team.barrier();
    if (!fits_lanes(plan) || team.first_warp()) {
        const Extremes<double> e = d2k::extremes<MatrixTeam, double>(some, plan, work, atol, rtol, range);
        if (team.rank() == 0) {
            storage.extremes = e;
            storage.exponent = range->exponent;
        }
    }
    team.barrier();
    range->exponent = storage.exponent;
    return storage.extremes;
}

}  // namespace cuda
}  // namespace d2k

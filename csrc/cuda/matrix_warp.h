// What jacobi_block.h does, for one warp and at most 20 rows: a lane holds a column in registers, so that
// dot products need no shuffles, pivoting moves nothing, and rounds of rotations no memory.
#pragma once

#include <type_traits>

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

constexpr int kMostRows = 20;

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

// The lane with the largest square of those that take part, the first of equals; its square goes to *most.
__device__ __forceinline__ int largest_lane(double square, bool part, double* most) {
#if __CUDA_ARCH__ >= 800
    const auto bits = part ? static_cast<unsigned long long>(__double_as_longlong(square)) : 0;
    const auto high = static_cast<unsigned>(bits >> 32), low = static_cast<unsigned>(bits);
    const unsigned top = __reduce_max_sync(~0u, high), rest = __reduce_max_sync(~0u, high == top ? low : 0);
    *most = __hiloint2double(static_cast<int>(top), static_cast<int>(rest));
    return __ffs(static_cast<int>(__ballot_sync(~0u, part && high == top && low == rest))) - 1;
#else
    double x = part ? square : -1;
    D2K_ROLLED
    for (int step = 16; step > 0; step /= 2) x = larger(x, __shfl_xor_sync(~0u, x, step));
    *most = x;
    return __ffs(static_cast<int>(__ballot_sync(~0u, part && square == x))) - 1;
#endif
}

// As factorize_block, and then turn_triangle to `to` where that is not null.
template <int Rows>
__device__ __forceinline__ int factorize_lanes(MatrixTeam& team, const Triangle<double>& qr, bool pivoted,
                                               const Cutoff<double>& cutoff, double* order, double* to, int to_ld) {
    const int lane = team.rank(), count = static_cast<int>(qr.count), ld = static_cast<int>(qr.columns.ld);
    const bool own = lane < count;
    double* const mine = column(qr.columns, own ? lane : 0);
    double *below = qr.columns.first + lane, *turned = to + lane;  // this lane's row in column j of each
    Lane<Rows> y;
    y.load(mine, own ? ld : 0);
    double square = y.dot(y), limit = 0, diagonal = 0, tau = 0;
    int place = -1, j = 0;  // where this lane's column has come to
    __syncwarp();
    D2K_ROLLED
    for (; j < count; ++j) {
        int pivot = j;
        double s;
        if (pivoted) {
            pivot = largest_lane(square, own && place < 0, &s);
            if (j == 0) limit = cutoff.square(s);
            // By a vote, which the compiler knows to be the same for all.
            if (__any_sync(~0u, s * static_cast<double>(count - j) <= limit)) break;
        } else {
            s = __shfl_sync(~0u, square, j);
        }
        // The reflector is I - gamma v vᵀ with v = (0 …, head, the column below).
        double* const stage = team.stage(j % 2);
        if (lane == pivot) {
            place = j;
            D2K_UNROLLED
            for (int i = 0; i < Rows; ++i) stage[i] = y.rows[i];
        }
        __syncwarp();
        Lane<Rows> v;
        v.load(stage, Rows);
        const bool inside = lane > j && lane < ld;
        const double entry_below = stage[inside ? lane - j : 0];
        // No branch where there is nothing below: 1 in place of what would not be finite, and 0 times the result.
        const bool nothing = s < DBL_MIN;
        const double some = nothing ? 0 : 1, safe = nothing ? 1 : s;
        const double alpha = v.rows[0], length = safe * reciprocal_root(safe), signed_length = alpha < 0 ? length : -length;
        const double gamma = some * reciprocal(safe + magnitude(alpha) * length);
        const double beta = nothing ? alpha : signed_length, head = alpha - beta;
        v.rows[0] = head;
        const double factor = gamma * v.dot(y);
        const double entry = place == j ? beta : y.rows[0] - factor * head;
        D2K_UNROLLED
        for (int i = 1; i < Rows; ++i) y.rows[i - 1] = y.rows[i] - factor * v.rows[i];
        y.rows[Rows - 1] = 0;
        square = y.dot(y);
        // As jacobi.h keeps reflectors: 1 at the pivot, and tau.
        const double scale = some * reciprocal(nothing ? 1 : head);
        diagonal = lane == j ? beta : diagonal;
        tau = lane == j ? gamma * head * head : tau;
        if (inside) *below = scale * entry_below;
        if (!pivoted && own && lane > j) mine[j] = entry;
        if (to && lane < to_ld) *turned = pivoted || lane >= j ? entry : 0;
        below += ld;
        turned += to_ld;
    }
    if (lane < j) {
        qr.diagonal[lane] = diagonal;
        qr.tau[lane] = tau;
    }
    __syncwarp();
    if (!pivoted) return j;
    // Rows of the turned triangle go to their places, those of the columns that are left behind the others.
    const bool left = own && place < 0;
    const unsigned before = __ballot_sync(~0u, left) & ((1u << lane) - 1);
    place = left ? j + __popc(before) : own ? place : lane;
    if (own) order[place] = static_cast<double>(lane);
    D2K_ROLLED
    for (int c = 0; c < j; ++c) {
        const double entry = lane < to_ld ? to[c * to_ld + lane] : 0;
        __syncwarp();
        if (lane < to_ld) to[c * to_ld + place] = place >= c ? entry : 0;
    }
    __syncwarp();
    return j;
}

// As in Pair: lanes meet whose numbers are 2 round, and the wheel meets that which would meet itself.
__device__ __forceinline__ int partner_of(int lane, int round, int wheel) {
    const int sum = 2 * round - lane, across = sum < 0 ? sum + wheel : sum >= wheel ? sum - wheel : sum;
    return lane > wheel ? lane : lane == wheel ? round : lane == round ? wheel : across;
}

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
    D2K_ROLLED
    for (int sweep = 0; sweep < kMostSweeps && rotated; ++sweep) {
        rotated = false;
        int partner = partner_of(lane, 0, wheel);
        D2K_ROLLED
        for (int round = 0; round < wheel; ++round) {
            const Lane<Rows> other = mine.of(partner);
            const double qq = __shfl_sync(~0u, pp, partner);
            const double g = mine.dot(other), d = qq - pp, h = 2 * g, n = d * d + h * h;  // tan 2θ = h/d
            const bool apart = g * g > tolerance * pp * qq && n >= DBL_MIN;
            const bool back = (d < 0) | ((d == 0) & (lane > partner));
            // tan θ to 20 bits, by which the rotation is exact: it leaves 2^-18 of g at most.
            const double size = (back ? -h : h) * near_reciprocal(magnitude(d) + n * near_reciprocal_root(n));
            const double t = apart ? size : 0, more = reciprocal_root(1 + t * t), cosine = apart ? more : 1;
            mine.subtract(t, other);
            // Turns as fine leave cosines of at most 2^-49: those need no other sweep.
            rotated |= apart & ((t * t > 0x1p-54) | (g * g > 0x1p-62 * pp * qq));
            pp = larger(pp - t * g, 0.0);
            if (basis) {
                turned.subtract(t, turned.of(partner));
                turned.scale(cosine);
            }
            partner = partner_of(lane, round + 1, wheel);
            mine.scale(cosine);
        }
        rotated = __any_sync(~0u, rotated);
        pp = mine.dot(mine);
    }
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
    return team.reduce(most, Larger());
}

// As rotate_columns.
template <int Rows>
__device__ __forceinline__ void rotate_lanes(MatrixTeam& team, const Triangle<double>& first,
                                             const Triangle<double>& second, int split, int count, int reflectors,
                                             const Columns<double>& columns) {
    const int lane = team.rank();
    const bool own = lane < count;
    const Triangle<double> qr = either(lane < split || !own, first, second);
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

// As rotate_columns for at most four columns, eight lanes each: every reflector waits for the one before, and the least
// for three shuffles.
__device__ __forceinline__ void rotate_four(MatrixTeam& team, const Triangle<double>& first,
                                            const Triangle<double>& second, int split, int count, int reflectors,
                                            const Columns<double>& columns) {
    constexpr int kOwn = 4, kLanes = 8;
    const int c = team.rank() / kLanes, part = team.rank() % kLanes;
    const bool own = c < count;
    const Triangle<double> qr = either(c < split || !own, first, second);
    const int ld = static_cast<int>(qr.columns.ld);
    double* const to = column(columns, own ? c : 0);
    double y[kOwn], v[kOwn], tau;
    const auto load = [&](int j, double (&rows)[kOwn]) {
        const double* const x = column(qr.columns, j);
        D2K_UNROLLED
        for (int m = 0; m < kOwn; ++m) {
            const int i = part + m * kLanes;
            rows[m] = i > j && i < ld ? x[i] : i == j ? 1 : 0;
        }
        return qr.tau[j];
    };
    D2K_UNROLLED
    for (int m = 0; m < kOwn; ++m) {
        const int i = part + m * kLanes;
        y[m] = own && i < ld ? to[i] : 0;
    }
    tau = reflectors > 0 ? load(reflectors - 1, v) : 0;
    D2K_ROLLED
    for (int j = reflectors - 1; j >= 0; --j) {
        double next[kOwn];
        const double next_tau = load(j > 0 ? j - 1 : 0, next);
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

// How many of a lane's registers hold rows: the least of three numbers that is enough.
template <class Body>
__device__ __forceinline__ void with_rows(int rows, const Body& body) {
    if (rows <= 12) body(std::integral_constant<int, 12>());
    else body(std::integral_constant<int, kMostRows>());
}

// Whether each lane of a warp alone has a column.
__device__ __forceinline__ bool by_lanes(const MatrixTeam& team, int64_t rows) {
    return team.size() == 32 && rows <= kMostRows;
}

// Overloads of jacobi_block.h's, for which they are called where the matrix is small enough.
__device__ __forceinline__ int factorize_turned(MatrixTeam& team, const Triangle<double>& qr, bool pivoted,
                                                const Cutoff<double>& cutoff, double* order, double* square,
                                                const Columns<double>& to, int rows) {
    if (!by_lanes(team, qr.columns.ld))
        return d2k::factorize_turned<MatrixTeam>(team, qr, pivoted, cutoff, order, square, to, rows);
    return factorize_lanes<kMostRows>(team, qr, pivoted, cutoff, order, to.first, static_cast<int>(to.ld));
}

__device__ __forceinline__ double multiply_block(MatrixTeam& team, const Columns<double>& r, int count,
                                                 const Columns<double>& b, const Columns<double>& to) {
    if (!by_lanes(team, count) || b.ld > 32) return d2k::multiply_block<MatrixTeam>(team, r, count, b, to);
    return multiply_lanes<kMostRows>(team, r, count, b, to);
}

__device__ __forceinline__ void rotate_columns(MatrixTeam& team, const Triangle<double>& first,
                                               const Triangle<double>& second, int split, int count, int reflectors,
                                               const Columns<double>& y) {
    const int64_t ld = first.columns.ld < second.columns.ld ? second.columns.ld : first.columns.ld;
    if (!by_lanes(team, ld))
        return d2k::rotate_columns<MatrixTeam>(team, first, second, split, count, reflectors, y);
    rotate_lanes<kMostRows>(team, first, second, split, count, reflectors, y);
}

__device__ __forceinline__ void rotate_few(MatrixTeam& team, const Triangle<double>& first,
                                           const Triangle<double>& second, int split, int count, int reflectors,
                                           const Columns<double>& y) {
    if (team.size() != 32 || first.columns.ld > 32 || second.columns.ld > 32)
        return d2k::rotate_few<MatrixTeam>(team, first, second, split, count, reflectors, y);
    rotate_four(team, first, second, split, count, reflectors, y);
}

// A warp alone has at most as many columns as lanes: each lane solves for its own number.
__device__ __forceinline__ void solve_block(MatrixTeam& team, const Triangle<double>& r, int count, double* x) {
    if (team.size() != 32) return d2k::solve_block<MatrixTeam>(team, r, count, x);
    const int lane = team.rank();
    const bool own = lane < count;
    const double* const mine = column(r.columns, own ? lane : 0);
    const double diagonal = own ? r.diagonal[lane] : 0, over = diagonal == 0 ? 0 : 1 / diagonal;
    double number = own ? x[lane] : 0;
    D2K_ROLLED
    for (int i = 0; i < count; ++i) {
        const double factor = mine[i < lane ? i : 0], solved = __shfl_sync(~0u, number * over, i);
        number = lane == i ? solved : lane > i ? number - factor * solved : number;
    }
    if (own) x[lane] = number;
    team.barrier();
}

__device__ __forceinline__ void orthogonalize_block(MatrixTeam& team, const Columns<double>& x,
                                                    const Columns<double>* basis, int count, double* square) {
    if (!by_lanes(team, x.ld)) return d2k::orthogonalize_block<MatrixTeam>(team, x, basis, count, square);
    with_rows(count, [&](auto most) { orthogonalize_lanes<most>(team, x, basis, count, square); });
}

}  // namespace cuda
}  // namespace d2k

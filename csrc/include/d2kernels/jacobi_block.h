// What jacobi.h does, for a block in which four threads share a column: the same algorithms in the fewest steps that wait
// for one another. A reflector is applied before it is scaled, every column is turned in one pass over registers, and a
// step of a factorization or a round of rotations ends in one barrier.
//
// Every thread of a warp calls Group's functions the same number of times: a group without a column takes its turn with
// rows that are 0.
#pragma once

#include <cfloat>
#include <cstdint>

#include "d2kernels/real.h"
#include "d2kernels/team.h"

namespace d2k {

constexpr int kHeld = 4, kChunk = kHeld * kParts;  // rows that a thread and its group hold in registers

// 1/√x by a step of third order from what has its first 20 bits.
D2K_DEVICE double reciprocal_root_from(double near, double x) {
    const double error = fma(x, -(near * near), 1.0);
    return fma(fma(error, 0.375, 0.5), near * error, near);
}

// 1/√x and 1/x of a normal x with a normal result, to the last bit or two: the chip's first 20 bits and Newton's steps,
// without the branch for everything else.
D2K_DEVICE double reciprocal_root(double x) {
#ifdef __CUDA_ARCH__
    double y;
    asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    return reciprocal_root_from(y, x);
#else
    return 1 / root(x);
#endif
}

D2K_DEVICE double reciprocal(double x) {
#ifdef __CUDA_ARCH__
    double y;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    y = fma(y, fma(-x, y, 1.0), y);
    return fma(y, fma(-x, y, 1.0), y);
#else
    return 1 / x;
#endif
}

// Rows of a column that this thread owns: part, part + kParts, … of a chunk.
struct Held {
    double rows[kHeld];

    // Those in [from, to) of the chunk; the others are 0.
    D2K_DEVICE void load(const double* chunk, int part, int from, int to) {
        D2K_UNROLLED
        for (int m = 0; m < kHeld; ++m) {
            const int row = m * kParts + part;
            rows[m] = row >= from && row < to ? chunk[row] : 0.0;
        }
    }

    D2K_DEVICE void store(double* chunk, int part, int from, int to) const {
        D2K_UNROLLED
        for (int m = 0; m < kHeld; ++m) {
            const int row = m * kParts + part;
            if (row >= from && row < to) chunk[row] = rows[m];
        }
    }

    // Adds x · y in two parts.
    D2K_DEVICE static void dot(const Held& x, const Held& y, double (&sums)[2]) {
        D2K_UNROLLED
        for (int m = 0; m < kHeld; ++m) sums[m % 2] += x.rows[m] * y.rows[m];
    }

    // this += factor x
    D2K_DEVICE void add(double factor, const Held& x) {
        D2K_UNROLLED
        for (int m = 0; m < kHeld; ++m) rows[m] += factor * x.rows[m];
    }
};

template <class Team>
D2K_DEVICE double sum_of(const Group<Team>& group, const double (&sums)[2]) {
    const double parts[1] = {sums[0] + sums[1]};
    return group.sum(parts);
}

D2K_DEVICE double* column(const Columns<double>& x, int c) {
    return x.first + static_cast<uint64_t>(static_cast<unsigned>(c)) * static_cast<unsigned>(x.ld);
}

// A place in a chunk: how far `row` is from its first one, as far as that matters.
D2K_DEVICE int within(int row, int chunk) {
    return row < chunk ? 0 : row - chunk < kChunk ? row - chunk : kChunk;
}

// square[c] of every column that is there.
template <class Team>
D2K_DEVICE void square_columns(const Group<Team>& group, const Columns<double>& x, int count, double* square) {
    const int part = group.part(), ld = static_cast<int>(x.ld);
    for_columns(group, 0, count, [&](int c, bool here) {
        Held held;
        double sums[2] = {};
        D2K_ROLLED
        for (int at = 0; at < ld; at += kChunk) {
            held.load(column(x, c) + at, part, 0, here ? within(ld, at) : 0);
            Held::dot(held, held, sums);
        }
        const double s = sum_of(group, sums);
        if (here && part == 0) square[c] = s;
    });
}

// The largest square of the columns [first, count), the first of equals.
template <class Team>
D2K_DEVICE Pivot<double> largest_column(Team& team, const double* square, int first, int count) {
    Pivot<double> best{-1, static_cast<double>(first)};
    D2K_ROLLED
    for (int c = first + team.rank(); c < count; c += team.size())
        best = LargerPivot()(best, Pivot<double>{square[c], static_cast<double>(c)});
    return team.reduce(best, LargerPivot());
}

// Triangle::factorize, or factorize_pivoted where `pivoted`; `square` holds a number a column.
template <class Team>
D2K_DEVICE int factorize_block(Team& team, const Triangle<double>& qr, bool pivoted, const Cutoff<double>& cutoff,
                                   double* order, double* square) {
    const Group<Team> group(team);
    const Columns<double>& x = qr.columns;
    const int count = static_cast<int>(qr.count), ld = static_cast<int>(x.ld);
    const int part = group.part();
    square_columns(group, x, count, square);
    if (pivoted) for_each(team, count, [&](int c) { order[c] = static_cast<double>(c); });
    team.barrier();
    double limit = 0;
    int j = 0;
    D2K_ROLLED
    for (; j < count; ++j) {
        double s = square[j];
        double* const pivot = column(x, j);
        if (pivoted) {
            const Pivot<double> best = largest_column(team, square, j, count);
            s = best.square;
            if (j == 0) limit = cutoff.square(s);
            // By a vote, which the compiler knows to be the same for all.
            if (any(team, s * static_cast<double>(count - j) <= limit)) break;
            const auto c = static_cast<int>(best.column);
            if (any(team, c != j)) {
                double* const other = column(x, c);
                for_each(team, ld, [&](int i) {
                    const double a = pivot[i];
                    pivot[i] = other[i];
                    other[i] = a;
                });
                if (team.rank() == 0) {
                    const double a = order[j];
                    order[j] = order[c];
                    order[c] = a;
                }
            }
            team.barrier();
        }
        // The reflector is I - gamma v vᵀ with v = (0 …, head, the column below).
        const bool nothing = s < DBL_MIN;
        const double alpha = pivot[j], length = s * reciprocal_root(s);
        const double beta = nothing ? alpha : alpha < 0 ? length : -length, head = alpha - beta;
        const double gamma = nothing ? 0 : reciprocal(s + magnitude(alpha) * length);
        const int first = (j + 1) / kParts * kParts;
        const bool once = ld - first <= kChunk;
        for_columns(group, j + 1, count, [&](int c, bool here) {
            double* const y = column(x, c);
            Held v, held;
            double sums[2] = {};
            D2K_ROLLED
            for (int at = first; at < ld; at += kChunk) {
                const int from = within(j + 1, at), to = here ? within(ld, at) : 0;
                v.load(pivot + at, part, from, to);
                held.load(y + at, part, from, to);
                Held::dot(v, held, sums);
            }
            const bool owner = part == j % kParts && here;
            const double top = owner ? y[j] : 0;
            const double factor = gamma * (sum_of(group, sums) + head * group.from(top, j % kParts));
            sums[0] = sums[1] = 0;
            D2K_ROLLED
            for (int at = first; at < ld; at += kChunk) {
                const int from = within(j + 1, at), to = here ? within(ld, at) : 0;
                if (!once) {
                    v.load(pivot + at, part, from, to);
                    held.load(y + at, part, from, to);
                }
                held.add(-factor, v);
                Held::dot(held, held, sums);
                held.store(y + at, part, from, to);
            }
            if (owner) y[j] = top - factor * head;
            const double left = sum_of(group, sums);
            if (here && part == 0) square[c] = left;
        });
        if (team.rank() == 0) qr.diagonal[j] = beta;
        team.barrier();
    }
    // As jacobi.h keeps reflectors: 1 at the pivot, and tau.
    for_columns(group, 0, j, [&](int c, bool here) {
        if (!here) return;
        const double alpha = column(x, c)[c], beta = qr.diagonal[c];
        const bool nothing = alpha == beta;
        const double scale = nothing ? 0 : 1 / (alpha - beta);
        own_rows(group, c + 1, ld, [&](int i) { column(x, c)[i] *= scale; });
        if (part == 0) qr.tau[c] = nothing ? 0 : (beta - alpha) / beta;
    });
    team.barrier();
    return j;
}

// One of two that are the same kind of memory, without its address being taken.
D2K_DEVICE Triangle<double> either(bool which, const Triangle<double>& a, const Triangle<double>& b) {
    return {{which ? a.columns.first : b.columns.first, which ? a.columns.ld : b.columns.ld},
            which ? a.rows : b.rows, which ? a.count : b.count,
            which ? a.diagonal : b.diagonal, which ? a.tau : b.tau};
}

// The same, and then its first rows in `to`, as columns of `rows` rows, and in `copy` where that is not null. `thin`: Q's
// own columns may take the reflectors' place, which they do where matrix_warp.h says so.
template <class Team>
D2K_DEVICE int factorize_turned(Team& team, const Triangle<double>& qr, bool pivoted, bool /*thin*/,
                                const Cutoff<double>& cutoff, double* order, double* square, const Columns<double>& to,
                                double* copy, int rows) {
    const int left = factorize_block(team, qr, pivoted, cutoff, order, square);
    turn_triangle(team, qr, left, to, rows);
    if (copy) for_each(team, left * static_cast<int>(to.ld), [&](int i) { copy[i] = to.first[i]; });
    team.barrier();
    return left;
}

// Pivoted QR of the matrix in work.g, or of what prepare() makes of `before` and its triangle's rows in work.w; the
// triangle, transposed, in work.w and in work.x. `twice`: QR of that, and its triangle, transposed, in work.x. Returns how
// many columns are left. prepare() gives the cutoff.
template <class Team, class Work, class Prepare>
D2K_DEVICE int precondition_block(Team& team, const Work& work, const Triangle<double>& before, bool product, bool twice,
                                  int q, const Prepare& prepare) {
    Cutoff<double> cutoff{};
    int k = q;
    // One factorization's code for the three.
    D2K_ROLLED
    for (int stage = product ? 0 : 1; stage < (twice ? 3 : 2); ++stage) {
        if (stage == 1) cutoff = prepare();
        const Triangle<double> w{work.w.columns, q, k, work.w.diagonal, work.w.tau};
        const Triangle<double> triangle = either(stage == 0, before, either(stage == 1, work.g, w));
        const Columns<double> to{stage == 2 ? work.x.first : w.columns.first, work.x.ld};
        k = factorize_turned(team, triangle, stage == 1, !twice, cutoff, work.order,
                             stage == 1 ? work.square : triangle.tau, to, stage == 1 && !twice ? work.x.first : nullptr,
                             stage == 2 ? k : q);
    }
    return k;
}

// The largest of what is not negative; a team may have a faster way.
template <class Team>
D2K_DEVICE double largest_magnitude(Team& team, double x) { return team.reduce(x, Larger()); }

// to[c] = Σ_{l >= c} R[c, l] b[l] for the `count` rows of R, which are the columns of `r`; the largest magnitude in it.
template <class Team>
D2K_DEVICE double multiply_block(Team& team, const Columns<double>& r, int count, const Columns<double>& b,
                                 const Columns<double>& to) {
    const Group<Team> group(team);
    const int part = group.part(), ld = static_cast<int>(b.ld);
    double most = 0;
    D2K_ROLLED
    for (int c = group.index(); c < count; c += group.count()) {
        D2K_ROLLED
        for (int at = 0; at < ld; at += kChunk) {
            Held sum{}, held;
            const int end = within(ld, at);
            D2K_ROLLED
            for (int l = c; l < count; ++l) {
                held.load(column(b, l) + at, part, 0, end);
                sum.add(column(r, c)[l], held);
            }
            sum.store(column(to, c) + at, part, 0, end);
            D2K_UNROLLED
            for (const double x : sum.rows) most = larger(most, magnitude(x));
        }
    }
    team.barrier();
    return largest_magnitude(team, most);
}

// The first `count` reflectors of a factorization of `all` columns.
struct Reflectors {
    Columns<double> columns;
    const double* tau;
    int count, all;

    D2K_DEVICE static Reflectors of(const Triangle<double>& qr, int count) {
        return {qr.columns, qr.tau, count, static_cast<int>(qr.count)};
    }
};

D2K_DEVICE Reflectors either(bool which, const Reflectors& a, const Reflectors& b) {
    return {{which ? a.columns.first : b.columns.first, which ? a.columns.ld : b.columns.ld},
            which ? a.tau : b.tau, which ? a.count : b.count, which ? a.all : b.all};
}

// y = Q y with the group's own y of ld rows, if it is here; every group of a warp takes `most` turns.
template <class Team>
D2K_DEVICE void rotate_block(const Group<Team>& group, const Reflectors& qr, int most, double* y, bool here) {
    const int ld = static_cast<int>(qr.columns.ld);
    const int part = group.part();
    const bool once = ld <= kChunk;
    Held v, held;
    if (once) held.load(y, part, 0, here ? within(ld, 0) : 0);
    D2K_ROLLED
    for (int j = most - 1; j >= 0; --j) {
        const bool turns = here && j < qr.count;
        const double* const x = column(qr.columns, turns ? j : 0);
        const int first = once ? 0 : j / kParts * kParts;
        const auto load = [&](int at) {
            const int to = turns ? within(ld, at) : 0;
            v.load(x + at, part, within(j + 1, at), to);
            if (!once) held.load(y + at, part, within(j, at), to);
            D2K_UNROLLED
            for (int m = 0; m < kHeld; ++m)
                if (at + m * kParts + part == j) v.rows[m] = turns ? 1 : 0;
        };
        double sums[2] = {};
        D2K_ROLLED
        for (int at = first; at < ld; at += kChunk) {
            load(at);
            Held::dot(v, held, sums);
        }
        const double factor = (turns ? qr.tau[j] : 0) * sum_of(group, sums);
        D2K_ROLLED
        for (int at = first; at < ld; at += kChunk) {
            if (!once) load(at);
            held.add(-factor, v);
            if (!once) held.store(y + at, part, within(j, at), turns ? within(ld, at) : 0);
        }
    }
    if (once) held.store(y, part, 0, here ? within(ld, 0) : 0);
    group.sync();
}

// y[c] = Q y[c] for the columns [0, count) of y.
template <class Team>
D2K_DEVICE void rotate_columns(Team& team, const Triangle<double>& qr, int count, int reflectors,
                               const Columns<double>& y) {
    const Group<Team> group(team);
    const Reflectors some = Reflectors::of(qr, reflectors);
    for_columns(group, 0, count, [&](int c, bool here) { rotate_block(group, some, reflectors, column(y, c), here); });
    team.barrier();
}

// The same for two columns by the one and two by the other, as far as there are `count`.
template <class Team>
D2K_DEVICE void rotate_few(Team& team, const Reflectors& first, const Reflectors& second, int count,
                           const Columns<double>& y) {
    const Group<Team> group(team);
    const int most = first.count < second.count ? second.count : first.count;
    for_columns(group, 0, count, [&](int c, bool here) {
        rotate_block(group, either(c < 2, first, second), most, column(y, c), here);
    });
    team.barrier();
}

// As orthogonalize does; the rounds follow `count`.
template <class Team>
D2K_DEVICE void orthogonalize_block(Team& team, const Columns<double>& x, const Columns<double>* basis, int count,
                                    double* square) {
    const Group<Team> group(team);
    const double tolerance = DBL_EPSILON * DBL_EPSILON * static_cast<double>(x.ld);
    const int even = count + count % 2, wheel = even - 1, ld = static_cast<int>(x.ld);
    const int part = group.part();
    const bool once = ld <= kChunk;
    bool rotated = true;
    D2K_ROLLED
    for (int sweep = 0;; ++sweep) {
        square_columns(group, x, count, square);
        team.barrier();
        if (!rotated || sweep == kMostSweeps) return;
        rotated = false;
        D2K_ROLLED
        for (int round = 0; round < wheel; ++round) {
            for_columns(group, 0, even / 2, [&](int n, bool here) {
                const auto pair = Pair<int>::of(round, n, wheel);
                here = here && pair.second < count;
                double *const p = column(x, pair.first), *const q = column(x, pair.second);
                const double pp = here ? square[pair.first] : 0, qq = here ? square[pair.second] : 0;
                Held first, second;
                double sums[2] = {};
                D2K_ROLLED
                for (int at = 0; at < ld; at += kChunk) {
                    const int to = here ? within(ld, at) : 0;
                    first.load(p + at, part, 0, to);
                    second.load(q + at, part, 0, to);
                    Held::dot(first, second, sums);
                }
                const double g = sum_of(group, sums);
                const double d = qq - pp, h = 2 * g, x = d * d + h * h;  // tan 2θ = h/d
                const bool apart = g * g > tolerance * pp * qq && x >= DBL_MIN;
                group.sync();
                if (!group.any(apart)) return;
                const double over = reciprocal_root(x), square_cosine = 0.5 + 0.5 * (magnitude(d) * over);
                const double more = reciprocal_root(square_cosine);
                // Pairs of other groups may turn where this one's does not.
                const double cosine = apart ? square_cosine * more : 1;
                const double sine = apart ? (d < 0 ? -0.5 : 0.5) * (h * over) * more : 0;
                const double t = sine * more, change = apart ? t * g : 0;
                // Turns as fine leave cosines of at most 2^-58 times the columns' number: those need no other sweep.
                rotated |= apart && (t * t > 0x1p-54 || g * g > 0x1p-62 * pp * qq);
                const double less = larger(pp - change, 0.0), greater = larger(qq + change, 0.0);
                if (here && part == 0) square[pair.first] = less;
                if (here && part == 0) square[pair.second] = greater;
                const auto turn_held = [&](double* u, double* v, int to) {
                    D2K_UNROLLED
                    for (int m = 0; m < kHeld; ++m) {
                        const double a = first.rows[m], b = second.rows[m];
                        first.rows[m] = cosine * a - sine * b;
                        second.rows[m] = sine * a + cosine * b;
                    }
                    first.store(u, part, 0, to);
                    second.store(v, part, 0, to);
                };
                const auto turn = [&](double* u, double* v, int rows) {
                    D2K_ROLLED
                    for (int at = 0; at < rows; at += kChunk) {
                        const int to = here ? within(rows, at) : 0;
                        first.load(u + at, part, 0, to);
                        second.load(v + at, part, 0, to);
                        turn_held(u + at, v + at, to);
                    }
                };
                if (once) turn_held(p, q, here ? ld : 0);
                else turn(p, q, ld);
                if (basis) turn(column(*basis, pair.first), column(*basis, pair.second), static_cast<int>(basis->ld));
            });
            team.barrier();
        }
        rotated = any(team, rotated);
    }
}

// x = L⁻¹ x for a lower triangle L by its columns; 0 where its diagonal is.
template <class Team>
D2K_DEVICE void solve_block(Team& team, const Columns<double>& l, int count, double* x) {
    const auto inverse = [&](int i) {
        const double diagonal = i < count ? column(l, i)[i] : 0;
        return diagonal == 0 ? 0 : 1 / diagonal;
    };
    double over = inverse(0), before = 0;
    team.barrier();
    D2K_ROLLED
    for (int i = 0; i < count; ++i) {
        const double solved = x[i] * over;
        over = inverse(i + 1);
        for_each(team, count - (i + 1), [&](int c) { x[i + 1 + c] -= column(l, i)[i + 1 + c] * solved; });
        // Everybody has read the one before.
        if (team.rank() == 0 && i > 0) x[i - 1] = before;
        before = solved;
        team.barrier();
    }
    if (team.rank() == 0 && count > 0) x[count - 1] = before;
    team.barrier();
}

}  // namespace d2k

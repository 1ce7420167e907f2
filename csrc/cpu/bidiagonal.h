// The largest and the smallest singular value of a matrix, without the others: by a bidiagonal matrix that has them, and
// bisection on it (Fernando, SIAM J. Matrix Anal. Appl. 20, 1998). Each is off by a rounding of the largest, where
// jacobi.h finds all to a rounding of their own.
#pragma once

#include <cfloat>
#include <cstdint>

#include "d2kernels/jacobi.h"
#include "vectorize.h"

namespace d2k::cpu {

// Takes x (rows >= count) to upper bidiagonal form: x.diagonal, and `above` (count - 1). across has count numbers, along ld.
D2K_INLINE void bidiagonalize(HostTeam& team, const Triangle<double>& x, double* above, double* across, double* along) {
    const Group<HostTeam> group(team);
    const int64_t count = x.count, ld = x.columns.ld;
    const auto column = [&](int64_t c) { return x.columns[c]; };
    double factor = 0;  // of the last reflector from the right, which no column has had yet
    // Rows above the ones that are left are done with: those that fill a vector may change.
    const auto turn = [&](int64_t c, int64_t from) {
        const double f = factor * across[c];
        double* const to = column(c);
        own_rows(group, from / kParts * kParts, ld, [&](int64_t i) { to[i] = to[i] - f * along[i]; });
    };
    for (int64_t j = 0; j < count; ++j) {
        if (factor != 0) turn(j, j);
        const double tau = x.eliminate(team, group, j);
        for (int64_t c = j + 1; c < count; ++c) {
            if (factor != 0) turn(c, j);
            reflect(group, column(j), tau, j, ld, column(c));
        }
        if (j + 1 == count) return;
        double below = 0;
        for (int64_t c = j + 2; c < count; ++c) below += column(c)[j] * column(c)[j];
        const double alpha = column(j + 1)[j], length = d2k::root(alpha * alpha + below);
        const double beta = below == 0 ? alpha : alpha < 0 ? length : -length;
        above[j] = beta;
        factor = below == 0 ? 0 : (beta - alpha) / beta;
        if (factor == 0) continue;
        across[j + 1] = 1;
        for (int64_t c = j + 2; c < count; ++c) across[c] = column(c)[j] / (alpha - beta);
        const int64_t from = (j + 1) / kParts * kParts;
        for (int64_t i = from; i < ld; ++i) along[i] = 0;
        int64_t c = j + 1;
        for (; c + 4 <= count; c += 4) {
            const double *const p = column(c), *const q = column(c + 1), *const r = column(c + 2), *const s = column(c + 3);
            own_rows(group, from, ld, [&](int64_t i) {
                along[i] += (across[c] * p[i] + across[c + 1] * q[i]) + (across[c + 2] * r[i] + across[c + 3] * s[i]);
            });
        }
        for (; c < count; ++c) {
            const double* const p = column(c);
            own_rows(group, from, ld, [&](int64_t i) { along[i] += across[c] * p[i]; });
        }
    }
}

// Of the bidiagonal matrix with these squares: the largest value in of[0] and the smallest in of[1], to the last bits.
D2K_INLINE void bisect(const double* diagonal, const double* above, int64_t count, double (&of)[2]) {
    constexpr int points = 8, rounds = 26;  // 9^26 is 2^82
    double all = 0;
    for (int64_t i = 0; i < count; ++i) all += diagonal[i] + (i + 1 < count ? above[i] : 0);
    // What a step may not divide by.
    const double least = all * 0x1p-200;
    const double norm = d2k::root(all) * (1 + 1e-12), mean = d2k::root(all / static_cast<double>(count));
    double low[2] = {mean * (1 - 1e-12), 0}, high[2] = {norm, mean * (1 + 1e-12)};
    for (int round = 0; round < rounds; ++round) {
        double x[2][points], square[2][points], less[2][points], s[2][points];
        for (int f = 0; f < 2; ++f)
            for (int k = 0; k < points; ++k) {
                x[f][k] = low[f] + (high[f] - low[f]) * (static_cast<double>(k + 1) / (points + 1));
                square[f][k] = x[f][k] * x[f][k];
                s[f][k] = -square[f][k];
                less[f][k] = 0;
            }
        // How many values are less than each: signs of BᵀB - x² = LDLᵀ, whose steps are of B's own entries.
        for (int64_t i = 0; i < count; ++i) {
            const double d = diagonal[i], e = i + 1 < count ? above[i] : 0;
            for (int f = 0; f < 2; ++f)
                for (int k = 0; k < points; ++k) {
                    const double sum = d + s[f][k], t = d2k::magnitude(sum) < least ? -least : sum;
                    less[f][k] += t < 0 ? 1 : 0;
                    s[f][k] = s[f][k] * (e / t) - square[f][k];
                }
        }
        bool done = true;
        for (int f = 0; f < 2; ++f) {
            const double enough = f ? 1 : static_cast<double>(count);
            int k = 0;
            while (k < points && less[f][k] < enough) ++k;
            const double before = k ? x[f][k - 1] : low[f];
            high[f] = k < points ? x[f][k] : high[f];
            low[f] = before;
            done &= high[f] - low[f] <= 2 * DBL_EPSILON * high[f];
        }
        if (done) break;
    }
    for (int f = 0; f < 2; ++f) of[f] = 0.5 * (low[f] + high[f]);
}

}  // namespace d2k::cpu

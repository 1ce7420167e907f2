// What an algorithm that runs on one matrix (double) or on several at once (a pack of doubles) asks of a number.
#pragma once

#include <cmath>
#include <cstdint>

#include "d2kernels/dtype.h"
#include "d2kernels/team.h"

namespace d2k {

D2K_DEVICE double select(bool which, double a, double b) { return which ? a : b; }
D2K_DEVICE bool any_lane(bool mask) { return mask; }
D2K_DEVICE double root(double x) { return sqrt(x); }
D2K_DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }

// How many matrices a Real holds; theirs is the double at [lane].
template <class Real>
constexpr int kPacked = static_cast<int>(sizeof(Real) / sizeof(double));

template <class Real>
D2K_DEVICE double& lane_of(Real* x, int lane) { return reinterpret_cast<double*>(x)[lane]; }

template <class Real>
D2K_DEVICE double lane_of(const Real* x, int lane) { return reinterpret_cast<const double*>(x)[lane]; }

template <class Real>
D2K_DEVICE Real magnitude(Real x) { return select(x < 0.0, -x, x); }

template <class Real>
D2K_DEVICE Real larger(Real a, Real b) { return select(a < b, b, a); }

template <class Real>
D2K_DEVICE Real smaller(Real a, Real b) { return select(b < a, b, a); }

struct Larger {
    template <class Real>
    D2K_DEVICE Real operator()(Real a, Real b) const { return larger(a, b); }
};

struct Smaller {
    template <class Real>
    D2K_DEVICE Real operator()(Real a, Real b) const { return smaller(a, b); }
};

// e with 2^e <= x < 2^(e + 1), for finite x > 0; 0 for 0.
D2K_DEVICE int exponent(double x) {
    if (!(x > 0)) return 0;
    const int subnormal = x < 0x1p-1022 ? 54 : 0;
    if (subnormal) x *= 0x1p54;
    return static_cast<int>((bit_cast<uint64_t>(x) >> 52) & 0x7ff) - 1023 - subnormal;
}

// 2^e in two factors, since one need not be representable; |e| < 2044.
struct Power {
    double first, second;

    D2K_DEVICE static double of(int e) { return bit_cast<double>(static_cast<uint64_t>(e + 1023) << 52); }
    D2K_DEVICE explicit Power(int e) : first(of(e / 2)), second(of(e - e / 2)) {}
    D2K_DEVICE double operator*(double x) const { return x * first * second; }
};

}  // namespace d2k

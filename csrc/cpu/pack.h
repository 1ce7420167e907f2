// Eight doubles, one of each of eight matrices: what d2kernels/real.h asks of a number.
#pragma once

#include "d2kernels/real.h"
#include "vectorize.h"

namespace d2k::cpu {

#if defined(__GNUC__)

constexpr int kPack = 8;

// Whether this machine has vectors that make a pack worth its while: for one that has not, none is compiled.
#if D2K_TARGETS
inline bool packs() { return __builtin_cpu_supports("x86-64-v3"); }
#else
inline bool packs() { return true; }
#endif

struct Pack {
    typedef double V __attribute__((vector_size(kPack * sizeof(double)), may_alias));
    typedef long long Bits __attribute__((vector_size(kPack * sizeof(double))));
    V v;

    Pack() = default;
    D2K_INLINE Pack(double x) { for (int i = 0; i < kPack; ++i) v[i] = x; }
    D2K_INLINE explicit Pack(const V& x) : v(x) {}
};

struct PackMask {
    Pack::Bits bits;
};

D2K_INLINE Pack operator+(const Pack& a, const Pack& b) { return Pack(a.v + b.v); }
D2K_INLINE Pack operator-(const Pack& a, const Pack& b) { return Pack(a.v - b.v); }
D2K_INLINE Pack operator*(const Pack& a, const Pack& b) { return Pack(a.v * b.v); }
D2K_INLINE Pack operator/(const Pack& a, const Pack& b) { return Pack(a.v / b.v); }
D2K_INLINE Pack operator-(const Pack& a) { return Pack(-a.v); }
D2K_INLINE PackMask operator<(const Pack& a, const Pack& b) { return {a.v < b.v}; }
D2K_INLINE PackMask operator>(const Pack& a, const Pack& b) { return {a.v > b.v}; }
D2K_INLINE PackMask operator<=(const Pack& a, const Pack& b) { return {a.v <= b.v}; }
D2K_INLINE PackMask operator==(const Pack& a, const Pack& b) { return {a.v == b.v}; }
D2K_INLINE PackMask operator&(const PackMask& a, const PackMask& b) { return {a.bits & b.bits}; }
D2K_INLINE PackMask operator|(const PackMask& a, const PackMask& b) { return {a.bits | b.bits}; }
D2K_INLINE PackMask operator!(const PackMask& a) { return {~a.bits}; }

D2K_INLINE Pack select(const PackMask& which, const Pack& a, const Pack& b) {
    return Pack(reinterpret_cast<Pack::V>((which.bits & reinterpret_cast<Pack::Bits>(a.v)) |
                                          (~which.bits & reinterpret_cast<Pack::Bits>(b.v))));
}

D2K_INLINE bool any_lane(const PackMask& mask) {
    long long some = 0;
    for (int i = 0; i < kPack; ++i) some |= mask.bits[i];
    return some != 0;
}

D2K_INLINE Pack root(const Pack& x) {
    Pack r;
    for (int i = 0; i < kPack; ++i) r.v[i] = __builtin_sqrt(x.v[i]);
    return r;
}

D2K_INLINE Pack fused(const Pack& a, const Pack& b, const Pack& c) {
    Pack r;
    for (int i = 0; i < kPack; ++i) r.v[i] = __builtin_fma(a.v[i], b.v[i], c.v[i]);
    return r;
}

#else

constexpr int kPack = 1;
inline bool packs() { return true; }
using Pack = double;

#endif

}  // namespace d2k::cpu

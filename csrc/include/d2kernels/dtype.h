// The 16-bit floats as bits, converted in plain C++: the same on the host, in a vectorised loop and on a GPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "d2kernels/team.h"

namespace d2k {

template <class To, class From>
D2K_DEVICE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "both have the same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

struct BFloat16 {
    uint16_t bits;

    D2K_DEVICE operator float() const { return bit_cast<float>(uint32_t{bits} << 16); }

    // To the nearest, ties to even; NaN stays NaN.
    D2K_DEVICE static BFloat16 from(float x) {
        const uint32_t u = bit_cast<uint32_t>(x);
        const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
        return {static_cast<uint16_t>(x != x ? (u >> 16) | 0x40u : rounded)};
    }
};

struct Half {
    uint16_t bits;

    D2K_DEVICE operator float() const {
        const uint32_t magnitude = (bits & 0x7fffu) << 13, exponent = magnitude & 0x0f800000u;
        constexpr uint32_t kRebias = (127 - 15) << 23;
        const uint32_t normal = magnitude + kRebias + (exponent == 0x0f800000u ? kRebias : 0);
        // A subnormal is a normal float of twice the smallest exponent, less that exponent's leading one.
        const float subnormal = bit_cast<float>(magnitude + kRebias + (1u << 23)) - bit_cast<float>(kRebias + (1u << 23));
        const uint32_t u = exponent == 0 ? bit_cast<uint32_t>(subnormal) : normal;
        return bit_cast<float>(u | (uint32_t{bits} & 0x8000u) << 16);
    }

    // To the nearest, ties to even; past the largest: infinity; NaN stays NaN.
    D2K_DEVICE static Half from(float x) {
        const uint32_t u = bit_cast<uint32_t>(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
        const uint32_t normal = (magnitude - ((127 - 15) << 23) + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
        // Adding 0.5 leaves the subnormal's bits, rounded, in the low ones of the sum.
        const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - bit_cast<uint32_t>(0.5f);
        uint32_t bits = magnitude < (127 - 14) << 23 ? subnormal : normal;
        bits = magnitude >= (127 + 16) << 23 ? 0x7c00u : bits;
        bits = magnitude > 0x7f800000u ? 0x7e00u : bits;
        return {static_cast<uint16_t>(sign | bits)};
    }
};

// What a stored value is compared and summed in.
template <class T>
struct Arithmetic {
    using Type = float;
};
template <>
struct Arithmetic<double> {
    using Type = double;
};
template <class T>
using ArithmeticOf = typename Arithmetic<T>::Type;

template <class T>
D2K_DEVICE T stored(ArithmeticOf<T> x) {
    if constexpr (sizeof(T) == 2) return T::from(x);
    else return x;
}

}  // namespace d2k

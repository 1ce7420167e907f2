// The threads of a team that work on one row or one sequence together: a warp of a block, else one thread.
#pragma once

#include <cstdint>

#include "d2kernels/team.h"

namespace d2k {

constexpr int kWarp = 32;  // parts of a sum, whatever the team: all of them add in the same order

template <class Team>
struct Warp {
    static constexpr int width = 1;
    const Team& team;

    D2K_DEVICE explicit Warp(const Team& t) : team(t) {}
    D2K_DEVICE int64_t index() const { return team.rank(); }
    D2K_DEVICE int64_t count() const { return team.size(); }
    D2K_DEVICE int lane() const { return 0; }

    template <class Real>
    D2K_DEVICE Real sum(Real (&parts)[kWarp]) const {
        for (int half = kWarp / 2; half > 0; half /= 2)
            for (int l = 0; l < half; ++l) parts[l] += parts[l + half];
        return parts[0];
    }

    // Over the lanes: the sum of those up to this one, another one's value, the first for which it holds or -1.
    D2K_DEVICE int scan(int value) const { return value; }
    D2K_DEVICE int from(int value, int) const { return value; }
    D2K_DEVICE int first(bool holds) const { return holds ? 0 : -1; }

    // A bit for each of the kWarp parts: holds(h) for this thread's h-th one.
    template <class Holds>
    D2K_DEVICE uint32_t bits(const Holds& holds) const {
        uint32_t found = 0;
        for (int h = 0; h < kWarp; ++h) found |= uint32_t{holds(h)} << h;
        return found;
    }
};

#ifdef __CUDACC__
template <int Threads>
struct Warp<BlockTeam<Threads>> {
    static_assert(Threads % kWarp == 0, "a block of whole warps");
    static constexpr int width = kWarp;

    __device__ explicit Warp(const BlockTeam<Threads>&) {}
    __device__ int64_t index() const { return threadIdx.x / kWarp; }
    __device__ int64_t count() const { return Threads / kWarp; }
    __device__ int lane() const { return static_cast<int>(threadIdx.x % kWarp); }

    template <class Real>
    __device__ Real sum(Real (&parts)[1]) const {
        Real x = parts[0];
        for (int half = kWarp / 2; half > 0; half /= 2) x += __shfl_xor_sync(0xffffffffu, x, half);
        return x;
    }

    __device__ int scan(int value) const {
        for (int step = 1; step < kWarp; step *= 2) {
            const int before = __shfl_up_sync(~0u, value, step);
            if (lane() >= step) value += before;
        }
        return value;
    }
    __device__ int from(int value, int lane) const { return __shfl_sync(~0u, value, lane); }
    __device__ int first(bool holds) const { return __ffs(static_cast<int>(__ballot_sync(~0u, holds))) - 1; }

    template <class Holds>
    __device__ uint32_t bits(const Holds& holds) const { return __ballot_sync(~0u, holds(0)); }
};
#endif

// The places of a word's lowest and highest bit; it has one.
D2K_DEVICE int lowest_bit(uint32_t word) {
#ifdef __CUDA_ARCH__
    return __ffs(static_cast<int>(word)) - 1;
#else
    return __builtin_ctz(word);
#endif
}
D2K_DEVICE int highest_bit(uint32_t word) {
#ifdef __CUDA_ARCH__
    return 31 - __clz(static_cast<int>(word));
#else
    return 31 - __builtin_clz(word);
#endif
}

// body(j, part) for the j in [0, size) that this thread owns; every kWarp consecutive ones have different parts.
template <class Team, class Body>
D2K_DEVICE void own_parts(const Warp<Team>& warp, int64_t size, const Body& body) {
    constexpr int own = kWarp / Warp<Team>::width;
    const int64_t whole = size / kWarp * kWarp;
    for (int64_t j = 0; j < whole; j += kWarp)
        for (int h = 0; h < own; ++h) body(j + h + warp.lane(), h);
    for (int h = 0; h < own; ++h)
        if (whole + h + warp.lane() < size) body(whole + h + warp.lane(), h);
}

// Σ x[j] y[j] in double, the same on every lane.
template <class Team, class T>
D2K_DEVICE double dot_in_double(const Warp<Team>& warp, const T* x, const T* y, int64_t size) {
    double parts[kWarp / Warp<Team>::width] = {};
    own_parts(warp, size, [&](int64_t j, int h) { parts[h] += static_cast<double>(x[j]) * static_cast<double>(y[j]); });
    return warp.sum(parts);
}

}  // namespace d2k

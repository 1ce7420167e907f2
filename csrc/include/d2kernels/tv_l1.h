// Dense optical flow by total variation and L1 (Zach, Pock and Bischof 2007; Sanchez, Meinhardt-Llopis and Facciolo
// 2013), with the parameters and the scheme of OpenCV's DualTVL1OpticalFlow.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "d2kernels/status.h"
#include "d2kernels/team.h"

// Before a loop over what registers hold, on the host as well, whose vectors are what it is for.
#if defined(__CUDACC__) || defined(__clang__)
#define D2K_UNROLLED_EVERYWHERE _Pragma("unroll")
#elif defined(__GNUC__)
#define D2K_UNROLLED_EVERYWHERE _Pragma("GCC unroll 32")
#else
#define D2K_UNROLLED_EVERYWHERE
#endif

namespace d2k {

struct TvL1Rules {
    float tau, lambda, theta, epsilon, gamma;
    double scale_step;
    int scales, warps, inner, outer, median;  // median: the filter's width, 3 or 5, or at most 1 for none

    D2K_DEVICE int channels() const { return gamma != 0 ? 3 : 2; }  // u, v and where gamma is not 0 the brightness
    D2K_DEVICE float threshold() const { return lambda * theta; }
    D2K_DEVICE float step() const { return tau / theta; }
};

struct TvL1 {
    const float* previous;  // (count, height, width), brightness from 0 to 255
    const float* next;
    int64_t count;
    int height, width;
    TvL1Rules rules;
    float* flow;  // (count, 2, height, width): x, then y
};

struct TvL1Level {
    int height, width;

    D2K_DEVICE int64_t size() const { return static_cast<int64_t>(height) * width; }
};

// The pyramid from full size on: at most `scales` levels, none but the first under 16 pixels. Returns how many.
constexpr int kTvL1Levels = 64;
inline int tv_l1_levels(const TvL1& problem, TvL1Level (&levels)[kTvL1Levels]) {
    levels[0] = {problem.height, problem.width};
    int count = 1;
    for (; count < problem.rules.scales && count < kTvL1Levels; ++count) {
        const auto smaller = [&](int size) { return static_cast<int>(std::nearbyint(size * problem.rules.scale_step)); };
        const TvL1Level next{smaller(levels[count - 1].height), smaller(levels[count - 1].width)};
        if (next.height < 16 || next.width < 16) break;
        levels[count] = next;
    }
    return count;
}

// The error below which an inner iteration is the last one.
inline float tv_l1_enough(const TvL1Rules& rules, const TvL1Level& level) {
    return static_cast<float>(static_cast<double>(rules.epsilon) * rules.epsilon * static_cast<double>(level.size()));
}

// Linear interpolation between pixels first and second.
struct TvL1Between {
    int first, second;
    float share;  // the second one's

    // Pixel x of a row that has been scaled from `size` pixels by 1 / scale.
    D2K_DEVICE static TvL1Between of(int x, double scale, int size) {
        const float place = static_cast<float>((x + 0.5) * scale - 0.5);
        const float low = floorf(place);
        if (!(low >= 0)) return {0, 0, 0};
        if (low >= static_cast<float>(size - 1)) return {size - 1, size - 1, 0};
        return {static_cast<int>(low), static_cast<int>(low) + 1, place - low};
    }

    D2K_DEVICE float in(const float* row) const { return row[first] * (1 - share) + row[second] * share; }
};

D2K_DEVICE float tv_l1_scaled(const float* image, int width, const TvL1Between& y, const TvL1Between& x) {
    return x.in(image + static_cast<int64_t>(y.first) * width) * (1 - y.share) +
           x.in(image + static_cast<int64_t>(y.second) * width) * y.share;
}

// A place where the next frame is read: the first of the four pixels under a cubic, and how far it lies past the second.
struct TvL1Place {
    int first;
    float share;

    // At x + u in a row of `size` pixels; what lies outside, NaN too, comes to lie in the zeros around the row.
    D2K_DEVICE static TvL1Place of(int x, float u, int size) {
        float place = static_cast<float>(x) + u;
        const float least = -3, most = static_cast<float>(size + 1);
        place = place > least ? place : least;
        place = place < most ? place : most;
        const int low = static_cast<int>(place + 3) - 3;  // positive before it is cut
        const float share = place - static_cast<float>(low);
        return share < 0 ? TvL1Place{low - 2, share + 1} : TvL1Place{low - 1, share};
    }

    // The cubic's four weights (Keys, a = -0.75).
    D2K_DEVICE void weights(float* w) const {
        constexpr float a = -0.75f;
        const float x = share, y = 1 - share;
        w[0] = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
        w[1] = ((a + 2) * x - (a + 3)) * x * x + 1;
        w[2] = ((a + 2) * y - (a + 3)) * y * y + 1;
        w[3] = 1 - w[0] - w[1] - w[2];
    }
};

// What the data term needs of a pixel during a warp.
struct TvL1Pixel {
    float x, y;     // the warped next frame's derivatives
    float inverse;  // of their squared length
    float rest;     // residual at no flow

    D2K_DEVICE static TvL1Pixel of(float warped, float dx, float dy, float u, float v, float previous) {
        const float squared = dx * dx + dy * dy;
        return {dx, dy, 1 / (squared > FLT_EPSILON ? squared : FLT_EPSILON), warped - dx * u - dy * v - previous};
    }

    // How far along the derivatives the data term moves the flow from a residual.
    D2K_DEVICE static float step(float residual, float inverse, float most) {
        float step = -residual * inverse;
        step = step < -most ? -most : step;
        return step > most ? most : step;
    }
};

// Medians by exchanges, of floats or of several at once.
template <class T>
D2K_DEVICE void tv_l1_exchange(T& a, T& b) {
    const T low = a < b ? a : b;
    b = a < b ? b : a;
    a = low;
}

template <class T>
D2K_DEVICE void tv_l1_sort(T& a, T& b, T& c, T& d, T& e) {
    tv_l1_exchange(a, d), tv_l1_exchange(b, e);
    tv_l1_exchange(a, c), tv_l1_exchange(b, d);
    tv_l1_exchange(a, b), tv_l1_exchange(c, e);
    tv_l1_exchange(b, c), tv_l1_exchange(d, e);
    tv_l1_exchange(c, d);
}

// Of the first n values the least to the front and the largest to the end.
template <int n, class T>
D2K_DEVICE void tv_l1_extremes(T* v) {
    D2K_UNROLLED_EVERYWHERE
    for (int i = 0; i < n / 2; ++i) tv_l1_exchange(v[i], v[n - 1 - i]);
    D2K_UNROLLED_EVERYWHERE
    for (int i = 1; i < (n + 1) / 2; ++i) tv_l1_exchange(v[0], v[i]);
    D2K_UNROLLED_EVERYWHERE
    for (int i = n / 2; i < n - 1; ++i) tv_l1_exchange(v[i], v[n - 1]);
}

// The median of n values and of what is behind them: neither the least nor the largest of more than half can be it.
template <int n, class T>
D2K_DEVICE void tv_l1_median(T* v, const T* behind, T& found) {
    tv_l1_extremes<n>(v);
    if constexpr (n == 3) {
        found = v[1];
    } else {
        v[0] = *behind;
        tv_l1_median<n - 1>(v, behind + 1, found);
    }
}

// Of nine values.
template <class T>
D2K_DEVICE void tv_l1_median_of_9(T* v, T& found) { tv_l1_median<6>(v, v + 6, found); }

// Of five columns of five, v[column][row], each of them sorted: with the rows sorted too, 13 may be the median.
template <class T>
D2K_DEVICE void tv_l1_median_of_25(T (*v)[5], T& found) {
    D2K_UNROLLED_EVERYWHERE
    for (int row = 0; row < 5; ++row) tv_l1_sort(v[0][row], v[1][row], v[2][row], v[3][row], v[4][row]);
    T left[13] = {v[3][0], v[4][0], v[2][1], v[3][1], v[4][1], v[1][2], v[2][2],
                  v[3][2], v[0][3], v[1][3], v[2][3], v[0][4], v[1][4]};
    tv_l1_median<8>(left, left + 8, found);
}

namespace cpu {
Status tv_l1(const TvL1& problem, int threads);
}  // namespace cpu

namespace cuda {
// Bytes that each pair needs.
int64_t tv_l1_workspace(const TvL1& problem);
// `workspace` has that for every pair. Does not wait for the device.
Status tv_l1(const TvL1& problem, void* workspace, int device, void* stream);
}  // namespace cuda

}  // namespace d2k

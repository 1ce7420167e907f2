#include "d2kernels/dropout.h"

#include <algorithm>

#include "drop_row.h"
#include "parallel.h"
#include "vectorize.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kCounters = 64;  // at a time, in registers and the nearest cache
constexpr int kRounds = 7;
constexpr double kSteps = 1.0;  // nanoseconds an element

// The words of `count` counters from `first` on, word j of counter i at words[4i + j].
D2K_INLINE void philox(uint64_t first, int64_t count, uint64_t seed, uint32_t* words) {
    uint32_t a[kCounters], b[kCounters], c[kCounters], d[kCounters];
    for (int64_t i = 0; i < count; ++i) {
        const uint64_t counter = first + static_cast<uint64_t>(i);
        a[i] = static_cast<uint32_t>(counter);
        b[i] = static_cast<uint32_t>(counter >> 32);
        c[i] = d[i] = 0;
    }
    uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < kRounds; ++round) {
        D2K_LANES
        for (int64_t i = 0; i < count; ++i) {
            const uint64_t p = uint64_t{0xd2511f53} * a[i], q = uint64_t{0xcd9e8d57} * c[i];
            a[i] = static_cast<uint32_t>(q >> 32) ^ b[i] ^ low;
            b[i] = static_cast<uint32_t>(q);
            c[i] = static_cast<uint32_t>(p >> 32) ^ d[i] ^ high;
            d[i] = static_cast<uint32_t>(p);
        }
        low += 0x9e3779b9u;
        high += 0xbb67ae85u;
    }
    for (int64_t i = 0; i < count; ++i) {
        words[4 * i] = a[i];
        words[4 * i + 1] = b[i];
        words[4 * i + 2] = c[i];
        words[4 * i + 3] = d[i];
    }
}

template <class T>
D2K_INLINE void drop(const T* x, int64_t channels, uint64_t first, uint64_t seed, uint32_t threshold,
                     ArithmeticOf<T> scale, T* y) {
    uint32_t words[4 * kCounters];
    for (int64_t at = 0; at < channels; at += 4 * kCounters) {
        const int64_t size = std::min(channels - at, 4 * kCounters);
        philox(first + static_cast<uint64_t>(at / 4), (size + 3) / 4, seed, words);
        D2K_LANES
        for (int64_t j = 0; j < size; ++j) {
            const T scaled = stored<T>(static_cast<ArithmeticOf<T>>(x[at + j]) * scale);
            y[at + j] = words[j] >= threshold ? scaled : T{};
        }
    }
}

#define D2K_DEFINE(T)                                                                                            \
    D2K_CLONES_OF(T) D2K_FLATTEN void drop_row(const T* x, int64_t channels, uint64_t first, uint64_t seed,       \
                                         uint32_t threshold, ArithmeticOf<T> scale, T* y) {                       \
        drop(x, channels, first, seed, threshold, scale, y);                                                     \
    }
D2K_DEFINE(double)
D2K_DEFINE(BFloat16)
D2K_DEFINE(Half)

}  // namespace

D2K_DEFINE(float)

template <class T>
Status dropout(const T* x, int64_t rows, int64_t channels, uint64_t seed, int64_t first_row, uint32_t threshold,
               double scale, T* y, int threads) {
    const double steps = kSteps * static_cast<double>(rows) * static_cast<double>(channels);
    const auto counters = static_cast<uint64_t>((channels + 3) / 4);
    return parallel_for(rows, std::max<int64_t>(1, rows / 64), steps, threads, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
            drop_row(x + r * channels, channels, static_cast<uint64_t>(first_row + r) * counters, seed, threshold,
                     static_cast<ArithmeticOf<T>>(scale), y + r * channels);
    });
}

#define D2K_INSTANTIATE(T) \
    template Status dropout<T>(const T*, int64_t, int64_t, uint64_t, int64_t, uint32_t, double, T*, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cpu

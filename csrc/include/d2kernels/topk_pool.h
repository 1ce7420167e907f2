// Mean of the k largest scores of each sequence and class, its threshold (the k-th largest) and what lies above and on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "d2kernels/dtype.h"
#include "d2kernels/ragged.h"
#include "d2kernels/status.h"
#include "d2kernels/team.h"

namespace d2k {

// T: float, double, BFloat16 or Half. NaN sorts above every number and -0 equals 0.
template <class T>
struct TopkPool {
    Sequences sequences;
    const T* scores;  // (total, classes)
    int64_t classes;
    const int64_t* k;  // (sequences), or null for `each`, or where that is 0 for (length + add) / divisor
    int64_t each = 0, divisor = 1, add = 0;

    // Clamped to [1, length].
    D2K_DEVICE int64_t count(int64_t sequence, int64_t length) const {
        const int64_t wanted = k ? k[sequence] : each ? each : (length + add) / divisor;
        return wanted < 1 ? 1 : wanted > length ? length : wanted;
    }
};

// (sequences, classes) each; on the CPU all but the mean are null where nobody wants them.
template <class T>
struct TopkPoolOut {
    T *mean, *threshold;
    int32_t *above, *tied;
};

// What the backward pass reads besides the problem.
template <class T>
struct TopkPoolSaved {
    const T *grad, *threshold;
    const int32_t *above, *tied;

    // The gradients of the scores above and on the threshold of the (sequence, class) at `at`; below it: 0.
    struct Shares {
        ArithmeticOf<T> edge, whole, tied;

        D2K_DEVICE T gradient(T score) const {
            using V = ArithmeticOf<T>;
            const V v = score;
            const bool nan = v != v, tie = v == edge || (nan && edge != edge);
            return stored<T>(tie ? tied : v > edge || nan ? whole : V(0));
        }
    };

    D2K_DEVICE Shares shares(int64_t at, int64_t k) const {
        using V = ArithmeticOf<T>;
        const V whole = static_cast<V>(grad[at]) / static_cast<V>(k);
        const V ties = static_cast<V>(tied[at] < 1 ? 1 : tied[at]);
        return {threshold[at], whole, whole * (static_cast<V>(k) - static_cast<V>(above[at])) / ties};
    }
};

// Unsigned integers in the order of the scores.
template <class T>
struct Ordered {
    using Key = uint32_t;
};
template <>
struct Ordered<double> {
    using Key = uint64_t;
};
template <>
struct Ordered<BFloat16> {
    using Key = uint16_t;
};
template <>
struct Ordered<Half> {
    using Key = uint16_t;
};
template <class T>
using KeyOf = typename Ordered<T>::Key;

// All bits of a negative number turn, of another one the first: XOR with the sign spread to the right.
template <class K>
D2K_DEVICE K spread_sign(K bits) {
    return static_cast<K>(static_cast<std::make_signed_t<K>>(bits) >> (8 * sizeof(K) - 1));
}

template <class T>
D2K_DEVICE KeyOf<T> ordered_key(T score) {
    using K = KeyOf<T>;
    constexpr K kSign = K(1) << (8 * sizeof(K) - 1), kRest = K(kSign - 1);
    if constexpr (sizeof(T) == 2) {
        constexpr K kInfinity = std::is_same_v<T, Half> ? 0x7c00 : 0x7f80;
        const K bits = score.bits, magnitude = bits & kRest;
        if (magnitude > kInfinity) return K(~K(0));
        return magnitude == 0 ? kSign : K(bits ^ (spread_sign(bits) | kSign));
    } else {
        const K bits = bit_cast<K>(score + T(0));  // -0 is then 0
        return score != score ? ~K(0) : bits ^ (spread_sign(bits) | kSign);
    }
}

template <class T>
D2K_DEVICE T score_of(KeyOf<T> key) {
    using K = KeyOf<T>;
    constexpr K kSign = K(1) << (8 * sizeof(K) - 1);
    return bit_cast<T>(K(key ^ (K(~spread_sign(key)) | kSign)));
}

namespace cpu {
// `threads` 0 means all that may be used.
template <class T>
Status topk_pool(const TopkPool<T>& problem, const TopkPoolOut<T>& out, int threads);
// grad_scores (total, classes), zero on gap rows.
template <class T>
Status topk_pool_backward(const TopkPool<T>& problem, const TopkPoolSaved<T>& saved, T* grad_scores, int threads);
}  // namespace cpu

namespace cuda {
// Bytes of device memory that topk_pool works in: 0 where a block holds any sequence that there can be.
template <class T>
Status topk_pool_workspace(const TopkPool<T>& problem, int device, size_t* bytes);
// Of sequences that overlap, which `offsets` must not, those that are long may give NaN.
template <class T>
Status topk_pool(const TopkPool<T>& problem, const TopkPoolOut<T>& out, void* workspace, int device, void* stream);
template <class T>
Status topk_pool_backward(const TopkPool<T>& problem, const TopkPoolSaved<T>& saved, T* grad_scores, int device,
                          void* stream);
}  // namespace cuda

}  // namespace d2k

// Mean of the k largest scores of each sequence and class, its threshold (the k-th largest) and what lies above and on it.
//
// The team's algorithm is a radix select on the scores' ordered bits: each pass counts the keys of a bracket in 256 bins
// that are as fine as the bracket allows, and goes on in the bin of the k-th largest, until that bin holds one key.
#pragma once

#include <cstddef>
#include <cstdint>

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
    const int64_t* k;  // (sequences), clamped to [1, length]

    D2K_DEVICE int64_t count(int64_t sequence, int64_t length) const {
        const int64_t wanted = k[sequence];
        return wanted < 1 ? 1 : wanted > length ? length : wanted;
    }
};

// (sequences, classes) each.
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

    // The gradient of one score of the (sequence, class) at `at`.
    D2K_DEVICE T gradient(T score, int64_t at, int64_t k) const {
        using V = ArithmeticOf<T>;
        const V v = score, edge = threshold[at];
        const bool nan = v != v, tie = v == edge || (nan && edge != edge);
        if (!tie && !(v > edge || nan)) return stored<T>(0);
        const V whole = static_cast<V>(grad[at]) / static_cast<V>(k);
        if (!tie) return stored<T>(whole);
        const V ties = static_cast<V>(tied[at] < 1 ? 1 : tied[at]);
        return stored<T>(whole * (static_cast<V>(k) - static_cast<V>(above[at])) / ties);
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

template <class T>
D2K_DEVICE KeyOf<T> ordered_key(T score) {
    using K = KeyOf<T>;
    constexpr K kSign = K(1) << (8 * sizeof(K) - 1);
    const ArithmeticOf<T> v = score;
    const K bits = bit_cast<K>(score);
    const K key = bits & kSign ? K(~bits) : K(bits | kSign);
    return v != v ? K(~K(0)) : v == 0 ? kSign : key;
}

template <class T>
D2K_DEVICE T score_of(KeyOf<T> key) {
    using K = KeyOf<T>;
    constexpr K kSign = K(1) << (8 * sizeof(K) - 1);
    return bit_cast<T>(key & kSign ? K(key ^ kSign) : K(~key));
}

// Counts and extremes that several threads of a team work on.
template <class T>
D2K_DEVICE void add_shared(T* at, T value) {
#ifdef __CUDA_ARCH__
    atomicAdd(at, value);
#else
    __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
#endif
}

// Min or Max.
template <class Op>
D2K_DEVICE void combine_shared(uint64_t* at, uint64_t value, const Op& op) {
#ifdef __CUDA_ARCH__
    const auto word = reinterpret_cast<unsigned long long*>(at);
    if (op(uint64_t{0}, uint64_t{1}) == 0) atomicMin(word, static_cast<unsigned long long>(value));
    else atomicMax(word, static_cast<unsigned long long>(value));
#else
    uint64_t seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (op(seen, value) != seen &&
           !__atomic_compare_exchange_n(at, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
#endif
}

constexpr int kTopkBits = 8, kTopkBins = 1 << kTopkBits;

// The keys of one class in [low, high] are `size`, and the rank-th largest of them is the k-th largest of all.
template <class K>
struct Bracket {
    K low, high;
    int64_t rank, size;

    D2K_DEVICE bool open() const { return size > 1 && low < high; }

    // By how many bits a key's distance from low goes right to be a bin.
    D2K_DEVICE int shift() const {
        const unsigned long long room = high - low;
#ifdef __CUDA_ARCH__
        const int bits = 64 - __clzll(static_cast<long long>(room));
#else
        const int bits = room == 0 ? 0 : 64 - __builtin_clzll(room);
#endif
        return bits > kTopkBits ? bits - kTopkBits : 0;
    }
};

template <int Group>
struct TopkShared {
    using Key = uint64_t;  // wide enough for every score
    int32_t bins[Group * kTopkBins];
    Bracket<Key> now[Group], next[Group];
    Key least[Group], most[Group];
};

// `Group` classes of one sequence, from `label` on; a team's size is a multiple of Group, and each thread stays with one
// class, so that the team reads rows side by side. `cache` holds `capacity` keys: longer sequences are read again.
template <int Group, class Team, class T>
D2K_DEVICE void topk_pool(Team& team, const TopkPool<T>& problem, const TopkPoolOut<T>& out, int64_t sequence,
                          int64_t label, TopkShared<Group>& shared, KeyOf<T>* cache, int64_t capacity) {
    using K = KeyOf<T>;
    using V = ArithmeticOf<T>;
    constexpr int kUnrolled = 4;
    const auto range = problem.sequences[sequence];
    const int64_t length = range.length, at = sequence * problem.classes + label;
    const int rank = team.rank(), width = problem.classes - label < Group ? int(problem.classes - label) : Group;
    if (length == 0) {
        if (rank < width) {
            out.mean[at + rank] = out.threshold[at + rank] = stored<T>(0);
            out.above[at + rank] = out.tied[at + rank] = 0;
        }
        return;
    }
    const int64_t k = problem.count(sequence, length);
    const int own = rank % Group;
    const int64_t first = rank / Group, step = team.size() / Group, rows = own < width ? length : 0;
    const T* column = problem.scores + range.first * problem.classes + label + own;
    const bool cached = length * Group <= capacity;
    const auto key = [&](int64_t t) { return cached ? cache[t * Group + own] : ordered_key(column[t * problem.classes]); };

    if (rank < Group) {
        shared.least[rank] = ~uint64_t{0};
        shared.most[rank] = 0;
    }
    team.barrier();
    K least = K(~K(0)), most = 0;
    for (int64_t t = first; t < rows; t += kUnrolled * step) {
        T scores[kUnrolled];  // so that the reads are under way together
        for (int u = 0; u < kUnrolled; ++u)
            if (t + u * step < rows) scores[u] = column[(t + u * step) * problem.classes];
        for (int u = 0; u < kUnrolled; ++u)
            if (t + u * step < rows) {
                const K found = ordered_key(scores[u]);
                if (cached) cache[(t + u * step) * Group + own] = found;
                least = found < least ? found : least;
                most = found > most ? found : most;
            }
    }
    if (first < rows) {
        combine_shared(&shared.least[own], uint64_t{least}, Min{});
        combine_shared(&shared.most[own], uint64_t{most}, Max{});
    }
    team.barrier();
    if (rank < Group) {
        const Bracket<uint64_t> whole{shared.least[rank], shared.most[rank], k, rank < width ? length : 0};
        shared.now[rank] = whole;
        shared.next[rank] = whole;
    }
    team.barrier();

    for (;;) {
        bool some = false;
        for (int g = 0; g < Group; ++g) some |= shared.now[g].open();
        if (!some) break;
        for_each(team, Group * kTopkBins, [&](int64_t i) { shared.bins[i] = 0; });
        team.barrier();
        const Bracket<uint64_t> mine = shared.now[own];
        const K low = static_cast<K>(mine.low), high = static_cast<K>(mine.high);
        if (mine.open()) {
            const int shift = mine.shift();
            int32_t* bins = shared.bins + own * kTopkBins;
            for (int64_t t = first; t < rows; t += step) {
                const K found = key(t);
                // The largest first, as the scan goes.
                if (low <= found && found <= high)
                    add_shared(bins + (kTopkBins - 1 - (static_cast<uint64_t>(K(found - low)) >> shift)), int32_t{1});
            }
        }
        team.barrier();
        int64_t carry = 0;
        for (int64_t tile = 0; tile < Group * kTopkBins; tile += team.size()) {
            const int64_t i = tile + rank;
            const int64_t count = i < Group * kTopkBins ? shared.bins[i] : 0;
            const int64_t through = team.scan(count, Sum{}, carry);
            if (count == 0) continue;
            const int g = static_cast<int>(i / kTopkBins);
            int64_t before = through - count;
            for (int other = 0; other < g; ++other)
                if (shared.now[other].open()) before -= shared.now[other].size;
            const Bracket<uint64_t> bracket = shared.now[g];
            if (bracket.rank <= before || bracket.rank > before + count) continue;
            const int shift = bracket.shift();
            const uint64_t from = bracket.low + (static_cast<uint64_t>(kTopkBins - 1 - i % kTopkBins) << shift);
            const uint64_t wide = (uint64_t{1} << shift) - 1, room = bracket.high - from;  // from + wide may wrap
            shared.next[g] = {from, from + (wide < room ? wide : room), bracket.rank - before, count};
        }
        team.barrier();
        if (rank < Group) shared.now[rank] = shared.next[rank];
        team.barrier();
    }

    // The sum above the bracket, and the one key in it where the bracket is wider than that.
    const K low = static_cast<K>(shared.now[own].low), high = static_cast<K>(shared.now[own].high);
    V sum = 0;
    for (int64_t t = first; t < rows; t += step) {
        const K found = key(t);
        if (found > high) sum += static_cast<V>(score_of<T>(found));
        else if (found >= low && low != high) shared.next[own].low = found;
    }
    double total = 0;
    for (int g = 0; g < width; ++g) {
        const double all = team.reduce(own == g ? static_cast<double>(sum) : 0.0, Sum{});
        if (rank == g) total = all;
    }
    if (rank < width) {
        const Bracket<uint64_t> found = shared.next[rank];
        const T threshold = score_of<T>(static_cast<K>(found.low));
        const double rest = static_cast<double>(found.rank) * static_cast<double>(static_cast<V>(threshold));
        out.mean[at + rank] = stored<T>(static_cast<V>((total + rest) / static_cast<double>(k)));
        out.threshold[at + rank] = threshold;
        out.above[at + rank] = static_cast<int32_t>(k - found.rank);
        out.tied[at + rank] = static_cast<int32_t>(found.size);
    }
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
template <class T>
Status topk_pool(const TopkPool<T>& problem, const TopkPoolOut<T>& out, int device, void* stream);
template <class T>
Status topk_pool_backward(const TopkPool<T>& problem, const TopkPoolSaved<T>& saved, T* grad_scores, int device,
                          void* stream);
}  // namespace cuda

}  // namespace d2k

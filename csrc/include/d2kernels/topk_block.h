// The top-k pooling of some classes of one sequence by a team: a radix select on the scores' ordered bits.
//
// Each pass counts the keys of a bracket in bins of their next bits and goes on in the bin of the k-th largest. Each
// thread keeps the rows of its own at its own places, so that the bracket's keys move to their front without a word to
// the others, and every sum has one order.
#pragma once

#include <type_traits>

#include "d2kernels/topk_pool.h"
#include "d2kernels/warp.h"

namespace d2k {

constexpr int kTopkBins = 4096;  // of all classes of a team together

// Classes of a team that reads 16 bytes of each row.
template <class T>
constexpr int kTopkGroup = 16 / static_cast<int>(sizeof(T));

// The bits of a key that one pass looks at.
D2K_DEVICE constexpr int topk_bits(int group) {
    int bits = 0;
    while ((group << (bits + 1)) <= kTopkBins) ++bits;
    return bits;
}

// A count that several threads of a team work on.
D2K_DEVICE void count_shared(int32_t* at) {
#ifdef __CUDA_ARCH__
    atomicAdd(at, 1);
#else
    __atomic_fetch_add(at, 1, __ATOMIC_RELAXED);
#endif
}

// Keys whose bits from `shift` on are those of low are `size`, and the rank-th largest of them is the k-th of all.
struct TopkBracket {
    uint64_t low;
    int32_t rank, size;
};

template <int Group>
struct TopkShared {
    alignas(16) unsigned char memory[kTopkBins * sizeof(int32_t)];  // bins of each class, then sums of each thread
    TopkBracket state[2][Group];                                    // this pass's and the next one's
    uint64_t single[Group];                                         // the key of a bracket that has one
};

struct TopkBin {
    int bin, above, size;  // which, how many keys lie in higher ones, how many in it
};

// The bin of the rank-th largest key, all threads of a warp together.
template <class Team>
D2K_DEVICE TopkBin bin_of_rank(const Warp<Team>& warp, const int32_t* bins, int count, int rank) {
    constexpr int width = Warp<Team>::width;
    const int each = count / width;  // a power of two; lane 0 has the highest bins
    const int32_t* own = bins + count - (warp.lane() + 1) * each;
    int sum = 0;
    D2K_ROLLED
    for (int j = 0; j < each; ++j) sum += own[(j + warp.lane()) & (each - 1)];
    int above = warp.scan(sum) - sum;
    const int part = warp.first(above < rank && rank <= above + sum);
    above = warp.from(above, part);
    const int end = count - part * each;
    D2K_ROLLED
    for (int b = warp.lane(); b - warp.lane() < each; b += width) {
        const int here = b < each ? bins[end - 1 - b] : 0, through = warp.scan(here);
        const int lane = warp.first(above + through - here < rank && rank <= above + through);
        if (lane >= 0)
            return {end - 1 - (b - warp.lane() + lane), above + warp.from(through - here, lane), warp.from(here, lane)};
        above += warp.from(through, width - 1);
    }
    return {0, above, 0};
}

// Scores or keys of one row. As words, since a compiler keeps no array of 16-bit numbers in registers.
template <int Group, class K>
struct alignas(Group * sizeof(K) < 16 ? Group * sizeof(K) : 16) TopkRow {
    static_assert(Group * sizeof(K) % sizeof(uint32_t) == 0 || Group == 1, "whole words");
    using Word = std::conditional_t<(Group * sizeof(K) < sizeof(uint32_t)), K, uint32_t>;
    static constexpr int kWords = Group * sizeof(K) / sizeof(Word);
    Word words[kWords];

    D2K_DEVICE K operator[](int g) const {
        if constexpr (sizeof(K) == sizeof(Word)) return words[g];
        else if constexpr (sizeof(K) == 2) return static_cast<K>(words[g / 2] >> (16 * (g % 2)));
        else return words[2 * g] | static_cast<K>(words[2 * g + 1]) << 32;
    }

    // Each place is set once, in rising order.
    D2K_DEVICE void set(int g, K key) {
        if constexpr (sizeof(K) == sizeof(Word)) words[g] = key;
        else if constexpr (sizeof(K) == 2) words[g / 2] = g % 2 ? words[g / 2] | Word{key} << 16 : key;
        else words[2 * g] = static_cast<Word>(key), words[2 * g + 1] = static_cast<Word>(key >> 32);
    }
};

template <int Group, class K>
D2K_DEVICE void store_key(TopkRow<Group, K>& row, int g, K key) {
    memcpy(reinterpret_cast<unsigned char*>(&row) + g * sizeof key, &key, sizeof key);
}

// The bits of a row's scores, 16 bytes at once where `whole` says that all of them lie so.
template <int Group, class T>
D2K_DEVICE TopkRow<Group, KeyOf<T>> read_scores(const T* from, [[maybe_unused]] bool whole, int width) {
    TopkRow<Group, KeyOf<T>> row;
#ifdef __CUDA_ARCH__
    if constexpr (sizeof row == 16) {
        if (whole) {
            const uint4 words = *reinterpret_cast<const uint4*>(from);
            row.words[0] = words.x;
            row.words[1] = words.y;
            row.words[2] = words.z;
            row.words[3] = words.w;
            return row;
        }
    }
#endif
    D2K_UNROLLED
    for (int g = 0; g < Group; ++g) row.set(g, g < width ? bit_cast<KeyOf<T>>(from[g]) : KeyOf<T>(0));
    return row;
}

// `Group` classes of one sequence, from `label` on. `rows` has room for the sequence.
template <int Group, class Team, class T>
D2K_DEVICE void topk_pool(Team& team, const TopkPool<T>& problem, const TopkPoolOut<T>& out, int64_t sequence,
                          int64_t label, TopkShared<Group>& shared, TopkRow<Group, KeyOf<T>>* rows) {
    using K = KeyOf<T>;
    using V = ArithmeticOf<T>;
    constexpr int kUnrolled = 4, kBits = topk_bits(Group), kBins = 1 << kBits, kKeyBits = 8 * sizeof(K);
    static_assert(Group * sizeof(int32_t) <= sizeof shared.memory && kBits <= kKeyBits, "bins for every class");
    const auto range = problem.sequences[sequence];
    const int64_t classes = problem.classes, at = sequence * classes + label;
    const int rank = team.rank(), size = team.size(), length = static_cast<int>(range.length);
    const int width = classes - label < Group ? static_cast<int>(classes - label) : Group;
    if (length == 0) {
        if (rank < width) {
            out.mean[at + rank] = out.threshold[at + rank] = stored<T>(0);
            out.above[at + rank] = out.tied[at + rank] = 0;
        }
        return;
    }
    const Warp<Team> warp(team);
    const T* const scores = problem.scores + range.first * classes + label;
    const bool whole = classes % Group == 0 && reinterpret_cast<uintptr_t>(problem.scores) % 16 == 0;
    const int64_t k = problem.count(sequence, length);
    auto* const bins = reinterpret_cast<int32_t*>(shared.memory);
    const auto clear = [&] {
        D2K_ROLLED
        for (int i = rank; i < Group * kBins / 4; i += size) reinterpret_cast<TopkRow<4, int32_t>*>(bins)[i] = {};
    };

    team.barrier();  // whoever was here before has read everything
    clear();
    if (rank < Group) shared.state[0][rank] = {0, static_cast<int32_t>(k), length};
    team.barrier();
    int shift = kKeyBits - kBits;
    const T* from = scores + rank * classes;
    const int64_t step = size * classes;
    D2K_ROLLED
    for (int t = rank; t < length; t += kUnrolled * size, from += kUnrolled * step) {
        TopkRow<Group, K> found[kUnrolled];  // so that the reads are under way together
        D2K_UNROLLED
        for (int u = 0; u < kUnrolled; ++u)
            if (t + u * size < length) found[u] = read_scores<Group>(from + u * step, whole, width);
        D2K_UNROLLED
        for (int u = 0; u < kUnrolled; ++u)
            if (t + u * size < length) {
                TopkRow<Group, K> row;
                D2K_UNROLLED
                for (int g = 0; g < Group; ++g) {
                    const K key = ordered_key(bit_cast<T>(found[u][g]));
                    row.set(g, key);
                    count_shared(bins + g * kBins + (key >> shift));
                }
                rows[t + u * size] = row;
            }
    }

    K low[Group];
    V sum[Group];
    int end[Group];  // of this thread's keys of the bracket, at the front of its rows
    unsigned open = (1u << width) - 1;
    D2K_UNROLLED
    for (int g = 0; g < Group; ++g) {
        low[g] = 0;
        sum[g] = 0;
        end[g] = g < width ? length : 0;
    }
    int pass = 0;
    for (;; ++pass) {
        TopkBracket* const next = shared.state[(pass + 1) & 1];
        team.barrier();
        D2K_ROLLED
        for (int g = static_cast<int>(warp.index()); g < width; g += static_cast<int>(warp.count())) {
            TopkBracket bracket = shared.state[pass & 1][g];
            if (pass == 0 || bracket.size > 1) {
                const TopkBin bin = bin_of_rank(warp, bins + g * kBins, kBins, bracket.rank);
                bracket = {bracket.low | uint64_t(bin.bin) << shift, bracket.rank - bin.above, bin.size};
            }
            if (warp.lane() == 0) next[g] = bracket;
        }
        team.barrier();
        int last = 0;
        D2K_UNROLLED
        for (int g = 0; g < Group; ++g) {
            if (!(open >> g & 1)) continue;
            low[g] = static_cast<K>(next[g].low);
            last = end[g] > last ? end[g] : last;
        }
        int front[Group];
        D2K_UNROLLED
        for (int g = 0; g < Group; ++g) front[g] = rank;
        // In the first pass every class has all of the rows.
        const auto narrow = [&]([[maybe_unused]] auto first) {
            D2K_ROLLED
            for (int t = rank; t < last; t += size) {
                const TopkRow<Group, K> row = rows[t];
                D2K_UNROLLED
                for (int g = 0; g < Group; ++g) {
                    const K key = row[g];
                    const bool here = decltype(first)::value || t < end[g];
                    const bool inside = static_cast<K>(key - low[g]) >> shift == 0;  // what is below wraps
                    if (here && inside) {
                        store_key(rows[front[g]], g, key);
                        front[g] += size;
                    }
                    if (here && key > low[g] && !inside) sum[g] += static_cast<V>(score_of<T>(key));
                }
            }
        };
        if (pass == 0) narrow(std::true_type{});
        else narrow(std::false_type{});
        D2K_UNROLLED
        for (int g = 0; g < Group; ++g) {
            if (!(open >> g & 1)) continue;
            const bool go_on = next[g].size > 1 && shift > 0;
            if (next[g].size == 1 && front[g] > rank) shared.single[g] = rows[rank][g];
            end[g] = go_on ? front[g] : 0;
            if (!go_on) open &= ~(1u << g);
        }
        if (open == 0) break;
        shift = shift > kBits ? shift - kBits : 0;
        clear();
        team.barrier();
        last = 0;
        D2K_UNROLLED
        for (int g = 0; g < Group; ++g) last = end[g] > last ? end[g] : last;
        D2K_ROLLED
        for (int t = rank; t < last; t += size) {
            const TopkRow<Group, K> row = rows[t];
            D2K_UNROLLED
            for (int g = 0; g < Group; ++g)
                if (t < end[g]) count_shared(bins + g * kBins + ((row[g] - low[g]) >> shift));
        }
    }

    auto* const sums = reinterpret_cast<V*>(shared.memory);
    D2K_UNROLLED
    for (int g = 0; g < Group; ++g) sums[rank * Group + g] = sum[g];
    team.barrier();
    D2K_ROLLED
    for (int g = static_cast<int>(warp.index()); g < width; g += static_cast<int>(warp.count())) {
        double parts[kWarp / Warp<Team>::width] = {};
        own_parts(warp, size, [&](int64_t j, int h) { parts[h] += static_cast<double>(sums[j * Group + g]); });
        const double total = warp.sum(parts);
        if (warp.lane() != 0) continue;
        const TopkBracket found = shared.state[(pass + 1) & 1][g];
        const T threshold = score_of<T>(static_cast<K>(found.size == 1 ? shared.single[g] : found.low));
        const double rest = static_cast<double>(found.rank) * static_cast<double>(static_cast<V>(threshold));
        out.mean[at + g] = stored<T>(static_cast<V>((total + rest) / static_cast<double>(k)));
        out.threshold[at + g] = threshold;
        out.above[at + g] = static_cast<int32_t>(k - found.rank);
        out.tied[at + g] = found.size;
    }
}

}  // namespace d2k

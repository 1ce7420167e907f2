// A batch's rows out of features that stay in memory: crops, converted and laid out with zero rows between them.
#pragma once

#include <cstdint>
#include <type_traits>

#include "d2kernels/dtype.h"
#include "d2kernels/ragged.h"
#include "d2kernels/status.h"
#include "d2kernels/team.h"

namespace d2k {

// Sequence i of `out` is rows first[i], first[i] + 1, ... of the source; a row of no sequence, or that the source does
// not have, is zero.
template <class From, class To>
struct GatherRows {
    const From* source;  // (rows, width)
    int64_t rows, width;
    const int64_t* first;  // (count)
    Sequences sequences;   // of `out`
    To* out;               // (sequences.total, width)

    // The source's row, or -1.
    D2K_DEVICE int64_t from(int64_t row) const {
        const int64_t i = sequence_of(sequences, row);
        if (i < 0) return -1;
        const int64_t within = row - sequences[i].first;
        return first[i] >= 0 && first[i] < rows && within < rows - first[i] ? first[i] + within : -1;
    }
};

template <class To, class From>
D2K_DEVICE To converted(From x) {
    if constexpr (std::is_same_v<To, From>) return x;  // every bit of it
    else return stored<To>(static_cast<float>(x));
}

// `Width` numbers that are read and written as one word.
template <class T, int Width>
struct alignas(sizeof(T) * Width) Word {
    T of[Width];
};

constexpr int64_t kGatherRows = 16;  // of a tile

// Rows [tile · kGatherRows, ...) of `out`. `from` (kGatherRows) is the team's memory; `Width` divides the width, and the
// addresses are aligned to as many numbers.
template <int Width, class Team, class From, class To>
D2K_DEVICE void gather_rows(Team& team, const GatherRows<From, To>& g, int64_t tile, int64_t* from) {
    const int64_t begin = tile * kGatherRows, left = g.sequences.total - begin;
    const int64_t count = left < kGatherRows ? left : kGatherRows, words = g.width / Width;
    for_each(team, count, [&](int64_t r) { from[r] = g.from(begin + r); });
    team.barrier();
    for_each(team, count * words, [&](int64_t i) {
        const int64_t r = i / words, at = i - r * words;
        Word<To, Width> to{};
        if (from[r] >= 0) {
            const auto x = reinterpret_cast<const Word<From, Width>*>(g.source + from[r] * g.width)[at];
            D2K_UNROLLED
            for (int j = 0; j < Width; ++j) to.of[j] = converted<To>(x.of[j]);
        }
        reinterpret_cast<Word<To, Width>*>(g.out + (begin + r) * g.width)[at] = to;
    });
    team.barrier();
}

namespace cpu {
// `threads` 0 means all that may be used.
template <class From, class To>
Status gather_rows(const GatherRows<From, To>& problem, int threads);
}  // namespace cpu

namespace cuda {
template <class From, class To>
Status gather_rows(const GatherRows<From, To>& problem, int device, void* stream);
}  // namespace cuda

}  // namespace d2k

// Calls use(From, To) for every pair of types that there are kernels for.
#define D2K_EACH_GATHER(use)                                                            \
    use(float, float) use(float, BFloat16) use(float, Half) use(BFloat16, float)        \
    use(BFloat16, BFloat16) use(BFloat16, Half) use(Half, float) use(Half, BFloat16) use(Half, Half)

// The team of a small matrix: a block of up to eight warps, as it was launched, or its first warp, which waits for nobody.
#pragma once

#include "d2kernels/extremes.h"

namespace d2k {
namespace cuda {

class MatrixTeam {
    static constexpr int kWarp = 32, kMostWarps = 8;

public:
    struct Storage {
        struct alignas(16) Value {
            unsigned char bytes[16];
        } of_warp[2][kMostWarps];
        alignas(16) double stages[2][kWarp];
        Extremes<double> extremes;
        int exponent;
    };

    __device__ explicit MatrixTeam(Storage& storage) : storage_(storage), size_(static_cast<int>(blockDim.x)) {}

    // The first warp's team, in which a lane holds a column of at most kMostRows rows.
    __device__ MatrixTeam lanes() const {
        MatrixTeam warp = *this;
        warp.size_ = kWarp;
        warp.by_lanes_ = true;
        return warp;
    }
    // Found by a vote, so that the compiler knows a warp to stay together behind it.
    __device__ bool first_warp() const { return __any_sync(~0u, rank() < kWarp); }
    __device__ bool by_lanes() const { return by_lanes_; }

    __device__ int size() const { return size_; }
    __device__ int rank() const { return static_cast<int>(threadIdx.x); }
    __device__ void barrier() const {
        if (size() == kWarp) __syncwarp();
        else __syncthreads();
    }

    template <class T, class Op>
    __device__ T reduce(T value, Op op) {
        __syncwarp();
        D2K_ROLLED
        for (int step = kWarp / 2; step > 0; step /= 2)
            value = op(value, moved(value, [&](unsigned x) { return __shfl_xor_sync(~0u, x, step); }));
        if (size() == kWarp) return value;
        const T* const parts = exchange(value, lane() == 0);
        value = parts[0];
        D2K_ROLLED
        for (int w = 1; w < size() / kWarp; ++w) value = op(value, parts[w]);
        return value;
    }

    template <class T, class Op>
    __device__ T scan(T value, Op op, T& carry) {
        D2K_ROLLED
        for (int step = 1; step < kWarp; step *= 2) {
            const T before = moved(value, [&](unsigned x) { return __shfl_up_sync(~0u, x, step); });
            if (lane() >= step) value = op(before, value);
        }
        const T* const parts = exchange(value, lane() == kWarp - 1);
        T all = carry;
        D2K_ROLLED
        for (int w = 0; w < size() / kWarp; ++w) {
            if (w == warp()) value = op(all, value);
            all = op(all, parts[w]);
        }
        carry = all;
        return value;
    }

    __device__ bool any(bool value) {
        __syncwarp();
        const bool found = __any_sync(~0u, value);
        if (size() == kWarp) return found;
        const int* const parts = exchange(int{found}, lane() == 0);
        return __any_sync(~0u, parts[lane() < size() / kWarp ? lane() : 0]);
    }

    // Where a kept item goes; see compact.
    __device__ int place(bool keep, int& count) {
        __syncwarp();
        const unsigned kept = __ballot_sync(~0u, keep);
        int own = __popc(kept), before = 0, all = own;
        if (size() != kWarp) {
            const int* const parts = exchange(own, lane() == 0);
            const int part = lane() < size() / kWarp ? parts[lane()] : 0;
            all = before = 0;
            D2K_UNROLLED
            for (int bit = 0; bit < 6; ++bit) {
                const unsigned has = __ballot_sync(~0u, part >> bit & 1);
                all += __popc(has) << bit;
                before += __popc(has & ((1u << warp()) - 1)) << bit;
            }
        }
        own = count + before + __popc(kept & ((1u << lane()) - 1));
        count += all;
        return own;
    }

    // The largest of what is not negative, by its bits, which are in the same order.
    __device__ uint64_t largest(uint64_t bits) {
#if __CUDA_ARCH__ >= 800
        __syncwarp();
        bits = largest_of_warp(bits);
        if (size() == kWarp) return bits;
        const uint64_t* const parts = exchange(bits, lane() == 0);
        return largest_of_warp(parts[lane() < size() / kWarp ? lane() : 0]);
#else
        return reduce(bits, Max());
#endif
    }

    // One of two places for a column and what belongs to it, at most 32 numbers, which all lanes read.
    __device__ double* stage(int which) const { return storage_.stages[which]; }
    __device__ Storage& storage() const { return storage_; }

private:
    __device__ int lane() const { return rank() % kWarp; }
    __device__ int warp() const { return rank() / kWarp; }

#if __CUDA_ARCH__ >= 800
    __device__ static uint64_t largest_of_warp(uint64_t bits) {
        const auto high = static_cast<unsigned>(bits >> 32), most = __reduce_max_sync(~0u, high);
        const unsigned rest = __reduce_max_sync(~0u, high == most ? static_cast<unsigned>(bits) : 0);
        return uint64_t{most} << 32 | rest;
    }
#endif

    // A value a warp, after those threads that `give` have put theirs.
    template <class T>
    __device__ const T* exchange(const T& value, bool give) {
        using Value = typename Storage::Value;
        static_assert(sizeof(T) <= sizeof(Value) && alignof(T) <= alignof(Value), "values have at most 16 bytes");
        T* const parts = reinterpret_cast<T*>(storage_.of_warp[turn_]);
        turn_ ^= 1;
        if (give) parts[warp()] = value;
        barrier();
        return parts;
    }

    Storage& storage_;
    int turn_ = 0, size_;
    bool by_lanes_ = false;
};

__device__ __forceinline__ bool any(MatrixTeam& team, bool value) { return team.any(value); }
__device__ __forceinline__ bool all(MatrixTeam& team, bool value) { return !team.any(!value); }

template <class Index>
__device__ __forceinline__ Index compact(MatrixTeam& team, bool keep, Index& count) {
    int after = static_cast<int>(count);
    const int place = team.place(keep, after);
    count = after;
    return place;
}

__device__ __forceinline__ uint64_t largest_bits(MatrixTeam& team, uint64_t bits) { return team.largest(bits); }
__device__ __forceinline__ double largest_magnitude(MatrixTeam& team, double x) {
    return bit_cast<double>(team.largest(bit_cast<uint64_t>(x)));
}

// The most of what a warp's lanes have.
__device__ __forceinline__ unsigned largest_of(unsigned own) {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(~0u, own);
#else
    D2K_ROLLED
    for (int step = 16; step > 0; step /= 2) own = Max()(own, __shfl_xor_sync(~0u, own, step));
    return own;
#endif
}

#if __CUDA_ARCH__ >= 800
// Each warp by itself, of at most 32 columns: squares are not negative, so that their bits are in their order.
__device__ __forceinline__ Pivot<double> largest_column(MatrixTeam& team, const double* square, int first, int count) {
    if (count - first > 32) return d2k::largest_column<MatrixTeam>(team, square, first, count);
    const int c = first + team.rank() % 32;
    const auto bits = c < count ? static_cast<unsigned long long>(__double_as_longlong(square[c])) : 0;
    const auto high = static_cast<unsigned>(bits >> 32), low = static_cast<unsigned>(bits);
    const unsigned most = __reduce_max_sync(~0u, high), rest = __reduce_max_sync(~0u, high == most ? low : 0);
    const unsigned has = __ballot_sync(~0u, c < count && high == most && low == rest);
    return {__hiloint2double(static_cast<int>(most), static_cast<int>(rest)), static_cast<double>(first + __ffs(has) - 1)};
}
#endif

}  // namespace cuda

template <>
struct Group<cuda::MatrixTeam> : Quad {
    __device__ explicit Group(const cuda::MatrixTeam& team) : Quad{team.size()} {}
};

}  // namespace d2k

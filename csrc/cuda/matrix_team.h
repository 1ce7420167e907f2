// The team of a small matrix: a block of one warp, which waits for nobody, or of up to eight, as it was launched.
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
    };

    __device__ explicit MatrixTeam(Storage& storage) : storage_(storage) {}

    __device__ int size() const { return static_cast<int>(blockDim.x); }
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
        bool found = __any_sync(~0u, value);
        if (size() == kWarp) return found;
        const int* const parts = exchange(int{found}, lane() == 0);
        D2K_ROLLED
        for (int w = 0; w < size() / kWarp; ++w) found |= parts[w] != 0;
        return found;
    }

    // One of two places for a column of at most 32 rows that all lanes of a warp alone read.
    __device__ double* stage(int which) const { return storage_.stages[which]; }

private:
    __device__ int lane() const { return rank() % kWarp; }
    __device__ int warp() const { return rank() / kWarp; }

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
    int turn_ = 0;
};

__device__ __forceinline__ bool any(MatrixTeam& team, bool value) { return team.any(value); }
__device__ __forceinline__ bool all(MatrixTeam& team, bool value) { return !team.any(!value); }

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

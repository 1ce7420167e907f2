// One work item's parallel team, so that an irregular kernel is written once and runs on a CPU thread and a CUDA block.
//
// Every thread of the team calls every collective, the same number of times, with loop bounds that do not depend on
// the thread. A team has:
//   size(), rank()                 how many threads, and which one this is
//   barrier()                      all arrive before any goes on; memory written before is seen after
//   reduce(value, op)              over the team, the same result on every thread
//   scan(value, op, carry)         inclusive over the ranks, continued from `carry`, which then includes this tile
//   broadcast(value, from)         the value of the thread with rank `from`
// Each collective is a barrier too. In terms of these there are for_each, any, all, compact and sort. Values are
// trivially copyable, of at most 16 bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cstring>
#define D2K_DEVICE __host__ __device__ __forceinline__
#else
#define D2K_DEVICE inline
#endif

// Before a loop of few rounds or of long bodies, of which four copies would be slower to compile and to fetch.
// And before one whose arrays are to be registers.
#ifdef __CUDA_ARCH__
#define D2K_ROLLED _Pragma("unroll 1")
#define D2K_UNROLLED _Pragma("unroll")
#else
#define D2K_ROLLED
#define D2K_UNROLLED
#endif

namespace d2k {

struct Sum {
    template <class T>
    D2K_DEVICE T operator()(T a, T b) const { return a + b; }
};

struct Max {
    template <class T>
    D2K_DEVICE T operator()(T a, T b) const { return a < b ? b : a; }
};

struct Min {
    template <class T>
    D2K_DEVICE T operator()(T a, T b) const { return b < a ? b : a; }
};

// Working memory of one team: the same calls on every thread give the same addresses. What was taken is free again
// when the Scratch that took it is copied afresh from the one before.
class Scratch {
public:
    D2K_DEVICE Scratch(void* memory, size_t bytes) : next_(static_cast<unsigned char*>(memory)), end_(next_ + bytes) {}

    // Null where it does not fit.
    template <class T>
    D2K_DEVICE T* take(int64_t count) {
        const auto address = reinterpret_cast<uintptr_t>(next_);
        unsigned char* first = next_ + ((alignof(T) - address % alignof(T)) % alignof(T));
        if (first > end_ || count < 0 || static_cast<size_t>(count) > size_t(end_ - first) / sizeof(T)) return nullptr;
        next_ = first + count * sizeof(T);
        return reinterpret_cast<T*>(first);
    }

private:
    unsigned char *next_, *end_;
};

// body(i) for i in [0, count), spread over the team.
template <class Team, class Index, class Body>
D2K_DEVICE void for_each(const Team& team, Index count, const Body& body) {
    D2K_ROLLED
    for (Index i = team.rank(); i < count; i += team.size()) body(i);
}

template <class Team>
D2K_DEVICE bool any(Team& team, bool value) { return team.reduce(int{value}, Max{}) != 0; }

template <class Team>
D2K_DEVICE bool all(Team& team, bool value) { return team.reduce(int{value}, Min{}) != 0; }

// Where a kept item goes, when the items of a tile are in rank order; `count` then includes this tile's kept items.
template <class Team, class Index>
D2K_DEVICE Index compact(Team& team, bool keep, Index& count) {
    return team.scan(Index{keep}, Sum{}, count) - 1;
}

// Sorts items[0, count) in the team's memory: Batcher's odd-even merge, which needs no padding to a power of two.
// `less` orders any two items, so that every team gives the same result.
template <class Team, class T, class Less>
D2K_DEVICE void sort(Team& team, T* items, int64_t count, const Less& less) {
    team.barrier();
    for (int64_t p = 1; p < count; p *= 2)
        for (int64_t k = p; k >= 1; k /= 2) {
            const int64_t first = k % p;
            for_each(team, count, [&](int64_t i) {
                const int64_t j = i + k;
                if (i < first || j >= count || (i - first) % (2 * k) >= k || i / (2 * p) != j / (2 * p)) return;
                if (less(items[j], items[i])) {
                    const T swap = items[i];
                    items[i] = items[j];
                    items[j] = swap;
                }
            });
            team.barrier();
        }
}

// One CPU thread: a tile is one item and every collective is the identity.
struct HostTeam {
    static constexpr int size() { return 1; }
    static constexpr int rank() { return 0; }
    void barrier() const {}

    template <class T, class Op>
    T reduce(T value, Op) const { return value; }

    template <class T, class Op>
    T scan(T value, Op op, T& carry) const { return carry = op(carry, value); }

    template <class T>
    T broadcast(T value, int) const { return value; }
};

template <class T, class Less>
void sort(HostTeam&, T* items, int64_t count, const Less& less) { std::sort(items, items + count, less); }

#ifdef __CUDACC__
// A value from another lane of the warp, all of whose lanes call it.
template <class T, class Move>
__device__ __forceinline__ T moved(const T& value, const Move& move) {
    static_assert(sizeof(T) % sizeof(unsigned) == 0, "values are whole words");
    constexpr int words = sizeof(T) / sizeof(unsigned);
    unsigned from[words], to[words];
    memcpy(from, &value, sizeof value);
    for (int i = 0; i < words; ++i) to[i] = move(from[i]);
    T result;
    memcpy(&result, to, sizeof result);
    return result;
}

// A CUDA block of whole warps. Collectives take turns with two places in shared memory, so that one barrier is enough:
// a place is written again only after every thread has come to the next one's.
template <int Threads>
class BlockTeam {
    static constexpr int kWarp = 32, kWarps = Threads / kWarp;
    static_assert(Threads % kWarp == 0, "a team has whole warps");

public:
    struct Storage {
        struct alignas(16) Value {
            unsigned char bytes[16];
        } of_warp[2][kWarps];
    };

    __device__ explicit BlockTeam(Storage& storage) : storage_(storage) {}

    static __host__ __device__ constexpr int size() { return Threads; }
    __device__ int rank() const { return static_cast<int>(threadIdx.x); }
    __device__ void barrier() const {
        if constexpr (kWarps == 1) __syncwarp();
        else __syncthreads();
    }

    template <class T, class Op>
    __device__ T reduce(T value, Op op) {
        for (int step = kWarp / 2; step > 0; step /= 2)
            value = op(value, moved(value, [&](unsigned x) { return __shfl_down_sync(~0u, x, step); }));
        const T* const parts = exchange(value, lane() == 0, warp());
        value = parts[0];
        for (int w = 1; w < kWarps; ++w) value = op(value, parts[w]);
        return value;
    }

    template <class T, class Op>
    __device__ T scan(T value, Op op, T& carry) {
        for (int step = 1; step < kWarp; step *= 2) {
            const T before = moved(value, [&](unsigned x) { return __shfl_up_sync(~0u, x, step); });
            if (lane() >= step) value = op(before, value);
        }
        const T* const parts = exchange(value, lane() == kWarp - 1, warp());
        T all = carry;
        for (int w = 0; w < kWarps; ++w) {
            if (w == warp()) value = op(all, value);
            all = op(all, parts[w]);
        }
        carry = all;
        return value;
    }

    template <class T>
    __device__ T broadcast(T value, int from) {
        return *exchange(value, rank() == from, 0);
    }

    // As compact: by ballots.
    __device__ int32_t place(bool keep, int32_t& count) {
        const unsigned kept = __ballot_sync(~0u, keep);
        const int32_t* const parts = exchange(__popc(kept), lane() == 0, warp());
        int32_t before = count + __popc(kept & ((1u << lane()) - 1));
        for (int w = 0; w < kWarps; ++w) {
            before += w < warp() ? parts[w] : 0;
            count += parts[w];
        }
        return before;
    }

private:
    __device__ int lane() const { return rank() % kWarp; }
    __device__ int warp() const { return rank() / kWarp; }

    // The team's places after those threads that `give` have put theirs.
    template <class T>
    __device__ const T* exchange(const T& value, bool give, int place) {
        using Value = typename Storage::Value;
        static_assert(sizeof(T) <= sizeof(Value) && alignof(T) <= alignof(Value), "values have at most 16 bytes");
        Value* const places = storage_.of_warp[turn_];
        turn_ ^= 1;
        T* const parts = reinterpret_cast<T*>(places);
        if (give) parts[place] = value;
        barrier();
        return parts;
    }

    Storage& storage_;
    int turn_ = 0;
};

template <int Threads>
__device__ __forceinline__ int32_t compact(BlockTeam<Threads>& team, bool keep, int32_t& count) {
    return team.place(keep, count);
}
#endif

}  // namespace d2k

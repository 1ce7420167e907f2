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
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#define D2K_DEVICE __host__ __device__ __forceinline__
#else
#define D2K_DEVICE inline
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
template <class Team, class Body>
D2K_DEVICE void for_each(const Team& team, int64_t count, const Body& body) {
    for (int64_t i = team.rank(); i < count; i += team.size()) body(i);
}

template <class Team>
D2K_DEVICE bool any(Team& team, bool value) { return team.reduce(int{value}, Max{}) != 0; }

template <class Team>
D2K_DEVICE bool all(Team& team, bool value) { return team.reduce(int{value}, Min{}) != 0; }

// Where a kept item goes, when the items of a tile are in rank order; `count` then includes this tile's kept items.
template <class Team>
D2K_DEVICE int64_t compact(Team& team, bool keep, int64_t& count) {
    return team.scan(int64_t{keep}, Sum{}, count) - 1;
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
// A CUDA block.
template <int Threads>
class BlockTeam {
    struct Widest {
        int64_t a, b;
    };
    template <class T>
    using Reduce = cub::BlockReduce<T, Threads>;
    template <class T>
    using Scan = cub::BlockScan<T, Threads>;

public:
    struct Storage {
        union {
            typename Reduce<Widest>::TempStorage reduce;
            typename Scan<Widest>::TempStorage scan;
        };
        Widest result;
    };

    __device__ explicit BlockTeam(Storage& storage) : storage_(storage) {}

    static __host__ __device__ constexpr int size() { return Threads; }
    __device__ int rank() const { return static_cast<int>(threadIdx.x); }
    __device__ void barrier() const { __syncthreads(); }

    template <class T, class Op>
    __device__ T reduce(T value, Op op) {
        auto& storage = as<typename Reduce<T>::TempStorage>(storage_.reduce);
        return broadcast(Reduce<T>(storage).Reduce(value, op), 0);
    }

    template <class T, class Op>
    __device__ T scan(T value, Op op, T& carry) {
        T scanned, all;
        Scan<T>(as<typename Scan<T>::TempStorage>(storage_.scan)).InclusiveScan(value, scanned, op, all);
        barrier();  // the storage is free again for the next collective
        scanned = op(carry, scanned);
        carry = op(carry, all);
        return scanned;
    }

    template <class T>
    __device__ T broadcast(T value, int from) {
        T& slot = as<T>(storage_.result);
        if (rank() == from) slot = value;
        barrier();
        const T result = slot;
        barrier();
        return result;
    }

private:
    template <class As, class From>
    static __device__ As& as(From& storage) {
        static_assert(sizeof(As) <= sizeof(From) && alignof(As) <= alignof(From), "values have at most 16 bytes");
        return reinterpret_cast<As&>(storage);
    }

    Storage& storage_;
};
#endif

}  // namespace d2k

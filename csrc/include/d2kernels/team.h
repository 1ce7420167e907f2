// One work item's parallel team, so that an irregular kernel is written once and runs on a CPU thread and a CUDA block.
//
// Every thread of the team calls every collective, the same number of times, with loop bounds that do not depend on
// the thread. A team has:
//   size(), rank()                 how many threads, and which one this is
//   barrier()                      all arrive before any goes on; memory written before is seen after
//   reduce(value, op)              over the team, the same result on every thread
//   scan(value, op, carry)         inclusive over the ranks, continued from `carry`, which then includes this tile
//   compact(keep, count)           where a kept item goes; `count` then includes this tile's kept items
#pragma once

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

// compact() in terms of scan(), for every team.
template <class Team>
D2K_DEVICE int64_t compact(Team& team, bool keep, int64_t& count) {
    return team.scan(int64_t{keep}, Sum{}, count) - 1;
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
};

#ifdef __CUDACC__
// A CUDA block. `Value` is the type that its collectives work on.
template <int Threads, class Value = int64_t>
class BlockTeam {
    using Reduce = cub::BlockReduce<Value, Threads>;
    using Scan = cub::BlockScan<Value, Threads>;

public:
    struct Storage {
        union {
            typename Reduce::TempStorage reduce;
            typename Scan::TempStorage scan;
        };
        Value result;
    };

    __device__ explicit BlockTeam(Storage& storage) : storage_(storage) {}

    static __host__ __device__ constexpr int size() { return Threads; }
    __device__ int rank() const { return static_cast<int>(threadIdx.x); }
    __device__ void barrier() const { __syncthreads(); }

    template <class Op>
    __device__ Value reduce(Value value, Op op) {
        const Value all = Reduce(storage_.reduce).Reduce(value, op);
        if (rank() == 0) storage_.result = all;
        barrier();
        const Value result = storage_.result;
        barrier();  // the storage is free again for the next collective
        return result;
    }

    template <class Op>
    __device__ Value scan(Value value, Op op, Value& carry) {
        Value scanned, all;
        Scan(storage_.scan).InclusiveScan(value, scanned, op, all);
        barrier();
        scanned = op(carry, scanned);
        carry = op(carry, all);
        return scanned;
    }

private:
    Storage& storage_;
};
#endif

}  // namespace d2k

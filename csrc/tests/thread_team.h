// A CUDA block's stand-in: host threads with a real barrier, so that ThreadSanitizer finds a missing one, and threads that
// meet in different collectives are told apart.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

#ifdef __linux__
#include <climits>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace d2k {

class ThreadTeam {
public:
    // What the threads of one team share. A mutex would order a thread that wakes late after one that has already gone
    // on, and so hide races from ThreadSanitizer; here a round's end is all that orders them.
    class Meeting {
    public:
        explicit Meeting(int size) : size_(size), calls_(size), slots_(size) {}

        int size() const { return size_; }

        // All arrive before any goes on; ends the program where they came for different things.
        void meet(int rank, const char* call, int from = 0) {
            calls_[rank] = {call, from};
            const uint32_t mine = round_.load(std::memory_order_relaxed);
            if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
                for (int r = 1; r < size_; ++r) compare(r);
                arrived_.store(0, std::memory_order_relaxed);
                round_.store(mine + 1, std::memory_order_release);
                wake();
            } else {
                while (round_.load(std::memory_order_acquire) == mine) sleep(mine);
            }
        }

        unsigned char* slot(int rank) { return slots_[rank].bytes; }

    private:
        struct Call {
            const char* name = "";
            int from = 0;
        };
        struct Slot {
            alignas(64) unsigned char bytes[64];
        };

        void compare(int rank) const {
            const Call &a = calls_[0], &b = calls_[rank];
            if (std::strcmp(a.name, b.name) == 0 && a.from == b.from) return;
            std::fprintf(stderr, "divergent collective: thread 0 in %s from %d, thread %d in %s from %d\n", a.name,
                         a.from, rank, b.name, b.from);
            std::_Exit(3);
        }

#ifdef __linux__
        void sleep(uint32_t round) { syscall(SYS_futex, &round_, FUTEX_WAIT_PRIVATE, round, nullptr, nullptr, 0); }
        void wake() { syscall(SYS_futex, &round_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }
#else
        void sleep(uint32_t) { std::this_thread::yield(); }
        void wake() {}
#endif

        const int size_;
        std::atomic<int> arrived_{0};
        std::atomic<uint32_t> round_{0};
        std::vector<Call> calls_;
        std::vector<Slot> slots_;
    };

    ThreadTeam(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}

    int size() const { return meeting_.size(); }
    int rank() const { return rank_; }
    void barrier() const { meeting_.meet(rank_, "barrier"); }

    template <class T, class Op>
    T reduce(T value, Op op) {
        put(value);
        meeting_.meet(rank_, __PRETTY_FUNCTION__);
        T all = get<T>(0);
        for (int r = 1; r < size(); ++r) all = op(all, get<T>(r));
        meeting_.meet(rank_, __PRETTY_FUNCTION__);
        return all;
    }

    template <class T, class Op>
    T scan(T value, Op op, T& carry) {
        put(value);
        meeting_.meet(rank_, __PRETTY_FUNCTION__);
        T all = carry, mine = carry;
        for (int r = 0; r < size(); ++r) {
            all = op(all, get<T>(r));
            if (r == rank_) mine = all;
        }
        meeting_.meet(rank_, __PRETTY_FUNCTION__);
        carry = all;
        return mine;
    }

    template <class T>
    T broadcast(T value, int from) {
        if (rank_ == from) put(value);
        meeting_.meet(rank_, __PRETTY_FUNCTION__, from);
        const T result = get<T>(from);
        meeting_.meet(rank_, __PRETTY_FUNCTION__, from);
        return result;
    }

private:
    template <class T>
    void put(const T& value) {
        static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16, "what a block's storage can hold");
        std::memcpy(meeting_.slot(rank_), &value, sizeof value);
    }
    template <class T>
    T get(int rank) const {
        T value;
        std::memcpy(&value, meeting_.slot(rank), sizeof value);
        return value;
    }

    Meeting& meeting_;
    int rank_;
};

// Runs body(team) on every thread of a team of `size`.
template <class Body>
void run_team(int size, const Body& body) {
    ThreadTeam::Meeting meeting(size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank)
        threads.emplace_back([&, rank] {
            ThreadTeam team(meeting, rank);
            body(team);
            meeting.meet(rank, "end");
        });
    for (std::thread& thread : threads) thread.join();
}

}  // namespace d2k

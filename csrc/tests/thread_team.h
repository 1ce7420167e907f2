// A CUDA block's stand-in: host threads with a real barrier, so that ThreadSanitizer finds a missing one, and threads that
// meet in different collectives are told apart.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

namespace d2k {

class ThreadTeam {
public:
    // What the threads of one team share.
    class Meeting {
    public:
        explicit Meeting(int size) : size_(size), calls_(size), slots_(size) {}

        int size() const { return size_; }

        // All arrive before any goes on; ends the program where they came for different things.
        void meet(int rank, const char* call, size_t bytes) {
            std::unique_lock<std::mutex> lock(mutex_);
            calls_[rank] = {call, bytes};
            if (++arrived_ == size_) {
                for (int r = 1; r < size_; ++r) compare(r);
                arrived_ = 0;
                ++round_;
                all_here_.notify_all();
            } else {
                const uint64_t mine = round_;
                all_here_.wait(lock, [&] { return round_ != mine; });
            }
        }

        unsigned char* slot(int rank) { return slots_[rank].bytes; }

    private:
        struct Call {
            const char* name = "";
            size_t bytes = 0;
        };
        struct Slot {
            alignas(64) unsigned char bytes[64];
        };

        void compare(int rank) const {
            const Call &a = calls_[0], &b = calls_[rank];
            if (std::strcmp(a.name, b.name) == 0 && a.bytes == b.bytes) return;
            std::fprintf(stderr, "divergent collective: thread 0 in %s(%zu), thread %d in %s(%zu)\n", a.name, a.bytes,
                         rank, b.name, b.bytes);
            std::_Exit(3);
        }

        const int size_;
        std::mutex mutex_;
        std::condition_variable all_here_;
        int arrived_ = 0;
        uint64_t round_ = 0;
        std::vector<Call> calls_;
        std::vector<Slot> slots_;
    };

    ThreadTeam(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}

    int size() const { return meeting_.size(); }
    int rank() const { return rank_; }
    void barrier() const { meeting_.meet(rank_, "barrier", 0); }

    template <class T, class Op>
    T reduce(T value, Op op) {
        put(value);
        meeting_.meet(rank_, "reduce", sizeof(T));
        T all = get<T>(0);
        for (int r = 1; r < size(); ++r) all = op(all, get<T>(r));
        meeting_.meet(rank_, "reduce", sizeof(T));
        return all;
    }

    template <class T, class Op>
    T scan(T value, Op op, T& carry) {
        put(value);
        meeting_.meet(rank_, "scan", sizeof(T));
        T all = carry, mine = carry;
        for (int r = 0; r < size(); ++r) {
            all = op(all, get<T>(r));
            if (r == rank_) mine = all;
        }
        meeting_.meet(rank_, "scan", sizeof(T));
        carry = all;
        return mine;
    }

    template <class T>
    T broadcast(T value, int from) {
        if (rank_ == from) put(value);
        meeting_.meet(rank_, "broadcast", sizeof(T));
        const T result = get<T>(from);
        meeting_.meet(rank_, "broadcast", sizeof(T));
        return result;
    }

private:
    template <class T>
    void put(const T& value) { std::memcpy(meeting_.slot(rank_), &value, sizeof value); }
    template <class T>
    T get(int rank) const {
        T value;
        std::memcpy(&value, meeting_.slot(rank), sizeof value);
        return value;
    }

    Meeting& meeting_;
    int rank_;
};

// body(team) on every thread of a team of `size`.
template <class Body>
void run_team(int size, const Body& body) {
    ThreadTeam::Meeting meeting(size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank)
        threads.emplace_back([&, rank] {
            ThreadTeam team(meeting, rank);
            body(team);
            meeting.meet(rank, "end", 0);
        });
    for (std::thread& thread : threads) thread.join();
}

}  // namespace d2k

// Long work on the CPU ends early where its caller is interrupted (Ctrl-C) or another thread of the same call has failed.
#pragma once

#include <atomic>
#include <chrono>

#include "d2kernels/status.h"

namespace d2k::cpu {

struct Interrupted {};

// Of the thread that a call came on: whether whoever made it wants it to end. Null where nobody can.
inline thread_local bool (*interrupted)() = nullptr;
// Of a thread of parallel_for: what the others have met.
inline thread_local const std::atomic<Status>* met = nullptr;

// Whether to end; asks at most every 50 ms, since asking may wait for Python.
inline bool asked_to_end() {
    using Clock = std::chrono::steady_clock;
    if (met && *met != kOk) return true;
    if (!interrupted) return false;
    static thread_local Clock::time_point last{};
    const auto now = Clock::now();
    if (now - last < std::chrono::milliseconds(50)) return false;
    last = now;
    return interrupted();
}

// A loop's: spend(ns) after every piece of work, about that long, throws Interrupted where it should end.
class Patience {
public:
    void spend(double nanoseconds) {
        left_ -= nanoseconds;
        if (left_ > 0) return;
        left_ = kEvery;
        if (asked_to_end()) throw Interrupted{};
    }

private:
    static constexpr double kEvery = 1e6;
    double left_ = kEvery;
};

}  // namespace d2k::cpu

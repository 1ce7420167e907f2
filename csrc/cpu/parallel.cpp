#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "patience.h"

#ifdef __linux__
#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>
#endif

namespace d2k::cpu {
namespace {

constexpr double kThreadSteps = 250e3;  // starting and joining a thread costs 20 to 50 microseconds
constexpr double kWakeSteps = 100e3;    // one that OpenMP keeps asleep, 5 to 20; on a busy machine, far more
constexpr double kTeamSteps = 10e3;     // each thread of an OpenMP team, which is woken as a whole
constexpr int kMostThreads = 64;

#ifdef __linux__
const pid_t kLoadedBy = getpid();
#endif

using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// The OpenMP runtime that torch has brought, or null. Threads of our own would compete with its workers, which spin
// for a while after each of torch's operations. We never link one: two runtimes in a process are trouble.
Parallel openmp() {
#ifdef __linux__
    if (getpid() != kLoadedBy) return nullptr;  // no OpenMP runtime survives a fork
    static std::atomic<Parallel> found{nullptr};
    Parallel parallel = found.load(std::memory_order_relaxed);
    if (!parallel) {
        parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
        found.store(parallel, std::memory_order_relaxed);
    }
    return parallel;
#else
    return nullptr;
#endif
}

// Waits until no other thread works, and asks in the meantime whether to end.
void wait_for(const std::atomic<int>& working, std::atomic<Status>& status) {
    using namespace std::chrono;
    const auto begin = steady_clock::now();
    while (working.load(std::memory_order_acquire) > 0) {
        const auto waited = steady_clock::now() - begin;
        if (waited < microseconds(200)) {
            std::this_thread::yield();
            continue;
        }
        std::this_thread::sleep_for(std::min<nanoseconds>(waited / 16, milliseconds(20)));
        if (status == kOk && asked_to_end()) status = kInterrupted;
    }
}

int usable_cores() {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

Status parallel_for(int64_t items, int64_t chunk, double steps, int threads,
                    const std::function<void(int64_t, int64_t)>& body) {
    std::atomic<int64_t> next{0};
    std::atomic<Status> status{kOk};
    std::atomic<int> working{0};  // threads besides the caller's
    const auto caller = std::this_thread::get_id();
    const double each_chunk = steps / static_cast<double>(std::max<int64_t>(1, (items + chunk - 1) / chunk));
    const auto work = [&] {
        const bool helps = std::this_thread::get_id() != caller;
        if (helps) working.fetch_add(1);
        const auto* const before = std::exchange(met, &status);
        try {
            Patience patience;
            while (status == kOk) {
                const int64_t begin = next.fetch_add(chunk);
                if (begin >= items) break;
                body(begin, std::min(items, begin + chunk));
                patience.spend(each_chunk);
            }
        } catch (const std::bad_alloc&) {
            status = kOutOfMemory;
        } catch (const Interrupted&) {
            if (status == kOk) status = kInterrupted;
        }
        met = before;
        if (helps) working.fetch_sub(1, std::memory_order_release);
        else if (interrupted && working.load(std::memory_order_acquire) > 0) wait_for(working, status);
    };

    // Who names a number of threads is torch's caller, or as good as one.
    const Parallel parallel = threads > 1 ? openmp() : nullptr;
    const double least = parallel ? kWakeSteps : kThreadSteps;
    int64_t wanted = 1;
    if (steps > 2 * least && (!parallel || steps > threads * kTeamSteps) && threads != 1 && items > chunk)
        wanted = std::min<int64_t>({threads > 0 ? threads : usable_cores(), kMostThreads,
                                    static_cast<int64_t>(std::min(steps / least, 1e3)), (items + chunk - 1) / chunk});
    if (parallel && wanted > 1) {
        const auto* each = &work;
        const auto call = [](void* body) { (**static_cast<decltype(each)*>(body))(); };
        // All of torch's workers, since a smaller team would end the others.
        parallel(call, &each, static_cast<unsigned>(threads), 0);
        return status;
    }
    std::vector<std::thread> helpers;
    try {
        for (int64_t i = 1; i < wanted; ++i) helpers.emplace_back(work);
    } catch (const std::system_error&) {
        // The threads there are do all the work.
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    return status;
}

}  // namespace d2k::cpu

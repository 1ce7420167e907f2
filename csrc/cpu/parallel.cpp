#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

namespace d2k::cpu {
namespace {

constexpr double kThreadSteps = 250e3;  // starting and joining a thread costs 20 to 50 microseconds
constexpr int kMostThreads = 64;

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
    const auto work = [&] {
        try {
            while (status == kOk) {
                const int64_t begin = next.fetch_add(chunk);
                if (begin >= items) break;
                body(begin, std::min(items, begin + chunk));
            }
        } catch (const std::bad_alloc&) {
            status = kOutOfMemory;
        }
    };

    std::vector<std::thread> helpers;
    if (steps > 2 * kThreadSteps && threads != 1 && items > chunk) {
        const int64_t wanted = std::min<int64_t>({threads > 0 ? threads : usable_cores(), kMostThreads,
                                                  static_cast<int64_t>(std::min(steps / kThreadSteps, 1e3)),
                                                  (items + chunk - 1) / chunk});
        try {
            for (int64_t i = 1; i < wanted; ++i) helpers.emplace_back(work);
        } catch (const std::system_error&) {
            // The threads there are do all the work.
        }
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    return status;
}

}  // namespace d2k::cpu

// Threads of one call: torch's own OpenMP workers where a number of threads is named and torch is there, else threads
// that end with the call. Neither breaks after a fork.
#pragma once

#include <cstdint>
#include <functional>

#include "d2kernels/status.h"

namespace d2k::cpu {

// Calls body(begin, end) over [0, items), in chunks of at most `chunk`, on up to `threads` threads (0: as many as this
// process may run on). `steps` is about how many nanoseconds of work there are: too few stay on the calling thread.
// An exception in body ends the call with a status.
Status parallel_for(int64_t items, int64_t chunk, double steps, int threads,
                    const std::function<void(int64_t, int64_t)>& body);

}  // namespace d2k::cpu

#include "d2kernels/localize_block.h"

#include <algorithm>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kItemThreads = 128;  // few, as sequences are short: five items on a multiprocessor instead of two
constexpr int64_t kMostBlocks = 1 << 20;  // blocks stride over more items than this

using Team = BlockTeam<kThreads>;
using ItemTeam = BlockTeam<kItemThreads>;

int64_t blocks(int64_t items) { return std::min(std::max<int64_t>(items, 1), kMostBlocks); }

template <class T>
__global__ void __launch_bounds__(kThreads) place_kernel(Localization<T> problem, LocalizeMemory<T> memory) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    place_items(team, problem, memory);
}

template <class T>
__global__ void __launch_bounds__(kItemThreads, 5) item_kernel(Localization<T> problem, LocalizeMemory<T> memory) {
    __shared__ typename ItemTeam::Storage storage;
    ItemTeam team(storage);
    const int64_t count = *memory.count;
    for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
        localize_item(team, problem, memory, memory.wanted[i]);
        team.barrier();
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) keep_kernel(Localization<T> problem, LocalizeMemory<T> memory,
                                                        int64_t* counts) {
    const int64_t n = problem.sequences.count, step = int64_t{gridDim.x} * kThreads;
    for (int64_t s = int64_t{blockIdx.x} * kThreads + threadIdx.x; s < n; s += step)
        counts[s] = keep_of_sequence(problem, memory, s);
}

__global__ void __launch_bounds__(kThreads) first_kernel(const int64_t* counts, int64_t sequences, int64_t* first) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    first_of_counts(team, counts, sequences, first);
}

template <class T>
__global__ void __launch_bounds__(kThreads) write_kernel(Localization<T> problem, LocalizeMemory<T> memory,
                                                         const int64_t* first, int64_t capacity,
                                                         DetectionColumns out) {
    __shared__ typename Team::Storage storage;
    const Team team(storage);
    for (int64_t i = blockIdx.x; i < problem.items(); i += gridDim.x)
        write_item(team, problem, memory, i, first[i / problem.classes], capacity, out);
}

// Laid out in the workspace; `bytes` is how much of it that takes.
template <class T>
LocalizeMemory<T> memory_of(int64_t room, int64_t sequences, int64_t classes, int64_t upsample, void* workspace,
                            size_t* bytes) {
    LocalizeMemory<T> memory{};
    memory.room = room;
    memory.sequences = sequences;
    memory.classes = classes;
    memory.factor = upsample;
    *bytes = memory.lay_out(reinterpret_cast<uintptr_t>(workspace));
    return memory;
}

template <class T>
LocalizeMemory<T> memory_of(const Localization<T>& p, int64_t room, void* workspace) {
    size_t bytes = 0;
    return memory_of<T>(room, p.sequences.count, p.classes, p.rules.upsample, workspace, &bytes);
}

}  // namespace

template <class T>
size_t localize_workspace(int64_t room, int64_t sequences, int64_t classes, int64_t upsample) {
    size_t bytes = 0;
    memory_of<T>(room, sequences, classes, upsample, nullptr, &bytes);
    return bytes;
}

template <class T>
Status localize_find(const Localization<T>& problem, int64_t room, int64_t* counts, int64_t* first, void* workspace,
                     int device, void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const int64_t n = problem.sequences.count;
    const LocalizeMemory<T> memory = memory_of(problem, room, workspace);
    D2K_TRY(launch(place_kernel<T>, 1, kThreads, 0, stream, problem, memory));
    D2K_TRY(launch(item_kernel<T>, blocks(problem.items()), kItemThreads, 0, stream, problem, memory));
    D2K_TRY(launch(keep_kernel<T>, blocks(n / kThreads + 1), kThreads, 0, stream, problem, memory, counts));
    D2K_TRY(launch(first_kernel, 1, kThreads, 0, stream, counts, n, first));
    return kOk;
}

template <class T>
Status localize_write(const Localization<T>& problem, int64_t room, const int64_t* first, int64_t capacity,
                      const DetectionColumns& out, void* workspace, int device, void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const LocalizeMemory<T> memory = memory_of(problem, room, workspace);
    D2K_TRY(launch(write_kernel<T>, blocks(problem.items()), kThreads, 0, stream, problem, memory, first, capacity, out));
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                                          \
    template size_t localize_workspace<T>(int64_t, int64_t, int64_t, int64_t);                                      \
    template Status localize_find<T>(const Localization<T>&, int64_t, int64_t*, int64_t*, void*, int, void*);       \
    template Status localize_write<T>(const Localization<T>&, int64_t, const int64_t*, int64_t,                     \
                                      const DetectionColumns&, void*, int, void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)

}  // namespace d2k::cuda

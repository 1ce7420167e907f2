#include "d2kernels/localize_block.h"

#include <algorithm>

#include <cub/device/device_scan.cuh>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 20;  // blocks stride over more items than this

using Team = BlockTeam<kThreads>;

int blocks(int64_t items) { return static_cast<int>(std::min(std::max<int64_t>(items, 1), kMostBlocks)); }

template <class T>
__global__ void __launch_bounds__(kThreads) order_kernel(Sequences sequences, LocalizeMemory<T> memory) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    const bool fine = in_order(team, sequences);
    if (team.rank() == 0) *memory.valid = fine;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) item_kernel(Localization<T> problem, LocalizeMemory<T> memory) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    for (int64_t i = blockIdx.x; i < problem.items(); i += gridDim.x) {
        localize_item(team, problem, memory, i);
        team.barrier();
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) keep_kernel(Localization<T> problem, LocalizeMemory<T> memory,
                                                        int64_t* counts, int64_t* first) {
    const int64_t n = problem.sequences.count, step = int64_t{gridDim.x} * kThreads;
    for (int64_t s = int64_t{blockIdx.x} * kThreads + threadIdx.x; s <= n; s += step) {
        const int64_t count = s < n ? keep_of_sequence(problem, memory, s) : 0;
        if (s < n) counts[s] = count;
        first[s] = count;
    }
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

// Returns the bytes that the scan works in, behind the planes.
template <class T>
LocalizeMemory<T> memory_of(int64_t total, int64_t sequences, int64_t classes, int64_t upsample, void* workspace,
                            size_t* bytes) {
    LocalizeMemory<T> memory{};
    memory.total = total;
    memory.sequences = sequences;
    memory.classes = classes;
    memory.factor = upsample;
    *bytes = memory.lay_out(reinterpret_cast<uintptr_t>(workspace));
    return memory;
}

template <class T>
LocalizeMemory<T> memory_of(const Localization<T>& p, void* workspace, size_t* bytes) {
    return memory_of<T>(p.sequences.total, p.sequences.count, p.classes, p.rules.upsample, workspace, bytes);
}

}  // namespace

template <class T>
Status localize_workspace(int64_t total, int64_t sequences, int64_t classes, int64_t upsample, int device,
                          size_t* bytes) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    int64_t* none = nullptr;
    size_t planes = 0, scan = 0;
    memory_of<T>(total, sequences, classes, upsample, nullptr, &planes);
    D2K_TRY(cub::DeviceScan::ExclusiveSum(nullptr, scan, none, none, sequences + 1));
    *bytes = planes + scan;
    return kOk;
}

template <class T>
Status localize_find(const Localization<T>& problem, int64_t* counts, int64_t* first, void* workspace, size_t bytes,
                     int device, void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const auto on = static_cast<cudaStream_t>(stream);
    const int64_t n = problem.sequences.count;
    size_t planes = 0;
    const LocalizeMemory<T> memory = memory_of(problem, workspace, &planes);
    order_kernel<<<1, kThreads, 0, on>>>(problem.sequences, memory);
    D2K_TRY(cudaGetLastError());
    item_kernel<<<blocks(problem.items()), kThreads, 0, on>>>(problem, memory);
    D2K_TRY(cudaGetLastError());
    keep_kernel<<<blocks(n / kThreads + 1), kThreads, 0, on>>>(problem, memory, counts, first);
    D2K_TRY(cudaGetLastError());
    size_t scan = bytes - planes;
    D2K_TRY(cub::DeviceScan::ExclusiveSum(static_cast<char*>(workspace) + planes, scan, first, first, n + 1, on));
    return kOk;
}

template <class T>
Status localize_write(const Localization<T>& problem, const int64_t* first, int64_t capacity,
                      const DetectionColumns& out, void* workspace, int device, void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    size_t planes = 0;
    const LocalizeMemory<T> memory = memory_of(problem, workspace, &planes);
    write_kernel<<<blocks(problem.items()), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(problem, memory, first,
                                                                                              capacity, out);
    D2K_TRY(cudaGetLastError());
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                                        \
    template Status localize_workspace<T>(int64_t, int64_t, int64_t, int64_t, int, size_t*);                      \
    template Status localize_find<T>(const Localization<T>&, int64_t*, int64_t*, void*, size_t, int, void*);      \
    template Status localize_write<T>(const Localization<T>&, const int64_t*, int64_t, const DetectionColumns&,   \
                                      void*, int, void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)

}  // namespace d2k::cuda

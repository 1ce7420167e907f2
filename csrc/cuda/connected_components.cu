#include "d2kernels/connected_components.h"

#include <algorithm>

#include <cub/device/device_scan.cuh>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMostBlocks = 1 << 20;  // blocks stride over more items than this

using Team = BlockTeam<kThreads>;

int64_t blocks(int64_t items) { return std::min(items, kMostBlocks); }

template <class T>
__global__ void __launch_bounds__(kThreads) count_kernel(Components<T> problem, int64_t* counts) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    const int64_t items = problem.items();
    for (int64_t i = blockIdx.x; i <= items; i += gridDim.x) {
        int64_t count = 0;
        if (i < items) {
            const auto item = problem.item(i);
            if (problem.wanted(item)) count = count_runs(team, problem, item, problem.column(item));
        }
        if (team.rank() == 0) counts[i] = count;
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(Components<T> problem, const int64_t* positions,
                                                        Segments out) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    const int64_t items = problem.items();
    for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
        const int64_t first = positions[i], room = positions[i + 1] - first;
        if (room <= 0) continue;
        const auto item = problem.item(i);
        fill_runs(team, problem, item, problem.column(item), first, room, out);
    }
}

}  // namespace

Status connected_components_workspace(int64_t items, int device, size_t* bytes) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    int64_t* none = nullptr;
    *bytes = 0;
    D2K_TRY(cub::DeviceScan::ExclusiveSum(nullptr, *bytes, none, none, items + 1));
    return kOk;
}

template <class T>
Status connected_components_count(const Components<T>& problem, int64_t* positions, void* workspace, size_t bytes,
                                  int device, void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const auto on = static_cast<cudaStream_t>(stream);
    D2K_TRY(launch(count_kernel<T>, blocks(problem.items() + 1), kThreads, 0, stream, problem, positions));
    D2K_TRY(cub::DeviceScan::ExclusiveSum(workspace, bytes, positions, positions, problem.items() + 1, on));
    return kOk;
}

template <class T>
Status connected_components_fill(const Components<T>& problem, const int64_t* positions, Segments out, int device,
                                 void* stream) {
    if (problem.items() == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    D2K_TRY(launch(fill_kernel<T>, blocks(problem.items()), kThreads, 0, stream, problem, positions, out));
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                                          \
    template Status connected_components_count<T>(const Components<T>&, int64_t*, void*, size_t, int, void*);       \
    template Status connected_components_fill<T>(const Components<T>&, const int64_t*, Segments, int, void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)

}  // namespace d2k::cuda

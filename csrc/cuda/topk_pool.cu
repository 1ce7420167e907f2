#include "d2kernels/topk_pool.h"

#include <algorithm>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 320;
constexpr int kGroup = 4;             // classes of a block: enough blocks for small batches, half a sector for large ones
constexpr int kCacheBytes = 96000;  // 6000 rows of four float32 scores, and two blocks on an SM of sm_80, 90 and 100
constexpr int64_t kMostBlocks = 1 << 20;
constexpr int kRows = 32;  // rows of a backward tile

using Team = BlockTeam<kThreads>;

template <class T>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(TopkPool<T> problem, TopkPoolOut<T> out, int64_t capacity) {
    __shared__ typename Team::Storage storage;
    __shared__ TopkShared<kGroup> shared;
    extern __shared__ __align__(16) unsigned char cache[];
    Team team(storage);
    const int64_t groups = (problem.classes + kGroup - 1) / kGroup, items = problem.sequences.count * groups;
    for (int64_t i = blockIdx.x; i < items; i += gridDim.x)
        topk_pool<kGroup>(team, problem, out, i / groups, i % groups * kGroup, shared,
                          reinterpret_cast<KeyOf<T>*>(cache), capacity);
}

// The last sequence that starts at or before the row, if the row is in it, else -1.
__device__ int64_t sequence_of(const Sequences& sequences, int64_t row) {
    int64_t low = 0, high = sequences.count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (sequences[middle].first <= row) low = middle + 1;
        else high = middle;
    }
    if (low == 0) return -1;
    const auto range = sequences[low - 1];
    return row >= range.first && row < range.first + range.length ? low - 1 : -1;
}

template <class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(TopkPool<T> problem, TopkPoolSaved<T> saved, T* grad) {
    __shared__ int64_t sequence[kRows], count[kRows];
    const int64_t total = problem.sequences.total, tiles = (total + kRows - 1) / kRows;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int64_t first = tile * kRows;
        const int rows = static_cast<int>(total - first < kRows ? total - first : kRows);
        if (threadIdx.x < rows) {
            const int64_t i = sequence_of(problem.sequences, first + threadIdx.x);
            sequence[threadIdx.x] = i;
            count[threadIdx.x] = i < 0 ? 1 : problem.count(i, problem.sequences[i].length);
        }
        __syncthreads();
        const int64_t start = first * problem.classes, size = rows * problem.classes;
        for (int64_t e = threadIdx.x; e < size; e += kThreads) {
            const int64_t row = e / problem.classes, i = sequence[row];
            const int64_t at = i * problem.classes + (e - row * problem.classes);
            grad[start + e] = i < 0 ? stored<T>(0) : saved.gradient(problem.scores[start + e], at, count[row]);
        }
        __syncthreads();
    }
}

}  // namespace

template <class T>
Status topk_pool(const TopkPool<T>& problem, const TopkPoolOut<T>& out, int device, void* stream) {
    const int64_t items = problem.sequences.count * ((problem.classes + kGroup - 1) / kGroup);
    if (items == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    int most = 0;
    D2K_TRY(raise_shared_limit(forward_kernel<T>, device, &most));
    const int bytes = std::min(kCacheBytes, most);
    // No sequence has more rows than there are.
    const int64_t fit = bytes / static_cast<int>(sizeof(KeyOf<T>));
    const int64_t capacity = problem.sequences.total < fit / kGroup ? problem.sequences.total * kGroup : fit;
    D2K_TRY(launch(forward_kernel<T>, std::min(items, kMostBlocks), kThreads, capacity * sizeof(KeyOf<T>), stream,
                   problem, out, capacity));
    return kOk;
}

template <class T>
Status topk_pool_backward(const TopkPool<T>& problem, const TopkPoolSaved<T>& saved, T* grad_scores, int device,
                          void* stream) {
    const int64_t tiles = (problem.sequences.total + kRows - 1) / kRows;
    if (tiles == 0 || problem.classes == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    D2K_TRY(launch(backward_kernel<T>, std::min(tiles, kMostBlocks), kThreads, 0, stream, problem, saved, grad_scores));
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                                     \
    template Status topk_pool<T>(const TopkPool<T>&, const TopkPoolOut<T>&, int, void*);                       \
    template Status topk_pool_backward<T>(const TopkPool<T>&, const TopkPoolSaved<T>&, T*, int, void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cuda

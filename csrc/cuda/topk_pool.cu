#include "d2kernels/topk_block.h"

#include <algorithm>

#include "launch.h"
#include "topk_long.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 384;
constexpr int kRowBytes = 16;  // of a row that a block reads and keeps
constexpr int64_t kRows = 6000;  // two blocks on a multiprocessor of sm_90 and sm_100
constexpr int64_t kMostBlocks = 1 << 20;
constexpr int kBackwardThreads = 256, kBackwardRows = 128;

using Team = BlockTeam<kThreads>;

template <class T>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(TopkPool<T> problem, TopkPoolOut<T> out, int64_t capacity,
                                                              const int32_t* refused) {
    constexpr int kGroup = kTopkGroup<T>;
    __shared__ TopkShared<kGroup> shared;
    __shared__ typename Team::Storage storage;
    extern __shared__ __align__(16) unsigned char cache[];
    Team team(storage);
    const int64_t groups = (problem.classes + kGroup - 1) / kGroup, items = problem.sequences.count * groups;
    for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
        const int64_t sequence = i / groups, label = (i - sequence * groups) * kGroup;
        if (problem.sequences[sequence].length <= capacity) {
            topk_pool<kGroup>(team, problem, out, sequence, label, shared,
                              reinterpret_cast<TopkRow<kGroup, KeyOf<T>>*>(cache));
        } else if (sequence >= *refused && team.rank() < kGroup && label + team.rank() < problem.classes) {
            const int64_t at = sequence * problem.classes + label + team.rank();
            out.mean[at] = out.threshold[at] = score_of<T>(static_cast<KeyOf<T>>(~KeyOf<T>(0)));
            out.above[at] = out.tied[at] = 0;
        }
    }
}

// Each thread stays with `Width` classes, which it reads as one word where there are several.
template <int Width, class T>
__global__ void __launch_bounds__(kBackwardThreads, 3) backward_kernel(TopkPool<T> problem, TopkPoolSaved<T> saved, T* grad) {
    constexpr int kUnrolled = 2;
    __shared__ int64_t sequence[kBackwardRows], count[kBackwardRows];
    const int64_t total = problem.sequences.total, tiles = (total + kBackwardRows - 1) / kBackwardRows;
    const int64_t pieces = problem.classes / Width;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int64_t first = tile * kBackwardRows;
        const int rows = static_cast<int>(total - first < kBackwardRows ? total - first : kBackwardRows);
        if (threadIdx.x < rows) {
            const int64_t i = sequence_of(problem.sequences, first + threadIdx.x);
            sequence[threadIdx.x] = i;
            count[threadIdx.x] = i < 0 ? 1 : problem.count(i, problem.sequences[i].length);
        }
        __syncthreads();
        for (int64_t from = 0; from < pieces; from += kBackwardThreads) {
            const int columns = static_cast<int>(pieces - from < kBackwardThreads ? pieces - from : kBackwardThreads);
            const int step = kBackwardThreads / columns, row = static_cast<int>(threadIdx.x) / columns;
            const int64_t label = (from + static_cast<int>(threadIdx.x) % columns) * Width;
            typename TopkPoolSaved<T>::Shares shares[Width];
            int64_t now = -2;
            D2K_ROLLED
            for (int r = row; r < rows && row < step; r += kUnrolled * step) {
                const int64_t at = (first + r) * problem.classes + label;
                TopkRow<Width, KeyOf<T>> scores[kUnrolled];
                D2K_UNROLLED
                for (int u = 0; u < kUnrolled; ++u)
                    if (r + u * step < rows)
                        scores[u] = read_scores<Width>(problem.scores + at + u * step * problem.classes, Width > 1, Width);
                D2K_UNROLLED
                for (int u = 0; u < kUnrolled; ++u) {
                    if (r + u * step >= rows) break;
                    const int64_t i = sequence[r + u * step];
                    if (i != now) {
                        now = i;
                        D2K_UNROLLED
                        for (int g = 0; g < Width; ++g) {
                            if (i >= 0) shares[g] = saved.shares(i * problem.classes + label + g, count[r + u * step]);
                            else shares[g] = {0, 0, 0};
                        }
                    }
                    TopkRow<Width, KeyOf<T>> result;
                    D2K_UNROLLED
                    for (int g = 0; g < Width; ++g)
                        result.set(g, bit_cast<KeyOf<T>>(shares[g].gradient(bit_cast<T>(scores[u][g]))));
                    *reinterpret_cast<TopkRow<Width, KeyOf<T>>*>(grad + at + u * step * problem.classes) = result;
                }
            }
        }
        __syncthreads();
    }
}

// How many rows a block keeps, and the workspace for sequences that have more.
template <class T>
cudaError_t plan(const TopkPool<T>& problem, int device, void* memory, TopkLong* work, size_t* bytes) {
    int most = 0;
    const cudaError_t error = raise_shared_limit(forward_kernel<T>, device, &most);
    if (error != cudaSuccess) return error;
    const int64_t fit = most / kRowBytes, total = problem.sequences.total;
    *work = {};
    *bytes = 0;
    work->capacity = std::min(total, fit);  // no sequence has more rows than there are
    if (total > fit) *bytes = work->lay_out(problem, std::min(kRows, fit), memory);
    return cudaSuccess;
}

}  // namespace

template <class T>
Status topk_pool_workspace(const TopkPool<T>& problem, int device, size_t* bytes) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    TopkLong work;
    D2K_TRY(plan(problem, device, nullptr, &work, bytes));
    return kOk;
}

template <class T>
Status topk_pool(const TopkPool<T>& problem, const TopkPoolOut<T>& out, void* workspace, int device, void* stream) {
    constexpr int64_t kGroup = kTopkGroup<T>;
    const int64_t items = problem.sequences.count * ((problem.classes + kGroup - 1) / kGroup);
    if (items == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    TopkLong work;
    size_t bytes = 0;
    D2K_TRY(plan(problem, device, workspace, &work, &bytes));
    if (bytes > 0) {
        D2K_TRY(cudaMemsetAsync(workspace, 0, bytes, static_cast<cudaStream_t>(stream)));
        D2K_TRY(launch(long_kernel, 1, kLongThreads, 0, stream, problem.sequences, work));
        for (int pass = 0; pass < kLongPasses<T>; ++pass)
            D2K_TRY(launch(long_pass_kernel<T>, work.chunks * work.groups, kLongThreads, 0, stream, problem, out, work, pass));
    }
    D2K_TRY(launch(forward_kernel<T>, std::min(items, kMostBlocks), kThreads, work.capacity * kRowBytes, stream, problem,
                   out, work.capacity, work.refused));
    return kOk;
}

template <class T>
Status topk_pool_backward(const TopkPool<T>& problem, const TopkPoolSaved<T>& saved, T* grad_scores, int device,
                          void* stream) {
    constexpr int kGroup = kTopkGroup<T>;
    const int64_t tiles = (problem.sequences.total + kBackwardRows - 1) / kBackwardRows;
    if (tiles == 0 || problem.classes == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const auto addresses = reinterpret_cast<uintptr_t>(problem.scores) | reinterpret_cast<uintptr_t>(grad_scores);
    const bool whole = problem.classes % kGroup == 0 && addresses % kRowBytes == 0;
    D2K_TRY(launch(whole ? backward_kernel<kGroup, T> : backward_kernel<1, T>, std::min(tiles, kMostBlocks),
                   kBackwardThreads, 0, stream, problem, saved, grad_scores));
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                                     \
    template Status topk_pool_workspace<T>(const TopkPool<T>&, int, size_t*);                                  \
    template Status topk_pool<T>(const TopkPool<T>&, const TopkPoolOut<T>&, void*, int, void*);                \
    template Status topk_pool_backward<T>(const TopkPool<T>&, const TopkPoolSaved<T>&, T*, int, void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cuda

#include "d2kernels/gather_rows.h"

#include <algorithm>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 20;
constexpr int kWidth = 4;  // numbers a thread reads at once, where the width and the addresses allow it

template <int Width, class From, class To>
__global__ void __launch_bounds__(kThreads) gather_kernel(GatherRows<From, To> problem) {
    __shared__ typename BlockTeam<kThreads>::Storage storage;
    __shared__ int64_t from[kGatherRows];
    BlockTeam<kThreads> team(storage);
    const int64_t tiles = (problem.sequences.total + kGatherRows - 1) / kGatherRows;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) d2k::gather_rows<Width>(team, problem, tile, from);
}

template <class T>
bool aligned(const T* x) { return reinterpret_cast<uintptr_t>(x) % sizeof(Word<T, kWidth>) == 0; }

}  // namespace

template <class From, class To>
Status gather_rows(const GatherRows<From, To>& problem, int device, void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const int64_t tiles = (problem.sequences.total + kGatherRows - 1) / kGatherRows;
    if (tiles == 0 || problem.width == 0) return kOk;
    const bool wide = problem.width % kWidth == 0 && aligned(problem.source) && aligned(problem.out);
    const auto kernel = wide ? gather_kernel<kWidth, From, To> : gather_kernel<1, From, To>;
    D2K_TRY(launch(kernel, static_cast<unsigned>(std::min(tiles, kMostBlocks)), kThreads, 0, stream, problem));
    return kOk;
}

#define D2K_INSTANTIATE(From, To) template Status gather_rows<From, To>(const GatherRows<From, To>&, int, void*);
D2K_EACH_GATHER(D2K_INSTANTIATE)

}  // namespace d2k::cuda

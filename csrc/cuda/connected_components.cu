#include "d2kernels/connected_components.h"

#include <algorithm>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMostBlocks = 1 << 20;  // blocks stride over more items than this

using Team = BlockTeam<kThreads>;

int64_t blocks(int64_t items) { return std::min(items, kMostBlocks); }

// The counts are added up in equal parts, a block each: few enough that a block adds up the parts before its own.
constexpr int kScanThreads = 256;
constexpr int64_t kMostParts = 1024, kLeastPart = 2048;

using ScanTeam = BlockTeam<kScanThreads>;

struct Parts {
    int64_t size, number, each;

    explicit Parts(int64_t items)
        : size(items + 1),
          number(std::min((size + kLeastPart - 1) / kLeastPart, kMostParts)),
          each((size + number - 1) / number) {}

    __device__ int64_t first() const { return blockIdx.x * each; }
    __device__ int64_t end() const { return first() + each < size ? first() + each : size; }
};

__global__ void __launch_bounds__(kScanThreads) sum_kernel(Parts parts, const int64_t* counts, int64_t* sums) {
    __shared__ typename ScanTeam::Storage storage;
    ScanTeam team(storage);
    int64_t sum = 0;
    for (int64_t i = parts.first() + team.rank(); i < parts.end(); i += team.size()) sum += counts[i];
    sum = team.reduce(sum, Sum{});
    if (team.rank() == 0) sums[blockIdx.x] = sum;
}

// counts[i] becomes the sum of those before it; `sums` is each part's, read where there are several.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(Parts parts, const int64_t* sums, int64_t* counts) {
    __shared__ typename ScanTeam::Storage storage;
    ScanTeam team(storage);
    int64_t before = 0;
    for (int64_t i = team.rank(); i < blockIdx.x; i += team.size()) before += sums[i];
    before = team.reduce(before, Sum{});
    for (int64_t tile = parts.first(); tile < parts.end(); tile += team.size()) {
        const int64_t i = tile + team.rank(), count = i < parts.end() ? counts[i] : 0;
        const int64_t through = team.scan(count, Sum{}, before);
        if (i < parts.end()) counts[i] = through - count;
    }
}

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

size_t connected_components_workspace(int64_t items) { return Parts(items).number * sizeof(int64_t); }

template <class T>
Status connected_components_count(const Components<T>& problem, int64_t* positions, void* workspace, int device,
                                  void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    D2K_TRY(launch(count_kernel<T>, blocks(problem.items() + 1), kThreads, 0, stream, problem, positions));
    const Parts parts(problem.items());
    const auto sums = static_cast<int64_t*>(workspace);
    if (parts.number > 1) D2K_TRY(launch(sum_kernel, parts.number, kScanThreads, 0, stream, parts, positions, sums));
    D2K_TRY(launch(scan_kernel, parts.number, kScanThreads, 0, stream, parts, sums, positions));
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
    template Status connected_components_count<T>(const Components<T>&, int64_t*, void*, int, void*);               \
    template Status connected_components_fill<T>(const Components<T>&, const int64_t*, Segments, int, void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)

}  // namespace d2k::cuda

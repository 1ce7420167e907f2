#include "d2kernels/nms_block.h"

#include <algorithm>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMostBlocks = 1 << 14;  // blocks stride over more clusters than this

using Team = BlockTeam<kThreads>;

int64_t blocks(int64_t count) { return std::min(count, kMostBlocks); }

template <class T>
__global__ void __launch_bounds__(kThreads) nms_kernel(NmsClustersOf<T> clusters, NmsRules rules, uint8_t* left) {
    __shared__ typename Team::Storage storage;
    __shared__ NmsRoundOf<T> round;
    Team team(storage);
    clusters.each(blockIdx.x, gridDim.x, [&](int64_t begin, int64_t size) {
        suppress(team, clusters.segments + 2 * begin, size, rules, round, left + begin);
    });
}

template <class T>
__global__ void __launch_bounds__(kThreads) soft_nms_kernel(NmsClustersOf<T> clusters, double sigma,
                                                            double score_threshold, double* score, uint8_t* taken) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    clusters.each(blockIdx.x, gridDim.x, [&](int64_t begin, int64_t size) {
        decay(team, clusters.segments + 2 * begin, size, sigma, score_threshold, score + begin, taken + begin);
    });
}

}  // namespace

template <class T>
Status nms(const NmsClustersOf<T>& clusters, const NmsRules& rules, uint8_t* left, int device, void* stream) {
    if (clusters.count == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    D2K_TRY(launch(nms_kernel<T>, blocks(clusters.count), kThreads, 0, stream, clusters, rules, left));
    return kOk;
}

template <class T>
Status soft_nms(const NmsClustersOf<T>& clusters, double sigma, double score_threshold, double* score, uint8_t* taken,
                int device, void* stream) {
    if (clusters.count == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    D2K_TRY(launch(soft_nms_kernel<T>, blocks(clusters.count), kThreads, 0, stream, clusters, sigma, score_threshold,
                   score, taken));
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                                          \
    template Status nms<T>(const NmsClustersOf<T>&, const NmsRules&, uint8_t*, int, void*);                         \
    template Status soft_nms<T>(const NmsClustersOf<T>&, double, double, double*, uint8_t*, int, void*);
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(int64_t)

}  // namespace d2k::cuda

#include "d2kernels/nms_block.h"

namespace d2k::cpu {

template <class T>
Status nms_as_block(const NmsClustersOf<T>& clusters, const NmsRules& rules, uint8_t* left) {
    HostTeam team;
    NmsRoundOf<T> round;
    clusters.each(0, 1, [&](int64_t begin, int64_t size) {
        suppress(team, clusters.segments + 2 * begin, size, rules, round, left + begin);
    });
    return kOk;
}

template <class T>
Status soft_nms_as_block(const NmsClustersOf<T>& clusters, double sigma, double score_threshold, double* score,
                         uint8_t* taken) {
    HostTeam team;
    clusters.each(0, 1, [&](int64_t begin, int64_t size) {
        decay(team, clusters.segments + 2 * begin, size, sigma, score_threshold, score + begin, taken + begin);
    });
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                   \
    template Status nms_as_block<T>(const NmsClustersOf<T>&, const NmsRules&, uint8_t*);     \
    template Status soft_nms_as_block<T>(const NmsClustersOf<T>&, double, double, double*, uint8_t*);
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(int64_t)

}  // namespace d2k::cpu

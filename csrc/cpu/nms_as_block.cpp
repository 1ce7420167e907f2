#include "d2kernels/nms_block.h"

namespace d2k::cpu {

Status nms_as_block(const NmsClusters& clusters, const NmsRules& rules, uint8_t* left) {
    HostTeam team;
    NmsRound round;
    clusters.each(0, 1, [&](int64_t begin, int64_t size) {
        suppress(team, clusters.segments + 2 * begin, size, rules, round, left + begin);
    });
    return kOk;
}

Status soft_nms_as_block(const NmsClusters& clusters, double sigma, double score_threshold, double* score,
                         uint8_t* taken) {
    HostTeam team;
    clusters.each(0, 1, [&](int64_t begin, int64_t size) {
        decay(team, clusters.segments + 2 * begin, size, sigma, score_threshold, score + begin, taken + begin);
    });
    return kOk;
}

}  // namespace d2k::cpu

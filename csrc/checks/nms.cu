#include "d2kernels/nms_block.h"

#include "checks.h"

namespace {

using checks::Device;

int differences(int64_t count, const std::vector<int64_t>& first, int64_t number) {
    auto segments = checks::uniform<double>(2 * count, 3);
    const auto scores = checks::uniform<double>(count, 4);
    for (int64_t i = 0; i < count; ++i) {
        segments[2 * i] = std::floor(segments[2 * i] * 90);
        segments[2 * i + 1] = segments[2 * i] + std::floor(segments[2 * i + 1] * 30);
    }
    const std::vector<int64_t> numbers{number};
    // What lies in no cluster stays as it was.
    const std::vector<uint8_t> before(count, 7);
    std::vector<uint8_t> left = before, taken = before;
    std::vector<double> score = scores;
    const d2k::NmsClusters clusters{segments.data(), first.data(), numbers.data(), count};
    CHECK(d2k::cpu::nms_as_block(clusters, {0.4, true}, left.data()));
    CHECK(d2k::cpu::soft_nms_as_block(clusters, 0.5, 0.1, score.data(), taken.data()));

    const Device<double> there_segments(segments), decayed(scores);
    const Device<int64_t> there_first(first), there_number(numbers);
    const Device<uint8_t> lefts(before), takens(before);
    const d2k::NmsClusters there{there_segments.get(), there_first.get(), there_number.get(), count};
    CHECK(d2k::cuda::nms(there, {0.4, true}, lefts.get(), 0, nullptr));
    CHECK(d2k::cuda::soft_nms(there, 0.5, 0.1, decayed.get(), takens.get(), 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    return checks::report("nms", lefts.host() == left && takens.host() == taken &&
                                     checks::same(decayed.host(), score, 1e-12));
}

}  // namespace

int check_nms() {
    // Places that run backwards or past the end, and more clusters than segments, stay inside.
    return differences(1, {0, 1}, 1) + differences(700, {0, 1, 3, 3, 200, 700}, 5) +
           differences(40, {30, 10, -5, 900, 40}, 4) + differences(3, {0, 1, 2, 3}, 99);
}

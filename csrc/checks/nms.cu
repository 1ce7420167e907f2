#include "d2kernels/nms_block.h"

#include <type_traits>

#include "checks.h"

namespace {

using checks::Device;
using checks::Values;

// Times are T: doubles of any kind, or int64_t, nanoseconds since 1970, whose last bits a double does not hold.
template <class T = double>
void compare(checks::Tally& tally, int64_t count, const std::vector<int64_t>& first, int64_t number, Values kind,
             const d2k::NmsRules& rules, bool soft = true) {
    auto drawn = checks::make<double>(2 * count, kind, 3);
    const auto scores = checks::make<double>(count, kind, 4);
    for (int64_t i = 0; i < count; ++i) {
        if (kind == Values::kUniform) {  // whole numbers, which meet at their ends
            drawn[2 * i] = std::floor(drawn[2 * i] * 90);
            drawn[2 * i + 1] = std::floor(drawn[2 * i + 1] * 30);
        }
        drawn[2 * i + 1] += drawn[2 * i];
    }
    std::vector<T> segments(drawn.begin(), drawn.end());
    if constexpr (std::is_integral_v<T>)
        for (T& time : segments) time += T{1700000000} * 1000000000;
    const std::vector<int64_t> numbers{number};
    // What lies in no cluster stays as it was.
    const std::vector<uint8_t> before(count, 7);
    std::vector<uint8_t> left = before, taken = before;
    std::vector<double> score = scores;
    const d2k::NmsClustersOf<T> clusters{segments.data(), first.data(), numbers.data(), count};
    CHECK(d2k::cpu::nms_as_block(clusters, rules, left.data()));
    if (soft) CHECK(d2k::cpu::soft_nms_as_block(clusters, 0.5, 0.1, score.data(), taken.data()));

    const Device<T> there_segments(segments);
    const Device<double> decayed(scores);
    const Device<int64_t> there_first(first), there_number(numbers);
    const Device<uint8_t> lefts(before), takens(before);
    const d2k::NmsClustersOf<T> there{there_segments.get(), there_first.get(), there_number.get(), count};
    const Device<uint8_t> workspace(d2k::cuda::nms_workspace(count), checks::Holds::kNothing);
    CAPTURED(d2k::cuda::nms(there, rules, lefts.get(), workspace.get(), 0, checks::stream()));
    if (soft) CAPTURED(d2k::cuda::soft_nms(there, 0.5, 0.1, decayed.get(), takens.get(), 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    tally.add(lefts.host() == left && takens.host() == taken && checks::same(decayed.host(), score, 1e-12), name(kind),
              count, "segments");
}

}  // namespace

int check_nms() {
    checks::Tally tally("nms");
    for (const Values kind : checks::kEveryValues)
        for (const bool inclusive : {false, true}) {
            compare(tally, 0, {0}, 0, kind, {0.4, inclusive});
            compare(tally, 1, {0, 1}, 1, kind, {0.4, inclusive});
            compare(tally, 129, {0, 129}, 1, kind, {0.5, inclusive});
            compare(tally, 300, {0, 1, 3, 3, 200, 300}, 5, kind, {inclusive ? 0.0 : 1.0, inclusive});
            // Places that run backwards or past the end, and more clusters than segments, stay inside.
            compare(tally, 40, {30, 10, -5, 900, 40}, 4, kind, {0.3, inclusive});
            compare(tally, 3, {0, 1, 2, 3}, 99, kind, {0.3, inclusive});
        }
    compare(tally, 700, {0, 1, 3, 3, 200, 700}, 5, Values::kUniform, {0.4, true});
    // Clusters of many blocks: alone, beside others, and more than there is room for, since they overlap.
    compare(tally, 1500, {0, 257, 300, 1000, 1500}, 4, Values::kUniform, {0.6, true});
    compare(tally, 1500, {0, 257, 300, 1000, 1500}, 4, Values::kSomeNan, {0.6, false});
    compare(tally, 1200, {0, 1200}, 1, Values::kRising, {0.99, true});
    compare(tally, 600, {0, 600, 0, 600}, 3, Values::kUniform, {0.5, true}, false);
    compare<int64_t>(tally, 700, {0, 1, 3, 3, 200, 700}, 5, Values::kUniform, {0.4, true});
    compare<int64_t>(tally, 40, {30, 10, -5, 900, 40}, 4, Values::kUniform, {0.3, false});
    return tally.finish();
}

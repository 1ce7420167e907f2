#include "d2kernels/average_precision.h"

#include <tuple>

#include "bindings/bindings.h"

namespace d2k {
namespace {

// Count, then label, video, start and end.
using InstanceArguments = std::tuple<int64_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t>;
using MatchingRuleArguments = std::tuple<bool, bool, bool, bool, bool, bool>;

Instances instances(const InstanceArguments& a) {
    const auto [count, label, video, start, end] = a;
    return {count, pointer<const int64_t>(label), pointer<const int64_t>(video), pointer<const double>(start),
            pointer<const double>(end)};
}

MatchingRules matching_rules(const MatchingRuleArguments& a) {
    const auto [strict, truth_chooses, first, hull, ties_by_video, interpolate] = a;
    return {strict, truth_chooses, first, hull, ties_by_video, interpolate};
}

}  // namespace

void bind_average_precision(py::module_& m) {
    m.def("average_precision_cpu",
          [](const InstanceArguments& detections, std::uintptr_t score, std::uintptr_t ignore,
             const InstanceArguments& truth, int64_t classes, std::uintptr_t iou, int64_t thresholds,
             const MatchingRuleArguments& rules, std::uintptr_t ap, std::uintptr_t partner, std::uintptr_t tp,
             std::uintptr_t fp, int threads) {
              const Matching matching{instances(detections),
                                      pointer<const double>(score),
                                      pointer<const bool>(ignore),
                                      instances(truth),
                                      classes,
                                      pointer<const double>(iou),
                                      thresholds,
                                      matching_rules(rules)};
              const MatchingOut out{pointer<double>(ap), pointer<int64_t>(partner), pointer<int64_t>(tp),
                                    pointer<int64_t>(fp)};
              run([&] { return cpu::average_precision(matching, out, threads); });
          });
}

}  // namespace d2k

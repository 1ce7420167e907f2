#include "d2kernels/average_precision.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

Instances instances(Reader r) {
    Instances x{};
    r.rest(x.count, x.label, x.video, x.start, x.end);
    return x;
}

MatchingRules matching_rules(Reader r) {
    MatchingRules x{};
    r.rest(x.strict, x.truth_chooses, x.first, x.hull, x.ties_by_video, x.interpolate);
    return x;
}

}  // namespace

void bind_average_precision(Module& m) {
    m.def("average_precision_cpu", [](Call& c) {
        Matching matching{};
        MatchingOut out{};
        Reader detections, truth, rules;
        int threads;
        c.rest(detections, matching.score, matching.ignore, truth, matching.classes, matching.iou, matching.thresholds,
               rules, out.ap, out.partner, out.tp, out.fp, threads);
        matching.detections = instances(detections);
        matching.truth = instances(truth);
        matching.rules = matching_rules(rules);
        run([&] { return cpu::average_precision(matching, out, threads); });
    });
}

}  // namespace d2k

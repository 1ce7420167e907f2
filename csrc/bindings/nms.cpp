#include "d2kernels/nms.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

NmsProblem nms_problem(std::uintptr_t segments, std::uintptr_t scores, std::uintptr_t groups, int64_t count) {
    return {pointer<const double>(segments), pointer<const double>(scores), pointer<const int64_t>(groups), count};
}

}  // namespace

void bind_nms(py::module_& m) {
    m.def("nms_cpu", [](std::uintptr_t segments, std::uintptr_t scores, std::uintptr_t groups, int64_t count,
                        double iou_threshold, bool inclusive, std::uintptr_t kept) {
        int64_t size = 0;
        run([&] {
            return cpu::nms(nms_problem(segments, scores, groups, count), iou_threshold, inclusive,
                            pointer<int64_t>(kept), &size);
        });
        return size;
    });
    m.def("soft_nms_cpu", [](std::uintptr_t segments, std::uintptr_t scores, std::uintptr_t groups, int64_t count,
                             double sigma, double score_threshold, std::uintptr_t kept, std::uintptr_t decayed) {
        int64_t size = 0;
        run([&] {
            return cpu::soft_nms(nms_problem(segments, scores, groups, count), sigma, score_threshold,
                                 pointer<int64_t>(kept), pointer<double>(decayed), &size);
        });
        return size;
    });
}

}  // namespace d2k

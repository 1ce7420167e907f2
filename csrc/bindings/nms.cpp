#include "d2kernels/nms_block.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

NmsProblem nms_problem(std::uintptr_t segments, std::uintptr_t scores, std::uintptr_t groups, int64_t count) {
    return {pointer<const double>(segments), pointer<const double>(scores), pointer<const int64_t>(groups), count};
}

// (segments, first, number, count)
NmsClusters clusters_of(const py::tuple& clusters) {
    return {pointer<const double>(clusters[0].cast<std::uintptr_t>()),
            pointer<const int64_t>(clusters[1].cast<std::uintptr_t>()),
            pointer<const int64_t>(clusters[2].cast<std::uintptr_t>()), clusters[3].cast<int64_t>()};
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
    m.def("nms_as_block_cpu", [](const py::tuple& clusters, double iou_threshold, bool inclusive, std::uintptr_t left) {
        const NmsClusters c = clusters_of(clusters);
        run([&] { return cpu::nms_as_block(c, {iou_threshold, inclusive}, pointer<uint8_t>(left)); });
    });
    m.def("soft_nms_as_block_cpu", [](const py::tuple& clusters, double sigma, double score_threshold,
                                      std::uintptr_t score, std::uintptr_t taken) {
        const NmsClusters c = clusters_of(clusters);
        run([&] {
            return cpu::soft_nms_as_block(c, sigma, score_threshold, pointer<double>(score), pointer<uint8_t>(taken));
        });
    });

#ifdef D2K_CUDA
    m.def("nms_cuda", [](const py::tuple& clusters, double iou_threshold, bool inclusive, std::uintptr_t left,
                         int device, std::uintptr_t stream) {
        const NmsClusters c = clusters_of(clusters);
        run([&] {
            return cuda::nms(c, {iou_threshold, inclusive}, pointer<uint8_t>(left), device, pointer<void>(stream));
        });
    });
    m.def("soft_nms_cuda", [](const py::tuple& clusters, double sigma, double score_threshold, std::uintptr_t score,
                              std::uintptr_t taken, int device, std::uintptr_t stream) {
        const NmsClusters c = clusters_of(clusters);
        run([&] {
            return cuda::soft_nms(c, sigma, score_threshold, pointer<double>(score), pointer<uint8_t>(taken), device,
                                  pointer<void>(stream));
        });
    });
#endif
}

}  // namespace d2k

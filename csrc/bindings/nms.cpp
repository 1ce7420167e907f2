#include "d2kernels/nms_block.h"

#include <tuple>

#include "bindings/bindings.h"

namespace d2k {
namespace {

// (segments, whether they are int64 and not double, scores, groups, count)
using ProblemArguments = std::tuple<std::uintptr_t, bool, std::uintptr_t, std::uintptr_t, int64_t>;
// (segments, whether they are int64 and not double, first, number, count)
using ClusterArguments = std::tuple<std::uintptr_t, bool, std::uintptr_t, std::uintptr_t, int64_t>;

template <class T>
NmsProblem<T> problem_of(const ProblemArguments& a) {
    const auto [segments, whole, scores, groups, count] = a;
    return {pointer<const T>(segments), pointer<const double>(scores), pointer<const int64_t>(groups), count};
}

template <class T>
NmsClustersOf<T> clusters_of(const ClusterArguments& a) {
    const auto [segments, whole, first, number, count] = a;
    return {pointer<const T>(segments), pointer<const int64_t>(first), pointer<const int64_t>(number), count};
}

// Runs call(problem) on times of their type, without the GIL.
template <class Call>
void with_problem(const py::tuple& problem, const Call& call) {
    const auto a = problem.cast<ProblemArguments>();
    run([&] { return std::get<1>(a) ? call(problem_of<int64_t>(a)) : call(problem_of<double>(a)); });
}

template <class Call>
void with_clusters(const py::tuple& clusters, const Call& call) {
    const auto a = clusters.cast<ClusterArguments>();
    run([&] { return std::get<1>(a) ? call(clusters_of<int64_t>(a)) : call(clusters_of<double>(a)); });
}

}  // namespace

void bind_nms(py::module_& m) {
    m.def("nms_cpu", [](const py::tuple& problem, double iou_threshold, bool inclusive, std::uintptr_t kept) {
        int64_t size = 0;
        with_problem(problem, [&](const auto& p) {
            return cpu::nms(p, iou_threshold, inclusive, pointer<int64_t>(kept), &size);
        });
        return size;
    });
    m.def("soft_nms_cpu", [](const py::tuple& problem, double sigma, double score_threshold, std::uintptr_t kept,
                             std::uintptr_t decayed) {
        int64_t size = 0;
        with_problem(problem, [&](const auto& p) {
            return cpu::soft_nms(p, sigma, score_threshold, pointer<int64_t>(kept), pointer<double>(decayed), &size);
        });
        return size;
    });
    m.def("nms_as_block_cpu", [](const py::tuple& clusters, double iou_threshold, bool inclusive, std::uintptr_t left) {
        with_clusters(clusters, [&](const auto& c) {
            return cpu::nms_as_block(c, {iou_threshold, inclusive}, pointer<uint8_t>(left));
        });
    });
    m.def("soft_nms_as_block_cpu", [](const py::tuple& clusters, double sigma, double score_threshold,
                                      std::uintptr_t score, std::uintptr_t taken) {
        with_clusters(clusters, [&](const auto& c) {
            return cpu::soft_nms_as_block(c, sigma, score_threshold, pointer<double>(score), pointer<uint8_t>(taken));
        });
    });

#ifdef D2K_CUDA
    m.def("nms_cuda", [](const py::tuple& clusters, double iou_threshold, bool inclusive, std::uintptr_t left,
                         int device, std::uintptr_t stream) {
        with_clusters(clusters, [&](const auto& c) {
            return cuda::nms(c, {iou_threshold, inclusive}, pointer<uint8_t>(left), device, pointer<void>(stream));
        });
    });
    m.def("soft_nms_cuda", [](const py::tuple& clusters, double sigma, double score_threshold, std::uintptr_t score,
                              std::uintptr_t taken, int device, std::uintptr_t stream) {
        with_clusters(clusters, [&](const auto& c) {
            return cuda::soft_nms(c, sigma, score_threshold, pointer<double>(score), pointer<uint8_t>(taken), device,
                                  pointer<void>(stream));
        });
    });
#endif
}

}  // namespace d2k

#include "d2kernels/nms_block.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

// (segments, whether they are int64 and not double, scores, groups, count)
template <class T>
NmsProblem<T> problem_of(Reader r) {
    NmsProblem<T> x{};
    bool whole;
    r.rest(x.segments, whole, x.scores, x.groups, x.count);
    return x;
}

// (segments, whether they are int64 and not double, first, number, count)
template <class T>
NmsClustersOf<T> clusters_of(Reader r) {
    NmsClustersOf<T> x{};
    bool whole;
    r.rest(x.segments, whole, x.first, x.number, x.count);
    return x;
}

// Runs call(problem) -> Status on times of their type, without the GIL.
template <class Function>
void with_problem(const Reader& problem, const Function& call) {
    if (problem.at<bool>(1)) run([&, p = problem_of<int64_t>(problem)] { return call(p); });
    else run([&, p = problem_of<double>(problem)] { return call(p); });
}

template <class Function>
void with_clusters(const Reader& clusters, const Function& call) {
    if (clusters.at<bool>(1)) run([&, c = clusters_of<int64_t>(clusters)] { return call(c); });
    else run([&, c = clusters_of<double>(clusters)] { return call(c); });
}

}  // namespace

void bind_nms(Module& m) {
    m.def("nms_cpu", [](Call& c) {
        Reader problem;
        NmsRules rules;
        int64_t *kept, size = 0;
        c.rest(problem, rules.iou_threshold, rules.inclusive, kept);
        with_problem(problem, [&](const auto& p) {
            return cpu::nms(p, rules.iou_threshold, rules.inclusive, kept, &size);
        });
        c.give(size);
    });
    m.def("soft_nms_cpu", [](Call& c) {
        Reader problem;
        double sigma, score_threshold, *decayed;
        int64_t *kept, size = 0;
        c.rest(problem, sigma, score_threshold, kept, decayed);
        with_problem(problem, [&](const auto& p) {
            return cpu::soft_nms(p, sigma, score_threshold, kept, decayed, &size);
        });
        c.give(size);
    });
    m.def("nms_as_block_cpu", [](Call& c) {
        Reader clusters;
        NmsRules rules;
        uint8_t* left;
        c.rest(clusters, rules.iou_threshold, rules.inclusive, left);
        with_clusters(clusters, [&](const auto& of) { return cpu::nms_as_block(of, rules, left); });
    });
    m.def("soft_nms_as_block_cpu", [](Call& c) {
        Reader clusters;
        double sigma, score_threshold, *score;
        uint8_t* taken;
        c.rest(clusters, sigma, score_threshold, score, taken);
        with_clusters(clusters, [&](const auto& of) {
            return cpu::soft_nms_as_block(of, sigma, score_threshold, score, taken);
        });
    });

#ifdef D2K_CUDA
    m.def("nms_workspace_cuda", [](Call& c) {
        int64_t count;
        c.rest(count);
        c.give(static_cast<int64_t>(cuda::nms_workspace(count)));
    });
    m.def("nms_cuda", [](Call& c) {
        Reader clusters;
        NmsRules rules;
        uint8_t* left;
        int device;
        void *workspace, *stream;
        c.rest(clusters, rules.iou_threshold, rules.inclusive, left, workspace, device, stream);
        with_clusters(clusters, [&](const auto& of) { return cuda::nms(of, rules, left, workspace, device, stream); });
    });
    m.def("soft_nms_cuda", [](Call& c) {
        Reader clusters;
        double sigma, score_threshold, *score;
        uint8_t* taken;
        int device;
        void* stream;
        c.rest(clusters, sigma, score_threshold, score, taken, device, stream);
        with_clusters(clusters, [&](const auto& of) {
            return cuda::soft_nms(of, sigma, score_threshold, score, taken, device, stream);
        });
    });
#endif
}

}  // namespace d2k

#include "d2kernels/nms_block.h"

#include <vector>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

constexpr int kWhole = -1;  // of int64, beside the floats' numbers

// A vector of floats of any type as doubles, those of float64 where they lie next to each other.
class Doubles {
public:
    Doubles(const Table& from, int dtype) {
        with_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            const T* const given = pointer<const T>(from.at);
            const int64_t step = from.width == 1 ? from.stride : from.step, size = from.count * from.width;
            if constexpr (std::is_same_v<T, double>) {
                if (step == 1) {
                    at_ = given;
                    return;
                }
            }
            made_.resize(static_cast<size_t>(size));
            for (int64_t i = 0; i < size; ++i) made_[i] = static_cast<ArithmeticOf<T>>(given[i * step]);
            at_ = made_.data();
        });
    }
    Doubles(const Doubles&) = delete;
    Doubles& operator=(const Doubles&) = delete;
    const double* get() const { return at_; }

private:
    std::vector<double> made_;
    const double* at_;
};

// (segments, whether they are int64 and not double, first, number, count)
template <class T>
NmsClustersOf<T> clusters_of(Reader r) {
    NmsClustersOf<T> x{};
    bool whole;
    r.rest(x.segments, whole, x.first, x.number, x.count);
    return x;
}

// Runs call(problem) -> Status on times of their type, without the GIL; r: segments, their type, scores, their type,
// groups.
template <class Function>
void with_problem(Reader r, const Function& call) {
    const auto segments = r.next<Address>();
    const auto times = r.next<int>();
    const Table scores = r.strided();
    const auto type = r.next<int>();
    const auto groups = r.next<const int64_t*>();
    r.end();
    const int64_t count = scores.count * scores.width;
    const Doubles by(scores, type);
    if (times == kWhole) {
        const NmsProblem<int64_t> problem{pointer<const int64_t>(segments), by.get(), groups, count};
        return run([&] { return call(problem); });
    }
    const Doubles spans({segments, 1, 2 * count, 2 * count}, times);
    const NmsProblem<double> problem{spans.get(), by.get(), groups, count};
    run([&] { return call(problem); });
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
    m.def_size("nms_workspace_cuda", [](Call& c) {
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

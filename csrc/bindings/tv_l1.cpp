#include "d2kernels/tv_l1.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

// In the order of the fields, rules after height and width.
TvL1 problem_of(Reader r) {
    TvL1 x{};
    TvL1Rules& rules = x.rules;
    r.read(x.previous, x.next, x.count, x.height, x.width);
    r.read(rules.tau, rules.lambda, rules.theta, rules.epsilon, rules.gamma, rules.scale_step);
    r.rest(rules.scales, rules.warps, rules.inner, rules.outer, rules.median, x.flow);
    return x;
}

}  // namespace

void bind_tv_l1(Module& m) {
    m.def("tv_l1_cpu", [](Call& c) {
        const auto problem = problem_of(c.next<Reader>());
        int threads;
        c.rest(threads);
        run([&] { return cpu::tv_l1(problem, threads); });
    });
#ifdef D2K_CUDA
    m.def_size("tv_l1_workspace_cuda", [](Call& c) {
        const auto problem = problem_of(c.next<Reader>());
        c.end();
        c.give(cuda::tv_l1_workspace(problem));
    });
    m.def("tv_l1_cuda", [](Call& c) {
        const auto problem = problem_of(c.next<Reader>());
        void *workspace, *stream;
        int device;
        c.rest(workspace, device, stream);
        run([&] { return cuda::tv_l1(problem, workspace, device, stream); });
    });
#endif
}

}  // namespace d2k

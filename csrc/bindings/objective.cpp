#include "d2kernels/objective.h"

#include "bindings/bindings.h"
#include "bindings/losses.h"

namespace d2k {
namespace {

// In the order of the fields; d2kernels/ops/objective.py makes the tuples.
cpu::ObjectiveLayer layer_of(Reader r) {
    cpu::ObjectiveLayer x{};
    r.rest(x.c_in, x.c_out, x.taps, x.dilation, x.winograd, x.weight, x.bias, x.weight_gradient, x.bias_gradient);
    return x;
}

cpu::Objective problem_of(Reader r) {
    cpu::Objective x{};
    x.sequences = r.sequences();
    r.read(x.features, x.labels, x.streams, x.classes);
    for (cpu::ObjectiveLayer* layer : {&x.first, &x.second, &x.classifier}) *layer = layer_of(r.next<Reader>());
    double slope = 0;
    x.activates = r.next_or_none(&slope);
    x.slope = static_cast<float>(slope);
    x.residual = r.next<bool>();
    Reader dropping = r.next<Reader>();
    int64_t seed;
    dropping.rest(seed, x.dropping.first_row, x.dropping.threshold, x.dropping.scale);
    x.dropping.seed = static_cast<uint64_t>(seed);
    r.read(x.divisor, x.ceil, x.foreground_threshold, x.background_threshold, x.inclusive, x.normalize, x.by_labels,
           x.reference, x.lowest, x.min_snippets, x.momentum, x.losses.keys, x.losses.iteration);
    Reader options = r.next<Reader>();
    read_options(options, x.losses);
    r.end();
    return x;
}

}  // namespace

void bind_objective(Module& m) {
    m.def_size("objective_workspace_cpu", [](Call& c) {
        const auto problem = problem_of(c.next<Reader>());
        c.end();
        c.give(cpu::objective_workspace(problem));
    });
    m.def("objective_cpu", [](Call& c) {
        const auto problem = problem_of(c.next<Reader>());
        cpu::ObjectiveOut out;
        void* workspace;
        int threads;
        c.rest(out.terms, out.reference, workspace, threads);
        run([&] { return cpu::objective(problem, out, workspace, threads); });
    });
}

}  // namespace d2k

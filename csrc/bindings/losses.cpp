#include "d2kernels/losses.h"

#include <stdexcept>

#include "bindings/bindings.h"
#include "bindings/losses.h"

namespace d2k {
namespace {

// In the order of the fields; native.py makes the tuple.
template <class T>
Losses<T> problem_of(Reader r) {
    Losses<T> x{};
    x.sequences = r.sequences();
    r.read(x.p, x.embedding, x.mass, x.on, x.off, x.score, x.labels, x.keys, x.permutations, x.iteration, x.classes,
           x.width);
    read_options(r, x);
    return x;
}

template <class T>
LossesOut<T> out_of(Reader r) {
    LossesOut<T> x{};
    r.rest(x.total, x.classification, x.ds, x.dv, x.factors, x.by_p, x.video_by_p, x.by_embedding, x.snippet_by_row);
    return x;
}

// What the backward pass takes.
template <class T>
struct Backward {
    Sequences sequences;
    LossesSaved<T> saved;
    int64_t classes, width;
    LossesGradients<T> to;
};

template <class T>
Backward<T> backward_of(Reader r) {
    Backward<T> x{};
    x.sequences = r.sequences();
    LossesSaved<T>& saved = x.saved;
    r.rest(saved.total, saved.classification, saved.ds, saved.dv, saved.factors, saved.by_p, saved.video_by_p,
           saved.by_embedding, saved.snippet_by_row, saved.score, saved.foreground_threshold,
           saved.background_threshold, x.classes, x.width, x.to.p, x.to.embedding, x.to.on, x.to.off);
    return x;
}

// Runs call(a zero of the type): float or double.
template <class Call>
void with_real(int dtype, const Call& call) {
    if (dtype == 0) return call(float{});
    if (dtype == 1) return call(double{});
    throw std::invalid_argument("dtype must be 0 (float32) or 1 (float64)");
}

}  // namespace

void bind_losses(Module& m) {
    m.def("losses_cpu", [](Call& c) {
        const auto dtype = c.next<int>();
        Reader problem, out;
        c.rest(problem, out);
        with_real(dtype, [&](auto zero) {
            using T = decltype(zero);
            const auto p = problem_of<T>(problem);
            const auto o = out_of<T>(out);
            run([&] { return cpu::losses(p, o); });
        });
    });
    m.def("losses_backward_cpu", [](Call& c) {
        const auto dtype = c.next<int>();
        Reader arguments;
        c.rest(arguments);
        with_real(dtype, [&](auto zero) {
            const auto x = backward_of<decltype(zero)>(arguments);
            run([&] { return cpu::losses_backward(x.sequences, x.saved, x.classes, x.width, x.to); });
        });
    });

#ifdef D2K_CUDA
    m.def_size("losses_workspace_cuda", [](Call& c) {
        const auto p = problem_of<float>(c.next<Reader>());
        int device;
        c.rest(device);
        size_t bytes = 0;
        run([&] { return cuda::losses_workspace(p, device, &bytes); });
        c.give(static_cast<int64_t>(bytes));
    });
    m.def("losses_cuda", [](Call& c) {
        const auto p = problem_of<float>(c.next<Reader>());
        const auto o = out_of<float>(c.next<Reader>());
        void *workspace, *stream;
        size_t bytes;
        int device;
        c.rest(workspace, bytes, device, stream);
        run([&] { return cuda::losses(p, o, workspace, bytes, device, stream); });
    });
    m.def("losses_backward_cuda", [](Call& c) {
        const auto x = backward_of<float>(c.next<Reader>());
        int device;
        void* stream;
        c.rest(device, stream);
        run([&] {
            return cuda::losses_backward(x.sequences, x.saved, x.classes, x.width, x.to, device, stream);
        });
    });
#endif
}

}  // namespace d2k

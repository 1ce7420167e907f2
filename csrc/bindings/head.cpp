#include "d2kernels/head.h"

#include <stdexcept>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

#ifdef D2K_CUDA
// As with_dtype, for what runs on a GPU: not float64.
template <class Call>
void with_device_dtype(int dtype, const Call& call) {
    with_dtype(dtype, [&](auto zero) {
        if constexpr (sizeof(zero) == sizeof(double)) throw std::invalid_argument("no float64 on a GPU");
        else call(zero);
    });
}
#endif

// In the order of the fields; native.py makes the tuples.
template <class T>
Head<T> problem_of(Reader r) {
    Head<T> x{};
    x.sequences = r.sequences();
    double foreground_threshold, background_threshold;
    r.rest(x.z, x.logits, x.streams, x.width, x.classes, x.labels, foreground_threshold, background_threshold,
           x.inclusive, x.normalize);
    x.foreground_threshold = static_cast<ArithmeticOf<T>>(foreground_threshold);
    x.background_threshold = static_cast<ArithmeticOf<T>>(background_threshold);
    return x;
}

template <class T>
HeadOut<T> out_of(Reader r) {
    HeadOut<T> x{};
    r.rest(x.activations, x.attention, x.own, x.embedding, x.mass, x.lowest);
    return x;
}

template <class T>
HeadGradients<T> gradients_of(Reader r) {
    HeadGradients<T> x{};
    r.rest(x.activations, x.attention, x.own, x.embedding, x.z, x.logits);
    return x;
}

template <class T>
ReferenceScore<T> score_of(Reader r) {
    ReferenceScore<T> x{};
    x.sequences = r.sequences();
    r.read(x.z, x.streams, x.width, x.classes, x.reference);
    const Table candidate = r.table();
    x.candidate = pointer<const ArithmeticOf<T>>(candidate.at);
    x.stride = candidate.stride;
    r.rest(x.mass, x.labels, x.min_snippets, x.momentum);
    return x;
}

}  // namespace

void bind_head(Module& m) {
    m.def("head_cpu", [](Call& c) {
        with_dtype(c.next<int>(), [&](auto zero) {
            using T = decltype(zero);
            const auto problem = problem_of<T>(c.next<Reader>());
            const auto out = out_of<T>(c.next<Reader>());
            int threads;
            c.rest(threads);
            run([&] { return cpu::head(problem, out, threads); });
        });
    });
    m.def("head_backward_cpu", [](Call& c) {
        with_dtype(c.next<int>(), [&](auto zero) {
            using T = decltype(zero);
            const auto problem = problem_of<T>(c.next<Reader>());
            const auto saved = out_of<T>(c.next<Reader>());
            const auto gradients = gradients_of<T>(c.next<Reader>());
            int threads;
            c.rest(threads);
            run([&] { return cpu::head_backward(problem, saved, gradients, threads); });
        });
    });
    m.def("reference_score_cpu", [](Call& c) {
        with_dtype(c.next<int>(), [&](auto zero) {
            using T = decltype(zero);
            const auto problem = score_of<T>(c.next<Reader>());
            ArithmeticOf<T> *updated, *score;
            int threads;
            c.rest(updated, score, threads);
            run([&] { return cpu::reference_score(problem, updated, score, threads); });
        });
    });

#ifdef D2K_CUDA
    m.def_size("head_workspace_cuda", [](Call& c) {
        size_t bytes = 0;
        with_device_dtype(c.next<int>(), [&](auto zero) {
            bytes = cuda::head_workspace(problem_of<decltype(zero)>(c.next<Reader>()));
        });
        c.end();
        c.give(static_cast<int64_t>(bytes));
    });
    m.def("head_cuda", [](Call& c) {
        with_device_dtype(c.next<int>(), [&](auto zero) {
            using T = decltype(zero);
            const auto problem = problem_of<T>(c.next<Reader>());
            const auto out = out_of<T>(c.next<Reader>());
            void *workspace, *stream;
            int device;
            c.rest(workspace, device, stream);
            run([&] { return cuda::head(problem, out, workspace, device, stream); });
        });
    });
    m.def("head_backward_cuda", [](Call& c) {
        with_device_dtype(c.next<int>(), [&](auto zero) {
            using T = decltype(zero);
            const auto problem = problem_of<T>(c.next<Reader>());
            const auto saved = out_of<T>(c.next<Reader>());
            const auto gradients = gradients_of<T>(c.next<Reader>());
            void *workspace, *stream;
            int device;
            c.rest(workspace, device, stream);
            run([&] { return cuda::head_backward(problem, saved, gradients, workspace, device, stream); });
        });
    });
    m.def("reference_score_cuda", [](Call& c) {
        with_device_dtype(c.next<int>(), [&](auto zero) {
            using T = decltype(zero);
            const auto problem = score_of<T>(c.next<Reader>());
            ArithmeticOf<T> *updated, *score;
            int device;
            void* stream;
            c.rest(updated, score, device, stream);
            run([&] { return cuda::reference_score(problem, updated, score, device, stream); });
        });
    });
#endif
}

}  // namespace d2k

#include "d2kernels/losses.h"

#include "bindings/bindings.h"
#include "bindings/reader.h"

namespace d2k {
namespace {

// In the order of the fields; native.py makes the tuple.
template <class T>
Losses<T> problem_of(const py::tuple& arguments) {
    Reader r(arguments);
    Losses<T> x{};
    x.sequences = r.sequences();
    for (const T** field : {&x.p, &x.embedding, &x.mass, &x.on, &x.off, &x.score}) *field = r.address<const T>();
    x.labels = r.address<const bool>();
    x.keys = r.address<const T>();
    x.permutations = r.address<const int64_t>();
    x.iteration = r.address<const int64_t>();
    x.classes = r.next<int64_t>();
    x.width = r.next<int64_t>();
    x.min_snippets = r.next<int64_t>();
    x.clamp = r.next<double>();
    x.pairs = static_cast<Pairs>(r.next<int>());
    x.torch_cosine = r.next<bool>();
    x.per_entry = r.next<bool>();
    for (double* field : {&x.gamma, &x.beta, &x.pair_warmup, &x.denoising_start, &x.denoising_warmup})
        *field = r.next<double>();
    x.snippet = r.next<bool>();
    x.video = r.next<bool>();
    for (double* field : {&x.snippet_weight, &x.video_weight, &x.foreground_threshold, &x.background_threshold})
        *field = r.next<double>();
    x.joint = r.next<bool>();
    x.floor = r.next<double>();
    x.rtol = r.next<double>();
    x.skip_one_sided = r.next<bool>();
    x.forward_only = r.next<bool>();
    x.floored = r.next<bool>();
    x.relative_floor = r.next<double>();
    x.normalize_rows = r.next<bool>();
    x.per_class = r.next<bool>();
    x.video_atol = r.next<double>();
    x.video_rtol = r.next<double>();
    return x;
}

template <class T>
LossesOut<T> out_of(const py::tuple& arguments) {
    Reader r(arguments);
    LossesOut<T> x{};
    for (T** field : {&x.total, &x.classification, &x.ds, &x.dv}) *field = r.address<T>();
    x.factors = r.address<double>();
    x.by_p = r.address<T>();
    x.video_by_p = r.address<double>();
    x.by_embedding = r.address<T>();
    x.snippet_by_row = r.address<double>();
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
Backward<T> backward_of(const py::tuple& arguments) {
    Reader r(arguments);
    Backward<T> x{};
    x.sequences = r.sequences();
    for (const T** field : {&x.saved.total, &x.saved.classification, &x.saved.ds, &x.saved.dv})
        *field = r.address<const T>();
    x.saved.factors = r.address<const double>();
    x.saved.by_p = r.address<const T>();
    x.saved.video_by_p = r.address<const double>();
    x.saved.by_embedding = r.address<const T>();
    x.saved.snippet_by_row = r.address<const double>();
    x.saved.score = r.address<const T>();
    x.saved.foreground_threshold = r.next<double>();
    x.saved.background_threshold = r.next<double>();
    x.classes = r.next<int64_t>();
    x.width = r.next<int64_t>();
    for (T** field : {&x.to.p, &x.to.embedding, &x.to.on, &x.to.off}) *field = r.address<T>();
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

void bind_losses(py::module_& m) {
    m.def("losses_cpu", [](int dtype, const py::tuple& problem, const py::tuple& out) {
        with_real(dtype, [&](auto zero) {
            using T = decltype(zero);
            const auto p = problem_of<T>(problem);
            const auto o = out_of<T>(out);
            run([&] { return cpu::losses(p, o); });
        });
    });
    m.def("losses_backward_cpu", [](int dtype, const py::tuple& arguments) {
        with_real(dtype, [&](auto zero) {
            const auto x = backward_of<decltype(zero)>(arguments);
            run([&] { return cpu::losses_backward(x.sequences, x.saved, x.classes, x.width, x.to); });
        });
    });

#ifdef D2K_CUDA
    m.def("losses_workspace_cuda", [](const py::tuple& problem, int device) {
        const auto p = problem_of<float>(problem);
        size_t bytes = 0;
        run([&] { return cuda::losses_workspace(p, device, &bytes); });
        return bytes;
    });
    m.def("losses_cuda", [](const py::tuple& problem, const py::tuple& out, Address workspace, size_t bytes, int device,
                            Address stream) {
        const auto p = problem_of<float>(problem);
        const auto o = out_of<float>(out);
        run([&] { return cuda::losses(p, o, pointer<void>(workspace), bytes, device, pointer<void>(stream)); });
    });
    m.def("losses_backward_cuda", [](const py::tuple& arguments, int device, Address stream) {
        const auto x = backward_of<float>(arguments);
        run([&] {
            return cuda::losses_backward(x.sequences, x.saved, x.classes, x.width, x.to, device, pointer<void>(stream));
        });
    });
#endif
}

}  // namespace d2k

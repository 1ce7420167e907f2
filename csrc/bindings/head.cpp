#include "d2kernels/head.h"

#include "bindings/dtype.h"
#include "bindings/reader.h"

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
Head<T> problem_of(const py::tuple& arguments) {
    using V = ArithmeticOf<T>;
    Reader r(arguments);
    Head<T> x{};
    x.sequences = r.sequences();
    x.z = r.address<const T>();
    x.logits = r.address<const T>();
    for (int64_t* field : {&x.streams, &x.width, &x.classes}) *field = r.next<int64_t>();
    x.labels = r.address<const bool>();
    x.foreground_threshold = static_cast<V>(r.next<double>());
    x.background_threshold = static_cast<V>(r.next<double>());
    x.inclusive = r.next<bool>();
    x.normalize = r.next<bool>();
    return x;
}

template <class T>
HeadOut<T> out_of(const py::tuple& arguments) {
    using V = ArithmeticOf<T>;
    Reader r(arguments);
    HeadOut<T> x{};
    for (V** field : {&x.activations, &x.attention, &x.own, &x.embedding, &x.mass, &x.lowest}) *field = r.address<V>();
    return x;
}

template <class T>
HeadGradients<T> gradients_of(const py::tuple& arguments) {
    using V = ArithmeticOf<T>;
    Reader r(arguments);
    HeadGradients<T> x{};
    for (const V** field : {&x.activations, &x.attention, &x.own, &x.embedding}) *field = r.address<const V>();
    x.z = r.address<T>();
    x.logits = r.address<T>();
    return x;
}

template <class T>
ReferenceScore<T> score_of(const py::tuple& arguments) {
    using V = ArithmeticOf<T>;
    Reader r(arguments);
    ReferenceScore<T> x{};
    x.sequences = r.sequences();
    x.z = r.address<const T>();
    for (int64_t* field : {&x.streams, &x.width, &x.classes}) *field = r.next<int64_t>();
    x.reference = r.address<const V>();
    x.candidate = r.address<const V>();
    x.stride = r.next<int64_t>();
    x.mass = r.address<const V>();
    x.labels = r.address<const bool>();
    x.min_snippets = r.next<int64_t>();
    x.momentum = r.next<double>();
    return x;
}

}  // namespace

void bind_head(py::module_& m) {
    m.def("head_cpu", [](int dtype, const py::tuple& problem, const py::tuple& out, int threads) {
        with_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            const auto p = problem_of<T>(problem);
            const auto o = out_of<T>(out);
            run([&] { return cpu::head(p, o, threads); });
        });
    });
    m.def("head_backward_cpu", [](int dtype, const py::tuple& problem, const py::tuple& saved,
                                  const py::tuple& gradients, int threads) {
        with_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            const auto p = problem_of<T>(problem);
            const auto s = out_of<T>(saved);
            const auto g = gradients_of<T>(gradients);
            run([&] { return cpu::head_backward(p, s, g, threads); });
        });
    });
    m.def("reference_score_cpu", [](int dtype, const py::tuple& problem, Address updated, Address score, int threads) {
        with_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            using V = ArithmeticOf<T>;
            const auto p = score_of<T>(problem);
            run([&] { return cpu::reference_score(p, pointer<V>(updated), pointer<V>(score), threads); });
        });
    });

#ifdef D2K_CUDA
    m.def("head_workspace_cuda", [](int dtype, const py::tuple& problem) {
        size_t bytes = 0;
        with_device_dtype(dtype, [&](auto zero) { bytes = cuda::head_workspace(problem_of<decltype(zero)>(problem)); });
        return bytes;
    });
    m.def("head_cuda", [](int dtype, const py::tuple& problem, const py::tuple& out, Address workspace, int device,
                          Address stream) {
        with_device_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            const auto p = problem_of<T>(problem);
            const auto o = out_of<T>(out);
            run([&] { return cuda::head(p, o, pointer<void>(workspace), device, pointer<void>(stream)); });
        });
    });
    m.def("head_backward_cuda", [](int dtype, const py::tuple& problem, const py::tuple& saved,
                                   const py::tuple& gradients, Address workspace, int device, Address stream) {
        with_device_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            const auto p = problem_of<T>(problem);
            const auto s = out_of<T>(saved);
            const auto g = gradients_of<T>(gradients);
            run([&] { return cuda::head_backward(p, s, g, pointer<void>(workspace), device, pointer<void>(stream)); });
        });
    });
    m.def("reference_score_cuda", [](int dtype, const py::tuple& problem, Address updated, Address score, int device,
                                     Address stream) {
        with_device_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            using V = ArithmeticOf<T>;
            const auto p = score_of<T>(problem);
            run([&] {
                return cuda::reference_score(p, pointer<V>(updated), pointer<V>(score), device, pointer<void>(stream));
            });
        });
    });
#endif
}

}  // namespace d2k

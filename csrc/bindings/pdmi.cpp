#include "d2kernels/pdmi.h"

#include <tuple>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

using Address = std::uintptr_t;

// dtype, total, attention, background, foreground, offsets, lengths, sequences, both thresholds, joint, floor, rtol
using SnippetArguments = std::tuple<int, int64_t, Address, Address, Address, Address, Address, int64_t, double, double,
                                    bool, double, double>;

template <class T>
PdmiSnippet<T> snippet(const SnippetArguments& a) {
    const auto [dtype, total, attention, background, foreground, offsets, lengths, sequences, above, below, joint,
                floor, rtol] = a;
    (void)dtype;
    return {{pointer<const int64_t>(offsets), pointer<const int64_t>(lengths), sequences, total},
            pointer<const T>(attention),
            pointer<const T>(background),
            pointer<const T>(foreground),
            above,
            below,
            joint,
            floor,
            rtol};
}

// value, counts, means, slopes
using SnippetOutputs = std::tuple<Address, Address, Address, Address, Address, Address, Address>;

template <class T>
PdmiSnippetOut<T> outputs(const SnippetOutputs& a) {
    const auto [value, foreground_count, background_count, foreground_mean, background_mean, foreground_slope,
                background_slope] = a;
    return {pointer<T>(value),
            pointer<int64_t>(foreground_count),
            pointer<int64_t>(background_count),
            pointer<T>(foreground_mean),
            pointer<T>(background_mean),
            pointer<double>(foreground_slope),
            pointer<double>(background_slope)};
}

// Runs call(problem, a zero of its type) without the GIL.
template <class Call>
void with_snippet(const py::tuple& arguments, const Call& call) {
    const auto a = arguments.cast<SnippetArguments>();
    with_dtype(std::get<0>(a), [&](auto zero) {
        run([&] { return call(snippet<decltype(zero)>(a), zero); });
    });
}

// dtype, p, labels, keep, videos, classes, floored, relative_floor, normalize_rows, per_class, atol, rtol, value, rank,
// slope
using VideoArguments = std::tuple<int, Address, Address, Address, int64_t, int64_t, bool, double, bool, bool, double,
                                  double, Address, Address, Address>;

// The problem, with pointers that as_input and as_output make.
template <class T, class Input, class Output>
PdmiVideo<T> video(const VideoArguments& arguments, const Input& as_input, const Output& as_output) {
    const auto [dtype, p, labels, keep, videos, classes, floored, relative_floor, normalize_rows, per_class, atol, rtol,
                value, rank, slope] = arguments;
    (void)dtype;
    return {as_input(p), pointer<const bool>(labels), pointer<const bool>(keep), videos, classes, floored,
            relative_floor, normalize_rows, per_class, atol, rtol, as_output(value), pointer<int64_t>(rank),
            pointer<double>(slope)};
}

#ifdef D2K_CUDA
PdmiVideo<AnyFloat> video_of_any(const py::tuple& arguments) {
    const auto all = arguments.cast<VideoArguments>();
    const auto floats = [&](Address address) { return Floats(pointer<void>(address), std::get<0>(all)); };
    return video<AnyFloat>(all, floats, floats);
}
#endif

}  // namespace

void bind_pdmi(py::module_& m) {
    m.def("pdmi_snippet_cpu", [](const py::tuple& problem, const py::tuple& out, int threads) {
        const auto to = out.cast<SnippetOutputs>();
        with_snippet(problem, [&](const auto& p, auto zero) {
            return cpu::pdmi_snippet(p, outputs<decltype(zero)>(to), threads);
        });
    });
    m.def("pdmi_snippet_backward_cpu", [](const py::tuple& problem, Address grad, Address foreground_slope,
                                          Address background_slope, Address on, Address off, int threads) {
        with_snippet(problem, [&](const auto& p, auto zero) {
            using T = decltype(zero);
            const PdmiSnippetSaved<T> saved{pointer<const T>(grad), pointer<const double>(foreground_slope),
                                            pointer<const double>(background_slope)};
            return cpu::pdmi_snippet_backward(p, saved, pointer<T>(on), pointer<T>(off), threads);
        });
    });
    m.def("pdmi_video_cpu", [](const py::tuple& problem) {
        const auto all = problem.cast<VideoArguments>();
        with_dtype(std::get<0>(all), [&](auto zero) {
            using T = decltype(zero);
            const auto p = video<T>(all, pointer<const T>, pointer<T>);
            run([&] { return cpu::pdmi_video(p); });
        });
    });

#ifdef D2K_CUDA
    m.def("pdmi_snippet_cuda", [](const py::tuple& problem, const py::tuple& out, int device, Address stream) {
        const auto to = out.cast<SnippetOutputs>();
        with_snippet(problem, [&](const auto& p, auto zero) {
            return cuda::pdmi_snippet(p, outputs<decltype(zero)>(to), device, pointer<void>(stream));
        });
    });
    m.def("pdmi_snippet_backward_cuda", [](const py::tuple& problem, Address grad, Address foreground_slope,
                                           Address background_slope, Address on, Address off, int device,
                                           Address stream) {
        with_snippet(problem, [&](const auto& p, auto zero) {
            using T = decltype(zero);
            const PdmiSnippetSaved<T> saved{pointer<const T>(grad), pointer<const double>(foreground_slope),
                                            pointer<const double>(background_slope)};
            return cuda::pdmi_snippet_backward(p, saved, pointer<T>(on), pointer<T>(off), device,
                                               pointer<void>(stream));
        });
    });
    m.def("pdmi_video_workspace_cuda", [](const py::tuple& problem, int device) {
        const auto p = video_of_any(problem);
        size_t bytes = 0;
        run([&] { return cuda::pdmi_video_workspace(p, device, &bytes); });
        return bytes;
    });
    m.def("pdmi_video_cuda", [](const py::tuple& problem, Address workspace, size_t bytes, int device, Address stream) {
        const auto p = video_of_any(problem);
        run([&] { return cuda::pdmi_video(p, pointer<void>(workspace), bytes, device, pointer<void>(stream)); });
    });
#endif
}

}  // namespace d2k

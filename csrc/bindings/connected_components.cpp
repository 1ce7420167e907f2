#include "d2kernels/connected_components.h"

#include <tuple>

#include "bindings/bindings.h"

namespace d2k {
namespace {

// The arguments that describe a connected_components problem, the same for every entry point.
using ComponentsArguments =
    std::tuple<std::uintptr_t, bool, int64_t, int64_t, int64_t, int64_t, std::uintptr_t, std::uintptr_t, int64_t,
               std::uintptr_t, int64_t, bool, std::uintptr_t, int64_t, bool>;

template <class T>
Components<T> components(const ComponentsArguments& a) {
    const auto [scores, is_double, total, classes, row_stride, class_stride, offsets, lengths, sequences, thresholds,
                levels, own_thresholds, class_mask, min_length, distinct] = a;
    return {{pointer<const int64_t>(offsets), pointer<const int64_t>(lengths), sequences, total},
            pointer<const T>(scores),
            row_stride,
            class_stride,
            classes,
            pointer<const T>(thresholds),
            levels,
            own_thresholds,
            pointer<const bool>(class_mask),
            min_length,
            distinct};
}

// Runs call(Components<float> or Components<double>) without the GIL.
template <class Call>
void with_components(const py::tuple& arguments, const Call& call) {
    const auto a = arguments.cast<ComponentsArguments>();
    run([&] { return std::get<1>(a) ? call(components<double>(a)) : call(components<float>(a)); });
}

}  // namespace

void bind_connected_components(py::module_& m) {
    m.def("connected_components_count_cpu", [](const py::tuple& problem, std::uintptr_t positions, int threads) {
        with_components(problem, [&](const auto& p) {
            return cpu::connected_components_count(p, pointer<int64_t>(positions), threads);
        });
    });
    m.def("connected_components_fill_cpu",
          [](const py::tuple& problem, std::uintptr_t positions, std::uintptr_t out, int64_t size, int threads) {
              with_components(problem, [&](const auto& p) {
                  return cpu::connected_components_fill(p, pointer<const int64_t>(positions),
                                                        Segments::in(pointer<int64_t>(out), size), threads);
              });
          });

#ifdef D2K_CUDA
    m.def("connected_components_workspace_cuda", [](int64_t items, int device) {
        size_t bytes = 0;
        check(cuda::connected_components_workspace(items, device, &bytes));
        return bytes;
    });
    m.def("connected_components_count_cuda", [](const py::tuple& problem, std::uintptr_t positions,
                                                std::uintptr_t workspace, size_t bytes, int device,
                                                std::uintptr_t stream) {
        with_components(problem, [&](const auto& p) {
            return cuda::connected_components_count(p, pointer<int64_t>(positions), pointer<void>(workspace), bytes,
                                                    device, pointer<void>(stream));
        });
    });
    m.def("connected_components_fill_cuda", [](const py::tuple& problem, std::uintptr_t positions, std::uintptr_t out,
                                               int64_t size, int device, std::uintptr_t stream) {
        with_components(problem, [&](const auto& p) {
            return cuda::connected_components_fill(p, pointer<const int64_t>(positions),
                                                   Segments::in(pointer<int64_t>(out), size), device,
                                                   pointer<void>(stream));
        });
    });
#endif
}

}  // namespace d2k

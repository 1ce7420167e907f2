#include "d2kernels/condition_number.h"

#include <tuple>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// dtype, a, b, batch, rows, inner, columns, atol, rtol, log, value, slope_a, slope_b
using Arguments = std::tuple<int, std::uintptr_t, std::uintptr_t, int64_t, int64_t, int64_t, int64_t, double, double,
                             bool, std::uintptr_t, std::uintptr_t, std::uintptr_t>;

// The problem, with pointers that as_input and as_output make.
template <class T, class Input, class Output>
ConditionNumber<T> problem_of(const Arguments& arguments, const Input& as_input, const Output& as_output) {
    const auto [dtype, a, b, batch, rows, inner, columns, atol, rtol, log, value, slope_a, slope_b] = arguments;
    (void)dtype;
    return {as_input(a), as_input(b), batch, rows, inner, columns, atol, rtol, log, as_output(value),
            pointer<double>(slope_a), pointer<double>(slope_b)};
}

#ifdef D2K_CUDA
ConditionNumber<AnyFloat> problem_of_any(const py::tuple& arguments) {
    const auto all = arguments.cast<Arguments>();
    const auto floats = [&](std::uintptr_t address) { return Floats(pointer<void>(address), std::get<0>(all)); };
    return problem_of<AnyFloat>(all, floats, floats);
}
#endif

}  // namespace

void bind_condition_number(py::module_& m) {
    using Address = std::uintptr_t;
    m.def("condition_number_cpu", [](const py::tuple& problem, int threads) {
        const auto all = problem.cast<Arguments>();
        with_dtype(std::get<0>(all), [&](auto zero) {
            using T = decltype(zero);
            const auto p = problem_of<T>(all, pointer<const T>, pointer<T>);
            run([&] { return cpu::condition_number(p, threads); });
        });
    });
    m.def("scale_slopes_cpu", [](int dtype, Address grad, Address slope, int64_t batch, int64_t size, Address gradient,
                                 int threads) {
        with_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            run([&] {
                return cpu::scale_slopes(pointer<const T>(grad), pointer<const double>(slope), batch, size,
                                         pointer<T>(gradient), threads);
            });
        });
    });

#ifdef D2K_CUDA
    m.def("condition_number_workspace_cuda", [](const py::tuple& problem, int device) {
        const auto p = problem_of_any(problem);
        size_t bytes = 0;
        run([&] { return cuda::condition_number_workspace(p, device, &bytes); });
        return bytes;
    });
    m.def("condition_number_cuda", [](const py::tuple& problem, Address workspace, size_t bytes, int device,
                                      Address stream) {
        const auto p = problem_of_any(problem);
        run([&] { return cuda::condition_number(p, pointer<void>(workspace), bytes, device, pointer<void>(stream)); });
    });
    m.def("scale_slopes_cuda", [](int dtype, Address grad, Address slope, int64_t batch, int64_t size,
                                  Address gradient, int device, Address stream) {
        with_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            run([&] {
                return cuda::scale_slopes(pointer<const T>(grad), pointer<const double>(slope), batch, size,
                                          pointer<T>(gradient), device, pointer<void>(stream));
            });
        });
    });
#endif
}

}  // namespace d2k

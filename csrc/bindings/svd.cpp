#include "d2kernels/svd.h"

#include <tuple>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

using Address = std::uintptr_t;

// dtype, a, batch, rows, columns, u, s, vh
using Arguments = std::tuple<int, Address, int64_t, int64_t, int64_t, Address, Address, Address>;

// The problem, with pointers that as_input and as_output make.
template <class T, class Input, class Output>
Svd<T> problem_of(const Arguments& arguments, const Input& as_input, const Output& as_output) {
    const auto [dtype, a, batch, rows, columns, u, s, vh] = arguments;
    (void)dtype;
    return {as_input(a), batch, rows, columns, as_output(u), as_output(s), as_output(vh)};
}

#ifdef D2K_CUDA
Svd<AnyFloat> problem_of_any(const py::tuple& arguments) {
    const auto all = arguments.cast<Arguments>();
    const auto floats = [&](Address address) { return Floats(pointer<void>(address), std::get<0>(all)); };
    return problem_of<AnyFloat>(all, floats, floats);
}
#endif

}  // namespace

void bind_svd(py::module_& m) {
    m.def("svd_cpu", [](const py::tuple& problem, int threads) {
        int64_t failed = -1;
        const auto all = problem.cast<Arguments>();
        with_dtype(std::get<0>(all), [&](auto zero) {
            using T = decltype(zero);
            const auto p = problem_of<T>(all, pointer<const T>, pointer<T>);
            run([&] { return cpu::svd(p, &failed, threads); });
        });
        return failed;
    });

#ifdef D2K_CUDA
    m.def("svd_workspace_cuda", [](const py::tuple& problem, int device) {
        const auto p = problem_of_any(problem);
        size_t bytes = 0;
        run([&] { return cuda::svd_workspace(p, device, &bytes); });
        return bytes;
    });
    m.def("svd_cuda", [](const py::tuple& problem, Address workspace, size_t bytes, int device, Address stream) {
        const auto p = problem_of_any(problem);
        run([&] { return cuda::svd(p, pointer<void>(workspace), bytes, device, pointer<void>(stream)); });
    });
#endif
}

}  // namespace d2k

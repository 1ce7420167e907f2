#include "d2kernels/svd.h"

#include <tuple>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

using Address = std::uintptr_t;

// dtype, a, batch, rows, columns, u, s, vh
using Arguments = std::tuple<int, Address, int64_t, int64_t, int64_t, Address, Address, Address>;

// Runs call(Svd<T>) without the GIL.
template <class Call>
void with_problem(const py::tuple& arguments, const Call& call) {
    const auto all = arguments.cast<Arguments>();
    with_dtype(std::get<0>(all), [&](auto zero) {
        using T = decltype(zero);
        const auto [dtype, a, batch, rows, columns, u, s, vh] = all;
        (void)dtype;
        const Svd<T> problem{pointer<const T>(a), batch, rows, columns, pointer<T>(u), pointer<T>(s), pointer<T>(vh)};
        run([&] { return call(problem); });
    });
}

}  // namespace

void bind_svd(py::module_& m) {
    m.def("svd_cpu", [](const py::tuple& problem, int threads) {
        int64_t failed = -1;
        with_problem(problem, [&](const auto& p) { return cpu::svd(p, &failed, threads); });
        return failed;
    });
}

}  // namespace d2k

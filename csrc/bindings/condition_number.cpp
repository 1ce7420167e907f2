#include "d2kernels/condition_number.h"

#include <tuple>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// dtype, a, b, batch, rows, inner, columns, atol, rtol, log, value, slope_a, slope_b
using Arguments = std::tuple<int, std::uintptr_t, std::uintptr_t, int64_t, int64_t, int64_t, int64_t, double, double,
                             bool, std::uintptr_t, std::uintptr_t, std::uintptr_t>;

// Runs call(ConditionNumber<T>) without the GIL.
template <class Call>
void with_problem(const py::tuple& arguments, const Call& call) {
    const auto [dtype, a, b, batch, rows, inner, columns, atol, rtol, log, value, slope_a, slope_b] =
        arguments.cast<Arguments>();
    with_dtype(dtype, [&, a = a, b = b, batch = batch, rows = rows, inner = inner, columns = columns, atol = atol,
                       rtol = rtol, log = log, value = value, slope_a = slope_a, slope_b = slope_b](auto zero) {
        using T = decltype(zero);
        const ConditionNumber<T> problem{pointer<const T>(a), pointer<const T>(b), batch, rows, inner, columns, atol,
                                         rtol, log, pointer<T>(value), pointer<double>(slope_a),
                                         pointer<double>(slope_b)};
        run([&] { return call(problem); });
    });
}

}  // namespace

void bind_condition_number(py::module_& m) {
    using Address = std::uintptr_t;
    m.def("condition_number_cpu", [](const py::tuple& problem, int threads) {
        with_problem(problem, [&](const auto& p) { return cpu::condition_number(p, threads); });
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
}

}  // namespace d2k

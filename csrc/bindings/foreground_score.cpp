#include "d2kernels/foreground_score.h"

#include <tuple>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// x, dtype, total, width, reference, eps, offsets, lengths, sequences
using ScoreArguments = std::tuple<std::uintptr_t, int, int64_t, int64_t, std::uintptr_t, double, std::uintptr_t,
                                  std::uintptr_t, int64_t>;

template <class T>
ForegroundScore<T> score(const ScoreArguments& a) {
    using V = ArithmeticOf<T>;
    const auto [x, dtype, total, width, reference, eps, offsets, lengths, sequences] = a;
    (void)dtype;
    return {{pointer<const int64_t>(offsets), pointer<const int64_t>(lengths), sequences, total},
            pointer<const T>(x),
            width,
            pointer<const V>(reference),
            static_cast<V>(eps)};
}

// Runs call(ForegroundScore<T>, T of x) without the GIL.
template <class Call>
void with_score(const py::tuple& arguments, const Call& call) {
    const auto a = arguments.cast<ScoreArguments>();
    with_dtype(std::get<1>(a), [&](auto zero) { run([&] { return call(score<decltype(zero)>(a), zero); }); });
}

}  // namespace

void bind_foreground_score(py::module_& m) {
    using Address = std::uintptr_t;
    m.def("foreground_score_cpu", [](const py::tuple& problem, Address out, int threads) {
        with_score(problem, [&](const auto& p, auto zero) {
            return cpu::foreground_score(p, pointer<decltype(zero)>(out), threads);
        });
    });
    m.def("foreground_score_backward_cpu",
          [](const py::tuple& problem, Address grad, Address grad_x, Address grad_reference, int threads) {
              with_score(problem, [&](const auto& p, auto zero) {
                  using T = decltype(zero);
                  return cpu::foreground_score_backward(p, pointer<const T>(grad), pointer<T>(grad_x),
                                                        pointer<ArithmeticOf<T>>(grad_reference), threads);
              });
          });
}

}  // namespace d2k

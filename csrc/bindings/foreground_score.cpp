#include "d2kernels/foreground_score.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// x, dtype, total, width, reference, eps, offsets, lengths, sequences
template <class T>
ForegroundScore<T> score(Reader r) {
    ForegroundScore<T> x{};
    int dtype;
    double eps;
    r.rest(x.x, dtype, x.sequences.total, x.width, x.reference, eps, x.sequences.offsets, x.sequences.lengths,
           x.sequences.count);
    x.eps = static_cast<ArithmeticOf<T>>(eps);
    return x;
}

// Calls call(the problem, a zero of its type).
template <class Function>
void with_score(const Reader& problem, const Function& call) {
    with_dtype(problem.at<int>(1), [&](auto zero) { call(score<decltype(zero)>(problem), zero); });
}

}  // namespace

void bind_foreground_score(Module& m) {
    m.def("foreground_score_cpu", [](Call& c) {
        with_score(c.next<Reader>(), [&](const auto& problem, auto zero) {
            decltype(zero)* out;
            int threads;
            c.rest(out, threads);
            run([&] { return cpu::foreground_score(problem, out, threads); });
        });
    });
    m.def("foreground_score_backward_cpu", [](Call& c) {
        with_score(c.next<Reader>(), [&](const auto& problem, auto zero) {
            using T = decltype(zero);
            const T* grad;
            T* grad_x;
            ArithmeticOf<T>* grad_reference;
            int threads;
            c.rest(grad, grad_x, grad_reference, threads);
            run([&] { return cpu::foreground_score_backward(problem, grad, grad_x, grad_reference, threads); });
        });
    });
}

}  // namespace d2k

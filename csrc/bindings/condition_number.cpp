#include "d2kernels/condition_number.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// dtype, a, b, batch, rows, inner, columns, atol, rtol, log, value, slope_a, slope_b
template <class T>
ConditionNumber<T> problem_of(Reader r) {
    int dtype;
    Address a, b;
    WrittenAddress value;
    int64_t batch, rows, inner, columns;
    double atol, rtol, *slope_a, *slope_b;
    bool log;
    r.rest(dtype, a, b, batch, rows, inner, columns, atol, rtol, log, value, slope_a, slope_b);
    return {floats_at<InputOf<T>>(a, dtype), floats_at<InputOf<T>>(b, dtype), batch, rows, inner, columns, atol, rtol,
            log, floats_at<OutputOf<T>>(value, dtype), slope_a, slope_b};
}

}  // namespace

void bind_condition_number(Module& m) {
    m.def("condition_number_cpu", [](Call& c) {
        Reader problem;
        int threads;
        c.rest(problem, threads);
        with_dtype(problem.at<int>(0), [&](auto zero) {
            const auto p = problem_of<decltype(zero)>(problem);
            run([&] { return cpu::condition_number(p, threads); });
        });
    });
    m.def("scale_slopes_cpu", [](Call& c) {
        with_dtype(c.next<int>(), [&](auto zero) {
            using T = decltype(zero);
            const T* grad;
            const double* slope;
            int64_t batch, size;
            T* gradient;
            int threads;
            c.rest(grad, slope, batch, size, gradient, threads);
            run([&] { return cpu::scale_slopes(grad, slope, batch, size, gradient, threads); });
        });
    });

#ifdef D2K_CUDA
    m.def_size("condition_number_workspace_cuda", [](Call& c) {
        const auto p = problem_of<AnyFloat>(c.next<Reader>());
        int device;
        c.rest(device);
        size_t bytes = 0;
        run([&] { return cuda::condition_number_workspace(p, device, &bytes); });
        c.give(static_cast<int64_t>(bytes));
    });
    m.def("condition_number_cuda", [](Call& c) {
        const auto p = problem_of<AnyFloat>(c.next<Reader>());
        void *workspace, *stream;
        size_t bytes;
        int device;
        c.rest(workspace, bytes, device, stream);
        run([&] { return cuda::condition_number(p, workspace, bytes, device, stream); });
    });
    m.def("scale_slopes_cuda", [](Call& c) {
        with_dtype(c.next<int>(), [&](auto zero) {
            using T = decltype(zero);
            const T* grad;
            const double* slope;
            int64_t batch, size;
            T* gradient;
            int device;
            void* stream;
            c.rest(grad, slope, batch, size, gradient, device, stream);
            run([&] { return cuda::scale_slopes(grad, slope, batch, size, gradient, device, stream); });
        });
    });
#endif
}

}  // namespace d2k

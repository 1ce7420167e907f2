#include "d2kernels/svd.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"
#include "d2kernels/svd_backward.h"

namespace d2k {
namespace {

// dtype, a, batch, rows, columns, u, s, vh
template <class T>
Svd<T> problem_of(Reader r) {
    int dtype;
    Address a;
    WrittenAddress u, s, vh;
    int64_t batch, rows, columns;
    r.rest(dtype, a, batch, rows, columns, u, s, vh);
    const auto output = [&](Address address) { return floats_at<OutputOf<T>>(address, dtype); };
    return {floats_at<InputOf<T>>(a, dtype), batch, rows, columns, output(u), output(s), output(vh)};
}

// dtype, grad_u, grad_s, grad_vh, u, s, vh, batch, rows, columns, gradient
template <class T>
SvdBackward<T> gradient_of(Reader r) {
    int dtype;
    Address grad_u, grad_s, grad_vh, u, s, vh;
    WrittenAddress gradient;
    int64_t batch, rows, columns;
    r.rest(dtype, grad_u, grad_s, grad_vh, u, s, vh, batch, rows, columns, gradient);
    const auto input = [&](Address address) { return floats_at<InputOf<T>>(address, dtype); };
    return {input(grad_u), input(grad_s), input(grad_vh), input(u), input(s), input(vh), batch, rows, columns,
            floats_at<OutputOf<T>>(gradient, dtype)};
}

}  // namespace

void bind_svd(Module& m) {
    m.def("svd_cpu", [](Call& c) {
        int64_t failed = -1;
        Reader problem;
        int threads;
        c.rest(problem, threads);
        with_dtype(problem.at<int>(0), [&](auto zero) {
            const auto p = problem_of<decltype(zero)>(problem);
            run([&] { return cpu::svd(p, &failed, threads); });
        });
        c.give(failed);
    });
    m.def("svd_backward_cpu", [](Call& c) {
        Reader problem;
        int threads;
        c.rest(problem, threads);
        with_dtype(problem.at<int>(0), [&](auto zero) {
            const auto p = gradient_of<decltype(zero)>(problem);
            run([&] { return cpu::svd_backward(p, threads); });
        });
    });

#ifdef D2K_CUDA
    m.def_size("svd_workspace_cuda", [](Call& c) {
        const auto p = problem_of<AnyFloat>(c.next<Reader>());
        int device;
        c.rest(device);
        size_t bytes = 0;
        run([&] { return cuda::svd_workspace(p, device, &bytes); });
        c.give(static_cast<int64_t>(bytes));
    });
    m.def("svd_cuda", [](Call& c) {
        const auto p = problem_of<AnyFloat>(c.next<Reader>());
        void *workspace, *stream;
        size_t bytes;
        int device;
        c.rest(workspace, bytes, device, stream);
        run([&] { return cuda::svd(p, workspace, bytes, device, stream); });
    });
    m.def_size("svd_backward_workspace_cuda", [](Call& c) {
        const auto p = gradient_of<AnyFloat>(c.next<Reader>());
        int device;
        c.rest(device);
        size_t bytes = 0;
        run([&] { return cuda::svd_backward_workspace(p, device, &bytes); });
        c.give(static_cast<int64_t>(bytes));
    });
    m.def("svd_backward_cuda", [](Call& c) {
        const auto p = gradient_of<AnyFloat>(c.next<Reader>());
        void *workspace, *stream;
        size_t bytes;
        int device;
        c.rest(workspace, bytes, device, stream);
        run([&] { return cuda::svd_backward(p, workspace, bytes, device, stream); });
    });
#endif
}

}  // namespace d2k

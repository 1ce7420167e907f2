#include "d2kernels/svd.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

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

#ifdef D2K_CUDA
    m.def("svd_workspace_cuda", [](Call& c) {
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
#endif
}

}  // namespace d2k

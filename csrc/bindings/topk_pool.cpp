#include "d2kernels/topk_pool.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// scores, dtype, total, classes, offsets, lengths, sequences, k, each, divisor, add
template <class T>
TopkPool<T> topk(Reader r) {
    TopkPool<T> x{};
    int dtype;
    r.rest(x.scores, dtype, x.sequences.total, x.classes, x.sequences.offsets, x.sequences.lengths, x.sequences.count,
           x.k, x.each, x.divisor, x.add);
    return x;
}

// Calls call(the problem, a zero of its type).
template <class Function>
void with_topk(const Reader& problem, const Function& call) {
    with_dtype(problem.at<int>(1), [&](auto zero) { call(topk<decltype(zero)>(problem), zero); });
}

}  // namespace

void bind_topk_pool(Module& m) {
    m.def("topk_pool_cpu", [](Call& c) {
        with_topk(c.next<Reader>(), [&](const auto& problem, auto zero) {
            TopkPoolOut<decltype(zero)> out;
            int threads;
            c.rest(out.mean, out.threshold, out.above, out.tied, threads);
            run([&] { return cpu::topk_pool(problem, out, threads); });
        });
    });
    m.def("topk_pool_backward_cpu", [](Call& c) {
        with_topk(c.next<Reader>(), [&](const auto& problem, auto zero) {
            TopkPoolSaved<decltype(zero)> saved;
            decltype(zero)* grad_scores;
            int threads;
            c.rest(saved.grad, saved.threshold, saved.above, saved.tied, grad_scores, threads);
            run([&] { return cpu::topk_pool_backward(problem, saved, grad_scores, threads); });
        });
    });

#ifdef D2K_CUDA
    m.def_size("topk_pool_workspace_cuda", [](Call& c) {
        size_t bytes = 0;
        with_topk(c.next<Reader>(), [&](const auto& problem, auto) {
            int device;
            c.rest(device);
            run([&] { return cuda::topk_pool_workspace(problem, device, &bytes); });
        });
        c.give(static_cast<int64_t>(bytes));
    });
    m.def("topk_pool_cuda", [](Call& c) {
        with_topk(c.next<Reader>(), [&](const auto& problem, auto zero) {
            TopkPoolOut<decltype(zero)> out;
            int device;
            void *workspace, *stream;
            c.rest(out.mean, out.threshold, out.above, out.tied, workspace, device, stream);
            run([&] { return cuda::topk_pool(problem, out, workspace, device, stream); });
        });
    });
    m.def("topk_pool_backward_cuda", [](Call& c) {
        with_topk(c.next<Reader>(), [&](const auto& problem, auto zero) {
            TopkPoolSaved<decltype(zero)> saved;
            decltype(zero)* grad_scores;
            int device;
            void* stream;
            c.rest(saved.grad, saved.threshold, saved.above, saved.tied, grad_scores, device, stream);
            run([&] { return cuda::topk_pool_backward(problem, saved, grad_scores, device, stream); });
        });
    });
#endif
}

}  // namespace d2k

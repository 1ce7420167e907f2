#include "d2kernels/attention_pool.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// x, dtype, total, width, attention, columns, offsets, lengths, sequences, thresholds, inclusive, normalize
template <class T>
AttentionPool<T> pool(Reader r) {
    AttentionPool<T> x{};
    int dtype;
    r.rest(x.x, dtype, x.sequences.total, x.width, x.attention, x.columns, x.sequences.offsets, x.sequences.lengths,
           x.sequences.count, x.thresholds, x.inclusive, x.normalize);
    return x;
}

// Calls call(the problem, a zero of its type).
template <class Function>
void with_pool(const Reader& problem, const Function& call) {
    with_dtype(problem.at<int>(1), [&](auto zero) { call(pool<decltype(zero)>(problem), zero); });
}

}  // namespace

void bind_attention_pool(Module& m) {
    m.def("attention_pool_cpu", [](Call& c) {
        with_pool(c.next<Reader>(), [&](const auto& problem, auto zero) {
            using T = decltype(zero);
            T* embedding;
            ArithmeticOf<T>* mass;
            int threads;
            c.rest(embedding, mass, threads);
            run([&] { return cpu::attention_pool(problem, embedding, mass, threads); });
        });
    });
    m.def("attention_pool_backward_cpu", [](Call& c) {
        with_pool(c.next<Reader>(), [&](const auto& problem, auto zero) {
            AttentionPoolGradients<decltype(zero)> g;
            int threads;
            c.rest(g.grad, g.grad_mass, g.mass, g.grad_x, g.grad_attention, threads);
            run([&] { return cpu::attention_pool_backward(problem, g, threads); });
        });
    });
}

}  // namespace d2k

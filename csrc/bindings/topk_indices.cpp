#include "d2kernels/topk_indices.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// scores, dtype, total, classes, offsets, lengths, sequences, k, most
template <class T>
TopkIndices<T> indices_of(Reader r) {
    TopkIndices<T> x{};
    int dtype;
    r.rest(x.scores, dtype, x.sequences.total, x.classes, x.sequences.offsets, x.sequences.lengths, x.sequences.count,
           x.k, x.most);
    return x;
}

}  // namespace

void bind_topk_indices(Module& m) {
    m.def("topk_indices_cpu", [](Call& c) {
        const auto problem = c.next<Reader>();
        int64_t* out;
        int threads;
        c.rest(out, threads);
        with_dtype(problem.at<int>(1), [&](auto zero) {
            const auto x = indices_of<decltype(zero)>(problem);
            run([&] { return cpu::topk_indices(x, out, threads); });
        });
    });
}

}  // namespace d2k

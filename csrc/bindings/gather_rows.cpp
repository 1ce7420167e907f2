#include "d2kernels/gather_rows.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// source, its dtype, rows, width, first, offsets, lengths, sequences, rows of out, out, its dtype
template <class From, class To>
GatherRows<From, To> problem_of(Reader r) {
    GatherRows<From, To> x{};
    int from, to;
    r.rest(x.source, from, x.rows, x.width, x.first, x.sequences.offsets, x.sequences.lengths, x.sequences.count,
           x.sequences.total, x.out, to);
    return x;
}

// Calls call(the problem).
template <class Function>
void with_problem(const Reader& problem, const Function& call) {
    with_dtype(problem.at<int>(1), [&](auto from) {
        with_dtype(problem.at<int>(10), [&](auto to) {
            using From = decltype(from);
            using To = decltype(to);
            if constexpr (std::is_same_v<From, double> || std::is_same_v<To, double>)
                throw std::invalid_argument("gather_rows takes no float64");
            else call(problem_of<From, To>(problem));
        });
    });
}

}  // namespace

void bind_gather_rows(Module& m) {
    m.def("gather_rows_cpu", [](Call& c) {
        with_problem(c.next<Reader>(), [&](const auto& problem) {
            const auto threads = c.next<int>();
            c.end();
            run([&] { return cpu::gather_rows(problem, threads); });
        });
    });
#ifdef D2K_CUDA
    m.def("gather_rows_cuda", [](Call& c) {
        with_problem(c.next<Reader>(), [&](const auto& problem) {
            int device;
            void* stream;
            c.rest(device, stream);
            run([&] { return cuda::gather_rows(problem, device, stream); });
        });
    });
#endif
}

}  // namespace d2k

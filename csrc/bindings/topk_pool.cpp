#include "d2kernels/topk_pool.h"

#include <tuple>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// scores, dtype, total, classes, offsets, lengths, sequences, k
using TopkArguments = std::tuple<std::uintptr_t, int, int64_t, int64_t, std::uintptr_t, std::uintptr_t, int64_t,
                                 std::uintptr_t>;

template <class T>
TopkPool<T> topk(const TopkArguments& a) {
    const auto [scores, dtype, total, classes, offsets, lengths, sequences, k] = a;
    (void)dtype;
    return {{pointer<const int64_t>(offsets), pointer<const int64_t>(lengths), sequences, total},
            pointer<const T>(scores),
            classes,
            pointer<const int64_t>(k)};
}

// Runs call(TopkPool<T>, T of the scores) without the GIL.
template <class Call>
void with_topk(const py::tuple& arguments, const Call& call) {
    const auto a = arguments.cast<TopkArguments>();
    with_dtype(std::get<1>(a), [&](auto zero) {
        using T = decltype(zero);
        run([&] { return call(topk<T>(a), zero); });
    });
}

template <class T>
TopkPoolOut<T> outputs(std::uintptr_t mean, std::uintptr_t threshold, std::uintptr_t above, std::uintptr_t tied, T) {
    return {pointer<T>(mean), pointer<T>(threshold), pointer<int32_t>(above), pointer<int32_t>(tied)};
}

template <class T>
TopkPoolSaved<T> inputs(std::uintptr_t grad, std::uintptr_t threshold, std::uintptr_t above, std::uintptr_t tied, T) {
    return {pointer<const T>(grad), pointer<const T>(threshold), pointer<const int32_t>(above),
            pointer<const int32_t>(tied)};
}

}  // namespace

void bind_topk_pool(py::module_& m) {
    using Address = std::uintptr_t;
    m.def("topk_pool_cpu", [](const py::tuple& problem, Address mean, Address threshold, Address above, Address tied,
                              int threads) {
        with_topk(problem, [&](const auto& p, auto zero) {
            return cpu::topk_pool(p, outputs(mean, threshold, above, tied, zero), threads);
        });
    });
    m.def("topk_pool_backward_cpu", [](const py::tuple& problem, Address grad, Address threshold, Address above,
                                       Address tied, Address grad_scores, int threads) {
        with_topk(problem, [&](const auto& p, auto zero) {
            return cpu::topk_pool_backward(p, inputs(grad, threshold, above, tied, zero),
                                           pointer<decltype(zero)>(grad_scores), threads);
        });
    });

#ifdef D2K_CUDA
    m.def("topk_pool_cuda", [](const py::tuple& problem, Address mean, Address threshold, Address above, Address tied,
                               int device, Address stream) {
        with_topk(problem, [&](const auto& p, auto zero) {
            return cuda::topk_pool(p, outputs(mean, threshold, above, tied, zero), device, pointer<void>(stream));
        });
    });
    m.def("topk_pool_backward_cuda", [](const py::tuple& problem, Address grad, Address threshold, Address above,
                                        Address tied, Address grad_scores, int device, Address stream) {
        with_topk(problem, [&](const auto& p, auto zero) {
            return cuda::topk_pool_backward(p, inputs(grad, threshold, above, tied, zero),
                                            pointer<decltype(zero)>(grad_scores), device, pointer<void>(stream));
        });
    });
#endif
}

}  // namespace d2k

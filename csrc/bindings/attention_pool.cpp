#include "d2kernels/attention_pool.h"

#include <tuple>

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// x, dtype, total, width, attention, columns, offsets, lengths, sequences, thresholds, inclusive, normalize
using PoolArguments = std::tuple<std::uintptr_t, int, int64_t, int64_t, std::uintptr_t, int64_t, std::uintptr_t,
                                 std::uintptr_t, int64_t, std::uintptr_t, bool, bool>;

template <class T>
AttentionPool<T> pool(const PoolArguments& a) {
    using V = ArithmeticOf<T>;
    const auto [x, dtype, total, width, attention, columns, offsets, lengths, sequences, thresholds, inclusive,
                normalize] = a;
    (void)dtype;
    return {{pointer<const int64_t>(offsets), pointer<const int64_t>(lengths), sequences, total},
            pointer<const T>(x),
            width,
            pointer<const V>(attention),
            columns,
            pointer<const V>(thresholds),
            inclusive,
            normalize};
}

// Runs call(AttentionPool<T>, T of x) without the GIL.
template <class Call>
void with_pool(const py::tuple& arguments, const Call& call) {
    const auto a = arguments.cast<PoolArguments>();
    with_dtype(std::get<1>(a), [&](auto zero) { run([&] { return call(pool<decltype(zero)>(a), zero); }); });
}

}  // namespace

void bind_attention_pool(py::module_& m) {
    using Address = std::uintptr_t;
    m.def("attention_pool_cpu", [](const py::tuple& problem, Address embedding, Address mass, int threads) {
        with_pool(problem, [&](const auto& p, auto zero) {
            using T = decltype(zero);
            return cpu::attention_pool(p, pointer<T>(embedding), pointer<ArithmeticOf<T>>(mass), threads);
        });
    });
    m.def("attention_pool_backward_cpu", [](const py::tuple& problem, Address grad, Address grad_mass, Address mass,
                                            Address grad_x, Address grad_attention, int threads) {
        with_pool(problem, [&](const auto& p, auto zero) {
            using T = decltype(zero);
            using V = ArithmeticOf<T>;
            const AttentionPoolGradients<T> gradients{pointer<const T>(grad), pointer<const V>(grad_mass),
                                                      pointer<const V>(mass), pointer<T>(grad_x),
                                                      pointer<V>(grad_attention)};
            return cpu::attention_pool_backward(p, gradients, threads);
        });
    });
}

}  // namespace d2k

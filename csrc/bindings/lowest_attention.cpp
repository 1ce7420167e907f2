#include "d2kernels/lowest_attention.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {

void bind_lowest_attention(py::module_& m) {
    m.def("lowest_attention_cpu", [](std::uintptr_t attention, int dtype, int64_t total, std::uintptr_t offsets,
                                     std::uintptr_t lengths, int64_t sequences, std::uintptr_t place, int threads) {
        const Sequences all{pointer<const int64_t>(offsets), pointer<const int64_t>(lengths), sequences, total};
        with_dtype(dtype, [&](auto zero) {
            run([&] {
                return cpu::lowest_attention(all, pointer<const decltype(zero)>(attention), pointer<int64_t>(place),
                                             threads);
            });
        });
    });
}

}  // namespace d2k

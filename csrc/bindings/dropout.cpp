#include "d2kernels/dropout.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {

void bind_dropout(py::module_& m) {
    m.def("dropout_cpu", [](std::uintptr_t x, int dtype, int64_t rows, int64_t channels, int64_t seed, uint32_t threshold,
                            double scale, std::uintptr_t y, int threads) {
        with_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            run([&] {
                return cpu::dropout(pointer<const T>(x), rows, channels, static_cast<uint64_t>(seed), threshold, scale,
                                    pointer<T>(y), threads);
            });
        });
    });
}

}  // namespace d2k

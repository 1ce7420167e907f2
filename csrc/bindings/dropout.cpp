#include "d2kernels/dropout.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {

void bind_dropout(Module& m) {
    m.def("dropout_cpu", [](Call& c) {
        Address x;
        WrittenAddress y;
        int dtype, threads;
        int64_t rows, channels, seed, first_row;
        uint32_t threshold;
        double scale;
        c.rest(x, dtype, rows, channels, seed, first_row, threshold, scale, y, threads);
        with_dtype(dtype, [&](auto zero) {
            using T = decltype(zero);
            run([&] {
                return cpu::dropout(pointer<const T>(x), rows, channels, static_cast<uint64_t>(seed), first_row, threshold,
                                    scale, pointer<T>(y), threads);
            });
        });
    });
}

}  // namespace d2k

#include "d2kernels/lowest_attention.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {

void bind_lowest_attention(Module& m) {
    m.def("lowest_attention_cpu", [](Call& c) {
        Sequences all{};
        Address attention;
        int64_t* place;
        int dtype, threads;
        c.rest(attention, dtype, all.total, all.offsets, all.lengths, all.count, place, threads);
        with_dtype(dtype, [&](auto zero) {
            run([&] { return cpu::lowest_attention(all, pointer<const decltype(zero)>(attention), place, threads); });
        });
    });
}

}  // namespace d2k

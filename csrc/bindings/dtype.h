// The float types by number, as d2kernels/_native.py numbers them.
#pragma once

#include <stdexcept>

#include "d2kernels/dtype.h"

namespace d2k {

// Calls call(a zero of the type).
template <class Call>
void with_dtype(int dtype, const Call& call) {
    switch (dtype) {
        case 0: return call(float{});
        case 1: return call(double{});
        case 2: return call(BFloat16{});
        case 3: return call(Half{});
    }
    throw std::invalid_argument("dtype must be 0 (float32), 1 (float64), 2 (bfloat16) or 3 (float16)");
}

}  // namespace d2k

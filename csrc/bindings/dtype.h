// The float types by number, as d2kernels/_native.py numbers them.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "d2kernels/floats.h"

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

// What an op on T, or on floats of any type, takes for an address.
template <class Pointer>
Pointer floats_at(std::uintptr_t address, int dtype) {
    if constexpr (std::is_pointer_v<Pointer>) return reinterpret_cast<Pointer>(address);
    else return Pointer(reinterpret_cast<void*>(address), dtype);
}

}  // namespace d2k

// Floats of 16 bits as float32, so that what takes long to compile and little time to run is compiled for that alone.
#pragma once

#include <cstdint>
#include <vector>

#include "d2kernels/dtype.h"

namespace d2k::cpu {

template <class T>
std::vector<float> widened(const T* from, int64_t count) { return {from, from + (from ? count : 0)}; }

template <class T>
void narrow(const std::vector<float>& from, T* to) {
    for (size_t i = 0; i < from.size(); ++i) to[i] = T::from(from[i]);
}

}  // namespace d2k::cpu

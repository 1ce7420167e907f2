// Memory aligned for packs.
#pragma once

#include <cstdint>
#include <vector>

#include "pack.h"

namespace d2k::cpu {

// `count` objects of a trivial type, not initialised between uses.
template <class Real>
class Aligned {
public:
    explicit Aligned(int64_t count)
        : memory_(count * sizeof(Real) / sizeof(double) + 64 / sizeof(double)), bytes_(count * sizeof(Real)) {}

    // All of it, from an address that is a multiple of 64.
    Scratch scratch() {
        const auto address = reinterpret_cast<uintptr_t>(memory_.data());
        return {reinterpret_cast<unsigned char*>(memory_.data()) + (64 - address % 64) % 64, bytes_};
    }

private:
    std::vector<double> memory_;
    size_t bytes_;
};

}  // namespace d2k::cpu

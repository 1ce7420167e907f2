// Memory aligned for packs.
#pragma once

#include <cstdint>
#include <memory>

#include "pack.h"

namespace d2k::cpu {

// `count` objects of a trivial type, not initialised.
template <class Real>
class Aligned {
public:
    explicit Aligned(int64_t count)
        : memory_(new double[count * sizeof(Real) / sizeof(double) + 64 / sizeof(double)]),
          bytes_(count * sizeof(Real)) {}

    // All of it, from an address that is a multiple of 64.
    Scratch scratch() {
        const auto address = reinterpret_cast<uintptr_t>(memory_.get());
        return {reinterpret_cast<unsigned char*>(memory_.get()) + (64 - address % 64) % 64, bytes_};
    }

private:
    std::unique_ptr<double[]> memory_;
    size_t bytes_;
};

}  // namespace d2k::cpu

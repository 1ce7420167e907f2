// A tuple's elements, one after the other, into the fields of a problem.
#pragma once

#include <cstdint>

#include "bindings/bindings.h"
#include "d2kernels/ragged.h"

namespace d2k {

using Address = std::uintptr_t;

class Reader {
public:
    explicit Reader(const py::tuple& values) : values_(values) {}

    template <class T>
    T next() { return values_[at_++].cast<T>(); }

    template <class T>
    T* address() { return pointer<T>(next<Address>()); }

    // offsets, lengths, count, total
    Sequences sequences() {
        const auto offsets = address<const int64_t>();
        const auto lengths = address<const int64_t>();
        const auto count = next<int64_t>();
        return {offsets, lengths, count, next<int64_t>()};
    }

private:
    const py::tuple& values_;
    size_t at_ = 0;
};

}  // namespace d2k

#include "d2kernels/winograd.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings/bindings.h"

namespace d2k {

namespace {

using Address = std::uintptr_t;
using Products = std::array<Address, cpu::kWinogradPoints>;

std::array<const float*, cpu::kWinogradPoints> pointers(const Products& products) {
    std::array<const float*, cpu::kWinogradPoints> found;
    for (size_t p = 0; p < found.size(); ++p) found[p] = pointer<const float>(products[p]);
    return found;
}

}  // namespace

void bind_winograd(py::module_& m) {
    m.def("winograd_input_cpu", [](Address x, int64_t rows, int64_t channels, int64_t stride, int64_t tiles, Address v,
                                   int threads) {
        run([&] {
            return cpu::winograd_input({pointer<float>(x), rows, channels, stride}, tiles, pointer<float>(v), threads);
        });
    });
    m.def("winograd_gradient_cpu", [](Address grad, int64_t rows, int64_t channels, int64_t stride, int64_t tiles, Address z,
                                      int threads) {
        run([&] {
            return cpu::winograd_gradient({pointer<float>(grad), rows, channels, stride}, tiles, pointer<float>(z), threads);
        });
    });
    m.def("winograd_output_cpu", [](const Products& products, int64_t tiles, Address bias, Address y, int64_t rows,
                                    int64_t channels, int64_t stride, int threads) {
        const auto from = pointers(products);
        run([&] {
            return cpu::winograd_output(from.data(), tiles, pointer<const float>(bias),
                                        {pointer<float>(y), rows, channels, stride}, threads);
        });
    });
    m.def("winograd_weight_cpu", [](Address w, int64_t size, Address u, int threads) {
        run([&] { return cpu::winograd_weight(pointer<const float>(w), size, pointer<float>(u), threads); });
    });
    m.def("winograd_weight_gradient_cpu", [](const Products& products, int64_t size, Address grad, int threads) {
        const auto from = pointers(products);
        run([&] { return cpu::winograd_weight_gradient(from.data(), size, pointer<float>(grad), threads); });
    });
}

}  // namespace d2k

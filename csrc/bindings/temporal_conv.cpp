#include "d2kernels/temporal_conv.h"

#include <optional>
#include <tuple>

#include <pybind11/stl.h>

#include "bindings/bindings.h"

namespace d2k {

namespace {

using Address = std::uintptr_t;
// offsets, lengths, sequences, total, channels in and out per group, groups, taps, dilation
using Shape = std::tuple<Address, Address, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
using Dropout = std::tuple<int64_t, uint32_t, float>;  // seed, threshold, scale

cpu::Convolution convolution(const Shape& shape) {
    const auto& [offsets, lengths, count, total, c_in, c_out, groups, taps, dilation] = shape;
    return {{pointer<const int64_t>(offsets), pointer<const int64_t>(lengths), count, total}, c_in, c_out, groups, taps,
            dilation};
}

cpu::Dropping dropping(const Dropout& dropout) {
    const auto& [seed, threshold, scale] = dropout;
    return {static_cast<uint64_t>(seed), threshold, scale};
}

const float* or_null(const std::optional<float>& value) { return value ? &*value : nullptr; }

}  // namespace

void bind_temporal_conv(py::module_& m) {
    m.def("convolves_cpu", &cpu::convolves);
    m.def("temporal_conv_cpu", [](const Shape& shape, Address x, int64_t x_stride, Address weight, Address bias,
                                  std::optional<float> slope, bool residual, const Dropout& dropout, Address out, Address sign,
                                  int threads) {
        run([&] {
            return cpu::temporal_conv(convolution(shape), pointer<const float>(x), x_stride, pointer<const float>(weight),
                                      pointer<const float>(bias), or_null(slope), residual, dropping(dropout),
                                      pointer<float>(out), pointer<uint8_t>(sign), threads);
        });
    });
    m.def("temporal_conv_inner_cpu", [](const Shape& shape, Address grad, int64_t grad_stride, Address out, Address sign,
                                        std::optional<float> slope, const Dropout& dropout, Address inner,
                                        Address dropped, Address bias_gradient, int threads) {
        run([&] {
            return cpu::temporal_conv_inner(convolution(shape), pointer<const float>(grad), grad_stride,
                                            pointer<const float>(out), pointer<const uint8_t>(sign), or_null(slope),
                                            dropping(dropout), pointer<float>(inner), pointer<float>(dropped),
                                            pointer<float>(bias_gradient), threads);
        });
    });
    m.def("temporal_conv_input_gradient_cpu", [](const Shape& shape, Address inner, int64_t inner_stride, Address weight,
                                                 Address residual, int64_t residual_stride, Address grad_x,
                                                 int threads) {
        run([&] {
            return cpu::temporal_conv_input_gradient(convolution(shape), pointer<const float>(inner), inner_stride,
                                                     pointer<const float>(weight), pointer<const float>(residual),
                                                     residual_stride, pointer<float>(grad_x), threads);
        });
    });
    m.def("temporal_conv_weight_gradient_cpu", [](const Shape& shape, Address inner, int64_t inner_stride, Address x,
                                                  int64_t x_stride, Address grad_weight, int threads) {
        run([&] {
            return cpu::temporal_conv_weight_gradient(convolution(shape), pointer<const float>(inner), inner_stride,
                                                      pointer<const float>(x), x_stride, pointer<float>(grad_weight), threads);
        });
    });
}

}  // namespace d2k

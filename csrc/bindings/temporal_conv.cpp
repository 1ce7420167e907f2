#include "d2kernels/temporal_conv.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "bindings/bindings.h"

namespace d2k {
namespace {

// Of a probability, and the seed with the first row, or without one, which is 0, or None.
cpu::Dropping dropping(double p, Reader& r) {
    const Table key = r.table();
    const auto threshold = std::min(std::nearbyint(p * 0x1p32), 0x1p32 - 1);
    if (!key.at || threshold == 0) return {0, 0, 0, 1};
    const auto* const seed = pointer<const int64_t>(key.at);
    return {static_cast<uint64_t>(seed[0]), key.width > 1 ? seed[1] : 0, static_cast<uint32_t>(threshold),
            static_cast<float>(1 / (1 - p))};
}

// What forward and backward share: x, weight, offsets, lengths, dilation, groups, whether by Winograd, slope or None for
// no activation, residual, dropout and its seed.
struct Layer {
    cpu::Convolution shape{};
    Table x;
    const float* weight;
    float slope = 0;
    bool activated, residual;
    cpu::Dropping drop;

    explicit Layer(Reader& r) : x(r.table()) {
        const Table weights = r.table();
        weight = pointer<const float>(weights.at);
        shape.sequences = r.sequences(x.count);
        r.read(shape.dilation, shape.groups, shape.winograd);
        if (x.width == 0 || shape.groups < 1) throw std::invalid_argument("a convolution has channels and groups");
        shape.c_in = x.width / shape.groups;
        shape.c_out = weights.count / x.width;
        shape.taps = weights.width;
        // Taps farther apart see nothing more.
        shape.dilation = std::min(shape.dilation, std::max<int64_t>(x.count, 1));
        double number = 0;
        activated = r.next_or_none(&number);
        slope = static_cast<float>(number);
        r.read(residual, number);
        drop = dropping(number, r);
    }
    const float* rows() const { return pointer<const float>(x.at); }
    const float* slope_or_null() const { return activated ? &slope : nullptr; }
};

}  // namespace

void bind_temporal_conv(Module& m) {
    m.def("convolves_cpu", [](Call& c) { c.give(cpu::convolves()); });
    m.def("temporal_conv_cpu", [](Call& c) {
        const Layer layer(c);
        const float* bias;
        float* out;
        uint8_t* sign;
        int threads;
        c.rest(bias, out, sign, threads);
        run([&] {
            return cpu::temporal_conv(layer.shape, layer.rows(), layer.x.stride, layer.weight, bias, layer.slope_or_null(),
                                      layer.residual, layer.drop, out, sign, threads);
        });
    });
    // Null: a gradient nobody asked for; sign where there is no activation; inner where grad is what the convolution's
    // own gradients are made of.
    m.def("temporal_conv_backward_cpu", [](Call& c) {
        const Layer layer(c);
        const cpu::Convolution& shape = layer.shape;
        const Table from = c.table();
        const auto* const grad = pointer<const float>(from.at);
        const uint8_t* sign;
        float *inner, *grad_x, *grad_weight, *grad_bias;
        int threads;
        c.rest(sign, inner, grad_x, grad_weight, grad_bias, threads);
        // What passes by the convolution: the gradient, or what dropout leaves of it, written where it is added to.
        const bool passes = layer.residual && grad_x, dropped = passes && layer.drop.threshold > 0;
        const float* const beside = dropped ? grad_x : passes ? grad : nullptr;
        const float* const own = inner ? inner : grad;
        const int64_t own_stride = inner ? shape.c_out * shape.groups : from.stride;
        run([&] {
            Status status = kOk;
            if (inner || grad_bias)
                status = cpu::temporal_conv_inner(shape, grad, from.stride, nullptr, sign, layer.slope_or_null(), layer.drop,
                                                  inner, dropped ? grad_x : nullptr, grad_bias, threads);
            if (status == kOk && grad_x)
                status = cpu::temporal_conv_input_gradient(shape, own, own_stride, layer.weight, beside,
                                                           dropped ? shape.c_in * shape.groups : from.stride, grad_x,
                                                           threads);
            if (status == kOk && grad_weight)
                status = cpu::temporal_conv_weight_gradient(shape, own, own_stride, layer.rows(), layer.x.stride,
                                                            grad_weight, threads);
            return status;
        });
    });
}

}  // namespace d2k

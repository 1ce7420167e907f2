#include "d2kernels/temporal_conv.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

// offsets, lengths, sequences, total, channels in and out per group, groups, taps, dilation, whether by Winograd
cpu::Convolution convolution(Reader r) {
    cpu::Convolution x{};
    r.rest(x.sequences.offsets, x.sequences.lengths, x.sequences.count, x.sequences.total, x.c_in, x.c_out, x.groups,
           x.taps, x.dilation, x.winograd);
    return x;
}

// seed, first row, threshold, scale
cpu::Dropping dropping(Reader r) {
    cpu::Dropping x{};
    int64_t seed;
    r.rest(seed, x.first_row, x.threshold, x.scale);
    x.seed = static_cast<uint64_t>(seed);
    return x;
}

// A number, or None for no activation.
struct Slope {
    float value = 0;
    bool given;

    explicit Slope(Reader& r) {
        double number = 0;
        given = r.next_or_none(&number);
        value = static_cast<float>(number);
    }
    const float* or_null() const { return given ? &value : nullptr; }
};

}  // namespace

void bind_temporal_conv(Module& m) {
    m.def("convolves_cpu", [](Call& c) { c.give(cpu::convolves()); });
    m.def("temporal_conv_cpu", [](Call& c) {
        const auto shape = convolution(c.next<Reader>());
        const float *x, *weight, *bias;
        int64_t x_stride;
        c.read(x, x_stride, weight, bias);
        const Slope slope(c);
        const auto residual = c.next<bool>();
        const auto drop = dropping(c.next<Reader>());
        float* out;
        uint8_t* sign;
        int threads;
        c.rest(out, sign, threads);
        run([&] {
            return cpu::temporal_conv(shape, x, x_stride, weight, bias, slope.or_null(), residual, drop, out, sign,
                                      threads);
        });
    });
    // Null: a gradient nobody asked for; sign where there is no activation; inner where grad is what the convolution's
    // own gradients are made of.
    m.def("temporal_conv_backward_cpu", [](Call& c) {
        const auto shape = convolution(c.next<Reader>());
        const float *grad, *x, *weight;
        int64_t grad_stride, x_stride;
        const uint8_t* sign;
        c.read(grad, grad_stride, sign);
        const Slope slope(c);
        const auto residual = c.next<bool>();
        const auto drop = dropping(c.next<Reader>());
        float *inner, *grad_x, *grad_weight, *grad_bias;
        int threads;
        c.rest(x, x_stride, weight, inner, grad_x, grad_weight, grad_bias, threads);
        // What passes by the convolution: the gradient, or what dropout leaves of it, written where it is added to.
        const bool passes = residual && grad_x, dropped = passes && drop.threshold > 0;
        const float* const beside = dropped ? grad_x : passes ? grad : nullptr;
        const float* const own = inner ? inner : grad;
        const int64_t own_stride = inner ? shape.c_out * shape.groups : grad_stride;
        run([&] {
            Status status = cpu::temporal_conv_inner(shape, grad, grad_stride, nullptr, sign, slope.or_null(), drop, inner,
                                                     dropped ? grad_x : nullptr, grad_bias, threads);
            if (status == kOk && grad_x)
                status = cpu::temporal_conv_input_gradient(shape, own, own_stride, weight, beside,
                                                           dropped ? shape.c_in * shape.groups : grad_stride, grad_x,
                                                           threads);
            if (status == kOk && grad_weight)
                status = cpu::temporal_conv_weight_gradient(shape, own, own_stride, x, x_stride, grad_weight, threads);
            return status;
        });
    });
}

}  // namespace d2k

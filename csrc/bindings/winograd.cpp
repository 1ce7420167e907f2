#include "d2kernels/winograd.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

struct Products {
    const float* of_point[cpu::kWinogradPoints];

    explicit Products(Reader r) {
        for (const float*& product : of_point) product = r.next<const float*>();
        r.end();
    }
};

}  // namespace

void bind_winograd(Module& m) {
    m.def("winograd_input_cpu", [](Call& c) {
        cpu::BufferRows x{};
        int64_t tiles;
        float* v;
        int threads;
        c.rest(x.data, x.rows, x.channels, x.stride, tiles, v, threads);
        run([&] { return cpu::winograd_input(x, tiles, v, threads); });
    });
    m.def("winograd_gradient_cpu", [](Call& c) {
        cpu::BufferRows grad{};
        int64_t tiles;
        float* z;
        int threads;
        c.rest(grad.data, grad.rows, grad.channels, grad.stride, tiles, z, threads);
        run([&] { return cpu::winograd_gradient(grad, tiles, z, threads); });
    });
    m.def("winograd_output_cpu", [](Call& c) {
        const Products products(c.next<Reader>());
        int64_t tiles;
        const float* bias;
        cpu::BufferRows y{};
        int threads;
        c.rest(tiles, bias, y.data, y.rows, y.channels, y.stride, threads);
        run([&] { return cpu::winograd_output(products.of_point, tiles, bias, y, threads); });
    });
    m.def("winograd_weight_cpu", [](Call& c) {
        const float* w;
        int64_t size;
        float* u;
        int threads;
        c.rest(w, size, u, threads);
        run([&] { return cpu::winograd_weight(w, size, u, threads); });
    });
    m.def("winograd_weight_gradient_cpu", [](Call& c) {
        const Products products(c.next<Reader>());
        int64_t size;
        float* grad;
        int threads;
        c.rest(size, grad, threads);
        run([&] { return cpu::winograd_weight_gradient(products.of_point, size, grad, threads); });
    });
}

}  // namespace d2k

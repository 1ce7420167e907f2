#include "d2kernels/condition_number.h"

#include "checks.h"

namespace {

using checks::Device;

int differences(int64_t batch, int64_t rows, int64_t inner, int64_t columns) {
    constexpr double rtol = 1e-11;
    const auto a = checks::uniform<double>(batch * rows * (inner ? inner : columns), 6);
    const auto b = checks::uniform<double>(batch * inner * columns, 7);
    std::vector<double> value(batch), slope_a(a.size()), slope_b(b.size());
    const d2k::ConditionNumber<double> host{a.data(), inner ? b.data() : nullptr, batch, rows, inner, columns, 0, rtol,
                                            true, value.data(), slope_a.data(), slope_b.data()};
    CHECK(d2k::cpu::condition_number(host, 1));

    constexpr int kDouble = 1;
    const Device<double> there_a(a), there_b(b), values(batch), slopes_a(a.size()), slopes_b(b.size());
    const d2k::ConditionNumber<d2k::AnyFloat> there{d2k::Floats(there_a.get(), kDouble),
                                                    d2k::Floats(inner ? there_b.get() : nullptr, kDouble),
                                                    batch, rows, inner, columns, 0, rtol, true,
                                                    d2k::Floats(values.get(), kDouble), slopes_a.get(), slopes_b.get()};
    size_t bytes = 0;
    CHECK(d2k::cuda::condition_number_workspace(there, 0, &bytes));
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    CHECK(d2k::cuda::condition_number(there, workspace.get(), bytes, 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    return checks::report("condition_number", checks::same(values.host(), value, 1e-9) &&
                                                  checks::same(slopes_a.host(), slope_a, 1e-6) &&
                                                  checks::same(slopes_b.host(), slope_b, 1e-6));
}

template <class T>
int slopes(int64_t batch, int64_t size) {
    const auto grad = checks::uniform<T>(batch, 8);
    const auto slope = checks::uniform<double>(batch * size, 9);
    std::vector<T> gradient(batch * size);
    CHECK(d2k::cpu::scale_slopes(grad.data(), slope.data(), batch, size, gradient.data(), 1));
    const Device<T> there_grad(grad), found(gradient.size());
    const Device<double> there_slope(slope);
    CHECK(d2k::cuda::scale_slopes<T>(there_grad.get(), there_slope.get(), batch, size, found.get(), 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    return checks::report("scale_slopes", checks::same(found.host(), gradient));
}

}  // namespace

int check_condition_number() {
    // Closed form, in a block's memory and in the workspace, whole, reduced and multiplied out.
    return differences(300, 2, 0, 2) + differences(5, 1, 0, 4) + differences(7, 5, 0, 9) +
           differences(10, 20, 10, 20) + differences(3, 30, 40, 25) + differences(2, 100, 0, 100) +
           differences(1, 128, 100, 128) + slopes<float>(300, 4) + slopes<double>(3, 700) +
           slopes<d2k::BFloat16>(5, 1) + slopes<d2k::Half>(7, 33);
}

#include "d2kernels/condition_number.h"

#include "checks.h"

namespace {

using checks::Device;
using checks::Matrices;

struct Shape {
    int64_t batch, rows, inner, columns;  // inner 0: no second factor
    double atol = 0, rtol = 1e-11;
    bool log = true;
};

template <class T>
void compare(checks::Tally& tally, const Shape& shape, Matrices kind) {
    const auto [batch, rows, inner, columns, atol, rtol, log] = shape;
    const auto a = checks::make<T>(batch, rows, inner ? inner : columns, kind, 6);
    const auto b = checks::make<T>(batch, inner, columns, kind, 9);
    std::vector<T> value(batch);
    std::vector<double> slope_a(a.size()), slope_b(b.size());
    const d2k::ConditionNumber<T> host{a.data(), inner ? b.data() : nullptr, batch, rows, inner, columns, atol, rtol, log,
                                       value.data(), slope_a.data(), slope_b.data()};
    CHECK(d2k::cpu::condition_number(host, 1));

    const Device<T> there_a(a), there_b(b), values(batch);
    const Device<double> slopes_a(a.size()), slopes_b(b.size());
    const auto floats = [](T* x) { return d2k::Floats(x, checks::kDtype<T>); };
    const d2k::ConditionNumber<d2k::AnyFloat> there{
        floats(there_a.get()), floats(inner ? there_b.get() : nullptr), batch, rows, inner, columns, atol, rtol, log,
        floats(values.get()),  slopes_a.get(),                          slopes_b.get()};
    size_t bytes = 0;
    CHECK(d2k::cuda::condition_number_workspace(there, 0, &bytes));
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    CAPTURED(d2k::cuda::condition_number(there, workspace.get(), bytes, 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    // In another order of sums a value near 1 differs by its rounding.
    const bool number = checks::same(values.host(), value, sizeof(T) == 8 ? 1e-8 : 10 * checks::kRounding<T>);
    // No double holds such a product: which of its slopes are NaN and which 0 is chance.
    const bool beyond = sizeof(T) == 8 && inner && kind == Matrices::kHuge;
    const bool slopes = beyond || (checks::same(slopes_a.host(), slope_a, 1e-6) && checks::same(slopes_b.host(), slope_b, 1e-6));
    // The same value where slopes are not wanted.
    const std::vector<T> with_slopes = values.host();
    d2k::ConditionNumber<d2k::AnyFloat> alone = there;
    alone.slope_a = alone.slope_b = nullptr;
    CAPTURED(d2k::cuda::condition_number(alone, workspace.get(), bytes, 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    const bool same = checks::same(values.host(), with_slopes);
    tally.add(number && slopes && same, checks::kDtypeNames[checks::kDtype<T>], name(kind), batch, "of", rows, inner,
              columns, number ? "" : "value", slopes ? "" : "slopes", same ? "" : "without slopes");
}

// A warp a matrix where a launch has more of them than the device has multiprocessors: the same bits as blocks of their own.
void many(checks::Tally& tally) {
    constexpr int64_t rows = 7, inner = 3, columns = 6, few = 2;
    int processors = 0;
    CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    const int64_t batch = processors + 1;
    auto a = checks::make<double>(few, rows, inner, Matrices::kUniform, 6);
    auto b = checks::make<double>(few, inner, columns, Matrices::kUniform, 9);
    a.resize(batch * rows * inner, 0.5);
    b.resize(batch * inner * columns, 0.5);
    const Device<double> there_a(a), there_b(b), values(batch), slopes_a(a.size()), slopes_b(b.size());
    const auto floats = [](double* x) { return d2k::Floats(x, checks::kDtype<double>); };
    std::vector<double> found[2][3];
    for (int run = 0; run < 2; ++run) {
        const d2k::ConditionNumber<d2k::AnyFloat> there{
            floats(there_a.get()), floats(there_b.get()), run ? few : batch, rows, inner, columns, 0, 1e-11, true,
            floats(values.get()), slopes_a.get(), slopes_b.get()};
        CAPTURED(d2k::cuda::condition_number(there, nullptr, 0, 0, checks::stream()));
        CHECK(cudaDeviceSynchronize());
        const Device<double>* const all[3] = {&values, &slopes_a, &slopes_b};
        const int64_t sizes[3] = {few, few * rows * inner, few * inner * columns};
        for (int i = 0; i < 3; ++i) {
            found[run][i] = all[i]->host();
            found[run][i].resize(sizes[i]);
        }
    }
    bool same = true;
    for (int i = 0; i < 3; ++i) same &= found[0][i] == found[1][i];
    tally.add(same, "a warp each of", batch, "matrices");
}

// Gradients scaled by a batch's slopes.
template <class T>
void scale(checks::Tally& tally) {
    const auto grad = checks::make<T>(7, checks::Values::kSigned, 1);
    const auto slope = checks::make<double>(7 * 33, checks::Values::kSigned, 2);
    std::vector<T> gradient(slope.size());
    CHECK(d2k::cpu::scale_slopes(grad.data(), slope.data(), 7, 33, gradient.data(), 1));
    const Device<T> there(grad), scaled(slope.size());
    const Device<double> slopes(slope);
    CAPTURED(d2k::cuda::scale_slopes(there.get(), slopes.get(), 7, 33, scaled.get(), 0, checks::stream()));
    tally.add(checks::same(scaled.host(), gradient), checks::kDtypeNames[checks::kDtype<T>], "scaled slopes");
}

}  // namespace

int check_condition_number() {
    checks::Tally tally("condition_number");
    for (const Matrices kind : checks::kEveryMatrices) {
        // Closed form; a warp a matrix; a block a matrix; products reduced and not; what counts by either tolerance.
        for (const Shape& shape : {Shape{0, 3, 0, 3}, Shape{2, 1, 0, 1}, Shape{3, 2, 0, 2}, Shape{3, 5, 0, 9},
                                   Shape{2, 9, 0, 5}, Shape{1, 33, 0, 17}, Shape{1, 36, 0, 34}, Shape{1, 1, 0, 40},
                                   Shape{1, 40, 0, 1}, Shape{2, 20, 10, 20}, Shape{1, 20, 0, 18}, Shape{1, 20, 16, 18},
                                   Shape{1, 20, 13, 16}, Shape{1, 16, 13, 20}, Shape{1, 20, 13, 14}, Shape{1, 15, 15, 17},
                                   Shape{2, 6, 8, 5}, Shape{1, 7, 1, 7},
                                   Shape{2, 6, 0, 6, 0.3, 0}, Shape{2, 6, 0, 6, 0, 1e-3, false}})
            compare<double>(tally, shape, kind);
        compare<float>(tally, {70, 2, 0, 2}, kind);
        compare<float>(tally, {2, 8, 0, 8, 0, 1e-5}, kind);
        compare<d2k::BFloat16>(tally, {2, 3, 0, 4, 0, 1e-3}, kind);
        compare<d2k::Half>(tally, {2, 4, 3, 3, 0, 1e-3}, kind);
    }
    // More than shared memory holds.
    compare<double>(tally, {1, 128, 0, 120}, Matrices::kUniform);
    compare<double>(tally, {1, 128, 100, 128}, Matrices::kUniform);
    many(tally);
    scale<float>(tally);
    scale<double>(tally);
    scale<d2k::BFloat16>(tally);
    scale<d2k::Half>(tally);
    return tally.finish();
}

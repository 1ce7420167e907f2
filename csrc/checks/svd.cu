#include "d2kernels/svd.h"

#include <type_traits>

#include "checks.h"
#include "d2kernels/svd_backward.h"

namespace {

using checks::Device;
using checks::Matrices;

// Whether rows of length n, or columns `step` apart, are orthonormal.
template <class T>
bool orthonormal(const T* x, int64_t vectors, int64_t length, int64_t next, int64_t step, double tolerance) {
    bool fine = true;
    for (int64_t a = 0; a < vectors; ++a)
        for (int64_t b = 0; b <= a; ++b) {
            double sum = 0;
            for (int64_t i = 0; i < length; ++i)
                sum += static_cast<double>(x[a * next + i * step]) * static_cast<double>(x[b * next + i * step]);
            fine &= std::fabs(sum - (a == b)) < 20 * tolerance;
        }
    return fine;
}

template <class T>
void compare(checks::Tally& tally, int64_t batch, int64_t rows, int64_t columns, Matrices kind) {
    const int64_t k = rows < columns ? rows : columns;
    const auto a = checks::make<T>(batch, rows, columns, kind, 8);
    std::vector<T> u(batch * rows * k), s(batch * k), vh(batch * k * columns);
    int64_t failed = -1;
    CHECK(d2k::cpu::svd(d2k::Svd<T>{a.data(), batch, rows, columns, u.data(), s.data(), vh.data()}, &failed, 1));

    const Device<T> there(a), us(u.size()), values(s.size()), vhs(vh.size());
    const auto floats = [](const Device<T>& x) { return d2k::Floats(x.get(), checks::kDtype<T>); };
    const d2k::Svd<d2k::AnyFloat> problem{floats(there), batch, rows, columns, floats(us), floats(values), floats(vhs)};
    size_t bytes = 0;
    CHECK(d2k::cuda::svd_workspace(problem, 0, &bytes));
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    CAPTURED(d2k::cuda::svd(problem, workspace.get(), bytes, 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    const auto got_u = us.host(), got_s = values.host(), got_vh = vhs.host();
    const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-10;
    bool fine = checks::same(got_s, s, checks::kRounding<T> * 100);
    for (int64_t b = 0; b < batch; ++b) {
        const T *const left = got_u.data() + b * rows * k, *const right = got_vh.data() + b * k * columns;
        if (s[b * k] != s[b * k]) {  // not finite: all of it is NaN
            for (int64_t i = 0; i < rows * k; ++i) fine &= left[i] != left[i];
            for (int64_t i = 0; i < k * columns; ++i) fine &= right[i] != right[i];
            continue;
        }
        fine &= orthonormal(left, k, rows, 1, k, tolerance) && orthonormal(right, k, columns, columns, 1, tolerance);
        // Vectors have a sign each: they are compared through the product, halved, since a value may be infinite.
        for (int64_t i = 0; i < rows && std::isfinite(s[b * k]); ++i)
            for (int64_t j = 0; j < columns; ++j) {
                double sum = 0;
                for (int64_t l = 0; l < k; ++l)
                    sum += static_cast<double>(left[i * k + l]) * (0.5 * static_cast<double>(got_s[b * k + l])) *
                           static_cast<double>(right[l * columns + j]);
                fine &= std::fabs(sum - 0.5 * static_cast<double>(a[(b * rows + i) * columns + j])) <=
                        tolerance * static_cast<double>(s[b * k]);
            }
    }
    tally.add(fine, checks::kDtypeNames[checks::kDtype<T>], name(kind), batch, "of", rows, columns);
}

// The gradient by the host's factors: those of equal values are no others' on the device.
template <class T>
void compare_gradient(checks::Tally& tally, int64_t batch, int64_t rows, int64_t columns, Matrices kind) {
    const int64_t k = rows < columns ? rows : columns;
    using Factor = std::conditional_t<sizeof(T) == 2, float, T>;
    const auto a = checks::make<Factor>(batch, rows, columns, kind, 8);
    std::vector<Factor> factor_u(batch * rows * k), factor_s(batch * k), factor_vh(batch * k * columns);
    int64_t failed = -1;
    CHECK(d2k::cpu::svd(
        d2k::Svd<Factor>{a.data(), batch, rows, columns, factor_u.data(), factor_s.data(), factor_vh.data()}, &failed, 1));
    const auto as = [](const std::vector<Factor>& from) {
        std::vector<T> to;
        for (const Factor x : from) to.push_back(d2k::stored<T>(static_cast<d2k::ArithmeticOf<T>>(x)));
        return to;
    };
    const auto u = as(factor_u), s = as(factor_s), vh = as(factor_vh);
    const auto grad_u = checks::make<T>(u.size(), checks::Values::kSigned, 9),
               grad_s = checks::make<T>(s.size(), checks::Values::kSigned, 10),
               grad_vh = checks::make<T>(vh.size(), checks::Values::kSigned, 11);
    const Device<T> us(u), values(s), vhs(vh), grad_us(grad_u), grad_values(grad_s), grad_vhs(grad_vh);
    for (int given = 1; given < 8; ++given) {
        const auto some = [&](int bit, auto* x) { return given & bit ? x : nullptr; };
        std::vector<T> gradient(a.size());
        CHECK(d2k::cpu::svd_backward(
            d2k::SvdBackward<T>{some(1, grad_u.data()), some(2, grad_s.data()), some(4, grad_vh.data()), u.data(), s.data(),
                                vh.data(), batch, rows, columns, gradient.data()},
            1));
        const Device<T> out(gradient.size());
        const auto floats = [](T* x) { return d2k::Floats(x, checks::kDtype<T>); };
        const d2k::SvdBackward<d2k::AnyFloat> problem{
            floats(some(1, grad_us.get())), floats(some(2, grad_values.get())), floats(some(4, grad_vhs.get())),
            floats(us.get()), floats(values.get()), floats(vhs.get()), batch, rows, columns, floats(out.get())};
        size_t bytes = 0;
        CHECK(d2k::cuda::svd_backward_workspace(problem, 0, &bytes));
        const Device<char> workspace(bytes, checks::Holds::kNothing);
        CAPTURED(d2k::cuda::svd_backward(problem, workspace.get(), bytes, 0, checks::stream()));
        CHECK(cudaDeviceSynchronize());
        tally.add(checks::same(out.host(), gradient, checks::kRounding<T>), "gradient", checks::kDtypeNames[checks::kDtype<T>],
                  name(kind), batch, "of", rows, columns, "given", given);
    }
}

}  // namespace

int check_svd() {
    checks::Tally tally("svd");
    for (const Matrices kind : checks::kEveryMatrices) {
        compare<double>(tally, 0, 3, 3, kind);
        compare<double>(tally, 2, 1, 1, kind);
        compare<double>(tally, 9, 2, 2, kind);
        compare<double>(tally, 2, 1, 7, kind);
        compare<double>(tally, 2, 9, 5, kind);
        compare<double>(tally, 2, 5, 9, kind);
        compare<float>(tally, 2, 8, 8, kind);
        compare<double>(tally, 1, 17, 33, kind);
        compare<double>(tally, 1, 40, 36, kind);
    }
    for (const Matrices kind : checks::kEveryMatrices) {
        compare_gradient<double>(tally, 3, 2, 2, kind);
        compare_gradient<double>(tally, 2, 9, 5, kind);
        compare_gradient<float>(tally, 2, 5, 9, kind);
    }
    compare_gradient<double>(tally, 0, 3, 3, Matrices::kUniform);
    compare_gradient<double>(tally, 2, 1, 1, Matrices::kUniform);
    compare_gradient<float>(tally, 1, 1, 7, Matrices::kUniform);
    compare_gradient<d2k::BFloat16>(tally, 2, 6, 4, Matrices::kUniform);
    compare_gradient<d2k::Half>(tally, 2, 4, 6, Matrices::kUniform);
    compare_gradient<double>(tally, 1, 40, 36, Matrices::kUniform);
    compare<double>(tally, 5, 20, 13, Matrices::kUniform);
    // More than shared memory holds.
    compare<double>(tally, 1, 128, 100, Matrices::kUniform);
    compare_gradient<float>(tally, 1, 100, 128, Matrices::kUniform);
    return tally.finish();
}

#include "d2kernels/svd.h"

#include "checks.h"

namespace {

using checks::Device;

int differences(int64_t batch, int64_t rows, int64_t columns) {
    const int64_t k = rows < columns ? rows : columns;
    const auto a = checks::uniform<double>(batch * rows * columns, 8);
    std::vector<double> u(batch * rows * k), s(batch * k), vh(batch * k * columns);
    int64_t failed = -1;
    CHECK(d2k::cpu::svd(d2k::Svd<double>{a.data(), batch, rows, columns, u.data(), s.data(), vh.data()}, &failed, 1));

    constexpr int kDouble = 1;
    const Device<double> there(a), us(u.size()), values(s.size()), vhs(vh.size());
    const d2k::Svd<d2k::AnyFloat> problem{d2k::Floats(there.get(), kDouble),  batch, rows, columns,
                                          d2k::Floats(us.get(), kDouble),     d2k::Floats(values.get(), kDouble),
                                          d2k::Floats(vhs.get(), kDouble)};
    size_t bytes = 0;
    CHECK(d2k::cuda::svd_workspace(problem, 0, &bytes));
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    CHECK(d2k::cuda::svd(problem, workspace.get(), bytes, 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    // Vectors have a sign each: they are compared through the product.
    const auto got_u = us.host(), got_s = values.host(), got_vh = vhs.host();
    bool fine = failed == -1 && checks::same(got_s, s, 1e-9);
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                double sum = 0;
                for (int64_t l = 0; l < k; ++l)
                    sum += got_u[(b * rows + i) * k + l] * got_s[b * k + l] * got_vh[(b * k + l) * columns + j];
                fine &= std::fabs(sum - a[(b * rows + i) * columns + j]) <= 1e-10 * s[b * k];
            }
    return checks::report("svd", fine);
}

}  // namespace

int check_svd() {
    return differences(9, 2, 2) + differences(3, 1, 7) + differences(5, 20, 13) + differences(2, 64, 64) +
           differences(1, 128, 100);
}

#include "d2kernels/gather_rows.h"

#include <cstring>

#include "checks.h"

namespace {

using checks::Device;
using checks::Values;

template <class From, class To>
void compare(checks::Tally& tally, const checks::Batch& b, int64_t width, Values kind, int64_t rows, int64_t past = 0) {
    const auto source = checks::make<From>(rows * width, kind, 1);
    std::vector<int64_t> first(b.count());
    for (size_t i = 0; i < first.size(); ++i) first[i] = static_cast<int64_t>(i * 37) % (rows + 1) + past;
    std::vector<To> out(b.total * width);
    d2k::GatherRows<From, To> problem{source.data(), rows, width, first.data(),
                                      {b.offsets.data(), b.lengths.data(), b.count(), b.total}, out.data()};
    CHECK(d2k::cpu::gather_rows(problem, 1));

    const Device<From> there(source);
    const Device<int64_t> firsts(first), offsets(b.offsets), lengths(b.lengths);
    const Device<To> to(out.size());
    problem = {there.get(), rows, width, firsts.get(), {offsets.get(), lengths.get(), b.count(), b.total}, to.get()};
    CAPTURED(d2k::cuda::gather_rows(problem, 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    const auto found = to.host();
    tally.add(out.empty() || std::memcmp(found.data(), out.data(), out.size() * sizeof(To)) == 0,
              checks::kDtypeNames[checks::kDtype<From>], "to", checks::kDtypeNames[checks::kDtype<To>], name(kind),
              "rows", b.total, "width", width);
}

template <class From>
void every_output(checks::Tally& tally, const checks::Batch& b, int64_t width, Values kind) {
    const int64_t rows = b.total + 100;
    compare<From, float>(tally, b, width, kind, rows);
    compare<From, d2k::BFloat16>(tally, b, width, kind, rows);
    compare<From, d2k::Half>(tally, b, width, kind, rows);
}

}  // namespace

int check_gather_rows() {
    checks::Tally tally("gather_rows");
    int64_t width = 3;
    for (const auto& b : checks::batches()) {
        const Values kind = width % 2 ? Values::kSigned : Values::kSubnormal;
        every_output<float>(tally, b, width, kind);
        every_output<d2k::BFloat16>(tally, b, width + 1, Values::kHuge);
        every_output<d2k::Half>(tally, b, 2 * width, kind);
        width += 5;
    }
    const checks::Batch& some = checks::batches()[2];
    // Rows that the source does not have are zero.
    for (const int64_t past : {int64_t{-40}, int64_t{60}, int64_t{1} << 62})
        compare<float, float>(tally, some, 8, Values::kSigned, 50, past);
    compare<d2k::Half, float>(tally, some, 8, Values::kSigned, 0);
    return tally.finish();
}

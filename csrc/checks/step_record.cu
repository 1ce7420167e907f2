#include "d2kernels/step_record.h"

#include <limits>

#include "checks.h"

namespace {

using checks::Device;

int run(int64_t width, float total, float norm, float bad) {
    auto reference = checks::uniform<float>(width, 1), kept = checks::uniform<float>(width, 2);
    if (width) reference[width / 2] += bad;
    std::vector<float> sums{1, 2, 3, 4, 5, 6, 7}, found{9};
    const std::vector<float> given{total, 0.5f, std::numeric_limits<float>::quiet_NaN(), norm};
    const std::vector<int64_t> left_out{2};
    const Device<float> there_given(given), there_reference(reference), there_kept(kept), there_sums(sums), to(1);
    const Device<int64_t> there_left_out(left_out);
    const auto record = [&](const float* x, const int64_t* left, const float* from, float* into, float* add, float* out) {
        return d2k::StepRecord{{x, x + 1, x + 2, nullptr}, x + 3, left, from, width, into, add, out};
    };
    CHECK(d2k::cpu::step_record(
        record(given.data(), left_out.data(), reference.data(), kept.data(), sums.data(), found.data())));
    CAPTURED(d2k::cuda::step_record(record(there_given.get(), there_left_out.get(), there_reference.get(),
                                        there_kept.get(), there_sums.get(), to.get()), 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    return checks::report("step_record", checks::same(there_kept.host(), kept) && checks::same(there_sums.host(), sums) &&
                                             checks::same(to.host(), found));
}

}  // namespace

int check_step_record() {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    return run(1000, 2, 3, 0) + run(1, 0, 3, 0) + run(70, 2, infinity, 0) + run(300, -infinity, 3, infinity) + run(0, 2, 3, 0);
}

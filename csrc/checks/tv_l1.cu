#include "d2kernels/tv_l1.h"

#include <cmath>
#include <limits>

#include "checks.h"

namespace {

using checks::Device;
using d2k::TvL1;

// Pairs of smooth frames, the second moved a little; `value` in one pixel of the last pair.
std::vector<float> frames(const TvL1& problem, float moved, float value) {
    std::vector<float> all;
    for (int64_t n = 0; n < problem.count; ++n)
        for (int y = 0; y < problem.height; ++y)
            for (int x = 0; x < problem.width; ++x) {
                const double at = x + moved, below = y - moved / 2;
                all.push_back(static_cast<float>(128 + 60 * std::sin(0.4 * at + n) + 50 * std::cos(0.3 * below + 0.2 * at)));
            }
    if (!all.empty()) all[all.size() - 1 - problem.width / 2] += value;
    return all;
}

void compare(checks::Tally& tally, TvL1 problem, float value = 0) {
    const int64_t size = 2 * problem.count * problem.height * problem.width;
    const auto previous = frames(problem, 0, 0), next = frames(problem, 0.8f, value);
    std::vector<float> flow(size);
    problem.previous = previous.data();
    problem.next = next.data();
    problem.flow = flow.data();
    CHECK(d2k::cpu::tv_l1(problem, 1));
    const Device<float> there_previous(previous), there_next(next), there_flow(size);
    const Device<unsigned char> workspace(problem.count * d2k::cuda::tv_l1_workspace(problem), checks::Holds::kNothing);
    problem.previous = there_previous.get();
    problem.next = there_next.get();
    problem.flow = there_flow.get();
    CAPTURED(d2k::cuda::tv_l1(problem, workspace.get(), 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    auto got = there_flow.host();
    if (value != 0) {  // what the last pair holds is not said, as long as the others are right
        got.resize(size / problem.count * (problem.count - 1));
        flow.resize(got.size());
    }
    tally.add(checks::same(got, flow, 1e-3), problem.count, "x", problem.height, "x", problem.width, "gamma",
              problem.rules.gamma, "median", problem.rules.median, "value", value);
}

TvL1 problem(int64_t count, int height, int width, float gamma, int median, float epsilon = 0) {
    return {nullptr, nullptr, count, height, width, {0.25f, 0.15f, 0.3f, epsilon, gamma, 0.7, 3, 2, 3, 2, median}, nullptr};
}

}  // namespace

int check_tv_l1() {
    checks::Tally tally("tv_l1");
    compare(tally, problem(2, 24, 35, 0, 5));
    compare(tally, problem(1, 33, 65, 0.5f, 3));
    compare(tally, problem(1, 1, 1, 0, 5));
    compare(tally, problem(1, 1, 40, 0, 3));
    compare(tally, problem(1, 37, 2, 0, 0));
    // Errors end the iterations, of each pair by itself.
    compare(tally, problem(3, 18, 20, 0, 5, 0.05f));
    compare(tally, problem(2, 17, 19, 0, 5), std::numeric_limits<float>::quiet_NaN());
    compare(tally, problem(2, 17, 19, 0, 5), 1e30f);
    return tally.finish();
}

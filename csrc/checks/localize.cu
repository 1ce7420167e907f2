#include "d2kernels/localize.h"

#include "checks.h"

namespace {

using checks::Device;

template <class T>
int differences(const checks::Batch& b, int64_t classes, int64_t upsample, int64_t smoothing, double sigma) {
    const auto activations = checks::uniform<T>(b.total * classes, 5);
    const std::vector<double> levels{0.2, 0.4, 0.6, 0.8};
    const int64_t n = static_cast<int64_t>(b.lengths.size()), most = b.total * classes * upsample;
    d2k::Localization<T> problem{};
    problem.sequences = {b.offsets.data(), b.lengths.data(), n, b.total};
    problem.activations = activations.data();
    problem.row_stride = problem.classes = classes;
    problem.class_stride = 1;
    problem.thresholds = levels.data();
    problem.levels = static_cast<int64_t>(levels.size());
    d2k::LocalizeRules& rules = problem.rules;
    rules.margin = 0.25;
    rules.min_length = 1;
    rules.iou_threshold = 0.5;
    rules.inclusive = rules.has_keep_ratio = true;
    rules.sigma = sigma;
    rules.keep_ratio = 0.1;
    rules.upsample = upsample;
    rules.smoothing = smoothing;

    std::vector<int64_t> counts(n), sequence(most, -1), label(most, -1);
    const std::vector<double> none(most, -1);
    std::vector<double> start = none, end = none, score = none;
    CHECK(d2k::cpu::localize_as_block(problem, counts.data(), most,
                                      {sequence.data(), label.data(), start.data(), end.data(), score.data()}));

    const Device<int64_t> offsets(b.offsets), lengths(b.lengths), found(n), first(n + 1);
    const Device<T> there_activations(activations);
    const Device<double> there_levels(levels);
    d2k::Localization<T> there = problem;
    there.sequences.offsets = offsets.get();
    there.sequences.lengths = lengths.get();
    there.activations = there_activations.get();
    there.thresholds = there_levels.get();
    size_t bytes = 0;
    CHECK(d2k::cuda::localize_workspace<T>(b.total, n, classes, upsample, 0, &bytes));
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    CHECK(d2k::cuda::localize_find(there, found.get(), first.get(), workspace.get(), bytes, 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    const int64_t size = first.host()[n];
    const Device<int64_t> sequences(std::vector<int64_t>(most, -1)), labels(std::vector<int64_t>(most, -1));
    const Device<double> starts(none), ends(none), scores(none);
    CHECK(d2k::cuda::localize_write(there, first.get(), size,
                                    {sequences.get(), labels.get(), starts.get(), ends.get(), scores.get()},
                                    workspace.get(), 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    return checks::report("localize", found.host() == counts && sequences.host() == sequence && labels.host() == label &&
                                          starts.host() == start && ends.host() == end &&
                                          checks::same(scores.host(), score, 1e-12));
}

}  // namespace

int check_localize() {
    int wrong = 0;
    for (const auto& b : checks::batches()) {
        wrong += differences<float>(b, 3, 1, 1, 0) + differences<float>(b, 2, 4, 3, 0) +
                 differences<double>(b, 20, 1, 1, 0) + differences<double>(b, 1, 1, 5, 0.5);
    }
    return wrong;
}

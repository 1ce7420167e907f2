#include "d2kernels/localize_block.h"

#include "checks.h"

namespace {

using checks::Device;
using checks::Values;

// A set of rules for each number: every choice meets every other one in some.
d2k::LocalizeRules rules_of(int variant) {
    d2k::LocalizeRules rules{};
    rules.margin = variant & 1 ? 0.25 : 1.3;
    rules.pooled = variant & 2;
    rules.min_length = variant & 2 ? 3 : 1;
    rules.iou_threshold = 0.5;
    rules.inclusive = variant & 4;
    rules.has_min_score = variant % 3 == 1;
    rules.min_score = 0.05;
    rules.sigma = variant % 3 == 2 ? 0.5 : 0;
    rules.has_keep_ratio = variant & 8;
    rules.keep_ratio = 0.1;
    rules.keep_per_class = variant & 1;
    rules.upsample = variant % 4 == 3 ? 3 : 1;
    rules.smoothing = variant % 5 == 4 ? 5 : 1;
    rules.relative = static_cast<d2k::Relative>(variant % 3);
    return rules;
}

// Rows of the classes that are wanted.
template <class T>
int64_t wanted_rows(const d2k::Localization<T>& problem) {
    int64_t rows = 0;
    for (int64_t i = 0; i < problem.items(); ++i)
        rows += problem.wanted(i) ? problem.sequences[i / problem.classes].length : 0;
    return std::min(rows, problem.sequences.total * problem.classes);
}

// `planes`: bytes for those of long items.
template <class T>
void compare(checks::Tally& tally, const checks::Batch& b, int64_t classes, Values kind, int variant,
             int64_t planes = 64 << 20) {
    const int64_t n = b.count();
    const auto activations = checks::make<T>(b.total * classes, kind, 5);
    auto bonus = checks::make<double>(n * classes, variant & 4 ? Values::kSomeNan : Values::kSigned, 6);
    if (kind == Values::kTies)
        for (double& x : bonus) x *= 0x1p70;  // beside which all runs of a class have one score
    const auto mask = checks::bits(n * classes, 0.6, 7);
    const std::vector<double> levels{0.2, 0.4, 0.6, 0.8};
    d2k::Localization<T> problem{};
    problem.sequences = {b.offsets.data(), b.lengths.data(), n, b.total};
    problem.activations = activations.data();
    problem.row_stride = problem.classes = classes;
    problem.class_stride = 1;
    problem.thresholds = levels.data();
    problem.levels = static_cast<int64_t>(levels.size());
    problem.rules = rules_of(variant);
    if (kind == Values::kTies) {  // scores that are equal but for their rounding may change places
        problem.rules.smoothing = problem.rules.upsample = 1;
        problem.rules.sigma = 0;
    }
    if (variant % 2) problem.class_mask = checks::as_bool(mask.data());
    if (variant % 3 == 0) problem.class_score = bonus.data();
    const int64_t most = b.total * classes * problem.rules.upsample;
    const d2k::LocalizeRoom room{wanted_rows(problem), planes};

    std::vector<int64_t> counts(n), sequence(most, -1), label(most, -1);
    std::vector<double> start(most), end(most), score(most);
    const d2k::Status status = d2k::cpu::localize_as_block(
        problem, counts.data(), most, {sequence.data(), label.data(), start.data(), end.data(), score.data()});

    const Device<int64_t> offsets(b.offsets), lengths(b.lengths), found(n), first(n + 1);
    const Device<T> there_activations(activations);
    const Device<double> there_levels(levels), there_bonus(bonus);
    const Device<uint8_t> there_mask(mask);
    d2k::Localization<T> there = problem;
    there.sequences.offsets = offsets.get();
    there.sequences.lengths = lengths.get();
    there.activations = there_activations.get();
    there.thresholds = there_levels.get();
    if (problem.class_mask) there.class_mask = checks::as_bool(there_mask.get());
    if (problem.class_score) there.class_score = there_bonus.get();
    const size_t bytes = d2k::cuda::localize_workspace(there, room);
    const Device<char> workspace(bytes, variant & 1 ? checks::Holds::kJunk : checks::Holds::kNothing);
    const Device<int64_t> sequences(most), labels(most);  // full of junk
    const Device<double> starts(most), ends(most), scores(most);
    const d2k::cuda::LocalizeCall call{room, found.get(), first.get(), workspace.get(), 0, checks::stream()};
    CAPTURED(d2k::cuda::localize_find(there, call));
    CAPTURED(d2k::cuda::localize_write(there, call, most,
                                       {sequences.get(), labels.get(), starts.get(), ends.get(), scores.get()}));
    CHECK(cudaDeviceSynchronize());
    int64_t sum = 0;
    for (const int64_t count : counts) sum += count;
    const bool counted = found.host() == counts && first.host()[n] == (status == d2k::kOk ? sum : d2k::kNotANumber);
    const bool placed = sequences.host() == sequence && labels.host() == label && starts.host() == start &&
                        ends.host() == end;
    const bool scored = checks::same(scores.host(), score, 1e-12);
    tally.add(counted && placed && scored, checks::kDtypeNames[checks::kDtype<T>], name(kind), "rows", b.total,
              "variant", variant, counted ? "" : "counts", placed ? "" : "places", scored ? "" : "scores");
}

// Of two sequences, one has an infinite activation with two runs after it, whose scores are none.
void two_runs_without_a_score(checks::Tally& tally) {
    std::vector<float> activations(400, 0.1f);
    for (const int row : {210, 211, 230, 231, 250}) activations[row] = 0.9f;
    activations[203] = INFINITY;
    for (int row = 20; row < 30; ++row) activations[row] = 0.9f;
    const std::vector<double> levels{0.5};
    const Device<int64_t> offsets(std::vector<int64_t>{0, 200, 400}), lengths(std::vector<int64_t>{200, 200});
    const Device<int64_t> found(2), first(3), sequence(400), label(400);
    const Device<float> there(activations);
    const Device<double> there_levels(levels), start(400), end(400), score(400);
    d2k::Localization<float> problem{};
    problem.sequences = {offsets.get(), lengths.get(), 2, 400};
    problem.activations = there.get();
    problem.row_stride = problem.class_stride = problem.classes = 1;
    problem.thresholds = there_levels.get();
    problem.levels = 1;
    problem.rules = rules_of(1);
    problem.rules.relative = d2k::Relative::kNone;
    problem.rules.has_min_score = false;
    const Device<char> workspace(d2k::cuda::localize_workspace(problem, {400}), checks::Holds::kNothing);
    const d2k::cuda::LocalizeCall call{{400}, found.get(), first.get(), workspace.get(), 0, checks::stream()};
    CAPTURED(d2k::cuda::localize_find(problem, call));
    CAPTURED(d2k::cuda::localize_write(problem, call, 400,
                                       {sequence.get(), label.get(), start.get(), end.get(), score.get()}));
    CHECK(cudaDeviceSynchronize());
    const bool fine = found.host() == std::vector<int64_t>{1, d2k::kNotANumber} && first.host()[2] == d2k::kNotANumber &&
                      start.host()[0] == 20 && end.host()[0] == 30;
    tally.add(fine, "two runs without a score");
}

}  // namespace

int check_localize() {
    checks::Tally tally("localize");
    two_runs_without_a_score(tally);
    int variant = 0;
    for (const auto& b : checks::batches())
        for (const Values kind : checks::kEveryValues) {
            if (kind == Values::kRising) continue;  // all scores of a width are equal but for their rounding
            compare<float>(tally, b, 2, kind, variant % 16);
            compare<double>(tally, b, 3, kind, (variant + 5) % 16);
            variant += 3;
        }
    // More items than warps, and a long sequence.
    for (variant = 0; variant < 4; ++variant) compare<float>(tally, checks::batches()[2], 20, Values::kUniform, variant);
    compare<float>(tally, {{0, 100000}, {100000}, 100000}, 1, Values::kTies, 5);
    compare<float>(tally, checks::batches()[2], 3, Values::kTies, 0);
    // Long items, one after another in the same memory, and short ones between them.
    compare<double>(tally, {{0, 1500, 1520, 3000, 3200, 5000}, {1500, 20, 1400, 200, 1800}, 5000}, 2, Values::kUniform, 4, 0);
    compare<float>(tally, {{0, 1500, 3000}, {1500, 1500}, 3000}, 3, Values::kUniform, 3, 200000);
    return tally.finish();
}

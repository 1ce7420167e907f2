#include "d2kernels/connected_components.h"

#include "checks.h"

namespace {

using checks::Device;
using checks::Values;

template <class T>
void compare(checks::Tally& tally, const checks::Batch& b, int64_t classes, Values kind, int variant) {
    const int64_t n = b.count();
    const bool distinct = variant & 1, own = variant & 2;
    const std::vector<T> scores = checks::make<T>(b.total * classes, kind, 17);
    std::vector<T> levels{T(0.2), T(0.5), T(0.8)};
    if (own) {
        levels.clear();
        for (int64_t i = 0; i < n * classes; ++i) {
            levels.push_back(T(0.1) * T(i % 5));
            levels.push_back(i % 3 ? T(0.5) : T(NAN));
            levels.push_back(T(0.9));
        }
    }
    const auto mask = checks::bits(n * classes, 0.6, 18);
    d2k::Components<T> problem{};
    problem.sequences = {b.offsets.data(), b.lengths.data(), n, b.total};
    problem.scores = scores.data();
    const bool by_class = variant & 16;
    problem.row_stride = by_class ? 1 : classes;
    problem.class_stride = by_class ? b.total : 1;
    problem.classes = classes;
    problem.thresholds = levels.data();
    problem.levels = 3;
    problem.own_thresholds = own;
    problem.min_length = variant & 4 ? 3 : 1;
    problem.distinct = distinct;
    if (variant & 8) problem.class_mask = checks::as_bool(mask.data());
    const int64_t items = problem.items();

    std::vector<int64_t> positions(items + 1);
    CHECK(d2k::cpu::connected_components_count(problem, positions.data(), 1));
    const int64_t size = positions[items];
    std::vector<int64_t> rows(5 * size + 1);
    CHECK(d2k::cpu::connected_components_fill(problem, positions.data(), d2k::Segments::in(rows.data(), size), 1));

    const Device<int64_t> there_offsets(b.offsets), there_lengths(b.lengths), found(5 * size);
    const Device<T> there_scores(scores), there_levels(levels);
    const Device<uint8_t> there_mask(mask);
    d2k::Components<T> there = problem;
    there.sequences.offsets = there_offsets.get();
    there.sequences.lengths = there_lengths.get();
    there.scores = there_scores.get();
    there.thresholds = there_levels.get();
    if (problem.class_mask) there.class_mask = checks::as_bool(there_mask.get());
    int64_t places = 0;
    const size_t bytes = d2k::cuda::connected_components_workspace(there, &places);
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    const Device<int64_t> there_positions(places + 1);
    CAPTURED(d2k::cuda::connected_components_count(there, there_positions.get(), workspace.get(), 0, checks::stream()));
    const int64_t counted = there_positions.host()[places];
    CAPTURED(d2k::cuda::connected_components_fill(there, there_positions.get(), workspace.get(),
                                               d2k::Segments::in(found.get(), size), size, 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    rows.resize(5 * size);
    tally.add(counted == size && found.host() == rows, checks::kDtypeNames[checks::kDtype<T>], name(kind),
              "rows", b.total, "classes", classes, "variant", variant);
}

}  // namespace

int check_connected_components() {
    checks::Tally tally("connected_components");
    int variant = 0;
    for (const auto& b : checks::batches())
        for (const Values kind : checks::kEveryValues)
            for (int i = 0; i < 4; ++i, variant = (variant + 5) % 16) {
                compare<float>(tally, b, 3, kind, variant);
                compare<double>(tally, b, 2, kind, variant ^ 8);
            }
    compare<double>(tally, checks::batches()[2], 20, Values::kUniform, 1);
    // Runs over several tiles, whole sequences above and below, and lengths about multiples of a tile.
    const checks::Batch tiles{{0, 511, 1023, 1536, 1536, 3584, 30000}, {511, 512, 513, 0, 2048, 26000}, 30000};
    for (const int i : {0, 1, 5, 11, 16, 19})
        for (const Values kind : {Values::kEqual, Values::kRising, Values::kSomeNan}) compare<float>(tally, tiles, 2, kind, i);
    compare<double>(tally, {{0, 40000}, {40000}, 40000}, 1, Values::kTies, 1);
    compare<float>(tally, {{0}, {3}, 3}, 720, Values::kUniform, 0);  // more items than one block adds up
    return tally.finish();
}

#include "d2kernels/connected_components.h"

#include "checks.h"

namespace {

using checks::Device;

template <class T>
int differences(int64_t classes, const std::vector<int64_t>& offsets, const std::vector<int64_t>& lengths,
                int64_t total, bool distinct, int64_t min_length) {
    const std::vector<T> scores = checks::uniform<T>(total * classes, 17);
    const std::vector<T> levels{T(0.2), T(0.5), T(0.8)};
    d2k::Components<T> problem{};
    problem.sequences = {offsets.data(), lengths.data(), static_cast<int64_t>(lengths.size()), total};
    problem.scores = scores.data();
    problem.row_stride = classes;
    problem.class_stride = 1;
    problem.classes = classes;
    problem.thresholds = levels.data();
    problem.levels = static_cast<int64_t>(levels.size());
    problem.min_length = min_length;
    problem.distinct = distinct;
    const int64_t items = problem.items();

    std::vector<int64_t> positions(items + 1);
    CHECK(d2k::cpu::connected_components_count(problem, positions.data(), 1));
    const int64_t size = positions[items];
    std::vector<int64_t> rows(5 * size + 1);
    CHECK(d2k::cpu::connected_components_fill(problem, positions.data(), d2k::Segments::in(rows.data(), size), 1));

    const Device<int64_t> there_offsets(offsets), there_lengths(lengths), places(items + 1), found(5 * size);
    const Device<T> there_scores(scores), there_levels(levels);
    d2k::Components<T> there = problem;
    there.sequences.offsets = there_offsets.get();
    there.sequences.lengths = there_lengths.get();
    there.scores = there_scores.get();
    there.thresholds = there_levels.get();
    size_t bytes = 0;
    CHECK(d2k::cuda::connected_components_workspace(items, 0, &bytes));
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    CHECK(d2k::cuda::connected_components_count(there, places.get(), workspace.get(), bytes, 0, nullptr));
    CHECK(d2k::cuda::connected_components_fill(there, places.get(), d2k::Segments::in(found.get(), size), 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    rows.resize(5 * size);
    return checks::report("connected_components", places.host() == positions && found.host() == rows);
}

}  // namespace

int check_connected_components() {
    int wrong = 0;
    for (const bool distinct : {false, true})
        for (const int64_t min_length : {1, 3}) {
            for (const auto& b : checks::batches()) {
                wrong += differences<float>(3, b.offsets, b.lengths, b.total, distinct, min_length);
                wrong += differences<double>(20, b.offsets, b.lengths, b.total, distinct, min_length);
            }
        }
    return wrong;
}

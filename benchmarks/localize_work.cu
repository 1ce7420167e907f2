// localize on files of lengths, activations, thresholds and the mask of classes, once; prints the number of detections.
// For localize_work.py, which runs it on the emulated GPU.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "checks.h"
#include "d2kernels/localize.h"

namespace {

template <class T>
std::vector<T> read(const char* name) {
    std::FILE* const file = std::fopen(name, "rb");
    if (!file) std::exit(1);
    std::fseek(file, 0, SEEK_END);
    std::vector<T> values(std::ftell(file) / sizeof(T));
    std::rewind(file);
    if (std::fread(values.data(), sizeof(T), values.size(), file) != values.size()) std::exit(1);
    std::fclose(file);
    return values;
}

}  // namespace

// LENGTHS ACTIVATIONS THRESHOLDS MASK MIN_SCORE MIN_LENGTH IOU KEEP
int main(int count, char** given) {
    if (count != 9) return 2;
    const auto lengths = read<int64_t>(given[1]);
    const auto activations = read<float>(given[2]);
    const auto thresholds = read<double>(given[3]);
    const auto mask = read<uint8_t>(given[4]);
    std::vector<int64_t> offsets{0};
    for (const int64_t s : lengths) offsets.push_back(offsets.back() + s);
    const auto n = static_cast<int64_t>(lengths.size()), total = offsets.back();
    const auto classes = static_cast<int64_t>(mask.size()) / n, levels = static_cast<int64_t>(thresholds.size());
    const checks::Device<int64_t> there_offsets(offsets), there_lengths(lengths), counts(n), first(n + 1);
    const checks::Device<float> there(activations);
    const checks::Device<double> there_levels(thresholds);
    const checks::Device<uint8_t> wanted(mask);
    d2k::Localization<float> problem{};
    problem.sequences = {there_offsets.get(), there_lengths.get(), n, total};
    problem.activations = there.get();
    problem.row_stride = problem.classes = classes;
    problem.class_stride = 1;
    problem.class_mask = checks::as_bool(wanted.get());
    problem.thresholds = there_levels.get();
    problem.levels = levels;
    problem.rules = {0.25, false, true, std::stod(given[5]), std::stoll(given[6]), std::stod(given[7]), true, 0, true,
                     std::stod(given[8]), true, 1, 1, d2k::Relative::kNone};
    const d2k::LocalizeRoom room{total * classes};
    const checks::Device<char> workspace(d2k::cuda::localize_workspace(problem, room), checks::Holds::kNothing);
    const d2k::cuda::LocalizeCall call{room, counts.get(), first.get(), workspace.get(), 0, nullptr};
    CHECK(d2k::cuda::localize_find(problem, call));
    const int64_t found = first.host()[n];
    const checks::Device<int64_t> sequence(found), label(found);
    const checks::Device<double> start(found), end(found), score(found);
    const d2k::DetectionColumns out{sequence.get(), label.get(), start.get(), end.get(), score.get()};
    CHECK(d2k::cuda::localize_write(problem, call, found, out));
    std::printf("%lld\n", static_cast<long long>(found));
}

#include "d2kernels/localize_block.h"

#include <vector>

namespace d2k::cpu {

template <class T>
Status localize_as_block(const Localization<T>& problem, int64_t* counts, int64_t capacity,
                         const DetectionColumns& out) {
    try {
        HostTeam team;
        const auto& [offsets, lengths, n, total] = problem.sequences;
        const int64_t factor = problem.rules.upsample, longest = LocalizePlanes<T>::bytes(total, factor, problem.levels);
        const LocalizeRoom room{total * problem.classes};
        LocalizeMemory<T> memory{};
        const auto lay_out = [&](uintptr_t base) {
            return memory.lay_out(base, room, total, n, problem.classes, factor, problem.levels, longest);
        };
        std::vector<double> work(lay_out(0) / sizeof(double) + 2), planes(longest / sizeof(double) + 2);
        lay_out(reinterpret_cast<uintptr_t>(work.data()));
        place_items(team, problem, memory, counts);
        for (int64_t i = 0; i < memory.counts->wanted; ++i)
            localize_item(team, problem, memory, i, reinterpret_cast<unsigned char*>(planes.data()));
        for (int64_t s = 0; s < n; ++s) counts[s] = keep_of_sequence(team, problem, memory, s);
        std::vector<int64_t> first(n + 1);
        first_of_counts(team, counts, n, first.data());
        for (int64_t i = 0; i < written(counts, first.data(), n); ++i)
            write_detection(problem, memory, i, first.data(), capacity, out);
        return first.back() < 0 ? kNotANumber : kOk;
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    }
}

template Status localize_as_block<float>(const Localization<float>&, int64_t*, int64_t, const DetectionColumns&);
template Status localize_as_block<double>(const Localization<double>&, int64_t*, int64_t, const DetectionColumns&);

}  // namespace d2k::cpu

#include "d2kernels/localize_block.h"

#include <vector>

namespace d2k::cpu {

template <class T>
Status localize_as_block(const Localization<T>& problem, int64_t* counts, int64_t capacity,
                         const DetectionColumns& out) {
    try {
        HostTeam team;
        LocalizeMemory<T> memory{};
        memory.room = problem.sequences.total * problem.classes;
        memory.sequences = problem.sequences.count;
        memory.classes = problem.classes;
        memory.factor = problem.rules.upsample;
        std::vector<double> work(memory.lay_out(0) / sizeof(double) + 2);
        memory.lay_out(reinterpret_cast<uintptr_t>(work.data()));
        place_items(team, problem, memory);
        for (int64_t i = 0; i < *memory.count; ++i) localize_item(team, problem, memory, memory.wanted[i]);
        for (int64_t s = 0; s < problem.sequences.count; ++s) counts[s] = keep_of_sequence(problem, memory, s);
        std::vector<int64_t> first(problem.sequences.count + 1);
        first_of_counts(team, counts, problem.sequences.count, first.data());
        for (int64_t i = 0; i < problem.items(); ++i)
            write_item(team, problem, memory, i, first[i / problem.classes], capacity, out);
        return first.back() < 0 ? kNotANumber : kOk;
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    }
}

template Status localize_as_block<float>(const Localization<float>&, int64_t*, int64_t, const DetectionColumns&);
template Status localize_as_block<double>(const Localization<double>&, int64_t*, int64_t, const DetectionColumns&);

}  // namespace d2k::cpu

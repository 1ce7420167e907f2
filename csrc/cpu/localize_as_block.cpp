#include "d2kernels/localize_block.h"

#include <vector>

namespace d2k::cpu {

template <class T>
Status localize_as_block(const Localization<T>& problem, int64_t* counts, int64_t capacity,
                         const DetectionColumns& out) {
    try {
        HostTeam team;
        LocalizeMemory<T> memory{};
        memory.total = problem.sequences.total;
        memory.sequences = problem.sequences.count;
        memory.classes = problem.classes;
        memory.factor = problem.rules.upsample;
        std::vector<double> work(memory.lay_out(0) / sizeof(double) + 2);
        memory.lay_out(reinterpret_cast<uintptr_t>(work.data()));
        *memory.valid = in_order(team, problem.sequences);
        for (int64_t i = 0; i < problem.items(); ++i) localize_item(team, problem, memory, i);
        int64_t first = 0;
        for (int64_t s = 0; s < problem.sequences.count; ++s) {
            counts[s] = keep_of_sequence(problem, memory, s);
            for (int64_t c = 0; c < problem.classes; ++c)
                write_item(team, problem, memory, s * problem.classes + c, first, capacity, out);
            first += counts[s];
        }
        return kOk;
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    }
}

template Status localize_as_block<float>(const Localization<float>&, int64_t*, int64_t, const DetectionColumns&);
template Status localize_as_block<double>(const Localization<double>&, int64_t*, int64_t, const DetectionColumns&);

}  // namespace d2k::cpu

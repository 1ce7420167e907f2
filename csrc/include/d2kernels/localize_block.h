// localize for a team: one work item a (sequence, class), then the keep rule and the order of each sequence.
#pragma once

#include "d2kernels/localize_item.h"

namespace d2k {

// The item of a slot; `at_hand`: memory.near bytes of the team's own.
template <class Team, class T>
D2K_DEVICE void localize_item(Team& team, const Localization<T>& problem, const LocalizeMemory<T>& memory, int64_t slot,
                              unsigned char* at_hand) {
    double best = -HUGE_VAL;
    LocalizeItem<T> item(problem, memory.item[slot], memory.planes(slot, at_hand));
    const int64_t found = item.run(team, memory, memory.row[slot] * memory.factor, best);
    if (team.rank() == 0) {
        memory.found[slot] = found;
        memory.best[slot] = best;
    }
}

// A slot's detections that are kept, best first.
template <class T>
struct Detected {
    const LocalizeMemory<T>& memory;
    int64_t first, count;

    D2K_DEVICE Detected(const LocalizeMemory<T>& m, int64_t slot, int64_t kept)
        : memory(m), first(m.row[slot] * m.factor), count(kept) {}

    // Of a slot of the sequence whose first is `begin`, after its keep rule.
    static D2K_DEVICE Detected of(const LocalizeMemory<T>& m, int64_t slot, int64_t begin) {
        return {m, slot, m.kept[slot] - (slot > begin ? m.kept[slot - 1] : 0)};
    }

    D2K_DEVICE double score(int64_t k) const { return memory.score[first + k]; }

    // How many of them go before a detection of another class.
    D2K_DEVICE int32_t before(double score, bool lower_label) const {
        const double* const scores = memory.score + first;
        const bool number = score == score;  // what is none goes first
        int32_t low = 0, high = static_cast<int32_t>(count);
        while (low < high) {
            const int32_t middle = (low + high) / 2;
            const double mine = scores[middle];
            const bool goes = lower_label ? !(mine < score) && (number || mine != mine) : number && !(mine <= score);
            if (goes) low = middle + 1;
            else high = middle;
        }
        return low;
    }
};

// Applies the keep rule to a sequence: how many detections of each of its classes are left, and in all. A sequence with
// a score that is none keeps nothing: kNotANumber.
template <class Team, class T>
D2K_DEVICE int64_t keep_of_sequence(Team& team, const Localization<T>& problem, const LocalizeMemory<T>& memory,
                                    int64_t sequence) {
    const LocalizeRules& rules = problem.rules;
    const int64_t begin = memory.slot[sequence], end = memory.slot[sequence + 1];
    double best = -HUGE_VAL;
    bool numbers = true;
    for_each(team, end - begin, [&](int64_t i) {
        best = Max{}(best, memory.best[begin + i]);
        numbers &= memory.found[begin + i] >= 0;
    });
    best = team.reduce(best, Max{});
    numbers = all(team, numbers);
    const bool whole = !rules.has_keep_ratio || rules.keep_per_class;
    int64_t sum = 0;
    for (int64_t tile = begin; tile < end; tile += team.size()) {
        const int64_t slot = tile + team.rank();
        int64_t high = slot < end && numbers ? memory.found[slot] : 0, low = whole ? high : 0;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (rules.keeps(Detected<T>(memory, slot, high).score(middle), best)) low = middle + 1;
            else high = middle;
        }
        const int64_t through = team.scan(low, Sum{}, sum);
        if (slot < end) memory.kept[slot] = through;
    }
    return numbers ? sum : kNotANumber;
}

// Where each sequence's detections begin, and their number last; that is kNotANumber where a sequence's is.
template <class Team>
D2K_DEVICE void first_of_counts(Team& team, const int64_t* counts, int64_t sequences, int64_t* first) {
    int64_t carry = 0;
    bool numbers = true;
    for (int64_t tile = 0; tile < sequences; tile += team.size()) {
        const int64_t s = tile + team.rank(), count = s < sequences ? counts[s] : 0, rows = count > 0 ? count : 0;
        numbers &= count >= 0;
        const int64_t through = team.scan(rows, Sum{}, carry);
        if (s < sequences) first[s] = through - rows;
    }
    numbers = all(team, numbers);
    if (team.rank() == 0) first[sequences] = numbers ? carry : kNotANumber;
}

// Writes a slot's detections among those of its sequence, which go by falling score from row `first` on; none at
// `capacity` or beyond.
template <class Team, class T>
D2K_DEVICE void write_item(const Team& team, const Localization<T>& problem, const LocalizeMemory<T>& memory,
                           int64_t slot, const int64_t* first, int64_t capacity, const DetectionColumns& out) {
    const int64_t sequence = memory.item[slot] / problem.classes, label = memory.item[slot] % problem.classes;
    const int64_t begin = memory.slot[sequence], end = memory.slot[sequence + 1];
    const auto mine = Detected<T>::of(memory, slot, begin);
    const double factor = static_cast<double>(memory.factor);
    for_each(team, mine.count, [&](int64_t k) {
        const double score = mine.score(k);
        int64_t at = first[sequence] + k;
        for (int64_t other = begin; other < end; ++other)
            if (other != slot) at += Detected<T>::of(memory, other, begin).before(score, other < slot);
        if (at >= capacity) return;
        out.sequence[at] = sequence;
        out.label[at] = label;
        out.start[at] = static_cast<double>(memory.start[mine.first + k]) / factor;
        out.end[at] = static_cast<double>(memory.end[mine.first + k]) / factor;
        out.score[at] = score;
    });
}

}  // namespace d2k

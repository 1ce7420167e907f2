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
    const int64_t found = item.run(team, memory, memory.first[slot], best);
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
        : memory(m), first(m.first[slot]), count(kept) {}

    // Of a slot of the sequence whose first is `begin`, after its keep rule.
    static D2K_DEVICE Detected of(const LocalizeMemory<T>& m, int64_t slot, int64_t begin) {
        return {m, slot, m.kept[slot] - (slot > begin ? m.kept[slot - 1] : 0)};
    }

    D2K_DEVICE double score(int64_t k) const { return memory.score[first + k]; }
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

// The first of [low, high) for which after(i) holds, which it does for all from there on; or high.
template <class After>
D2K_DEVICE int64_t first_after(int64_t low, int64_t high, const After& after) {
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (after(middle)) high = middle;
        else low = middle + 1;
    }
    return low;
}

// Writes the n-th of all detections that are kept, by slot, among those of its sequence, which go by falling score; not at
// `capacity` or beyond.
template <class T>
D2K_DEVICE void write_detection(const Localization<T>& problem, const LocalizeMemory<T>& memory, int64_t n,
                                const int64_t* first, int64_t capacity, const DetectionColumns& out) {
    const int64_t sequence = first_after(0, memory.sequences, [&](int64_t s) { return first[s] > n; }) - 1;
    const int64_t begin = memory.slot[sequence], end = memory.slot[sequence + 1], place = n - first[sequence];
    const int64_t slot = first_after(begin, end, [&](int64_t i) { return memory.kept[i] > place; });
    const auto mine = Detected<T>::of(memory, slot, begin);
    const int64_t k = place - (memory.kept[slot] - mine.count);
    const double score = mine.score(k), factor = static_cast<double>(memory.factor);
    // Of other classes those above go first, of lower ones those as high too; what is no number is above all numbers.
    const double as_high = score == score ? nextafter(score, -HUGE_VAL) : HUGE_VAL;
    int64_t at = first[sequence] + k;
    constexpr int kTogether = 4;  // classes that are searched together, so that their reads are under way together
    D2K_ROLLED
    for (int64_t some = begin; some < end; some += kTogether) {
        const double* scores[kTogether];
        double bound[kTogether];
        uint32_t low[kTogether], left[kTogether], most = 0;
        D2K_UNROLLED
        for (int j = 0; j < kTogether; ++j) {
            const int64_t other = some + j < end ? some + j : slot;
            const auto its = Detected<T>::of(memory, other, begin);
            left[j] = other < slot || (other > slot && score == score) ? static_cast<uint32_t>(its.count) : 0;
            scores[j] = memory.score + (left[j] > 0 ? its.first : mine.first);
            bound[j] = other < slot ? as_high : score;
            low[j] = 0;
            most = Max{}(most, left[j]);
        }
        // No branch but the loop's: those that are through read the same again.
        for (; most > 1; most -= most / 2) {
            double theirs[kTogether];
            D2K_UNROLLED
            for (int j = 0; j < kTogether; ++j) theirs[j] = scores[j][low[j] + left[j] / 2];
            D2K_UNROLLED
            for (int j = 0; j < kTogether; ++j) {
                const uint32_t half = left[j] / 2;
                low[j] += theirs[j] <= bound[j] ? 0 : half;
                left[j] -= half;
            }
        }
        D2K_UNROLLED
        for (int j = 0; j < kTogether; ++j)
            at += low[j] + (left[j] > 0 && !(scores[j][low[j]] <= bound[j]));
    }
    if (at >= capacity) return;
    out.sequence[at] = sequence;
    out.label[at] = memory.item[slot] % problem.classes;
    out.start[at] = static_cast<double>(memory.start[mine.first + k]) / factor;
    out.end[at] = static_cast<double>(memory.end[mine.first + k]) / factor;
    out.score[at] = score;
}

// How many detections are written, but for the capacity.
D2K_DEVICE int64_t written(const int64_t* counts, const int64_t* first, int64_t sequences) {
    const int64_t last = sequences > 0 ? counts[sequences - 1] : 0;
    return sequences > 0 ? first[sequences - 1] + (last > 0 ? last : 0) : 0;
}

}  // namespace d2k

// localize for a team: one work item a (sequence, class), all memory laid out in advance.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "d2kernels/localize.h"

namespace d2k {

// What the teams share: planes in which every item that is wanted has its place, in order.
template <class T>
struct LocalizeMemory {
    T* rows;         // the column, smoothed
    double* sums;    // before each row, and after the last
    int32_t* above;  // of each position: how many thresholds lie below it
    int32_t* low;    // the least of each chunk of positions
    int32_t* first;  // of each position: how many runs start before it
    // Of each run, by falling end within rising start: those inside run i follow it, up to first[end[i]].
    int32_t *start, *end, *level, *outer;
    double* score;
    int8_t *status, *decision;
    int32_t *list, *spare;
    // Of each item: how many of its list are left, kNotANumber where a score is none; of these how many the keep rule
    // leaves, and the best score.
    int64_t *found, *kept;
    double* best;
    // Of each item that is wanted: the rows and the items before it. `wanted` lists these items.
    int64_t *row, *slot, *wanted;
    int64_t* count;  // how many are wanted, 0 where the planes are too small for them
    int64_t room;    // rows of wanted items that the planes hold
    int64_t sequences, classes, factor;

    static constexpr int64_t kChunk = 64;

    // Lays the planes out from an address on; returns the bytes that they take.
    size_t lay_out(uintptr_t base) {
        uintptr_t next = base;
        const auto plane = [&](auto*& pointer, int64_t count) {
            using Element = std::remove_reference_t<decltype(*pointer)>;
            pointer = reinterpret_cast<Element*>(next);
            next += (static_cast<size_t>(count) * sizeof(Element) + 15) / 16 * 16;
        };
        const int64_t items = sequences * classes, runs = room * factor;
        plane(count, 1);
        for (int64_t** p : {&found, &kept, &row, &slot, &wanted}) plane(*p, items);
        plane(best, items);
        plane(sums, room + items);
        plane(score, runs);
        plane(rows, room);
        plane(above, runs);
        plane(low, runs / kChunk + items);
        plane(first, runs + items);
        for (int32_t** p : {&start, &end, &level, &outer, &list, &spare}) plane(*p, runs);
        plane(status, runs);
        plane(decision, runs);
        return next - base;
    }

    // The same pointers from a wanted item's place on.
    D2K_DEVICE LocalizeMemory at(int64_t i) const {
        LocalizeMemory item = *this;
        const int64_t run = row[i] * factor;
        item.rows += row[i];
        item.sums += row[i] + slot[i];
        item.low += run / kChunk + slot[i];
        item.first += run + slot[i];
        for (int32_t** p : {&item.above, &item.start, &item.end, &item.level, &item.outer, &item.list, &item.spare})
            *p += run;
        item.score += run;
        item.status += run;
        item.decision += run;
        return item;
    }
};

struct RowsAndItems {
    int64_t rows, items;

    D2K_DEVICE RowsAndItems operator()(const RowsAndItems& a, const RowsAndItems& b) const {
        return {a.rows + b.rows, a.items + b.items};
    }
};

// Gives every item that is wanted its place, and all what they would find where they are not: nothing. Where there are
// more rows than room for them, as of sequences that overlap, nothing is wanted.
template <class Team, class T>
D2K_DEVICE void place_items(Team& team, const Localization<T>& problem, const LocalizeMemory<T>& memory) {
    const int64_t classes = problem.classes;
    RowsAndItems carry{0, 0};
    for (int64_t tile = 0; tile < problem.sequences.count; tile += team.size()) {
        const int64_t s = tile + team.rank();
        RowsAndItems mine{0, 0};
        const int64_t length = s < problem.sequences.count ? problem.sequences[s].length : 0;
        for (int64_t c = 0; c < classes && s < problem.sequences.count; ++c) {
            const int64_t i = s * classes + c;
            const bool wanted = problem.wanted(i) && length > 0;
            memory.row[i] = mine.rows;  // within the sequence, as yet
            memory.slot[i] = wanted ? mine.items : -1;
            memory.found[i] = memory.kept[i] = 0;
            memory.best[i] = -HUGE_VAL;
            mine.rows += wanted ? length : 0;
            mine.items += wanted;
        }
        const RowsAndItems through = team.scan(mine, RowsAndItems{}, carry);
        for (int64_t c = 0; c < classes && s < problem.sequences.count; ++c) {
            const int64_t i = s * classes + c;
            if (memory.slot[i] < 0) continue;
            memory.row[i] += through.rows - mine.rows;
            memory.slot[i] += through.items - mine.items;
            memory.wanted[memory.slot[i]] = i;
        }
    }
    if (team.rank() == 0) *memory.count = carry.rows <= memory.room ? carry.items : 0;
    team.barrier();
}

// Sorts distinct items by merging ever longer runs; returns the one of the two lists that holds them.
template <class Team, class T, class Less>
D2K_DEVICE T* merge_sort(Team& team, T* items, T* spare, int64_t count, const Less& less) {
    for (int64_t width = 1; width < count; width *= 2) {
        team.barrier();
        for_each(team, count, [&](int64_t i) {
            const int64_t run = i / width, other = (run ^ 1) * width;
            int64_t low = other < count ? other : count, high = low + width < count ? low + width : count;
            const int64_t begin = low;
            while (low < high) {
                const int64_t middle = (low + high) / 2;
                if (less(items[middle], items[i])) low = middle + 1;
                else high = middle;
            }
            spare[(run & ~int64_t{1}) * width + i - run * width + low - begin] = items[i];
        });
        T* const swap = items;
        items = spare;
        spare = swap;
    }
    team.barrier();
    return items;
}

// One item's runs, and what becomes of them.
template <class T>
class LocalizeItem {
    enum : int8_t { kUndecided, kGone, kStays };

public:
    D2K_DEVICE LocalizeItem(const Localization<T>& problem, const LocalizeMemory<T>& memory, int64_t item)
        : problem_(problem), rules_(problem.rules), item_(item), range_(problem.sequences[item / problem.classes]),
          m_(memory.at(item)), column_{m_.rows, range_.length, rules_.upsample}, positions_(column_.positions()) {
        const int64_t shortest = rules_.min_length;
        shortest_ = shortest > range_.length ? positions_ + 1 : shortest * rules_.upsample;
    }

    // Leaves the item's detections in its list, best first; returns how many, or kNotANumber where a score is none.
    template <class Team>
    D2K_DEVICE int64_t run(Team& team, double& best) {
        best = -HUGE_VAL;
        gather(team);
        if (!thresholds(team)) return 0;
        count_levels(team);
        const int64_t runs = find(team);
        if (runs == 0) return 0;
        if (!score(team, runs)) return kNotANumber;
        rules_.sigma > 0 ? soft(team, runs) : hard(team, runs);
        return finish(team, runs, best);
    }

    // Of two runs, which goes first; any two have their order, also where suppression made an infinity NaN.
    D2K_DEVICE bool before(int32_t a, int32_t b) const {
        if (nan(a) != nan(b)) return nan(a);
        if (!nan(a) && m_.score[a] != m_.score[b]) return m_.score[a] > m_.score[b];
        return m_.level[a] != m_.level[b] ? m_.level[a] < m_.level[b] : m_.start[a] < m_.start[b];
    }

    // As above, but as the result is ordered.
    D2K_DEVICE bool written_before(int32_t a, int32_t b) const {
        if (m_.score[a] != m_.score[b] || nan(a)) return before(a, b);
        return m_.start[a] != m_.start[b] ? m_.start[a] < m_.start[b] : m_.level[a] < m_.level[b];
    }

private:
    D2K_DEVICE bool nan(int32_t i) const { return m_.score[i] != m_.score[i]; }
    D2K_DEVICE double width(int32_t i) const { return static_cast<double>(m_.end[i] - m_.start[i]); }
    D2K_DEVICE int32_t last_inside(int32_t i) const { return m_.first[m_.end[i]]; }

    template <class Team>
    D2K_DEVICE void sum(Team& team, const Interpolated<T>& column) {
        double carry = 0;
        if (team.rank() == 0) m_.sums[0] = 0;
        for (int64_t tile = 0; tile < column.length; tile += team.size()) {
            const int64_t t = tile + team.rank();
            double value = 0;
            if (t < column.length)
                for (int64_t i = 0; i < column.factor; ++i) value += or_zero(column(t * column.factor + i));
            value = team.scan(value, Sum{}, carry);
            if (t < column.length) m_.sums[t + 1] = value;
        }
        team.barrier();
    }

    template <class Team>
    D2K_DEVICE void gather(Team& team) {
        const T* const from = problem_.activations + range_.first * problem_.row_stride +
                              item_ % problem_.classes * problem_.class_stride;
        for_each(team, range_.length, [&](int64_t t) { m_.rows[t] = from[t * problem_.row_stride]; });
        team.barrier();
        if (rules_.smoothing == 1) return;
        const int64_t length = range_.length, half = rules_.smoothing / 2;
        sum(team, {m_.rows, length, 1});
        for_each(team, length, [&](int64_t t) {
            const int64_t low = t > half ? t - half : 0, high = length - t > half ? t + half + 1 : length;
            m_.rows[t] = static_cast<T>((m_.sums[high] - m_.sums[low]) / static_cast<double>(high - low));
        });
        team.barrier();
    }

    template <class Team>
    D2K_DEVICE bool thresholds(Team& team) {
        if (rules_.relative == Relative::kNone) return true;
        double high = -HUGE_VAL, low = HUGE_VAL;
        int holes = 0;
        for_each(team, positions_, [&](int64_t j) {
            const double x = static_cast<double>(column_(j));
            holes |= x != x;
            high = Max{}(high, x);
            low = Min{}(low, x);
        });
        high_ = team.reduce(high, Max{});
        low_ = team.reduce(low, Min{});
        return team.reduce(holes, Max{}) == 0;
    }

    D2K_DEVICE T threshold(int64_t i) const {
        const double level = problem_.thresholds[i];
        if (rules_.relative == Relative::kNone) return static_cast<T>(level);
        if (rules_.relative == Relative::kMax) return static_cast<T>(level * (high_ > 0 ? high_ : 0.0));
        return static_cast<T>(low_ + times(level, high_ - low_));
    }

    template <class Team>
    D2K_DEVICE void count_levels(Team& team) {
        for_each(team, positions_, [&](int64_t j) {
            const T x = column_(j);
            int64_t low = 0, high = problem_.levels;
            while (low < high) {
                const int64_t middle = (low + high) / 2;
                if (x > threshold(middle)) low = middle + 1;
                else high = middle;
            }
            m_.above[j] = static_cast<int32_t>(low);
        });
        team.barrier();
        const int64_t chunk = LocalizeMemory<T>::kChunk;
        for_each(team, (positions_ + chunk - 1) / chunk, [&](int64_t k) {
            int32_t least = m_.above[k * chunk];
            for (int64_t j = k * chunk + 1; j < (k + 1) * chunk && j < positions_; ++j)
                least = Min{}(least, m_.above[j]);
            m_.low[k] = least;
        });
        team.barrier();
    }

    // Calls emit(end, level) for the distinct runs that start at t, by rising end.
    template <class Emit>
    D2K_DEVICE void starting(int64_t t, const Emit& emit) const {
        const int64_t chunk = LocalizeMemory<T>::kChunk;
        const int32_t before = t > 0 ? m_.above[t - 1] : 0;
        int32_t now = m_.above[t];
        for (int64_t e = t + 1; now > before;) {
            if (e < positions_ && e % chunk == 0 && m_.low[e / chunk] >= now) {
                e += chunk;
                continue;
            }
            if (e < positions_ && m_.above[e] >= now) {
                ++e;
                continue;
            }
            e = Min{}(e, positions_);
            const int32_t after = e < positions_ ? m_.above[e] : 0;
            now = Max{}(after, before);
            if (e - t >= shortest_) emit(e, now);
        }
    }

    // Fills start, end, level and first; returns the number of runs.
    template <class Team>
    D2K_DEVICE int64_t find(Team& team) {
        int32_t carry = 0;
        if (team.rank() == 0) m_.first[0] = 0;
        for (int64_t tile = 0; tile < positions_; tile += team.size()) {
            const int64_t t = tile + team.rank();
            int32_t count = 0;
            if (t < positions_) starting(t, [&](int64_t, int32_t) { ++count; });
            count = team.scan(count, Sum{}, carry);
            if (t < positions_) m_.first[t + 1] = count;
        }
        team.barrier();
        for_each(team, positions_, [&](int64_t t) {
            int32_t i = m_.first[t + 1];
            if (i > m_.first[t]) starting(t, [&](int64_t e, int32_t level) {
                --i;
                m_.start[i] = static_cast<int32_t>(t);
                m_.end[i] = static_cast<int32_t>(e);
                m_.level[i] = level;
            });
        });
        return carry;
    }

    // The smallest run around run i, or -1.
    D2K_DEVICE int32_t around(int32_t i) const {
        const int32_t t = m_.start[i], chunk = static_cast<int32_t>(LocalizeMemory<T>::kChunk);
        if (i > m_.first[t]) return i - 1;
        const int32_t level = t > 0 ? m_.above[t - 1] : 0;
        if (level == 0) return -1;
        int32_t p = t - 2;
        while (p >= 0 && m_.above[p] >= level) {
            if (p % chunk == chunk - 1 && m_.low[p / chunk] >= level) p -= chunk;
            else --p;
        }
        int32_t j = m_.first[p + 2] - 1;
        while (j >= m_.first[p + 1] && m_.end[j] < m_.end[i]) --j;
        return j >= m_.first[p + 1] ? j : -1;
    }

    // False where a run that passes has no score: NaN.
    template <class Team>
    D2K_DEVICE bool score(Team& team, int64_t runs) {
        sum(team, column_);
        const PrefixSums<T> sums{column_, m_.sums};
        const double bonus = problem_.bonus(item_);
        bool numbers = true;
        for_each(team, runs, [&](int64_t i) {
            const double s = contrast(sums, m_.start[i], m_.end[i], positions_, rules_.margin, rules_.pooled);
            const bool passed = (!rules_.has_min_score || s >= rules_.min_score) &&
                                !(rules_.sigma > 0 && s + bonus == -HUGE_VAL);
            m_.score[i] = s + bonus;
            numbers &= !passed || s + bonus == s + bonus;
            m_.status[i] = passed ? kUndecided : kGone;
            m_.decision[i] = kUndecided;
            m_.outer[i] = around(static_cast<int32_t>(i));
        });
        return all(team, numbers);
    }

    // Moves the listed runs for which keep(i) holds to the front of `to`, in order; returns how many.
    template <class Team, class Keep, class At>
    D2K_DEVICE int64_t select(Team& team, int64_t count, int32_t* to, const At& at, const Keep& keep) {
        int64_t kept = 0;
        for (int64_t tile = 0; tile < count; tile += team.size()) {
            const int64_t k = tile + team.rank();
            const int32_t i = k < count ? at(k) : 0;
            const bool stays = k < count && keep(i);
            const int64_t place = compact(team, stays, kept);
            if (stays) to[place] = i;
        }
        team.barrier();
        return kept;
    }

    template <class Team>
    D2K_DEVICE int64_t undecided(Team& team, int64_t runs) {
        return select(team, runs, m_.list, [](int64_t k) { return static_cast<int32_t>(k); },
                      [&](int32_t i) { return m_.status[i] == kUndecided; });
    }

    template <class Team>
    D2K_DEVICE int64_t still_undecided(Team& team, int64_t count) {
        const int32_t* const list = m_.list;
        const int64_t left = select(team, count, m_.spare, [&](int64_t k) { return list[k]; }, [&](int32_t i) {
            const int8_t decision = m_.decision[i];
            m_.status[i] = decision;
            return decision == kUndecided;
        });
        int32_t* const swap = m_.list;
        m_.list = m_.spare;
        m_.spare = swap;
        return left;
    }

    // A run stays when all better ones that would remove it are gone: round after round, all at once.
    template <class Team>
    D2K_DEVICE void hard(Team& team, int64_t runs) {
        for (int64_t left = undecided(team, runs); left > 0; left = still_undecided(team, left)) {
            for_each(team, left, [&](int64_t k) {
                const int32_t i = m_.list[k];
                const double own = width(i);
                bool removed = false, waits = false;
                const auto meet = [&](int32_t j) {
                    removed |= m_.status[j] == kStays;
                    waits |= m_.status[j] == kUndecided && before(j, i);
                };
                for (int32_t p = m_.outer[i]; p >= 0 && rules_.suppresses(own / width(p)); p = m_.outer[p]) meet(p);
                const int32_t end = last_inside(i);
                for (int32_t j = i + 1; j < end && !removed;) {
                    const bool meets = rules_.suppresses(width(j) / own);
                    if (meets) meet(j);
                    j = meets ? j + 1 : last_inside(j);  // what lies inside is smaller still
                }
                m_.decision[i] = removed ? kGone : waits ? kUndecided : kStays;
            });
            team.barrier();
        }
    }

    // A run is taken when it is better than all that its choice would make decay, whose turn comes later.
    template <class Team>
    D2K_DEVICE void soft(Team& team, int64_t runs) {
        for (int64_t left = undecided(team, runs); left > 0; left = still_undecided(team, left)) {
            for_each(team, left, [&](int64_t k) {
                const int32_t i = m_.list[k];
                bool waits = false;
                for (int32_t p = m_.outer[i]; p >= 0; p = m_.outer[p])
                    waits |= m_.status[p] == kUndecided && before(p, i);
                const int32_t end = last_inside(i);
                for (int32_t j = i + 1; j < end && !waits; ++j) waits = m_.status[j] == kUndecided && before(j, i);
                m_.decision[i] = waits ? kUndecided : kStays;
            });
            team.barrier();
            for_each(team, left, [&](int64_t k) {
                const int32_t i = m_.list[k];
                if (m_.decision[i] == kStays || !(m_.score[i] > 0)) return;
                const double own = width(i);
                double decayed = m_.score[i];
                const auto decay = [&](int32_t j, double iou) {
                    if (m_.status[j] == kUndecided && m_.decision[j] == kStays) decayed *= exp(-(iou * iou) / rules_.sigma);
                };
                for (int32_t p = m_.outer[i]; p >= 0; p = m_.outer[p]) decay(p, own / width(p));
                const int32_t end = last_inside(i);
                for (int32_t j = i + 1; j < end; ++j) decay(j, width(j) / own);
                m_.score[i] = decayed;
            });
            team.barrier();
        }
    }

    template <class Team>
    D2K_DEVICE int64_t finish(Team& team, int64_t runs, double& best) {
        int32_t* const own = m_.list < m_.spare ? m_.list : m_.spare;
        int32_t* const other = m_.list < m_.spare ? m_.spare : m_.list;
        double most = -HUGE_VAL;
        for_each(team, runs, [&](int64_t i) {
            if (m_.status[i] == kStays) most = Max{}(most, m_.score[i]);
        });
        best = team.reduce(most, Max{});
        const double highest = best;
        const int64_t count = select(team, runs, own, [](int64_t k) { return static_cast<int32_t>(k); }, [&](int32_t i) {
            return m_.status[i] == kStays && (!rules_.keep_per_class || rules_.keeps(m_.score[i], highest));
        });
        int32_t* const sorted =
            merge_sort(team, own, other, count, [&](int32_t a, int32_t b) { return written_before(a, b); });
        if (sorted != own) for_each(team, count, [&](int64_t k) { own[k] = sorted[k]; });
        return count;
    }

    const Localization<T>& problem_;
    const LocalizeRules& rules_;
    int64_t item_;
    Sequences::Range range_;
    LocalizeMemory<T> m_;
    Interpolated<T> column_;
    int64_t positions_, shortest_ = 1;
    double high_ = 0, low_ = 0;
};

// `item` is one that is wanted.
template <class Team, class T>
D2K_DEVICE void localize_item(Team& team, const Localization<T>& problem, const LocalizeMemory<T>& memory,
                              int64_t item) {
    double best = -HUGE_VAL;
    const int64_t found = LocalizeItem<T>(problem, memory, item).run(team, best);
    if (team.rank() == 0) {
        memory.found[item] = found;
        memory.best[item] = best;
    }
}

// The item's detections, best first.
template <class T>
struct Detected {
    LocalizeMemory<T> m;
    int64_t count;

    D2K_DEVICE Detected(const LocalizeMemory<T>& memory, int64_t item, int64_t kept)
        : m(memory.at(item)), count(kept) {}

    D2K_DEVICE double score(int64_t k) const { return m.score[m.list[k]]; }

    // How many of them go before a detection of another class.
    D2K_DEVICE int64_t before(double score, bool lower_label) const {
        int64_t low = 0, high = count;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            const double mine = this->score(middle);
            const bool first = mine > score || (mine != mine && score == score) ||
                               (lower_label && (mine == score || (mine != mine && score != score)));
            if (first) low = middle + 1;
            else high = middle;
        }
        return low;
    }
};

// Applies the keep rule to a sequence: how many detections of each of its classes are left, and in all. A sequence with
// a score that is none keeps nothing: kNotANumber.
template <class T>
D2K_DEVICE int64_t keep_of_sequence(const Localization<T>& problem, const LocalizeMemory<T>& memory, int64_t sequence) {
    const LocalizeRules& rules = problem.rules;
    const int64_t begin = sequence * problem.classes, end = begin + problem.classes;
    const bool all = !rules.has_keep_ratio || rules.keep_per_class;
    double best = -HUGE_VAL;
    for (int64_t i = begin; i < end; ++i) best = Max{}(best, memory.best[i]);
    int64_t sum = 0;
    bool numbers = true;
    for (int64_t i = begin; i < end; ++i) numbers &= memory.found[i] >= 0;
    for (int64_t i = begin; i < end; ++i) {
        int64_t low = 0, high = numbers ? memory.found[i] : 0;
        if (high == 0) {
            memory.kept[i] = 0;
            continue;
        }
        if (all) low = high;
        const Detected<T> detected(memory, i, high);
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (rules.keeps(detected.score(middle), best)) low = middle + 1;
            else high = middle;
        }
        memory.kept[i] = low;
        sum += low;
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

// Writes the item's detections among those of its sequence, which begin at `first`; none at `capacity` or beyond.
template <class Team, class T>
D2K_DEVICE void write_item(const Team& team, const Localization<T>& problem, const LocalizeMemory<T>& memory,
                           int64_t item, int64_t first, int64_t capacity, const DetectionColumns& out) {
    const int64_t sequence = item / problem.classes, label = item % problem.classes;
    const Detected<T> mine(memory, item, memory.kept[item]);
    const double factor = static_cast<double>(problem.rules.upsample);
    for_each(team, mine.count, [&](int64_t k) {
        const double score = mine.score(k);
        const int32_t run = mine.m.list[k];
        int64_t at = first + k;
        for (int64_t c = 0; c < problem.classes; ++c) {
            const int64_t other = sequence * problem.classes + c, count = memory.kept[other];
            if (c != label && count > 0) at += Detected<T>(memory, other, count).before(score, c < label);
        }
        if (at >= capacity) return;
        out.sequence[at] = sequence;
        out.label[at] = label;
        out.start[at] = static_cast<double>(mine.m.start[run]) / factor;
        out.end[at] = static_cast<double>(mine.m.end[run]) / factor;
        out.score[at] = score;
    });
}

}  // namespace d2k

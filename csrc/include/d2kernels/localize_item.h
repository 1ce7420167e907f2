// localize for a team: the runs of one item, which is a class of a sequence, their scores and their suppression.
#pragma once

#include "d2kernels/localize_memory.h"

namespace d2k {

// Sorts distinct items by merging ever longer runs; returns the one of the two lists that holds them.
template <class Team, class T, class Less>
D2K_DEVICE T* merge_sort(Team& team, T* items, T* spare, int32_t count, const Less& less) {
    D2K_ROLLED
    for (int32_t width = 1; width < count; width *= 2) {
        team.barrier();
        for_each(team, count, [&](int32_t i) {
            const int32_t run = i / width, other = (run ^ 1) * width;
            int32_t low = other < count ? other : count, high = low + width < count ? low + width : count;
            const int32_t begin = low;
            while (low < high) {
                const int32_t middle = (low + high) / 2;
                if (less(items[middle], items[i])) low = middle + 1;
                else high = middle;
            }
            spare[(run & ~1) * width + i - run * width + low - begin] = items[i];
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
    D2K_DEVICE LocalizeItem(const Localization<T>& problem, int64_t item, unsigned char* planes)
        : problem_(problem), rules_(problem.rules), item_(item), range_(problem.sequences[item / problem.classes]) {
        m_.lay_out(reinterpret_cast<uintptr_t>(planes), range_.length, rules_.upsample);
        column_ = {m_.rows, static_cast<int32_t>(range_.length), static_cast<int32_t>(rules_.upsample)};
        positions_ = column_.positions();
        const bool none = rules_.min_length > range_.length;
        shortest_ = none ? positions_ + 1 : static_cast<int32_t>(rules_.min_length * rules_.upsample);
    }

    // Writes the item's detections from position `to` on, best first; returns how many, or kNotANumber where a score is
    // none.
    template <class Team>
    D2K_DEVICE int32_t run(Team& team, const LocalizeMemory<T>& memory, int64_t to, double& best) {
        best = -HUGE_VAL;
        gather(team);
        if (!thresholds(team)) return 0;
        count_levels(team);
        const int32_t runs = find(team);
        if (runs == 0) return 0;
        if (!score(team, runs)) return kNotANumber;
        rules_.sigma > 0 ? soft(team, runs) : hard(team, runs);
        return finish(team, runs, memory, to, best);
    }

    // Of two runs, which goes first; any two have their order, also where suppression made an infinity NaN.
    D2K_DEVICE bool before(int32_t a, int32_t b) const {
        const double x = m_.score[a], y = m_.score[b];
        if (x > y || x < y) return x > y;
        if ((x != x) != (y != y)) return x != x;
        return m_.runs[a].level != m_.runs[b].level ? m_.runs[a].level < m_.runs[b].level : m_.runs[a].start < m_.runs[b].start;
    }

    // As above, but as the result is ordered.
    D2K_DEVICE bool written_before(int32_t a, int32_t b) const {
        if (m_.score[a] != m_.score[b]) return before(a, b);
        return m_.runs[a].start != m_.runs[b].start ? m_.runs[a].start < m_.runs[b].start : m_.runs[a].level < m_.runs[b].level;
    }

private:
    D2K_DEVICE double width(int32_t i) const { return static_cast<double>(m_.runs[i].end - m_.runs[i].start); }
    D2K_DEVICE int32_t last_inside(int32_t i) const { return m_.first[m_.runs[i].end]; }

    template <class Team>
    D2K_DEVICE void sum(Team& team, const Interpolated<T, int32_t>& column) {
        double carry = 0;
        if (team.rank() == 0) m_.sums[0] = 0;
        for (int32_t tile = 0; tile < column.length; tile += team.size()) {
            const int32_t t = tile + team.rank();
            double value = 0;
            if (t < column.length)
                for (int32_t i = 0; i < column.factor; ++i) value += or_zero(column(t * column.factor + i));
            value = team.scan(value, Sum{}, carry);
            if (t < column.length) m_.sums[t + 1] = value;
        }
        team.barrier();
    }

    template <class Team>
    D2K_DEVICE void gather(Team& team) {
        const T* const from = problem_.activations + range_.first * problem_.row_stride +
                              item_ % problem_.classes * problem_.class_stride;
        for_each(team, column_.length, [&](int32_t t) { m_.rows[t] = from[t * problem_.row_stride]; });
        team.barrier();
        if (rules_.smoothing == 1) return;
        const int32_t length = column_.length;
        const auto half = static_cast<int32_t>(Min{}(rules_.smoothing / 2, range_.length));
        sum(team, {m_.rows, length, 1});
        for_each(team, length, [&](int32_t t) {
            const int32_t low = t > half ? t - half : 0, high = length - t > half ? t + half + 1 : length;
            m_.rows[t] = static_cast<T>((m_.sums[high] - m_.sums[low]) / static_cast<double>(high - low));
        });
        team.barrier();
    }

    template <class Team>
    D2K_DEVICE bool thresholds(Team& team) {
        if (rules_.relative == Relative::kNone) return true;
        double high = -HUGE_VAL, low = HUGE_VAL;
        int holes = 0;
        for_each(team, positions_, [&](int32_t j) {
            const double x = static_cast<double>(column_(j));
            holes |= x != x;
            high = Max{}(high, x);
            low = Min{}(low, x);
        });
        high_ = team.reduce(high, Max{});
        low_ = team.reduce(low, Min{});
        return team.reduce(holes, Max{}) == 0;
    }

    D2K_DEVICE T threshold(int32_t i) const {
        const double level = problem_.thresholds[i];
        if (rules_.relative == Relative::kNone) return static_cast<T>(level);
        if (rules_.relative == Relative::kMax) return static_cast<T>(level * (high_ > 0 ? high_ : 0.0));
        return static_cast<T>(low_ + times(level, high_ - low_));
    }

    template <class Team>
    D2K_DEVICE void count_levels(Team& team) {
        for_each(team, positions_, [&](int32_t j) {
            const T x = column_(j);
            int32_t low = 0, high = static_cast<int32_t>(problem_.levels);
            while (low < high) {
                const int32_t middle = (low + high) / 2;
                if (x > threshold(middle)) low = middle + 1;
                else high = middle;
            }
            m_.above[j] = low;
        });
        if (team.rank() == 0) m_.above[positions_] = 0;  // every run has ended by then
        team.barrier();
        constexpr int32_t chunk = LocalizePlanes<T>::kChunk;
        for_each(team, (positions_ + chunk - 1) / chunk, [&](int32_t k) {
            int32_t least = m_.above[k * chunk];
            for (int32_t j = k * chunk + 1; j < (k + 1) * chunk && j < positions_; ++j)
                least = Min{}(least, m_.above[j]);
            m_.low[k] = least;
        });
        team.barrier();
    }

    // Calls emit(end, level) for the distinct runs that start at t, by rising end.
    template <class Emit>
    D2K_DEVICE void starting(int32_t t, const Emit& emit) const {
        constexpr int32_t chunk = LocalizePlanes<T>::kChunk;
        const int32_t before = t > 0 ? m_.above[t - 1] : 0;
        int32_t now = m_.above[t];
        for (int32_t e = t + 1; now > before;) {
            int32_t after = m_.above[e];
            while (after >= now) {
                ++e;
                while (e % chunk == 0 && e < positions_ && m_.low[e / chunk] >= now) e = Min{}(e + chunk, positions_);
                after = m_.above[e];
            }
            now = Max{}(after, before);
            if (e - t >= shortest_) emit(e, now);
        }
    }

    // Fills start, end, level and first; returns the number of runs.
    template <class Team>
    D2K_DEVICE int32_t find(Team& team) {
        int32_t carry = 0;
        if (team.rank() == 0) m_.first[0] = 0;
        for (int32_t tile = 0; tile < positions_; tile += team.size()) {
            const int32_t t = tile + team.rank();
            int32_t count = 0;
            if (t < positions_) starting(t, [&](int32_t, int32_t) { ++count; });
            count = team.scan(count, Sum{}, carry);
            if (t < positions_) m_.first[t + 1] = count;
        }
        team.barrier();
        for_each(team, positions_, [&](int32_t t) {
            int32_t i = m_.first[t + 1];
            if (i > m_.first[t]) starting(t, [&](int32_t e, int32_t level) {
                --i;
                m_.runs[i] = {t, e, level, -1};
            });
        });
        return carry;
    }

    // The smallest run around run i, or -1.
    D2K_DEVICE int32_t around(int32_t i) const {
        constexpr int32_t chunk = LocalizePlanes<T>::kChunk;
        const int32_t t = m_.runs[i].start;
        if (i > m_.first[t]) return i - 1;
        const int32_t level = t > 0 ? m_.above[t - 1] : 0;
        if (level == 0) return -1;
        int32_t p = t - 2;
        while (p >= 0 && m_.above[p] >= level) {
            if (p % chunk == chunk - 1 && m_.low[p / chunk] >= level) p -= chunk;
            else --p;
        }
        int32_t j = m_.first[p + 2] - 1;
        while (j >= m_.first[p + 1] && m_.runs[j].end < m_.runs[i].end) --j;
        return j >= m_.first[p + 1] ? j : -1;
    }

    // False where a run that passes has no score: NaN.
    template <class Team>
    D2K_DEVICE bool score(Team& team, int32_t runs) {
        sum(team, column_);
        const PrefixSums<T, int32_t> sums{column_, m_.sums};
        const double bonus = problem_.bonus(item_);
        bool numbers = true;
        for_each(team, runs, [&](int32_t i) {
            const double s = contrast(sums, m_.runs[i].start, m_.runs[i].end, positions_, rules_.margin, rules_.pooled);
            const bool passed = (!rules_.has_min_score || s >= rules_.min_score) &&
                                !(rules_.sigma > 0 && s + bonus == -HUGE_VAL);
            m_.score[i] = s + bonus;
            numbers &= !passed || s + bonus == s + bonus;
            m_.states[i] = {passed ? kUndecided : kGone, kUndecided};
            m_.runs[i].outer = around(i);
        });
        return all(team, numbers);
    }

    // Moves the listed runs for which keep(i) holds to the front of `to`, in order; returns how many.
    template <class Team, class Keep, class At>
    D2K_DEVICE int32_t select(Team& team, int32_t count, int32_t* to, const At& at, const Keep& keep) {
        int32_t kept = 0;
        for (int32_t tile = 0; tile < count; tile += team.size()) {
            const int32_t k = tile + team.rank();
            const int32_t i = k < count ? at(k) : 0;
            const bool stays = k < count && keep(i);
            const int32_t place = compact(team, stays, kept);
            if (stays) to[place] = i;
        }
        team.barrier();
        return kept;
    }

    template <class Team>
    D2K_DEVICE int32_t undecided(Team& team, int32_t runs) {
        return select(team, runs, m_.list, [](int32_t k) { return k; },
                      [&](int32_t i) { return m_.states[i].status == kUndecided; });
    }

    template <class Team>
    D2K_DEVICE int32_t still_undecided(Team& team, int32_t count) {
        const int32_t* const list = m_.list;
        const int32_t left = select(team, count, m_.spare, [&](int32_t k) { return list[k]; }, [&](int32_t i) {
            const int8_t decision = m_.states[i].decision;
            m_.states[i].status = decision;
            return decision == kUndecided;
        });
        int32_t* const swap = m_.list;
        m_.list = m_.spare;
        m_.spare = swap;
        return left;
    }

    // A run stays when all better ones that would remove it are gone: round after round, all at once.
    template <class Team>
    D2K_DEVICE void hard(Team& team, int32_t runs) {
        for (int32_t left = undecided(team, runs); left > 0; left = still_undecided(team, left)) {
            for_each(team, left, [&](int32_t k) {
                const int32_t i = m_.list[k];
                const double own = width(i);
                bool removed = false, waits = false;
                const auto meet = [&](int32_t j) {
                    removed |= m_.states[j].status == kStays;
                    waits |= m_.states[j].status == kUndecided && before(j, i);
                };
                for (int32_t p = m_.runs[i].outer; p >= 0 && rules_.suppresses(own / width(p)); p = m_.runs[p].outer) meet(p);
                const int32_t end = last_inside(i);
                for (int32_t j = i + 1; j < end && !removed;) {
                    const bool meets = rules_.suppresses(width(j) / own);
                    if (meets) meet(j);
                    j = meets ? j + 1 : last_inside(j);  // what lies inside is smaller still
                }
                m_.states[i].decision = removed ? kGone : waits ? kUndecided : kStays;
            });
            team.barrier();
        }
    }

    // A run is taken when it is better than all that its choice would make decay, whose turn comes later.
    template <class Team>
    D2K_DEVICE void soft(Team& team, int32_t runs) {
        for (int32_t left = undecided(team, runs); left > 0; left = still_undecided(team, left)) {
            for_each(team, left, [&](int32_t k) {
                const int32_t i = m_.list[k];
                bool waits = false;
                for (int32_t p = m_.runs[i].outer; p >= 0; p = m_.runs[p].outer)
                    waits |= m_.states[p].status == kUndecided && before(p, i);
                const int32_t end = last_inside(i);
                for (int32_t j = i + 1; j < end && !waits; ++j) waits = m_.states[j].status == kUndecided && before(j, i);
                m_.states[i].decision = waits ? kUndecided : kStays;
            });
            team.barrier();
            for_each(team, left, [&](int32_t k) {
                const int32_t i = m_.list[k];
                if (m_.states[i].decision == kStays || !(m_.score[i] > 0)) return;
                const double own = width(i);
                double decayed = m_.score[i];
                const auto decay = [&](int32_t j, double iou) {
                    if (m_.states[j].status == kUndecided && m_.states[j].decision == kStays) decayed *= exp(-(iou * iou) / rules_.sigma);
                };
                for (int32_t p = m_.runs[i].outer; p >= 0; p = m_.runs[p].outer) decay(p, own / width(p));
                const int32_t end = last_inside(i);
                for (int32_t j = i + 1; j < end; ++j) decay(j, width(j) / own);
                m_.score[i] = decayed;
            });
            team.barrier();
        }
    }

    template <class Team>
    D2K_DEVICE int32_t finish(Team& team, int32_t runs, const LocalizeMemory<T>& memory, int64_t to, double& best) {
        double most = -HUGE_VAL;
        for_each(team, runs, [&](int32_t i) {
            if (m_.states[i].status == kStays) most = Max{}(most, m_.score[i]);
        });
        best = team.reduce(most, Max{});
        const double highest = best;
        const int32_t count = select(team, runs, m_.list, [](int32_t k) { return k; }, [&](int32_t i) {
            return m_.states[i].status == kStays && (!rules_.keep_per_class || rules_.keeps(m_.score[i], highest));
        });
        const int32_t* const sorted =
            merge_sort(team, m_.list, m_.spare, count, [&](int32_t a, int32_t b) { return written_before(a, b); });
        for_each(team, count, [&](int32_t k) {
            memory.start[to + k] = m_.runs[sorted[k]].start;
            memory.end[to + k] = m_.runs[sorted[k]].end;
            memory.score[to + k] = m_.score[sorted[k]];
        });
        return count;
    }

    const Localization<T>& problem_;
    const LocalizeRules& rules_;
    int64_t item_;
    Sequences::Range range_;
    LocalizePlanes<T> m_;
    Interpolated<T, int32_t> column_{};
    int32_t positions_ = 0, shortest_ = 1;
    double high_ = 0, low_ = 0;
};

}  // namespace d2k

// localize for a team: the runs of one item, which is a class of a sequence, their scores and their suppression.
#pragma once

#include "d2kernels/localize_memory.h"
#include "d2kernels/warp.h"

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
    using Run = typename LocalizePlanes<T>::Run;
    enum : int8_t { kUndecided, kGone, kStays };

public:
    D2K_DEVICE LocalizeItem(const Localization<T>& problem, int64_t item, const LocalizePlace& planes)
        : problem_(problem), rules_(problem.rules), item_(item), range_(problem.sequences[item / problem.classes]) {
        m_.lay_out(planes, range_.length, rules_.upsample, problem.levels);
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
        return level(a) != level(b) ? level(a) < level(b) : m_.runs[a].start < m_.runs[b].start;
    }

    // As above, but as the result is ordered.
    D2K_DEVICE bool written_before(int32_t a, int32_t b) const {
        if (m_.score[a] != m_.score[b]) return before(a, b);
        return m_.runs[a].start != m_.runs[b].start ? m_.runs[a].start < m_.runs[b].start : level(a) < level(b);
    }

private:
    D2K_DEVICE static double width(const Run& run) { return static_cast<double>(run.end - run.start); }
    D2K_DEVICE double width(int32_t i) const { return width(m_.runs[i]); }

    // How many thresholds lie below what is beside a run, on the higher side.
    D2K_DEVICE int32_t level(int32_t i) const {
        return Max{}(m_.above[m_.runs[i].end], m_.runs[i].start > 0 ? m_.above[m_.runs[i].start - 1] : 0);
    }

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
        const Warp<Team> warp(team);
        constexpr int kBits = LocalizePlanes<T>::kBits, kEach = kBits / Warp<Team>::width;
        const auto levels = static_cast<int32_t>(problem_.levels);
        const int highest = levels > 0 ? highest_bit(static_cast<uint32_t>(levels)) : 0;
        D2K_ROLLED
        for (auto w = static_cast<int32_t>(warp.index()); w < m_.words; w += static_cast<int32_t>(warp.count())) {
            int32_t above[kEach];
            for (int h = 0; h < kEach; ++h) {
                const int32_t j = w * kBits + warp.lane() + h;
                const T x = j < positions_ ? column_(j) : T(0);
                int32_t low = 0, high = j < positions_ ? levels : 0;  // every run has ended after the last
                while (low < high) {
                    const int32_t middle = (low + high) / 2;
                    if (x > threshold(middle)) low = middle + 1;
                    else high = middle;
                }
                above[h] = low;
                if (j <= positions_) m_.above[j] = low;
            }
            // A lane compares the 32 numbers with its own level, bit by bit from the highest on.
            for (int32_t level = warp.lane(); level - warp.lane() < levels; level += Warp<Team>::width) {
                uint32_t more = 0, same = ~0u;
                for (int bit = highest; bit >= 0; --bit) {
                    const uint32_t theirs = warp.bits([&](int h) { return (above[h] >> bit & 1) != 0; });
                    const uint32_t own = level >> bit & 1 ? ~0u : 0u;
                    more |= same & theirs & ~own;
                    same &= ~(theirs ^ own);
                }
                if (level < levels) m_.bits[level * m_.words + w] = more;
            }
        }
        team.barrier();
    }

    // The first position after t that fewer than `level` thresholds lie below; there are as many below t.
    D2K_DEVICE int32_t falls(int32_t t, int32_t level) const {
        constexpr int kBits = LocalizePlanes<T>::kBits;
        const uint32_t* const bits = m_.bits + (level - 1) * m_.words;
        int32_t w = t / kBits;
        uint32_t gone = ~bits[w] & ~0u << t % kBits;
        while (gone == 0) gone = ~bits[++w];
        return w * kBits + lowest_bit(gone);
    }

    // The last one before it, or -1.
    D2K_DEVICE int32_t rises(int32_t t, int32_t level) const {
        constexpr int kBits = LocalizePlanes<T>::kBits;
        const uint32_t* const bits = m_.bits + (level - 1) * m_.words;
        int32_t w = t / kBits;
        uint32_t gone = ~bits[w] & ((1u << t % kBits) - 1);
        while (gone == 0 && w > 0) gone = ~bits[--w];
        return gone == 0 ? -1 : w * kBits + highest_bit(gone);
    }

    // Calls emit(end) for the distinct runs that start at t, by rising end.
    template <class Emit>
    D2K_DEVICE void starting(int32_t t, const Emit& emit) const {
        const int32_t before = t > 0 ? m_.above[t - 1] : 0;
        int32_t now = m_.above[t];
        for (int32_t e = t; now > before;) {
            e = falls(e, now);
            now = Max{}(m_.above[e], before);
            if (e - t >= shortest_) emit(e);
        }
    }

    // Fills runs and first; returns the number of runs.
    template <class Team>
    D2K_DEVICE int32_t find(Team& team) {
        constexpr int kKept = 2;  // ends of a thread's runs that it need not look for twice
        int32_t carry = 0;
        if (team.rank() == 0) m_.first[0] = 0;
        D2K_ROLLED
        for (int32_t tile = 0; tile < positions_; tile += team.size()) {
            const int32_t t = tile + team.rank();
            int32_t count = 0, ends[kKept] = {};
            if (t < positions_)
                starting(t, [&](int32_t e) {
                    D2K_UNROLLED
                    for (int k = 0; k < kKept; ++k) ends[k] = count == k ? e : ends[k];
                    ++count;
                });
            int32_t i = team.scan(count, Sum{}, carry);
            if (t >= positions_) continue;
            m_.first[t + 1] = i;
            const auto put = [&](int32_t e) { m_.runs[--i] = {t, e, -1, -1}; };
            if (count > kKept) starting(t, put);
            D2K_UNROLLED
            for (int k = 0; k < kKept; ++k)
                if (count <= kKept && k < count) put(ends[k]);
        }
        team.barrier();
        for_each(team, carry, [&](int32_t i) {
            m_.runs[i].outer = around(i);
            m_.runs[i].last = m_.first[m_.runs[i].end];
        });
        return carry;
    }

    // The smallest run around run i, or -1.
    D2K_DEVICE int32_t around(int32_t i) const {
        const int32_t t = m_.runs[i].start;
        if (i > m_.first[t]) return i - 1;
        const int32_t level = t > 0 ? m_.above[t - 1] : 0;
        if (level == 0) return -1;
        const int32_t p = rises(t - 1, level);
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
        const Suppression suppresses(rules_);
        for (int32_t left = undecided(team, runs); left > 0; left = still_undecided(team, left)) {
            for_each(team, left, [&](int32_t k) {
                const int32_t i = m_.list[k];
                const Run own = m_.runs[i];
                bool removed = false, waits = false;
                const auto meet = [&](int32_t j) {
                    removed |= m_.states[j].status == kStays;
                    waits |= m_.states[j].status == kUndecided && before(j, i);
                };
                for (int32_t p = own.outer; p >= 0;) {
                    const Run outer = m_.runs[p];
                    if (!suppresses(width(own), width(outer))) break;
                    meet(p);
                    p = outer.outer;
                }
                for (int32_t j = i + 1; j < own.last && !removed;) {
                    const Run inner = m_.runs[j];
                    const bool meets = suppresses(width(inner), width(own));
                    if (meets) meet(j);
                    j = meets ? j + 1 : inner.last;  // what lies inside is smaller still
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
                const int32_t end = m_.runs[i].last;
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
                const int32_t end = m_.runs[i].last;
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

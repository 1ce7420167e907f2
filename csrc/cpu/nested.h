// The distinct runs above rising levels, which are nested or disjoint, and suppression among them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "by_score.h"
#include "patience.h"

namespace d2k::cpu {

// In the order of their ends, inner runs first: the runs inside run i are those from `first[i]` up to i.
struct Runs {
    int64_t count = 0;
    std::vector<int64_t> start, end, first;
    std::vector<int32_t> level;  // the lowest that it lies above
    std::vector<double> score;

    void reserve(int64_t size) {
        if (size <= static_cast<int64_t>(start.size())) return;
        size = std::max(size, 2 * static_cast<int64_t>(start.size()));
        for (auto* column : {&start, &end, &first}) column->resize(size);
        level.resize(size);
        score.resize(size);
    }

    double width(int64_t i) const { return static_cast<double>(end[i] - start[i]); }
};

// Finds the runs of a column, from how many levels lie below each of its positions.
class Sweep {
public:
    void restart(int32_t levels) {
        open_.assign(levels + 2, {});
        top_ = 0;
    }

    // The next `count` positions, from `t` on. Adds the runs that end there and are at least `shortest` long.
    void step(int64_t t, const int32_t* above, int64_t count, int64_t shortest, Runs& runs) {
        runs.reserve(runs.count + count + static_cast<int64_t>(open_.size()));
        Open* const open = open_.data();
        int64_t top = top_, found = runs.count;
        for (int64_t i = 0; i < count; ++i) {
            Open next{t + i, found, above[i]};
            while (open[top].above > next.above) {
                const Open& last = open[top--];
                next.start = last.start;
                next.first = last.first;
                runs.start[found] = last.start;
                runs.end[found] = t + i;
                runs.first[found] = last.first;
                runs.level[found] = std::max(open[top].above, next.above);
                found += t + i - last.start >= shortest;  // shorter ones hold nothing that is longer
            }
            open[top + 1] = next;
            top += next.above > open[top].above;
        }
        top_ = top;
        runs.count = found;
    }

private:
    struct Open {
        int64_t start, first;
        int32_t above;
    };
    std::vector<Open> open_;  // rising; the first, at level 0, is never closed
    int64_t top_ = 0;
};

// Suppression within one class, tree by tree: runs of different outermost runs never meet.
class Suppression {
public:
    std::vector<int64_t> order;  // the survivors

    // left(i): whether run i takes part.
    template <class Rules, class Left>
    void hard(const Runs& runs, const Rules& rules, const Left& left) {
        prepare(runs, left);
        // The division decides where the product is too close to tell.
        const double low = rules.iou_threshold * (1 - 1e-12), high = rules.iou_threshold * (1 + 1e-12);
        const auto suppresses = [&](double inner, double outer) {
            if (inner < low * outer) return false;
            return inner > high * outer || rules.suppresses(inner / outer);
        };
        each_tree(runs, [&] {
            sort_by_score(queue_, spare_, [&](int64_t a, int64_t b) { return earlier(runs, a, b); });
            for (const Scored& best : queue_) {
                const int64_t i = best.index;
                if (gone_[i]) continue;
                order.push_back(i);
                const double width = width_[i];
                for (int64_t p = outer_[i]; p >= 0 && suppresses(width, width_[p]); p = outer_[p]) gone_[p] = 1;
                for (int64_t j = i - 1; j >= runs.first[i];) {
                    const bool goes = suppresses(width_[j], width);
                    gone_[j] |= goes;
                    j = goes ? j - 1 : runs.first[j] - 1;  // what lies inside is smaller still
                }
                patience_.spend(kRun + static_cast<double>(i - runs.first[i]));
            }
        });
    }

    // Scores decay by exp(-IoU^2 / sigma) where they are positive; -infinity is dropped.
    template <class Left>
    void soft(Runs& runs, double sigma, const Left& left) {
        prepare(runs, left);
        const auto worse = [&](const Scored& a, const Scored& b) {
            return a.key != b.key ? a.key > b.key : earlier(runs, b.index, a.index);
        };
        const auto decay = [&](int64_t i, double iou) {
            if (!gone_[i] && runs.score[i] > 0) runs.score[i] *= std::exp(-(iou * iou) / sigma);
        };
        each_tree(runs, [&] {
            std::make_heap(queue_.begin(), queue_.end(), worse);
            while (!queue_.empty()) {
                std::pop_heap(queue_.begin(), queue_.end(), worse);
                const int64_t i = queue_.back().index;
                const Scored now(runs.score[i], i);
                if (queue_.back().key != now.key) {  // it has decayed since
                    queue_.back() = now;
                    std::push_heap(queue_.begin(), queue_.end(), worse);
                    continue;
                }
                queue_.pop_back();
                if (!(runs.score[i] > -HUGE_VAL)) continue;
                gone_[i] = 1;
                order.push_back(i);
                for (int64_t p = outer_[i]; p >= 0; p = outer_[p]) decay(p, width_[i] / width_[p]);
                for (int64_t j = runs.first[i]; j < i; ++j) decay(j, width_[j] / width_[i]);
                patience_.spend(kRun + 5 * static_cast<double>(i - runs.first[i]));
            }
        });
    }

private:
    static constexpr double kRun = 20;  // nanoseconds

    // As connected_components orders its runs.
    static bool earlier(const Runs& runs, int64_t a, int64_t b) {
        return runs.level[a] != runs.level[b] ? runs.level[a] < runs.level[b] : runs.start[a] < runs.start[b];
    }

    template <class Left>
    void prepare(const Runs& runs, const Left& left) {
        const int64_t n = runs.count;
        order.clear();
        gone_.resize(n);
        outer_.resize(n);
        width_.resize(n);
        for (int64_t i = 0; i < n; ++i) {
            width_[i] = runs.width(i);
            gone_[i] = !left(i);
            outer_[i] = -1;
            for (int64_t j = i - 1; j >= runs.first[i]; j = runs.first[j] - 1) outer_[j] = i;
        }
    }

    // Calls body() with the runs of one outermost run, those that take part, in queue_.
    template <class Body>
    void each_tree(const Runs& runs, const Body& body) {
        for (int64_t last = runs.count - 1; last >= 0; last = runs.first[last] - 1) {
            int64_t queued = 0;
            queue_.resize(last + 1 - runs.first[last]);
            for (int64_t i = runs.first[last]; i <= last; ++i) {
                queue_[queued] = Scored(runs.score[i], i);
                queued += !gone_[i];
            }
            queue_.resize(queued);
            body();
        }
    }

    std::vector<Scored> queue_, spare_;
    std::vector<int64_t> outer_;  // the smallest run around each, or -1
    std::vector<double> width_;
    std::vector<char> gone_;
    Patience patience_;
};

}  // namespace d2k::cpu

#include "d2kernels/localize.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "by_score.h"
#include "columns.h"
#include "nested.h"
#include "parallel.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kBlock = 1024;      // positions at a time: they stay in the L1
constexpr double kStepsPerRow = 10;   // nanoseconds a row and class
constexpr double kPosition = 4;       // and one of an upsampled row's positions

struct Detection {
    double score;
    int64_t start, end;
    int32_t level, label;
};

// One class of one sequence, and memory that is used again for the next.
template <class T>
class Item {
public:
    Status run(const Localization<T>& problem, int64_t item, std::vector<Detection>& out) {
        const LocalizeRules& rules = problem.rules;
        gather(problem, item);
        if (rules.smoothing > 1) smooth(rules.smoothing);
        const Interpolated<T> column{rows_.data(), static_cast<int64_t>(rows_.size()), rules.upsample};
        if (!own_levels(problem, column)) return kOk;
        find(problem, column);
        if (runs_.count == 0) return kOk;
        score(rules, column);
        const double bonus = problem.bonus(item);
        bool numbers = true;
        passed_.resize(runs_.count);
        for (int64_t i = 0; i < runs_.count; ++i) {
            double& score = runs_.score[i];
            passed_[i] = !rules.has_min_score || score >= rules.min_score;
            score += bonus;
            numbers &= !passed_[i] | (score == score);
        }
        if (!numbers) return kNotANumber;
        const auto passed = [&](int64_t i) { return passed_[i] != 0; };
        if (rules.sigma > 0) suppression_.soft(runs_, rules.sigma, passed);
        else suppression_.hard(runs_, rules, passed);
        const auto label = static_cast<int32_t>(item % problem.classes);
        double best = -HUGE_VAL;
        for (const int64_t i : suppression_.order) best = std::max(best, runs_.score[i]);
        for (const int64_t i : suppression_.order) {
            if (rules.keep_per_class && !rules.keeps(runs_.score[i], best)) continue;
            out.push_back({runs_.score[i], runs_.start[i], runs_.end[i], runs_.level[i], label});
        }
        return kOk;
    }

private:
    void gather(const Localization<T>& problem, int64_t item) {
        const auto range = problem.sequences[item / problem.classes];
        const T* from = problem.activations + range.first * problem.row_stride +
                        item % problem.classes * problem.class_stride;
        rows_.resize(range.length);
        for (int64_t t = 0; t < range.length; ++t) rows_[t] = from[t * problem.row_stride];
    }

    // Sums over the first t rows' positions.
    void sum(const Interpolated<T>& column) {
        sums_.resize(column.length + 1);
        double total = sums_[0] = 0;
        for (int64_t t = 0; t < column.length; ++t) {
            if (column.factor == 1) total += or_zero(column.rows[t]);
            else {
                for (int64_t i = 0; i < column.factor; ++i) total += or_zero(column(t * column.factor + i));
                patience_.spend(kPosition * static_cast<double>(column.factor));
            }
            sums_[t + 1] = total;
        }
    }

    void smooth(int64_t width) {
        const int64_t length = static_cast<int64_t>(rows_.size()), half = width / 2;
        sum({rows_.data(), length, 1});
        for (int64_t t = 0; t < length; ++t) {
            const int64_t low = std::max<int64_t>(0, t - half), high = length - t > half ? t + half + 1 : length;
            rows_[t] = static_cast<T>((sums_[high] - sums_[low]) / static_cast<double>(high - low));
        }
    }

    // This column's thresholds, in its precision; false where it lies above none of them.
    bool own_levels(const Localization<T>& problem, const Interpolated<T>& column) {
        levels_.resize(problem.levels);
        if (column.length == 0 || problem.levels == 0) return false;
        const Relative relative = problem.rules.relative;
        double high = -HUGE_VAL, low = HUGE_VAL;
        if (relative != Relative::kNone)
            for (int64_t j = 0; j < column.positions(); ++j) {
                const double x = static_cast<double>(column(j));
                if (x != x) return false;
                high = std::max(high, x);
                low = std::min(low, x);
                if (j % kBlock == 0) patience_.spend(kPosition * kBlock);
            }
        for (int64_t i = 0; i < problem.levels; ++i) {
            const double level = problem.thresholds[i];
            levels_[i] = static_cast<T>(relative == Relative::kNone  ? level
                                        : relative == Relative::kMax ? level * std::max(high, 0.0)
                                                                     : low + level * (high - low));
        }
        return true;
    }

    void find(const Localization<T>& problem, const Interpolated<T>& column) {
        const LocalizeRules& rules = problem.rules;
        const int64_t positions = column.positions();
        const int64_t shortest = rules.min_length > column.length ? positions + 1 : rules.min_length * rules.upsample;
        const auto levels = static_cast<int32_t>(levels_.size());
        runs_.count = 0;
        sweep_.restart(levels);
        T values[kBlock];
        int32_t above[kBlock];
        for (int64_t begin = 0; begin < positions; begin += kBlock) {
            const int64_t count = std::min(kBlock, positions - begin);
            const T* block = column.rows + begin;
            if (column.factor != 1) {
                for (int64_t j = 0; j < count; ++j) values[j] = column(begin + j);
                block = values;
            }
            count_levels(block, count, levels_.data(), levels, above);
            sweep_.step(begin, above, count, shortest, runs_);
            patience_.spend(kPosition * static_cast<double>(count));
        }
        const int32_t none = 0;
        sweep_.step(positions, &none, 1, shortest, runs_);
    }

    void score(const LocalizeRules& rules, const Interpolated<T>& column) {
        sum(column);
        const int64_t length = column.positions();
        if (column.factor == 1)
            return contrasts(sums_.data(), length, runs_.start.data(), runs_.end.data(), runs_.count, rules.margin,
                             rules.pooled, runs_.score.data());
        const PrefixSums<T> sums{column, sums_.data()};
        for (int64_t i = 0; i < runs_.count; ++i)
            runs_.score[i] = contrast(sums, runs_.start[i], runs_.end[i], length, rules.margin, rules.pooled);
    }

    std::vector<T> rows_, levels_;
    std::vector<double> sums_;
    std::vector<char> passed_;  // the smallest score
    Runs runs_;
    Sweep sweep_;
    Suppression suppression_;
    Patience patience_;
};

// Memory that chunks of work lend from and give back.
template <class Memory>
class Pool {
public:
    std::unique_ptr<Memory> take() {
        const std::lock_guard<std::mutex> guard(mutex_);
        if (free_.empty()) return std::make_unique<Memory>();
        auto memory = std::move(free_.back());
        free_.pop_back();
        return memory;
    }

    void give(std::unique_ptr<Memory> memory) {
        const std::lock_guard<std::mutex> guard(mutex_);
        free_.push_back(std::move(memory));
    }

private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Memory>> free_;
};

class Found final : public Localized {
public:
    template <class T>
    Status run(const Localization<T>& problem, int64_t* counts, int threads) {
        sequences_ = problem.sequences.count;
        classes_ = problem.classes;
        upsample_ = static_cast<double>(problem.rules.upsample);
        const int64_t items = problem.items();
        double rows = 0;
        for (int64_t i = 0; i < sequences_; ++i) rows += static_cast<double>(problem.sequences[i].length);
        steps_ = rows * static_cast<double>(problem.rules.upsample * classes_) * kStepsPerRow;
        chunk_ = std::max<int64_t>(1, items / 256);
        chunks_.resize((items + chunk_ - 1) / chunk_);
        ends_.assign(items, 0);
        Pool<Item<T>> pool;
        std::atomic<Status> wrong{kOk};
        const Status status = parallel_for(items, chunk_, steps_, threads, [&](int64_t begin, int64_t end) {
            auto item = pool.take();
            std::vector<Detection>& out = chunks_[begin / chunk_];
            for (int64_t i = begin; i < end; ++i) {
                if (problem.wanted(i)) {
                    const Status of_item = item->run(problem, i, out);
                    if (of_item != kOk) wrong = of_item;
                }
                ends_[i] = static_cast<int64_t>(out.size());
            }
            pool.give(std::move(item));
        });
        if (status != kOk) return status;
        if (wrong.load() != kOk) return wrong.load();
        keep(problem.rules, counts);
        return kOk;
    }

    int64_t size() const override { return first_.back(); }

    Status write(const DetectionColumns& out, int threads) override {
        const int64_t chunk = std::max<int64_t>(1, sequences_ / 256);
        const double steps = static_cast<double>(size()) * 100;
        return parallel_for(sequences_, chunk, steps, threads, [&](int64_t begin, int64_t end) {
            std::vector<Detection> rows;
            std::vector<Scored> order, spare;
            for (int64_t s = begin; s < end; ++s) {
                rows.clear();
                order.clear();
                each(s, [&](const Detection& d) {
                    if (!kept(s, d)) return;
                    order.emplace_back(d.score, static_cast<int64_t>(rows.size()));
                    rows.push_back(d);
                });
                sort_by_score(order, spare, [&](int64_t i, int64_t j) {
                    const Detection &a = rows[i], &b = rows[j];
                    if (a.label != b.label) return a.label < b.label;
                    return a.start != b.start ? a.start < b.start : a.level < b.level;
                });
                int64_t at = first_[s];
                for (const Scored& row : order) {
                    const Detection& d = rows[row.index];
                    out.sequence[at] = s;
                    out.label[at] = d.label;
                    out.start[at] = snippets(d.start);
                    out.end[at] = snippets(d.end);
                    out.score[at++] = d.score;
                }
            }
        });
    }

private:
    // A sequence's detections, class by class.
    template <class Body>
    void each(int64_t sequence, const Body& body) const {
        for (int64_t i = sequence * classes_; i < (sequence + 1) * classes_; ++i) {
            const std::vector<Detection>& chunk = chunks_[i / chunk_];
            for (int64_t j = i % chunk_ == 0 ? 0 : ends_[i - 1]; j < ends_[i]; ++j) body(chunk[j]);
        }
    }

    double snippets(int64_t position) const {
        return upsample_ == 1 ? static_cast<double>(position) : static_cast<double>(position) / upsample_;
    }

    bool kept(int64_t sequence, const Detection& d) const { return d.score >= lowest_[sequence]; }

    // Counts what the keep rule leaves of each sequence.
    void keep(const LocalizeRules& rules, int64_t* counts) {
        first_.assign(sequences_ + 1, 0);
        lowest_.assign(sequences_, -HUGE_VAL);
        for (int64_t s = 0; s < sequences_; ++s) {
            if (rules.has_keep_ratio && !rules.keep_per_class) {
                double best = -HUGE_VAL;
                each(s, [&](const Detection& d) { best = std::max(best, d.score); });
                lowest_[s] = best > 0 ? rules.keep_ratio * best : std::numeric_limits<double>::quiet_NaN();
            }
            counts[s] = 0;
            each(s, [&](const Detection& d) { counts[s] += kept(s, d); });
            first_[s + 1] = first_[s] + counts[s];
        }
    }

    int64_t sequences_ = 0, classes_ = 0, chunk_ = 1;
    double upsample_ = 1, steps_ = 0;
    std::vector<std::vector<Detection>> chunks_;  // one a chunk of items
    std::vector<int64_t> ends_;                   // of each item's detections in its chunk
    std::vector<int64_t> first_;                  // of each sequence's rows in the result
    std::vector<double> lowest_;                  // score that each sequence keeps
};

}  // namespace

template <class T>
Status localize(const Localization<T>& problem, int64_t* counts, int threads, Localized** found) {
    try {
        auto result = std::make_unique<Found>();
        const Status status = result->run(problem, counts, threads);
        if (status == kOk) *found = result.release();
        return status;
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    }
}

template Status localize<float>(const Localization<float>&, int64_t*, int, Localized**);
template Status localize<double>(const Localization<double>&, int64_t*, int, Localized**);

}  // namespace d2k::cpu

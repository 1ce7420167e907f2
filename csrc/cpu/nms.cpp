#include "d2kernels/nms.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "by_score.h"
#include "patience.h"

namespace d2k::cpu {
namespace {

constexpr double kOverlap = 4;  // nanoseconds: an overlap, and what a segment costs besides
constexpr double kSegment = 50;

// Rises with the value; NaN is last.
uint64_t rising(double value) {
    const uint64_t key = ~Scored(value, 0).key;
    return value != value ? ~uint64_t{0} : key;
}
uint64_t rising(int64_t value) { return static_cast<uint64_t>(value) ^ uint64_t{1} << 63; }

// A time at least `far` before this one, by a little more for the rounding; NaN where there is none.
double before(double time, double far) { return time - far - 1e-15 * (std::fabs(time) + far); }
int64_t before(int64_t time, double far) {
    constexpr int64_t kFirst = std::numeric_limits<int64_t>::min();
    const double wide = far * (1 + 1e-15) + 1;
    if (!(wide < 9e18)) return kFirst;
    const auto whole = static_cast<int64_t>(wide);
    return time < kFirst + whole ? kFirst : time - whole;
}

// All segments by group and start, and where the clusters end: others than those of one cluster never overlap.
template <class T>
class Clusters {
public:
    explicit Clusters(const NmsProblem<T>& problem) : problem_(problem) {
        const int64_t n = problem.count;
        std::vector<Key> keys(n);
        for (int64_t i = 0; i < n; ++i) keys[i] = {problem.group(i), rising(problem.segments[2 * i]), i};
        std::sort(keys.begin(), keys.end(), [](const Key& a, const Key& b) {
            return a.group != b.group ? a.group < b.group : a.start != b.start ? a.start < b.start : a.index < b.index;
        });
        index_.resize(n);
        for (int64_t i = 0; i < n; ++i) index_[i] = keys[i].index;
    }

    // Calls body(first, index, size) of each: the place of its first segment in the order and the indices from there.
    template <class Body>
    void each(const Body& body) const {
        const int64_t n = problem_.count;
        for (int64_t begin = 0; begin < n;) {
            int64_t end = begin;
            T reach = problem_.segments[2 * index_[end] + 1];
            do {
                reach = std::max(reach, problem_.segments[2 * index_[end] + 1]);
                ++end;
            } while (end < n && problem_.group(index_[end]) == problem_.group(index_[begin]) &&
                     problem_.segments[2 * index_[end]] < reach);
            body(begin, index_.data() + begin, end - begin);
            begin = end;
        }
    }

    // Calls body(begin, end) with the range of each group in the order.
    template <class Body>
    void each_group(const Body& body) const {
        const int64_t n = problem_.count;
        for (int64_t begin = 0, end; begin < n; begin = end) {
            end = begin + 1;
            while (end < n && problem_.group(index_[end]) == problem_.group(index_[begin])) ++end;
            body(index_.data() + begin, end - begin);
        }
    }

private:
    struct Key {
        int64_t group;
        uint64_t start;
        int64_t index;
    };
    const NmsProblem<T>& problem_;
    std::vector<int64_t> index_;
};

// One cluster: its segments by start, and suppression among them.
template <class T>
class Cluster {
public:
    void take(const NmsProblem<T>& problem, const int64_t* index, int64_t size) {
        start_.resize(size);
        end_.resize(size);
        queue_.resize(size);
        longest_ = 0;
        for (int64_t i = 0; i < size; ++i) {
            start_[i] = problem.segments[2 * index[i]];
            end_[i] = problem.segments[2 * index[i] + 1];
            queue_[i] = Scored(problem.scores[index[i]], i);
            longest_ = std::max(longest_, between(start_[i], end_[i]));
        }
    }

    // Calls kept(i) with the place in the cluster of each segment that stays.
    template <class Kept>
    void hard(const int64_t* index, double threshold, bool inclusive, const Kept& kept) {
        const int64_t size = static_cast<int64_t>(start_.size());
        if (size == 1) return kept(0);
        sort_by_score(queue_, spare_, [&](int64_t a, int64_t b) { return index[a] < index[b]; });
        next_.resize(size + 1);
        std::iota(next_.begin(), next_.end(), int64_t{0});
        for (const Scored& best : queue_) {
            const int64_t i = best.index;
            if (next_[i] != i) continue;
            kept(i);
            next_[i] = i + 1;
            // What overlaps by the threshold begins no further away than this; a little more, for the rounding.
            const double far = between(start_[i], end_[i]) / threshold;
            int64_t j = from(before(end_[i], far + 1e-9 * far)), met = 0;
            for (j = left(j); j < size && start_[j] < end_[i]; j = left(j + 1), ++met) {
                const double iou = overlap(start_[i], end_[i], start_[j], end_[j]);
                if (inclusive ? iou >= threshold : iou > threshold) next_[j] = j + 1;
            }
            patience_.spend(kSegment + kOverlap * static_cast<double>(met));
        }
    }

    // Calls kept(i, score) with the place of each segment that stays and its decayed score.
    template <class Kept>
    void soft(const int64_t* index, double sigma, double score_threshold, std::vector<double>& score,
              const Kept& kept) {
        const int64_t size = static_cast<int64_t>(start_.size());
        const auto worse = [&](const Scored& a, const Scored& b) {
            return a.key != b.key ? a.key > b.key : index[a.index] > index[b.index];
        };
        gone_.assign(size, 0);
        std::make_heap(queue_.begin(), queue_.end(), worse);
        while (!queue_.empty()) {
            std::pop_heap(queue_.begin(), queue_.end(), worse);
            const int64_t i = queue_.back().index;
            const Scored now(score[i], i);
            if (queue_.back().key != now.key) {  // it has decayed since
                queue_.back() = now;
                std::push_heap(queue_.begin(), queue_.end(), worse);
                continue;
            }
            queue_.pop_back();
            if (!(score[i] > score_threshold)) continue;
            gone_[i] = 1;
            kept(i, score[i]);
            const int64_t first = from(before(start_[i], longest_));
            int64_t j = first;
            for (; j < size && start_[j] < end_[i]; ++j) {
                if (gone_[j] || !(score[j] > 0)) continue;
                const double iou = overlap(start_[i], end_[i], start_[j], end_[j]);
                score[j] *= std::exp(-(iou * iou) / sigma);
            }
            patience_.spend(kSegment + kOverlap * static_cast<double>(j - first));
        }
    }

private:
    // The first segment that starts at this time or later; the first of all for NaN.
    int64_t from(T time) const {
        return time == time ? std::lower_bound(start_.begin(), start_.end(), time) - start_.begin() : 0;
    }

    // The first segment from j on that is neither kept nor removed.
    int64_t left(int64_t j) {
        int64_t end = j;
        while (next_[end] != end) end = next_[end];
        while (next_[j] != end && j != end) {
            const int64_t step = next_[j];
            next_[j] = end;
            j = step;
        }
        return end;
    }

    std::vector<T> start_, end_;
    std::vector<Scored> queue_, spare_;
    std::vector<int64_t> next_;
    std::vector<char> gone_;
    double longest_ = 0;
    Patience patience_;
};

void write_sorted(std::vector<Scored>& order, int64_t* kept, int64_t* size) {
    std::vector<Scored> spare;
    sort_by_score(order, spare, [](int64_t a, int64_t b) { return a < b; });
    for (const Scored& item : order) *kept++ = item.index;
    *size = static_cast<int64_t>(order.size());
}

}  // namespace

template <class T>
Status nms(const NmsProblem<T>& problem, double iou_threshold, bool inclusive, int64_t* kept, int64_t* size) {
    try {
        const Clusters<T> clusters(problem);
        std::vector<Scored> order;
        if (inclusive && iou_threshold <= 0) {  // each group's best removes the others, wherever they are
            clusters.each_group([&](const int64_t* index, int64_t n) {
                Scored best(problem.scores[index[0]], index[0]);
                for (int64_t i = 1; i < n; ++i) {
                    const Scored other(problem.scores[index[i]], index[i]);
                    if (other.key < best.key || (other.key == best.key && other.index < best.index)) best = other;
                }
                order.push_back(best);
            });
        } else {
            Cluster<T> cluster;
            clusters.each([&](int64_t, const int64_t* index, int64_t n) {
                cluster.take(problem, index, n);
                cluster.hard(index, iou_threshold, inclusive,
                             [&](int64_t i) { order.emplace_back(problem.scores[index[i]], index[i]); });
            });
        }
        write_sorted(order, kept, size);
        return kOk;
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    } catch (const Interrupted&) {
        return kInterrupted;
    }
}

template <class T>
Status soft_nms(const NmsProblem<T>& problem, double sigma, double score_threshold, int64_t* kept, double* decayed,
                int64_t* size) {
    try {
        const Clusters<T> clusters(problem);
        std::vector<Scored> order;
        std::vector<double> score, final(problem.count);
        Cluster<T> cluster;
        clusters.each([&](int64_t, const int64_t* index, int64_t n) {
            score.resize(n);
            for (int64_t i = 0; i < n; ++i) score[i] = problem.scores[index[i]];
            cluster.take(problem, index, n);
            cluster.soft(index, sigma, score_threshold, score, [&](int64_t i, double now) {
                final[index[i]] = now;
                order.emplace_back(now, index[i]);
            });
        });
        write_sorted(order, kept, size);
        for (int64_t i = 0; i < *size; ++i) decayed[i] = final[kept[i]];
        return kOk;
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    } catch (const Interrupted&) {
        return kInterrupted;
    }
}

#define D2K_INSTANTIATE(T)                                                                     \
    template Status nms<T>(const NmsProblem<T>&, double, bool, int64_t*, int64_t*);            \
    template Status soft_nms<T>(const NmsProblem<T>&, double, double, int64_t*, double*, int64_t*);
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(int64_t)

}  // namespace d2k::cpu

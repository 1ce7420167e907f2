#include "d2kernels/average_precision.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "by_score.h"
#include "parallel.h"
#include "patience.h"

namespace d2k::cpu {
namespace {

constexpr double kStepsPerPair = 20;  // nanoseconds a detection and threshold

// Each class's rows in their order, one class after the other.
class ByClass {
public:
    ByClass(const Instances& rows, int64_t classes) : first_(classes + 1, 0), rows_() {
        const auto inside = [&](int64_t i) { return rows.label[i] >= 0 && rows.label[i] < classes; };
        for (int64_t i = 0; i < rows.count; ++i)
            if (inside(i)) ++first_[rows.label[i] + 1];
        for (int64_t c = 0; c < classes; ++c) first_[c + 1] += first_[c];
        rows_.resize(first_[classes]);
        std::vector<int64_t> at(first_.begin(), first_.end() - 1);
        for (int64_t i = 0; i < rows.count; ++i)
            if (inside(i)) rows_[at[rows.label[i]]++] = i;
    }

    int64_t size(int64_t c) const { return first_[c + 1] - first_[c]; }
    const int64_t* begin(int64_t c) const { return rows_.data() + first_[c]; }

private:
    std::vector<int64_t> first_, rows_;
};

// One class at a time.
class OfClass {
public:
    explicit OfClass(const Matching& m) : m_(m) {}

    // tp and fp (thresholds) of this class alone.
    void run(int64_t label, const int64_t* detections, int64_t n, const int64_t* truths, int64_t positives,
             const MatchingOut& out, int64_t* tp, int64_t* fp) {
        sort(detections, n);
        partner_.assign(n * m_.thresholds, -1);
        if (positives > 0) match(truths, positives);
        for (int64_t t = 0; t < m_.thresholds; ++t) {
            const int64_t* const partner = partner_.data() + t * n;
            for (int64_t i = 0; i < n; ++i) out.partner[t * m_.detections.count + order_[i].index] = partner[i];
            double& ap = out.ap[t * m_.classes + label];
            const double area = precision(partner, n, tp[t], fp[t]);
            ap = positives > 0 ? area / static_cast<double>(positives) : std::numeric_limits<double>::quiet_NaN();
        }
    }

private:
    struct Member {
        int64_t video, place;  // place: in the order, or in file order
    };
    struct Candidate {
        double iou;
        int64_t place;
    };

    void sort(const int64_t* detections, int64_t n) {
        order_.resize(n);
        for (int64_t i = 0; i < n; ++i) {
            const double score = m_.score[detections[i]];
            order_[i] = Scored(score, detections[i]);
            if (score != score) order_[i].key = ~uint64_t{0};
        }
        sort_by_score(order_, spare_, [&](int64_t a, int64_t b) {
            const int64_t *video = m_.detections.video;
            return m_.rules.ties_by_video && video[a] != video[b] ? video[a] < video[b] : a < b;
        });
    }

    static void group(std::vector<Member>& members) {
        std::sort(members.begin(), members.end(), [](const Member& a, const Member& b) {
            return a.video != b.video ? a.video < b.video : a.place < b.place;
        });
    }

    // Fills partner_ (thresholds, n), video by video.
    void match(const int64_t* truths, int64_t positives) {
        const int64_t n = static_cast<int64_t>(order_.size());
        found_.resize(n);
        for (int64_t i = 0; i < n; ++i) found_[i] = {m_.detections.video[order_[i].index], i};
        group(found_);
        truth_.resize(positives);
        for (int64_t j = 0; j < positives; ++j) truth_[j] = {m_.truth.video[truths[j]], truths[j]};
        group(truth_);
        floor_ = std::numeric_limits<double>::infinity();
        for (int64_t t = 0; t < m_.thresholds; ++t) floor_ = std::min(floor_, m_.iou[t]);
        for (size_t i = 0, j = 0; i < found_.size() && j < truth_.size();) {
            if (found_[i].video != truth_[j].video) {
                found_[i].video < truth_[j].video ? ++i : ++j;
                continue;
            }
            size_t i_end = i, j_end = j;
            while (i_end < found_.size() && found_[i_end].video == found_[i].video) ++i_end;
            while (j_end < truth_.size() && truth_[j_end].video == truth_[j].video) ++j_end;
            if (m_.rules.truth_chooses) video<true>(i, i_end, j, j_end);
            else video<false>(i, i_end, j, j_end);
            i = i_end;
            j = j_end;
        }
    }

    // The choosers of one video, in order, take what is free of the chosen.
    template <bool truth_chooses>
    void video(size_t i, size_t i_end, size_t j, size_t j_end) {
        const int64_t n = static_cast<int64_t>(order_.size());
        const auto& choosers = truth_chooses ? truth_ : found_;
        const auto& chosen = truth_chooses ? found_ : truth_;
        const size_t a_begin = truth_chooses ? j : i, a_end = truth_chooses ? j_end : i_end;
        const size_t b_begin = truth_chooses ? i : j, b_end = truth_chooses ? i_end : j_end;
        const int64_t width = static_cast<int64_t>(b_end - b_begin);
        taken_.assign(width * m_.thresholds, 0);
        for (size_t a = a_begin; a < a_end; ++a) {
            candidates_.clear();
            for (size_t b = b_begin; b < b_end; ++b) {
                const int64_t truth = truth_chooses ? choosers[a].place : chosen[b].place;
                const int64_t rank = truth_chooses ? chosen[b].place : choosers[a].place;
                const double iou = overlap(order_[rank].index, truth);
                if (iou >= floor_) candidates_.push_back({iou, static_cast<int64_t>(b - b_begin)});
            }
            patience_.spend(5 * static_cast<double>(b_end - b_begin));
            if (truth_chooses || !m_.rules.first)
                std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& p, const Candidate& q) {
                    return p.iou != q.iou ? p.iou > q.iou : p.place < q.place;
                });
            if (candidates_.empty()) continue;
            for (int64_t t = 0; t < m_.thresholds; ++t) {
                char* const taken = taken_.data() + t * width;
                for (const Candidate& c : candidates_) {
                    if (m_.rules.strict ? !(c.iou > m_.iou[t]) : !(c.iou >= m_.iou[t])) continue;
                    if (taken[c.place]) continue;
                    taken[c.place] = 1;
                    const int64_t other = chosen[b_begin + c.place].place;
                    if (truth_chooses) partner_[t * n + other] = choosers[a].place;
                    else partner_[t * n + choosers[a].place] = other;
                    break;
                }
            }
        }
    }

    // IoU, or -1 where they do not meet.
    double overlap(int64_t detection, int64_t truth) const {
        const double a_start = m_.detections.start[detection], a_end = m_.detections.end[detection];
        const double b_start = m_.truth.start[truth], b_end = m_.truth.end[truth];
        const double shared = std::min(a_end, b_end) - std::max(a_start, b_start);
        if (!(shared > 0)) return -1;
        const double whole = m_.rules.hull ? std::max(a_end, b_end) - std::min(a_start, b_start)
                                           : (b_end - b_start) + (a_end - a_start) - shared;
        return shared / whole;
    }

    // Sum over the true positives of precision, and their number and that of the false ones.
    double precision(const int64_t* partner, int64_t n, int64_t& tp, int64_t& fp) {
        precision_.resize(n);
        int64_t counted = 0;
        tp = 0;
        for (int64_t i = 0; i < n; ++i) {
            const bool hit = partner[i] >= 0;
            tp += hit;
            counted += hit || !m_.ignore || !m_.ignore[order_[i].index];
            precision_[i] = static_cast<double>(tp) / static_cast<double>(counted > 0 ? counted : 1);
        }
        fp = counted - tp;
        if (m_.rules.interpolate)
            for (int64_t i = n - 2; i >= 0; --i) precision_[i] = std::max(precision_[i], precision_[i + 1]);
        double sum = 0;
        for (int64_t i = 0; i < n; ++i)
            if (partner[i] >= 0) sum += precision_[i];
        return sum;
    }

    const Matching& m_;
    std::vector<Scored> order_, spare_;
    std::vector<Member> found_, truth_;
    std::vector<Candidate> candidates_;
    std::vector<int64_t> partner_;
    std::vector<char> taken_;
    Patience patience_;
    std::vector<double> precision_;
    double floor_ = 0;
};

}  // namespace

Status average_precision(const Matching& m, const MatchingOut& out, int threads) {
    try {
        const ByClass found(m.detections, m.classes), truth(m.truth, m.classes);
        std::fill_n(out.partner, m.thresholds * m.detections.count, int64_t{-1});
        int64_t outside = 0;  // false positives of no class
        for (int64_t i = 0; i < m.detections.count; ++i) {
            const bool inside = m.detections.label[i] >= 0 && m.detections.label[i] < m.classes;
            outside += !inside && (!m.ignore || !m.ignore[i]);
        }
        std::vector<int64_t> tp(m.classes * m.thresholds), fp(m.classes * m.thresholds);
        const double steps = static_cast<double>(m.detections.count * m.thresholds) * kStepsPerPair;
        const Status status = parallel_for(m.classes, 1, steps, threads, [&](int64_t begin, int64_t end) {
            OfClass of_class(m);
            for (int64_t c = begin; c < end; ++c)
                of_class.run(c, found.begin(c), found.size(c), truth.begin(c), truth.size(c), out,
                             tp.data() + c * m.thresholds, fp.data() + c * m.thresholds);
        });
        for (int64_t t = 0; t < m.thresholds; ++t) {
            out.tp[t] = 0;
            out.fp[t] = outside;
            for (int64_t c = 0; c < m.classes; ++c) {
                out.tp[t] += tp[c * m.thresholds + t];
                out.fp[t] += fp[c * m.thresholds + t];
            }
        }
        return status;
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    }
}

}  // namespace d2k::cpu

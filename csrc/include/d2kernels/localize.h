// From activations to detections: runs above thresholds, their contrast scores, suppression and a keep rule.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "d2kernels/ragged.h"
#include "d2kernels/status.h"
#include "d2kernels/team.h"

namespace d2k {

enum class Relative : int { kNone, kMax, kMinMax };

struct LocalizeRules {
    double margin;  // of a run's width, on either side
    bool pooled;    // one mean over both sides, else the mean of the sides' means
    bool has_min_score;
    double min_score;
    int64_t min_length;  // in snippets
    double iou_threshold;
    bool inclusive;
    double sigma;  // of Gaussian suppression; 0: removal
    bool has_keep_ratio;
    double keep_ratio;
    bool keep_per_class;
    int64_t upsample, smoothing;
    Relative relative;

    D2K_DEVICE bool suppresses(double iou) const { return inclusive ? iou >= iou_threshold : iou > iou_threshold; }

    D2K_DEVICE bool keeps(double score, double best) const {
        return !has_keep_ratio || (best > 0 && score >= keep_ratio * best);
    }
};

// Whether an overlap, the quotient of two whole numbers below 2³¹, suppresses by the rules: without dividing.
//
// The quotient's rounded value is at the threshold or above where the quotient is above the midpoint of the threshold and
// the number before it; it never is that midpoint, which has more digits. Near it both differences are exact.
class Suppression {
public:
    D2K_DEVICE explicit Suppression(const LocalizeRules& rules)
        : low_(rules.inclusive ? beside(rules.iou_threshold, -1) : rules.iou_threshold),
          high_(rules.inclusive ? rules.iou_threshold : beside(rules.iou_threshold, 1)) {}

    D2K_DEVICE bool operator()(double inner, double outer) const {
        return fma(-low_, outer, inner) + fma(-high_, outer, inner) > 0;
    }

private:
    D2K_DEVICE static double beside(double x, int way) { return nextafter(x, way < 0 ? -HUGE_VAL : HUGE_VAL); }

    double low_, high_;
};

// One work item is one (sequence, class), in that order.
template <class T>
struct Localization {
    Sequences sequences;
    const T* activations;  // [row * row_stride + class * class_stride]
    int64_t row_stride, class_stride;
    int64_t classes;
    const double* thresholds;  // (levels), rising
    int64_t levels;
    const bool* class_mask;     // (sequences, classes), or null for every class
    const double* class_score;  // (sequences, classes), or null
    LocalizeRules rules;

    D2K_DEVICE int64_t items() const { return sequences.count * classes; }
    D2K_DEVICE bool wanted(int64_t item) const { return !class_mask || class_mask[item]; }
    D2K_DEVICE double bonus(int64_t item) const { return class_score ? class_score[item] : 0; }
};

// Rounded by itself, also where a GPU would fuse it with an addition: a position is above a threshold or not.
D2K_DEVICE float times(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}
D2K_DEVICE double times(double a, double b) {
#ifdef __CUDA_ARCH__
    return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

// A column read at `factor` positions a row, in between by linear interpolation.
template <class T, class Index = int64_t>
struct Interpolated {
    const T* rows;
    Index length, factor;

    D2K_DEVICE Index positions() const { return length * factor; }

    D2K_DEVICE T operator()(Index j) const {
        if (factor == 1) return rows[j];
        double at = (static_cast<double>(j) + 0.5) / static_cast<double>(factor) - 0.5;
        const double last = static_cast<double>(length - 1);
        at = at < 0 ? 0 : at > last ? last : at;
        const Index low = static_cast<Index>(at), high = low + 1 < length ? low + 1 : length - 1;
        const T weight = static_cast<T>(at - static_cast<double>(low));
        return times(rows[low], T(1) - weight) + times(rows[high], weight);
    }
};

template <class T>
D2K_DEVICE double or_zero(T x) { return x == x ? static_cast<double>(x) : 0.0; }

// Sums over the first j positions, in order; those at whole rows are kept.
template <class T, class Index = int64_t>
struct PrefixSums {
    Interpolated<T, Index> column;
    const double* at_row;  // (length + 1)

    D2K_DEVICE double operator()(Index j) const {
        if (column.factor == 1) return at_row[j];
        const Index row = j / column.factor;
        double sum = at_row[row];
        for (Index i = row * column.factor; i < j; ++i) sum += or_zero(column(i));
        return sum;
    }
};

// Mean inside [start, end) less the mean of its surroundings.
template <class Sums, class Index>
D2K_DEVICE double contrast(const Sums& sums, Index start, Index end, Index length, double margin, bool pooled) {
    const double width = static_cast<double>(end - start), wide = floor(width * margin);
    const double most = static_cast<double>(length);
    const Index reach = static_cast<Index>(wide < 1 ? 1 : wide < most ? wide : most);
    const Index low = start > reach ? start - reach : 0, high = length - end > reach ? end + reach : length;
    const Index left = start - low, right = high - end;
    const double first = sums(start), last = sums(end);
    const double before = first - sums(low), after = sums(high) - last;
    const double inner = (last - first) / width;
    const double lefts = static_cast<double>(left), rights = static_cast<double>(right);
    double outer;
    if (pooled) {
        outer = (before + after) / (left + right > 0 ? lefts + rights : 1.0);
    } else {
        const double means = before / (left > 0 ? lefts : 1.0) + after / (right > 0 ? rights : 1.0);
        outer = means * (left > 0 && right > 0 ? 0.5 : 1.0);
    }
    return inner - outer;
}

// The result's columns, each as long as there are detections, and how many there are of each sequence.
struct DetectionColumns {
    int64_t *sequence, *label;
    double *start, *end, *score;
};

namespace cpu {

// What localize found, before memory for its columns is there.
class Localized {
public:
    virtual ~Localized() = default;
    virtual int64_t size() const = 0;
    virtual Status write(const DetectionColumns& out, int threads) = 0;
};

// `found` belongs to the caller; counts (sequences). kNotANumber where a proposal's score is none.
template <class T>
Status localize(const Localization<T>& problem, int64_t* counts, int threads, Localized** found);

// What the block of a GPU does, on one thread, so that tests reach it where there is none: for at most `capacity` rows.
// counts[i] is kNotANumber for a sequence where a proposal's score is none, and so is what is returned.
template <class T>
Status localize_as_block(const Localization<T>& problem, int64_t* counts, int64_t capacity, const DetectionColumns& out);
}  // namespace cpu

// Rows of all wanted sequences and classes, at most total · classes (with less than there are nothing is found); and bytes
// that the planes of long items may take beside those of the longest, which always have their place.
struct LocalizeRoom {
    int64_t rows;
    int64_t planes = 64 << 20;
};

namespace cuda {
// Where a call on the device works, and what it counts. counts (sequences); first (sequences + 1): where each sequence's
// rows go, and their number last. Where a proposal's score is none its sequence's count is kNotANumber, and so is the last
// of `first`.
struct LocalizeCall {
    LocalizeRoom room;
    int64_t *counts, *first;
    void* workspace;
    int device;
    void* stream;
};

// Bytes of device memory to work in; they hold what was found until it is written. Reads nothing that is on a device.
template <class T>
size_t localize_workspace(const Localization<T>& problem, const LocalizeRoom& room);
template <class T>
Status localize_find(const Localization<T>& problem, const LocalizeCall& call);
// At most `capacity` rows; those beyond the last are -1, -1, 0, 0, 0.
template <class T>
Status localize_write(const Localization<T>& problem, const LocalizeCall& call, int64_t capacity,
                      const DetectionColumns& out);
}  // namespace cuda

}  // namespace d2k

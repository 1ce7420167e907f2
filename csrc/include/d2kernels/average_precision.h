// Matching of detections to ground truth at several overlaps, and the average precision of each class.
#pragma once

#include <cstdint>

#include "d2kernels/status.h"

namespace d2k {

struct Instances {
    int64_t count;
    const int64_t *label, *video;
    const double *start, *end;
};

struct MatchingRules {
    bool strict;        // a match needs IoU > threshold, else >=
    bool truth_chooses;  // each ground truth, in order, takes a detection; else each detection, by falling score
    bool first;         // a detection takes the first free partner, else the best
    bool hull;          // union from first start to last end, else the sum of lengths less the intersection
    bool ties_by_video;  // equal scores go by video before the input order
    bool interpolate;   // precision is the best at this recall or more
};

struct Matching {
    Instances detections;
    const double* score;
    const bool* ignore;  // detections that count only as true positives, or null
    Instances truth;     // in file order
    int64_t classes;     // a label outside them is no class: never matched, in no class's precision
    const double* iou;   // (thresholds)
    int64_t thresholds;
    MatchingRules rules;
};

struct MatchingOut {
    double* ap;        // (thresholds, classes), NaN without ground truth
    int64_t* partner;  // (thresholds, detections): an index of the truth, or -1
    int64_t* tp;       // (thresholds)
    int64_t* fp;       // (thresholds)
};

namespace cpu {
Status average_precision(const Matching& matching, const MatchingOut& out, int threads);
}  // namespace cpu

}  // namespace d2k

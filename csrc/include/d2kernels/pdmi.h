// Pseudo-determinant mutual information: log condition numbers of the snippet-level and video-level joints.
#pragma once

#include <cstdint>

#include "d2kernels/condition_number.h"
#include "d2kernels/ragged.h"

namespace d2k {

template <class T>
struct PdmiSnippet {
    Sequences sequences;
    const T *attention, *background, *foreground;  // (total)
    double foreground_threshold, background_threshold;
    bool joint;
    double floor, rtol;

    // Compared in the scores' own precision.
    D2K_DEVICE T above() const { return stored<T>(static_cast<ArithmeticOf<T>>(foreground_threshold)); }
    D2K_DEVICE T below() const { return stored<T>(static_cast<ArithmeticOf<T>>(background_threshold)); }
};

// Of each sequence.
template <class T>
struct PdmiSnippetOut {
    T* value;
    int64_t *foreground_count, *background_count;
    T *foreground_mean, *background_mean;
    double *foreground_slope, *background_slope;  // by one row's attention, or null
};

// One side of a joint.
struct Side {
    int64_t count;
    double sum;

    D2K_DEVICE double mean() const { return sum / static_cast<double>(count > 0 ? count : 1); }
};

// log η of the 2 × 2 joint [[A, B], [C, D]] and its slopes by the means; see the reference.
struct SnippetJoint {
    double value, by_foreground, by_background;

    D2K_DEVICE static SnippetJoint of(const Side& front, const Side& back, bool joint, double floor, double rtol) {
        const double total = static_cast<double>(front.count + back.count > 0 ? front.count + back.count : 1);
        const double wf = joint ? static_cast<double>(front.count) / total : 1;
        const double wb = joint ? static_cast<double>(back.count) / total : 1;
        const double m_f = front.mean(), m_b = back.mean();
        const double raw[4] = {wf * m_f, wf * (1 - m_f), wb * m_b, wb * (1 - m_b)};
        double entry[4], most = 0;
        bool free[4], exact = true;
        for (int i = 0; i < 4; ++i) {
            entry[i] = raw[i] < floor ? floor : raw[i];
            free[i] = raw[i] >= floor;
            exact &= free[i];
            most = larger(most, magnitude(entry[i]));
        }
        // To about 1, so that no product overflows: the value stays, and slopes grow by it.
        const Power scale(-exponent(most));
        for (double& x : entry) x = scale * x;
        const double a = entry[0], b = entry[1], c = entry[2], d = entry[3];
        const double p = a + d, q = b - c, r = a - d, t = b + c;
        const double h1 = hypot(p, q), h2 = hypot(r, t), s1 = (h1 + h2) / 2;
        if (front.count == 0 || back.count == 0 || !(s1 > 0) || h1 == 0 || h2 == 0) return {0, 0, 0};
        const double ds1[4] = {(p / h1 + r / h2) / 2, (q / h1 + t / h2) / 2, (t / h2 - q / h1) / 2,
                               (p / h1 - r / h2) / 2};
        const double ddet[4] = {d, -c, -b, a};
        const auto by_means = [&](const double* g, double& f, double& k) {
            f = wf * ((free[0] ? g[0] : 0) - (free[1] ? g[1] : 0));
            k = wb * ((free[2] ? g[2] : 0) - (free[3] ? g[3] : 0));
        };
        double s1_f, s1_b, det_f, det_b;
        by_means(ds1, s1_f, s1_b);
        by_means(ddet, det_f, det_b);
        // Where no entry is at the floor |det| = αβ |m_f − m_b|, which no subtraction of products can match.
        if (exact) {
            det_f = scale * (wf * wb);
            det_b = -det_f;
        }
        const double det = exact ? scale * (wf * wb * (scale * m_f - scale * m_b)) : a * d - b * c;
        const double sign = det < 0 ? -1 : 1;
        const double s2 = magnitude(det) / s1, least = rtol * s1;
        const double effective = s2 < least ? least : s2;  // NaN stays
        const auto slope = [&](double of_s1, double of_det) {
            return scale * (of_s1 / s1 - (sign * of_det / s1 - s2 * of_s1 / s1) / effective);
        };
        return {::log(s1 / effective), slope(s1_f, det_f), slope(s1_b, det_b)};
    }
};

template <class T>
D2K_DEVICE void write_snippet(const PdmiSnippet<T>& problem, const PdmiSnippetOut<T>& out, int64_t i,
                              const Side& front, const Side& back) {
    const auto of = [](double x) { return stored<T>(static_cast<ArithmeticOf<T>>(x)); };
    const SnippetJoint joint = SnippetJoint::of(front, back, problem.joint, problem.floor, problem.rtol);
    out.value[i] = of(joint.value);
    out.foreground_count[i] = front.count;
    out.background_count[i] = back.count;
    out.foreground_mean[i] = of(front.mean());
    out.background_mean[i] = of(back.mean());
    if (!out.foreground_slope) return;
    out.foreground_slope[i] = joint.by_foreground / static_cast<double>(front.count > 0 ? front.count : 1);
    out.background_slope[i] = joint.by_background / static_cast<double>(back.count > 0 ? back.count : 1);
}

// Adds rows of a buffer, the first and how many, to both sides: in eight parts a thread, in a fixed order.
template <class Team, class T>
D2K_DEVICE void sum_sides(Team& team, const PdmiSnippet<T>& problem, int64_t first, int64_t length, Side& front,
                          Side& back) {
    constexpr int parts = Group<Team>::width == 1 ? 8 : 1;
    using Real = ArithmeticOf<T>;
    const Real above = problem.above(), below = problem.below();
    const T *const f = problem.foreground + first, *const a = problem.attention + first;
    const T* const b = problem.background + first;
    double on[parts] = {}, off[parts] = {};
    int64_t on_count[parts] = {}, off_count[parts] = {};
    const auto add = [&](int64_t t, int j) {
        const Real score = f[t];
        const bool fore = score > above, aft = score < below;
        on[j] += fore ? static_cast<double>(a[t]) : 0.0;
        off[j] += aft ? static_cast<double>(b[t]) : 0.0;
        on_count[j] += fore;
        off_count[j] += aft;
    };
    int64_t t = team.rank() * parts;
    for (; t + parts <= length; t += team.size() * parts)
        for (int j = 0; j < parts; ++j) add(t + j, j);
    for (int j = 0; j < parts && t + j < length; ++j) add(t + j, j);
    for (int half = parts / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) {
            on[j] += on[j + half];
            off[j] += off[j + half];
            on_count[j] += on_count[j + half];
            off_count[j] += off_count[j + half];
        }
    front = {team.reduce(on_count[0], Sum{}), team.reduce(on[0], Sum{})};
    back = {team.reduce(off_count[0], Sum{}), team.reduce(off[0], Sum{})};
}

template <class Team, class T>
D2K_DEVICE void pdmi_snippet(Team& team, const PdmiSnippet<T>& problem, const PdmiSnippetOut<T>& out, int64_t i) {
    const Sequences::Range range = problem.sequences[i];
    Side front, back;
    sum_sides(team, problem, range.first, range.length, front, back);
    if (team.rank() == 0) write_snippet(problem, out, i, front, back);
}

template <class T>
struct PdmiSnippetSaved {
    const T* grad;  // (sequences)
    const double *foreground_slope, *background_slope;
};

// Gradients of a sequence's rows.
template <class Team, class T>
D2K_DEVICE void pdmi_snippet_backward(Team& team, const PdmiSnippet<T>& problem, const PdmiSnippetSaved<T>& saved,
                                      T* on, T* off, int64_t i) {
    using Real = ArithmeticOf<T>;
    const Sequences::Range range = problem.sequences[i];
    const double g = static_cast<double>(saved.grad[i]);
    const T zero = stored<T>(0), of_f = stored<T>(static_cast<Real>(g * saved.foreground_slope[i])),
            of_b = stored<T>(static_cast<Real>(g * saved.background_slope[i]));
    const Real above = problem.above(), below = problem.below();
    for_each(team, range.length, [&](int64_t t) {
        const Real score = problem.foreground[range.first + t];
        on[range.first + t] = score > above ? of_f : zero;
        off[range.first + t] = score < below ? of_b : zero;
    });
}

template <class T>
struct PdmiVideo {
    InputOf<T> p;        // (videos, classes)
    const bool* labels;  // (videos, classes)
    const bool* keep;    // (videos), or null for all
    int64_t videos, classes;
    bool floored;
    double relative_floor;
    bool normalize_rows, per_class;
    double atol, rtol;

    OutputOf<T> value;
    int64_t* rank;
    double* slope;  // (videos, classes), or null
};

// Memory of pdmi_video.
struct PdmiVideoWork {
    ExtremesWork<double> extremes;
    double *doubles, *y, *q, *slope_q, *value;
    double *raw, *along, *weight;              // a row's sum is raw · 2^power; slope · q of a row; a class's entry in y
    int64_t *kept, *power, *first, *leads;     // leads: whether a class is the first with its videos
    uint64_t* has;                             // (classes, words): a bit for each video that is kept

    static constexpr int kBits = 64;
    D2K_DEVICE static int64_t words(int64_t videos) { return videos / kBits + 1; }

    template <class T>
    D2K_DEVICE static int64_t bytes(const PdmiVideo<T>& problem) {
        const int64_t n = problem.videos, c = problem.classes;
        return 8 * (ExtremesWork<double>::bound(c, n, c) + extra(n, c) + 3 * n * c + 4 * n + 1 + (3 + words(n)) * c);
    }

    D2K_DEVICE static int64_t extra(int64_t n, int64_t c) {
        const int64_t vectors = 4 * c + 4 * n, product = (n < c ? n : c) * c;
        return vectors > product ? vectors : product;
    }

    // What does not depend on the labels; the rest is taken as the plan asks.
    template <class T>
    D2K_DEVICE static PdmiVideoWork in(Scratch& scratch, const PdmiVideo<T>& problem) {
        const int64_t n = problem.videos, c = problem.classes;
        PdmiVideoWork work{};
        work.doubles = scratch.take<double>(extra(n, c));
        for (double** matrix : {&work.y, &work.q, &work.slope_q}) *matrix = scratch.take<double>(n * c);
        work.raw = scratch.take<double>(n);
        work.along = scratch.take<double>(n);
        work.weight = scratch.take<double>(c);
        work.value = scratch.take<double>(1);
        work.kept = scratch.take<int64_t>(n);
        work.power = scratch.take<int64_t>(n);
        work.first = scratch.take<int64_t>(c);
        work.leads = scratch.take<int64_t>(c);
        work.has = scratch.take<uint64_t>(c * words(n));
        return work;
    }
};

D2K_DEVICE int set_bits(uint64_t x) {
#ifdef __CUDA_ARCH__
    return __popcll(x);
#else
    int count = 0;
    for (; x; x &= x - 1) ++count;
    return count;
#endif
}

// body(l, j, l · columns + j) for the entries of a matrix. A block counts in 32 bits, which divide in a fifth of the
// instructions: it has no memory for more entries.
template <class Team, class Body>
D2K_DEVICE void for_entries(Team& team, int64_t rows, int64_t columns, const Body& body) {
    using Index = std::conditional_t<Group<Team>::width == 1, int64_t, int>;
    const auto by = static_cast<Index>(columns);
    if constexpr (Group<Team>::width == 1) {
        for_each(team, rows, [&](Index l) {
            for (Index j = 0; j < by; ++j) body(l, j, l * by + j);
        });
    } else {
        for_each(team, static_cast<Index>(rows) * by, [&](Index i) { body(i / by, i % by, i); });
    }
}

// Y₂ᵀ of the kept videos in work.y, P₂ᵀ in work.q; returns the product's factors as a problem of one matrix.
// Classes with the same videos become one row, scaled by √count: that keeps every singular value but the exact
// zeros that repetition makes. Classes without a video are left out.
template <class Team, class T>
D2K_DEVICE ConditionNumber<double> video_joint(Team& team, const PdmiVideo<T>& problem, const PdmiVideoWork& work,
                                               bool& finite) {
    const int64_t c = problem.classes;
    int64_t n = 0;
    for (int64_t tile = 0; tile < problem.videos; tile += team.size()) {
        const int64_t i = tile + team.rank();
        const bool keep = i < problem.videos && (!problem.keep || problem.keep[i]);
        const int64_t place = compact(team, keep, n);
        if (keep) work.kept[place] = i;
    }
    team.barrier();
    constexpr int bits = PdmiVideoWork::kBits, together = 8;
    const int64_t words = PdmiVideoWork::words(problem.videos);
    if constexpr (Group<Team>::width == 1) {
        // A video's classes side by side.
        constexpr int64_t wide = 64;
        for_each(team, words, [&](int64_t w) {
            const int64_t end = problem.videos < (w + 1) * bits ? problem.videos : (w + 1) * bits;
            for (int64_t first = 0; first < c; first += wide) {
                const int64_t width = c - first < wide ? c - first : wide;
                uint64_t word[wide] = {};
                for (int64_t i = w * bits; i < end; ++i) {
                    const bool* const has = problem.labels + (i * c + first);
                    if (problem.keep && !problem.keep[i]) continue;
                    for (int64_t j = 0; j < width; ++j) word[j] |= uint64_t{has[j]} << (i % bits);
                }
                for (int64_t j = 0; j < width; ++j) work.has[(first + j) * words + w] = word[j];
            }
        });
    } else {
        for_each(team, c, [&](int64_t label) {
            D2K_ROLLED
            for (int64_t w = 0; w < words; ++w) {
                const int64_t end = problem.videos < (w + 1) * bits ? problem.videos : (w + 1) * bits;
                uint64_t word = 0;
                // Reads that are under way together; beyond the end the last of them again.
                D2K_ROLLED
                for (int64_t i = w * bits; i < end; i += together) {
                    bool has[together], keep[together];
                    D2K_UNROLLED
                    for (int j = 0; j < together; ++j) {
                        const int64_t at = i + j < end ? i + j : end - 1;
                        has[j] = problem.labels[at * c + label];
                        keep[j] = !problem.keep || problem.keep[at];
                    }
                    D2K_UNROLLED
                    for (int j = 0; j < together; ++j) word |= uint64_t{has[j] && keep[j] && i + j < end} << (i % bits + j);
                }
                work.has[label * words + w] = word;
            }
        });
    }
    team.barrier();
    // A class is a row where it has videos, and no earlier one has the same.
    const Group<Team> group(team);
    for_columns(group, int64_t{0}, c, [&](int64_t label, bool here) {
        const uint64_t* const own = work.has + label * words;
        double count = 0, earlier = 0;
        own_rows(group, 0, here ? c : 0, [&](int64_t other) {
            bool same = work.has[other * words] == own[0];
            D2K_ROLLED
            for (int64_t w = 1; w < words; ++w) same &= work.has[other * words + w] == own[w];
            count += same;
            earlier = same && other < label ? 1 : earlier;
        });
        count = group.whole(count);
        earlier = group.most(earlier);
        if (!here || group.part() != 0) return;
        int64_t videos = 0;
        D2K_ROLLED
        for (int64_t w = 0; w < words; ++w) videos += set_bits(own[w]);
        work.leads[label] = videos && earlier == 0;
        work.weight[label] = root(count) * (1 / static_cast<double>(problem.per_class ? videos : n));
    });
    team.barrier();
    int64_t rows = 0;
    for (int64_t tile = 0; tile < c; tile += team.size()) {
        const int64_t label = tile + team.rank();
        const bool own = label < c && work.leads[label];
        const int64_t place = compact(team, own, rows);
        if (own) work.first[place] = label;
    }
    team.barrier();
    const bool all_kept = Group<Team>::width == 1 && n == problem.videos;
    if (all_kept) {
        for_each(team, rows, [&](int64_t row) {
            const int64_t label = work.first[row];
            const double weight = work.weight[label];
            for (int64_t w = 0; w * bits < n; ++w) {
                const uint64_t word = work.has[label * words + w];
                const int64_t width = n - w * bits < bits ? n - w * bits : bits;
                double* const y = work.y + (row * n + w * bits);
                for (int64_t j = 0; j < width; ++j) y[j] = word >> j & 1 ? weight : 0;
            }
        });
    } else {
        for_entries(team, rows, n, [&](int64_t row, int64_t l, int64_t i) {
            const int64_t label = work.first[row], video = work.kept[l];
            work.y[i] = work.has[label * words + video / bits] >> (video % bits) & 1 ? work.weight[label] : 0;
        });
    }
    finite = true;
    if (all_kept) for_each(team, n * c, [&](int64_t i) { work.q[i] = static_cast<double>(problem.p[i]); });
    else for_entries(team, n, c, [&](int64_t l, int64_t j, int64_t i) {
        work.q[i] = static_cast<double>(problem.p[work.kept[l] * c + j]);
        if constexpr (Group<Team>::width > 1) finite &= magnitude(work.q[i]) <= DBL_MAX;
    });
    team.barrier();
    if constexpr (Group<Team>::width == 1) finite = range_of(team, work.q, n * c).finite;
    // A block finds a row as fast as it is told to leave it.
    const bool as_it_is = Group<Team>::width == 1 && !problem.floored && !problem.normalize_rows;
    for_columns(group, int64_t{0}, as_it_is ? 0 : n, [&](int64_t l, bool here) {
        double* const q = work.q + l * c;
        double most = -HUGE_VAL, total = 0;
        own_rows(group, 0, here ? c : 0, [&](int64_t j) { most = larger(most, q[j]); });
        most = group.most(most);
        // Divided by a power of 2, so that the sum does not overflow.
        const int power = problem.normalize_rows && most <= DBL_MAX ? exponent(most) : 0;
        const Power down(-power);
        own_rows(group, 0, here ? c : 0, [&](int64_t j) {
            q[j] = problem.floored && !(q[j] > problem.relative_floor * most) ? 0 : down * q[j];
            total += q[j];
        });
        total = group.whole(total);
        if (!here || group.part() != 0) return;
        work.raw[l] = total > 0 ? total : 0;  // 0: the row stays as it is
        work.power[l] = power;
    });
    team.barrier();
    if (problem.normalize_rows)
        for_entries(team, n, c, [&](int64_t l, int64_t, int64_t i) {
            work.q[i] = work.raw[l] > 0 ? work.q[i] / work.raw[l] : Power(static_cast<int>(work.power[l])) * work.q[i];
        });
    finite = all(team, finite);
    return {work.y, work.q, 1, rows, n, c, problem.atol, problem.rtol, true, work.value, nullptr, work.slope_q};
}

template <class T>
D2K_DEVICE bool taken(const PdmiVideo<T>& problem, double q) { return !problem.floored || q > 0; }

// The value, the rank, and the slope by p, from the slope by P₂ᵀ.
template <class Team, class T>
D2K_DEVICE void write_video(Team& team, const PdmiVideo<T>& problem, const PdmiVideoWork& work, int64_t n, bool finite,
                            double rank) {
    const int64_t c = problem.classes;
    const Group<Team> group(team);
    for_columns(group, int64_t{0}, finite ? n : 0, [&](int64_t l, bool here) {
        double along = 0;
        own_rows(group, 0, here && problem.normalize_rows ? c : 0,
                 [&](int64_t j) { along += work.slope_q[l * c + j] * work.q[l * c + j]; });
        along = group.whole(along);
        if (here && group.part() == 0) work.along[l] = along;
    });
    team.barrier();
    for_entries(team, finite ? n : 0, c, [&](int64_t l, int64_t, int64_t i) {
        const bool divided = problem.normalize_rows && work.raw[l] > 0;
        const Power down(divided ? -static_cast<int>(work.power[l]) : 0);
        if (divided) work.slope_q[i] = down * ((work.slope_q[i] - work.along[l]) / work.raw[l]);
        finite &= magnitude(work.slope_q[i]) <= DBL_MAX;
    });
    finite = all(team, finite && (n == 0 || rank < 2 || magnitude(*work.value) <= DBL_MAX));
    for_each(team, problem.slope ? problem.videos * c : 0, [&](int64_t i) { problem.slope[i] = 0; });
    team.barrier();
    for_entries(team, finite && problem.slope ? n : 0, c, [&](int64_t l, int64_t j, int64_t i) {
        if (taken(problem, work.q[i])) problem.slope[work.kept[l] * c + j] = work.slope_q[i];
    });
    if (team.rank() == 0) {
        put(problem.value, finite && rank > 1 ? *work.value : 0);
        *problem.rank = finite ? static_cast<int64_t>(rank) : 0;
    }
}

// Whether all slopes are finite by the largest that they can be, as those of all but extreme scores are: then a value
// needs no vectors. `smallest` counts, of the matrix divided by 2^power. Vectors that rounding left longer than 1 are shorter
// than 2^kLength: what they are off by is some rounding times the largest value over it, of which kNegligible is the least.
template <class Team, class T>
D2K_DEVICE bool slopes_are_finite(Team& team, const PdmiVideo<T>& problem, const PdmiVideoWork& work, int64_t rows,
                                  int64_t n, double smallest, int power) {
    constexpr int kLength = 200;
    const int64_t c = problem.classes;
    const auto above = [](double x) { return exponent(x) + 1; };
    double weight = 0;
    for (int64_t row = 0; row < rows; ++row) weight = larger(weight, work.weight[work.first[row]]);
    const int most = above(static_cast<double>(2 * rows)) + above(weight) - exponent(smallest) - power + kLength;
    if (!problem.normalize_rows) return most < 1023;
    // The slope's own sum along a row is subtracted, and what is left divided by the row's sum.
    int least = 0;
    for (int64_t l = 0; l < n; ++l) {
        const int sum = exponent(work.raw[l]), whole = sum + static_cast<int>(work.power[l]);
        if (work.raw[l] > 0) least = Min()(least, Min()(sum, whole));
    }
    const int entry = range_of(team, work.q, n * c).exponent + 1 + above(static_cast<double>(c));
    return most + Max()(entry, 0) + 1 - least < 1023;
}

// The whole of it by one team, in what is left of the scratch.
template <class Team, class T>
D2K_DEVICE void pdmi_video(Team& team, const PdmiVideo<T>& problem, Scratch scratch) {
    PdmiVideoWork work = PdmiVideoWork::in(scratch, problem);
    bool finite = true;
    const ConditionNumber<double> factors = video_joint(team, problem, work, finite);
    Extremes<double> e{};
    if (finite && factors.rows > 0 && factors.inner > 0) {
        const Plan plan = factors.plan();
        Range range;
        work.extremes = ExtremesWork<double>::in(scratch, plan);
        prepare_all(team, factors, 0, work.extremes, work.doubles, &range);
        e = extremes(team, plan, work.extremes, problem.atol, problem.rtol, &range);
        finish_all(team, factors, 0, e, work.doubles, &range);
    } else {
        for_each(team, factors.inner * problem.classes, [&](int64_t i) { work.slope_q[i] = 0; });
        team.barrier();
    }
    write_video(team, problem, work, factors.inner, finite, e.rank);
}

namespace cpu {
template <class T>
Status pdmi_snippet(const PdmiSnippet<T>& problem, const PdmiSnippetOut<T>& out, int threads);
// on, off: (total) gradients of the attention on foreground and on background rows.
template <class T>
Status pdmi_snippet_backward(const PdmiSnippet<T>& problem, const PdmiSnippetSaved<T>& saved, T* on, T* off,
                             int threads);
// Unless null, *found: false where the joint has more than `most` columns and its extreme values alone would not do, so that
// nothing is written.
template <class T>
Status pdmi_video(const PdmiVideo<T>& problem, int64_t most = INT64_MAX, bool* found = nullptr);
}  // namespace cpu

namespace cuda {
template <class T>
Status pdmi_snippet(const PdmiSnippet<T>& problem, const PdmiSnippetOut<T>& out, int device, void* stream);
template <class T>
Status pdmi_snippet_backward(const PdmiSnippet<T>& problem, const PdmiSnippetSaved<T>& saved, T* on, T* off,
                             int device, void* stream);
// Bytes of device memory that pdmi_video works in, 0 where the block's own has room.
Status pdmi_video_workspace(const PdmiVideo<AnyFloat>& problem, int device, size_t* bytes);
Status pdmi_video(const PdmiVideo<AnyFloat>& problem, void* workspace, size_t bytes, int device, void* stream);
}  // namespace cuda

}  // namespace d2k

// D2-Net's objective and its gradients from video-level scores, pooled embeddings and snippet attention (Eqs. 1 to 11).
//
// The equations are those of the reference in d2kernels/ops/losses. Scalars are doubles; T is float or double.
#pragma once

#include <cfloat>
#include <cstdint>

#include "d2kernels/pdmi.h"
#include "d2kernels/warp.h"

namespace d2k {

enum class Pairs : int { kNone, kAll, kRandom };

template <class T>
struct Losses {
    Sequences sequences;
    const T* p;                           // (videos, classes)
    const T* embedding;                   // (videos, 2, width): foreground, background
    const T* mass;                        // (videos, 2)
    const T *on, *off, *score;            // (total): λ of either side's rows, λ'; read where `snippet`
    const bool* labels;                   // (videos, classes)
    const T* keys;                        // (4, videos): their order is the permutations', or null
    const int64_t* permutations;          // (4, videos), or null
    const int64_t* iteration;             // from 1
    int64_t classes, width;

    int64_t min_snippets;
    double clamp;
    Pairs pairs;
    bool torch_cosine, per_entry;         // per_entry: positives x C, mean over all entries
    double gamma, beta, pair_warmup, denoising_start, denoising_warmup;
    bool snippet, video;
    double snippet_weight, video_weight;
    double foreground_threshold, background_threshold;
    bool joint;
    double floor, rtol;
    bool skip_one_sided, forward_only;
    bool floored;
    double relative_floor;
    bool normalize_rows, per_class;
    double video_atol, video_rtol;

    D2K_DEVICE int64_t videos() const { return sequences.count; }
    D2K_DEVICE int64_t pairs_of_a_list() const {
        return pairs == Pairs::kNone ? 0 : pairs == Pairs::kAll ? videos() * videos() : videos();
    }

    D2K_DEVICE double pair_scale() const {
        const double it = static_cast<double>(*iteration);
        return pair_warmup > 0 && it < pair_warmup ? it / pair_warmup : 1;
    }

    D2K_DEVICE double denoising_scale() const {
        const double since = static_cast<double>(*iteration) - denoising_start;
        return since <= 0 ? 0 : denoising_warmup > 0 && since < denoising_warmup ? since / denoising_warmup : 1;
    }

    // Compared in the scores' own precision.
    D2K_DEVICE T above() const { return static_cast<T>(foreground_threshold); }
    D2K_DEVICE T below() const { return static_cast<T>(background_threshold); }
};

template <class T>
struct LossesOut {
    T *total, *classification, *ds, *dv;
    double* factors;          // (2): of L_DS and L_DV in the total
    T* by_p;                  // (videos, classes), of the classification loss
    double* video_by_p;       // (videos, classes), of L_DV
    T* by_embedding;          // (videos, 2, width), of the classification loss
    double* snippet_by_row;   // (videos, 2), of L_DS, by the λ of one row of either side
};

// Working memory beside pdmi_video's.
template <class T>
struct LossesWork {
    T* q;                                            // (videos, classes): p, clamped
    double *entry, *by_weight;                       // (videos, classes)
    double *square, *cosine, *weight, *by_pair;      // (2 videos), (3, pairs), (3, videos) twice
    double *value, *counted;                         // (videos)
    int64_t *list, *permutation;                     // (2, videos), (4, videos)
    int64_t* rank;                                   // of L_DV
    T* dv;
    bool *keep, *has;                                // (videos), (videos, 2)

    D2K_DEVICE static int64_t bytes(const Losses<T>& problem) {
        const int64_t n = problem.videos(), c = problem.classes;
        return 8 * (3 * n * c + 2 * n + 3 * problem.pairs_of_a_list() + 6 * n + 2 * n + 6 * n + 2) + 3 * n + 64;
    }

    // Null in `has` where the scratch is too small.
    D2K_DEVICE static LossesWork in(Scratch& scratch, const Losses<T>& problem) {
        const int64_t n = problem.videos(), c = problem.classes;
        LossesWork work{};
        for (double** x : {&work.entry, &work.by_weight}) *x = scratch.take<double>(n * c);
        work.square = scratch.take<double>(2 * n);
        work.cosine = scratch.take<double>(3 * problem.pairs_of_a_list());
        for (double** x : {&work.weight, &work.by_pair}) *x = scratch.take<double>(3 * n);
        for (double** x : {&work.value, &work.counted}) *x = scratch.take<double>(n);
        work.list = scratch.take<int64_t>(2 * n);
        work.permutation = scratch.take<int64_t>(4 * n);
        work.rank = scratch.take<int64_t>(1);
        work.q = scratch.take<T>(n * c);
        work.dv = scratch.take<T>(1);
        work.keep = scratch.take<bool>(n);
        work.has = scratch.take<bool>(2 * n);
        return work;
    }
};

// Which videos count, those that have a foreground and a background, and the permutations.
struct Lists {
    int64_t kept, front, back;

    D2K_DEVICE int64_t count(int side) const { return side ? back : front; }
};

// pause(n) before about n values are read, so that a host may end long work.
template <class Team, class T, class Pause>
D2K_DEVICE Lists list_videos(Team& team, const Losses<T>& problem, const LossesWork<T>& work, const Pause& pause) {
    const int64_t n = problem.videos(), c = problem.classes;
    Lists lists{0, 0, 0};
    for (int64_t tile = 0; tile < n; tile += team.size()) {
        const int64_t i = tile + team.rank();
        bool keep = i < n && problem.sequences.lengths[i] >= problem.min_snippets;
        if (keep) {
            bool labelled = false;
            for (int64_t j = 0; j < c; ++j) labelled |= problem.labels[i * c + j];
            keep = labelled;
        }
        compact(team, keep, lists.kept);
        if (i < n) work.keep[i] = keep;
        const auto add = [&](int side, int64_t& count) {
            const bool has = keep && problem.mass[i * 2 + side] > 0;
            const int64_t place = compact(team, has, count);
            if (i < n) work.has[i * 2 + side] = has;
            if (has) work.list[side * n + place] = i;
        };
        add(0, lists.front);
        add(1, lists.back);
    }
    if (problem.pairs != Pairs::kRandom) {
        team.barrier();
        return lists;
    }
    for_each(team, 4 * n, [&](int64_t at) {
        const int64_t given = problem.permutations ? problem.permutations[at] : at % n;
        work.permutation[at] = given < 0 ? 0 : given < n ? given : n - 1;
    });
    team.barrier();
    if (problem.keys)
        for_each(team, 4 * n, [&](int64_t at) {
            const int64_t row = at / n, j = at % n, count = lists.count(row % 2);
            if (j >= count) return;
            const T* const keys = problem.keys + row * n;
            int64_t rank = 0;
            pause(count);
            for (int64_t k = 0; k < count; ++k) rank += keys[k] < keys[j] || (keys[k] == keys[j] && k < j);
            work.permutation[row * n + rank] = j;
        });
    team.barrier();
    return lists;
}

// Lists of pairs: among foregrounds, among backgrounds, across.
struct VideoPair {
    int64_t first, second, target;  // rows of the embedding (2 videos), the weight's video
    bool counted;
};

template <class T>
D2K_DEVICE VideoPair pair_of(const Losses<T>& problem, const LossesWork<T>& work, const Lists& lists, int list, int64_t e) {
    const int64_t n = problem.videos();
    const int first = list == 1, second = list != 0;  // the sides
    if (problem.pairs == Pairs::kAll) {
        const int64_t i = e / n, j = e % n;
        return {2 * i + first, 2 * j + second, i, i != j && work.has[2 * i + first] && work.has[2 * j + second]};
    }
    const int64_t least = lists.front < lists.back ? lists.front : lists.back;
    const int64_t count = list == 2 ? least : lists.count(list);
    if (e >= count) return {0, 0, 0, false};
    const auto listed = [&](int side, int64_t place) {
        const int64_t last = lists.count(side) - 1;
        return work.list[side * n + (place < last ? place : last)];
    };
    const int64_t* const drawn = work.permutation;
    const int64_t i = list == 2 ? listed(0, drawn[2 * n + e]) : listed(first, e);
    const int64_t j = list == 2 ? listed(1, drawn[3 * n + e]) : listed(second, drawn[list * n + e]);
    return {2 * i + first, 2 * j + second, i, true};
}

// 1 / how many pairs make the weight of a video that has one.
template <class T>
D2K_DEVICE double share(const Losses<T>& problem, const LossesWork<T>& work, const Lists& lists, int list, int64_t i) {
    if (problem.pairs == Pairs::kRandom) return 1;
    const int side = list != 0;
    const int64_t others = lists.count(side) - work.has[2 * i + side];
    return 1 / static_cast<double>(others > 0 ? others : 1);
}

// visit(e) for the pairs of a list that may have the video in the first or the second place.
template <class T, class Visit>
D2K_DEVICE void pairs_with(const Losses<T>& problem, int64_t video, bool second, const Visit& visit) {
    const int64_t n = problem.videos();
    if (problem.pairs == Pairs::kNone) return;
    for (int64_t j = 0; j < n; ++j)
        visit(problem.pairs == Pairs::kRandom ? j : second ? j * n + video : video * n + j);
}

// cos = scale · a·b, and what it loses by a's own length.
struct Cosine {
    double value, scale, own_first, own_second;

    D2K_DEVICE static Cosine of(double dot, double a, double b, bool torch) {
        if (!torch) {
            const double first = a + 1e-12, second = b + 1e-12, scale = 1 / sqrt(first * second), value = dot * scale;
            return {value, scale, value / first, value / second};
        }
        constexpr double eps = 1e-8;
        const double x = sqrt(a), y = sqrt(b), first = x < eps ? eps : x, second = y < eps ? eps : y;
        const double scale = 1 / (first * second), value = dot * scale;
        return {value, scale, x > 0 ? value / (first * x) : 0, y > 0 ? value / (second * y) : 0};
    }
};

// base^power, base >= 0; CUDA's pow is a function of its own, which costs a call's registers.
D2K_DEVICE double raised(double base, double power) {
    return power == 0 ? 1 : power == 1 ? base : power == 2 ? base * base : ::exp(power * ::log(base));
}

// Eq. 3: the weights of each video, and Eq. 4 with its slopes by p and by the weights.
template <class Team, class T, class Pause>
D2K_DEVICE double classify(Team& team, const Losses<T>& problem, const LossesWork<T>& work, const Lists& lists,
                           const LossesOut<T>& out, const Pause& pause) {
    const int64_t n = problem.videos(), c = problem.classes, pairs = problem.pairs_of_a_list();
    const Warp<Team> warp(team);
    const auto row = [&](int64_t r) { return problem.embedding + r * problem.width; };
    if (pairs) {
        for (int64_t r = warp.index(); r < 2 * n; r += warp.count()) {
            const double square = work.has[r] ? dot_in_double(warp, row(r), row(r), problem.width) : 0;
            if (warp.lane() == 0) work.square[r] = square;
        }
        for (int64_t at = warp.index(); at < 3 * pairs; at += warp.count()) {
            const VideoPair pair = pair_of(problem, work, lists, static_cast<int>(at / pairs), at % pairs);
            pause(problem.width);
            const double dot =
                pair.counted ? dot_in_double(warp, row(pair.first), row(pair.second), problem.width) : 0;
            if (warp.lane() == 0) work.cosine[at] = dot;
        }
        team.barrier();
    }
    const auto cosine = [&](const VideoPair& pair, int64_t at) {
        return Cosine::of(work.cosine[at], work.square[pair.first], work.square[pair.second], problem.torch_cosine);
    };
    for_each(team, 3 * n, [&](int64_t at) {
        const int list = static_cast<int>(at / n);
        const int64_t i = at % n;
        double sum = 0;
        pause(n);
        pairs_with(problem, i, false, [&](int64_t e) {
            const VideoPair pair = pair_of(problem, work, lists, list, e);
            if (!pair.counted || pair.target != i) return;
            const double value = cosine(pair, list * pairs + e).value;
            sum += list < 2 ? 1 - value : value < 0 ? 0 : value;
        });
        work.weight[at] = sum * share(problem, work, lists, list, i);
    });
    team.barrier();

    const double scale = problem.pair_scale(), tiny = sizeof(T) == sizeof(double) ? 1e-12 : 1e-7;
    const double each = problem.per_entry ? static_cast<double>(c) : 1;
    const double count = static_cast<double>(lists.kept > 0 ? lists.kept : 1) * each;
    const T low = static_cast<T>(problem.clamp), high = static_cast<T>(1 - problem.clamp);
    for_each(team, n * c, [&](int64_t at) {
        const int64_t i = at / c;
        const T given = problem.p[at], p = problem.clamp > 0 ? (given < low ? low : given > high ? high : given) : given;
        const bool own = problem.labels[at];
        work.q[at] = p;
        work.entry[at] = work.by_weight[at] = 0;
        out.by_p[at] = 0;
        if (!work.keep[i]) return;
        const double w = scale * (work.weight[2 * n + i] + problem.gamma * work.weight[(own ? 0 : n) + i]);
        // Of a label: −(1 − p + w)^β log p; of any other class the same of 1 − p.
        const double x = own ? static_cast<double>(p) : 1 - static_cast<double>(p);
        const double base = larger(1 - x + w, 0.0), log = ::log(x < tiny ? tiny : x), factor = (own ? each : 1) / count;
        const double power = raised(base, problem.beta);
        const double by_base = problem.beta == 0 ? 0 : problem.beta * raised(base, problem.beta - 1);
        const double by_x = by_base * log - (x < tiny ? 0 : power / x);
        const bool inside = problem.clamp == 0 || (given >= low && given <= high);
        work.entry[at] = -power * log * factor;
        work.by_weight[at] = -by_base * log * factor;
        out.by_p[at] = static_cast<T>(inside ? (own ? by_x : -by_x) * factor : 0);
    });
    team.barrier();
    for_each(team, n, [&](int64_t i) {
        double loss = 0, front = 0, back = 0;
        for (int64_t j = 0; j < c; ++j) {
            loss += work.entry[i * c + j];
            (problem.labels[i * c + j] ? front : back) += work.by_weight[i * c + j];
        }
        work.value[i] = loss;
        work.by_pair[i] = scale * problem.gamma * front;
        work.by_pair[n + i] = scale * problem.gamma * back;
        work.by_pair[2 * n + i] = scale * (front + back);
    });
    team.barrier();
    double loss = 0;
    for (int64_t i = 0; i < n; ++i) loss += work.value[i];

    for (int64_t r = warp.index(); r < 2 * n; r += warp.count()) {
        T* const to = out.by_embedding + r * problem.width;
        own_parts(warp, problem.width, [&](int64_t j, int) { to[j] = 0; });
        double own = 0;
        const auto add = [&](int list, int64_t e, bool second) {
            const VideoPair pair = pair_of(problem, work, lists, list, e);
            if (!pair.counted || (second ? pair.second : pair.first) != r) return;
            pause(problem.width);
            const Cosine cos = cosine(pair, list * pairs + e);
            const double by_weight = work.by_pair[list * n + pair.target] * share(problem, work, lists, list, pair.target);
            const double slope = list < 2 ? -by_weight : cos.value < 0 ? 0 : by_weight;
            own -= slope * (second ? cos.own_second : cos.own_first);
            const T factor = static_cast<T>(slope * cos.scale);
            const T* const other = row(second ? pair.first : pair.second);
            own_parts(warp, problem.width, [&](int64_t j, int) { to[j] += factor * other[j]; });
        };
        if (work.has[r]) {
            pause(4 * n);
            for (int list = 0; list < 3; ++list)
                for (int second = 0; second < 2; ++second)
                    if ((second ? list != 0 : list == 1) == r % 2)
                        pairs_with(problem, r / 2, second, [&](int64_t e) { add(list, e, second); });
            const T factor = static_cast<T>(own);
            const T* const self = row(r);
            own_parts(warp, problem.width, [&](int64_t j, int) { to[j] += factor * self[j]; });
        }
    }
    team.barrier();
    return loss;
}

// L_DS (Eq. 9) and its slopes by the attention of a row.
template <class Team, class T>
D2K_DEVICE double denoise_snippets(Team& team, const Losses<T>& problem, const LossesWork<T>& work,
                                   const LossesOut<T>& out) {
    const int64_t n = problem.videos();
    const Warp<Team> warp(team);
    const T above = problem.above(), below = problem.below();
    for (int64_t i = warp.index(); i < n; i += warp.count()) {
        const auto range = problem.sequences[i];
        constexpr int own = kWarp / Warp<Team>::width;
        double on[own] = {}, off[own] = {}, on_count[own] = {}, off_count[own] = {};
        if (work.keep[i])
            own_parts(warp, range.length, [&](int64_t t, int h) {
                const T score = problem.score[range.first + t];
                const bool fore = score > above, aft = score < below;
                on[h] += fore ? static_cast<double>(problem.on[range.first + t]) : 0.0;
                off[h] += aft ? static_cast<double>(problem.off[range.first + t]) : 0.0;
                on_count[h] += fore ? 1.0 : 0.0;
                off_count[h] += aft ? 1.0 : 0.0;
            });
        const double on_sum = warp.sum(on), off_sum = warp.sum(off);
        const Side front{static_cast<int64_t>(warp.sum(on_count)), on_sum};
        const Side back{static_cast<int64_t>(warp.sum(off_count)), off_sum};
        if (warp.lane() != 0) continue;
        const SnippetJoint joint = SnippetJoint::of(front, back, problem.joint, problem.floor, problem.rtol);
        const bool two_sided = front.count > 0 && back.count > 0;
        const bool turned = two_sided && front.mean() < back.mean();
        const bool counted = work.keep[i] && (two_sided || !problem.skip_one_sided) &&
                             !(problem.forward_only && turned) && magnitude(joint.value) <= DBL_MAX;
        work.counted[i] = counted;
        work.value[i] = counted ? joint.value : 0;
        out.snippet_by_row[2 * i] = counted && front.count ? joint.by_foreground / static_cast<double>(front.count) : 0;
        out.snippet_by_row[2 * i + 1] = counted && back.count ? joint.by_background / static_cast<double>(back.count) : 0;
    }
    team.barrier();
    double sum = 0, count = 0;
    for (int64_t i = 0; i < n; ++i) {
        sum += work.value[i];
        count += work.counted[i];
    }
    count = count > 0 ? count : 1;
    for_each(team, 2 * n, [&](int64_t at) { out.snippet_by_row[at] /= count; });
    team.barrier();
    return sum / count;
}

template <class T>
D2K_DEVICE PdmiVideo<T> video_term(const Losses<T>& problem, const LossesWork<T>& work, const LossesOut<T>& out) {
    PdmiVideo<T> video{};
    video.p = work.q;
    video.labels = problem.labels;
    video.keep = work.keep;
    video.videos = problem.videos();
    video.classes = problem.classes;
    video.floored = problem.floored;
    video.relative_floor = problem.relative_floor;
    video.normalize_rows = problem.normalize_rows;
    video.per_class = problem.per_class;
    video.atol = problem.video_atol;
    video.rtol = problem.video_rtol;
    video.value = work.dv;
    video.rank = work.rank;
    video.slope = out.video_by_p;
    return video;
}

// run_video(problem): pdmi_video by the team.
template <class Team, class T, class Video, class Pause>
D2K_DEVICE void losses(Team& team, const Losses<T>& problem, const LossesWork<T>& work, const LossesOut<T>& out,
                       const Video& run_video, const Pause& pause) {
    const int64_t n = problem.videos(), c = problem.classes;
    const Lists lists = list_videos(team, problem, work, pause);
    const double classification = classify(team, problem, work, lists, out, pause);
    double ds = 0, dv = 0;
    if (problem.snippet) ds = denoise_snippets(team, problem, work, out);
    else for_each(team, 2 * n, [&](int64_t at) { out.snippet_by_row[at] = 0; });
    if (problem.video && n * c > 0) {
        run_video(video_term(problem, work, out));
        team.barrier();
        dv = static_cast<double>(*work.dv);
        const T low = static_cast<T>(problem.clamp), high = static_cast<T>(1 - problem.clamp);
        if (problem.clamp > 0)
            for_each(team, n * c, [&](int64_t at) {
                const T p = problem.p[at];
                if (!(p >= low && p <= high)) out.video_by_p[at] = 0;
            });
    } else {
        for_each(team, n * c, [&](int64_t at) { out.video_by_p[at] = 0; });
    }
    if (team.rank() != 0) return;
    const double scale = problem.denoising_scale();
    out.factors[0] = scale * problem.snippet_weight;
    out.factors[1] = scale * problem.video_weight;
    *out.classification = static_cast<T>(classification);
    *out.ds = static_cast<T>(ds);
    *out.dv = static_cast<T>(dv);
    *out.total = static_cast<T>(classification + out.factors[0] * ds + out.factors[1] * dv);
}

// Gradients of total, classification, ds and dv, null for one that is 0, and what the forward pass kept.
template <class T>
struct LossesSaved {
    const T *total, *classification, *ds, *dv;
    const double* factors;
    const T* by_p;
    const double* video_by_p;
    const T* by_embedding;
    const double* snippet_by_row;
    const T* score;  // null: no row has a gradient
    double foreground_threshold, background_threshold;

    struct Factors {
        double classification, ds, dv;
    };

    D2K_DEVICE Factors of() const {
        const auto read = [](const T* x) { return x ? static_cast<double>(*x) : 0.0; };
        const double g = read(total);
        return {g + read(classification), g * factors[0] + read(ds), g * factors[1] + read(dv)};
    }
};

template <class T>
struct LossesGradients {
    T *p, *embedding, *on, *off;
};

// The gradients of p and the embedding, element `at` of the one after the other.
template <class T>
D2K_DEVICE void dense_gradient(const LossesSaved<T>& saved, const typename LossesSaved<T>::Factors& g, int64_t at,
                               int64_t scores, const LossesGradients<T>& to) {
    if (at < scores)
        to.p[at] = static_cast<T>(g.classification * static_cast<double>(saved.by_p[at]) + g.dv * saved.video_by_p[at]);
    else
        to.embedding[at - scores] =
            static_cast<T>(g.classification * static_cast<double>(saved.by_embedding[at - scores]));
}

namespace cpu {
template <class T>
Status losses(const Losses<T>& problem, const LossesOut<T>& out);
template <class T>
Status losses_backward(const Sequences& sequences, const LossesSaved<T>& saved, int64_t classes, int64_t width,
                       const LossesGradients<T>& to);
}  // namespace cpu

namespace cuda {
// Bytes of device memory that losses works in, 0 where the block's own has room.
template <class T>
Status losses_workspace(const Losses<T>& problem, int device, size_t* bytes);
template <class T>
Status losses(const Losses<T>& problem, const LossesOut<T>& out, void* workspace, size_t bytes, int device, void* stream);
template <class T>
Status losses_backward(const Sequences& sequences, const LossesSaved<T>& saved, int64_t classes, int64_t width,
                       const LossesGradients<T>& to, int device, void* stream);
}  // namespace cuda

}  // namespace d2k

// The algorithms that are written against team.h: thread teams against the host team, on random ragged problems.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "../checks/inputs.h"
#include "check.h"
#include "d2kernels/connected_components.h"
#include "d2kernels/localize_block.h"
#include "d2kernels/nms_block.h"
#include "d2kernels/topk_block.h"
#include "thread_team.h"

using namespace d2k;

namespace {

const int64_t kOffsets[] = {0, 1, 1, 40, 177}, kLengths[] = {1, 0, 37, 137};
constexpr int64_t kSequences = 4, kTotal = 180, kClasses = 3;

// Few values, so that there are ties and equal neighbours.
template <class T>
std::vector<T> scores() {
    std::mt19937 random(7);
    std::vector<T> values(kTotal * kClasses);
    for (T& x : values) x = T(random() % 9) / T(8);
    return values;
}

void components() {
    const auto values = scores<float>();
    const float levels[] = {0.2f, 0.5f, 0.8f};
    Components<float> problem{};
    problem.sequences = {kOffsets, kLengths, kSequences, kTotal};
    problem.scores = values.data();
    problem.row_stride = problem.classes = kClasses;
    problem.class_stride = 1;
    problem.thresholds = levels;
    problem.levels = 3;
    constexpr int64_t kMost = 128;  // runs of one item
    for (const bool distinct : {false, true})
        for (const int64_t min_length : {1, 2}) {
            problem.distinct = distinct;
            problem.min_length = min_length;
            const auto all = [&](auto& team, std::vector<int64_t>& rows) {
                for (int64_t i = 0; i < problem.items(); ++i) {
                    const auto item = problem.item(i);
                    const auto column = problem.column(item);
                    const int64_t count = count_runs(team, problem, item, column);
                    CHECK(count <= kMost);
                    fill_runs(team, problem, item, column, 0, count, Segments::in(rows.data() + i * 5 * kMost, kMost));
                }
            };
            std::vector<int64_t> want(problem.items() * 5 * kMost, -1);
            HostTeam host;
            all(host, want);
            for (const int size : {32, 64}) {
                std::vector<int64_t> got(want.size(), -1);
                run_team(size, [&](ThreadTeam& team) { all(team, got); });
                CHECK(got == want);
            }
        }
}

// The detections of a block's algorithm: what each sequence keeps, and all columns.
struct Found {
    std::vector<int64_t> counts, first, sequence, label;
    std::vector<double> start, end, score;

    explicit Found(int64_t rows) : counts(kSequences), first(kSequences + 1), sequence(rows, -1), label(sequence), start(rows), end(rows),
                                   score(rows) {}

    bool operator==(const Found& other) const {
        return counts == other.counts && first == other.first && sequence == other.sequence && label == other.label && start == other.start &&
               end == other.end && score == other.score;
    }
};

template <class T, class Team>
void detect(Team& team, const Localization<T>& problem, const LocalizeMemory<T>& memory, unsigned char* planes, Found& found) {
    place_items(team, problem, memory, found.counts.data());
    for (int64_t i = 0; i < memory.counts->wanted; ++i) {
        const int64_t slot = memory.nth(i);
        CHECK(memory.done_before(slot) <= i);
        localize_item(team, problem, memory, slot, planes);
        team.barrier();
    }
    for (int64_t s = 0; s < kSequences; ++s) {
        const int64_t count = keep_of_sequence(team, problem, memory, s);
        if (team.rank() == 0) found.counts[s] = count;
    }
    team.barrier();
    first_of_counts(team, found.counts.data(), kSequences, found.first.data());
    team.barrier();
    const DetectionColumns out{found.sequence.data(), found.label.data(), found.start.data(), found.end.data(),
                               found.score.data()};
    for_each(team, written(found.counts.data(), found.first.data(), kSequences), [&](int64_t i) {
        write_detection(problem, memory, i, found.first.data(), int64_t(found.score.size()), out);
    });
}

template <class T>
void localization(int64_t upsample, int64_t smoothing, double sigma, Relative relative, bool masked = false,
                  bool numbers = true, int many = 4) {
    auto values = scores<T>();
    if (!numbers) values[(50 + 3) * kClasses + 1] = T(INFINITY);  // no run after it has a score
    bool mask[kSequences * kClasses];
    for (int64_t i = 0; i < kSequences * kClasses; ++i) mask[i] = i % 3 != 0;
    std::vector<double> levels(many);
    for (int i = 0; i < many; ++i) levels[i] = (2 * i + 1) / (2.0 * many + 2);
    Localization<T> problem{};
    problem.sequences = {kOffsets, kLengths, kSequences, kTotal};
    problem.activations = values.data();
    problem.row_stride = problem.classes = kClasses;
    problem.class_stride = 1;
    problem.thresholds = levels.data();
    problem.levels = many;
    if (masked) problem.class_mask = mask;
    LocalizeRules& rules = problem.rules;
    rules.margin = 0.25;
    rules.pooled = sigma > 0;
    rules.min_length = 1;
    rules.iou_threshold = 0.5;
    rules.inclusive = true;
    rules.sigma = sigma;
    rules.has_keep_ratio = rules.keep_per_class = upsample == 1;
    rules.keep_ratio = 0.2;
    rules.upsample = upsample;
    rules.smoothing = smoothing;
    rules.relative = relative;

    LocalizeRoom room{0};
    for (int64_t i = 0; i < problem.items(); ++i) room.rows += problem.wanted(i) * kLengths[i / kClasses];
    const auto found = [&](int64_t near, int64_t bytes, const auto& run) {
        LocalizeMemory<T> memory{};
        room.planes = bytes;
        const auto lay_out = [&](uintptr_t base) {
            return memory.lay_out(base, room, kTotal, kSequences, kClasses, upsample, problem.levels, near);
        };
        // Nothing may be read before it is written.
        std::vector<double> work(lay_out(0) / sizeof(double) + 2, NAN), planes(near / sizeof(double) + 2, NAN);
        lay_out(reinterpret_cast<uintptr_t>(work.data()));
        Found result(kTotal * kClasses * upsample);
        run(memory, reinterpret_cast<unsigned char*>(planes.data()), result);
        return result;
    };
    const auto on_host = [&](const auto& memory, unsigned char* planes, Found& result) {
        HostTeam host;
        detect(host, problem, memory, planes, result);
    };
    const int64_t longest = LocalizePlanes<T>::bytes(kTotal, upsample, problem.levels);
    const int64_t shorter = LocalizePlanes<T>::bytes(40, upsample, problem.levels);
    const Found want = found(longest, 0, on_host);
    CHECK(numbers ? want.counts[3] > 5 : want.counts[3] == kNotANumber && want.first[kSequences] == kNotANumber);
    CHECK(want.counts[1] == 0 && (!masked || std::count(want.label.begin(), want.label.end(), 0) == 0));
    CHECK(found(shorter, 0, on_host) == want);  // the longest sequence's planes lie elsewhere, one class after the other
    const Found got = found(shorter, 1 << 20, [&](const auto& memory, unsigned char* planes, Found& result) {
        run_team(32, [&](ThreadTeam& team) { detect(team, problem, memory, planes, result); });
    });
    CHECK(got == want);
}

// Without dividing, as the quotient is: all of small numbers, and pairs of large ones around the threshold.
void overlaps() {
    std::mt19937 random(3);
    for (const double threshold : {0.0, 0.1, 0.3, 1.0 / 3, 0.5, 0.7, 0.9, 1.0, 1.5})
        for (const bool inclusive : {false, true}) {
            LocalizeRules rules{};
            rules.iou_threshold = threshold;
            rules.inclusive = inclusive;
            const Suppression suppresses(rules);
            const auto check = [&](double inner, double outer) {
                CHECK(suppresses(inner, outer) == rules.suppresses(inner / outer));
            };
            for (int outer = 1; outer < 200; ++outer)
                for (int inner = 1; inner <= outer; ++inner) check(inner, outer);
            for (int i = 0; i < 20000; ++i) {
                const double outer = 1 + random() % INT32_MAX, near = std::floor(threshold * outer);
                for (const double step : {-1.0, 0.0, 1.0})
                    if (near + step > 0) check(near + step, outer);
            }
        }
}

// The selection of every class against a sort, for values of each kind; `cached`: a block keeps the keys.
template <class T>
void topk(checks::Values kind, int size) {
    auto values = checks::make<T>(kTotal * kClasses, kind, 7);
    const int64_t ks[] = {1, 1, 5, 20};
    const TopkPool<T> problem{{kOffsets, kLengths, kSequences, kTotal}, values.data(), kClasses, ks};
    constexpr int kGroup = 2;
    const auto falls = [](double a, double b) { return (a != a) > (b != b) || (b == b && a > b); };
    const T junk = stored<T>(-1);
    std::vector<T> mean(kSequences * kClasses, junk), threshold(mean);
    std::vector<int32_t> above(mean.size(), -1), tied(above);
    const TopkPoolOut<T> out{mean.data(), threshold.data(), above.data(), tied.data()};
    TopkShared<kGroup> shared;
    std::vector<TopkRow<kGroup, KeyOf<T>>> rows(kTotal);
    // As a block does: one team and its memory for item after item.
    run_team(size, [&](ThreadTeam& team) {
        for (int64_t i = 0; i < kSequences; ++i)
            for (int64_t label = 0; label < kClasses; label += kGroup)
                topk_pool<kGroup>(team, problem, out, i, label, shared, rows.data());
    });
    for (int64_t at = 0; at < kSequences * kClasses; ++at) {
        const int64_t i = at / kClasses, c = at % kClasses, k = ks[i];
        std::vector<double> column;
        for (int64_t t = 0; t < kLengths[i]; ++t) column.push_back(double(values[(kOffsets[i] + t) * kClasses + c]));
        std::sort(column.begin(), column.end(), falls);
        const double found = double(threshold[at]), average = double(mean[at]);
        if (column.empty()) {
            CHECK(average == 0 && above[at] == 0);
            continue;
        }
        const double edge = column[k - 1];
        CHECK(found == edge || (edge != edge && found != found));
        int64_t higher = 0, equal = 0;
        double sum = 0;
        for (int64_t j = 0; j < int64_t(column.size()); ++j) {
            higher += falls(column[j], edge);
            equal += !falls(column[j], edge) && !falls(edge, column[j]);
            if (j < k) sum += column[j];
        }
        CHECK(above[at] == higher && tied[at] == equal);
        const double want = double(stored<T>(static_cast<ArithmeticOf<T>>(sum / double(k))));
        CHECK(average == want || average - want == 0 || std::abs(average - want) <= 1e-6 * std::abs(want) ||
              (want != want && average != average));
    }
}

void topk_of_every_kind() {
    for (const checks::Values kind : checks::kEveryValues) {
        topk<float>(kind, 32);
        topk<double>(kind, 64);
    }
    topk<Half>(checks::Values::kSomeNan, 32);
    topk<BFloat16>(checks::Values::kSomeInfinite, 64);
}

void suppression() {
    constexpr int64_t kCount = 150;
    std::mt19937 random(3);
    std::vector<double> segments(2 * kCount), scores(kCount);
    for (int64_t i = 0; i < kCount; ++i) {
        segments[2 * i] = double(random() % 90);
        segments[2 * i + 1] = segments[2 * i] + double(random() % 30);
        scores[i] = double(kCount - i) / kCount;
    }
    std::vector<uint8_t> want(kCount), taken(kCount);
    std::vector<double> decayed = scores;
    NmsRound of_host;
    HostTeam host;
    suppress(host, segments.data(), kCount, {0.4, true}, of_host, want.data());
    decay(host, segments.data(), kCount, 0.5, 0.1, decayed.data(), taken.data());
    CHECK(std::count(want.begin(), want.end(), 1) > 5 && std::count(taken.begin(), taken.end(), 1) > 5);
    for (const int size : {32, 64}) {
        std::vector<uint8_t> left(kCount, 7), kept(kCount, 7);
        std::vector<double> score = scores;
        NmsRound round;
        run_team(size, [&](ThreadTeam& team) {
            suppress(team, segments.data(), kCount, {0.4, true}, round, left.data());
            suppress(team, segments.data(), kCount, {0.4, true}, round, left.data());
            decay(team, segments.data(), kCount, 0.5, 0.1, score.data(), kept.data());
        });
        CHECK(left == want && kept == taken && score == decayed);
    }
}

}  // namespace

int main() {
    components();
    topk_of_every_kind();
    suppression();
    overlaps();
    localization<float>(1, 1, 0, Relative::kNone);
    localization<float>(2, 1, 0, Relative::kNone);
    localization<float>(3, 5, 0, Relative::kMinMax);
    localization<double>(1, 3, 0.5, Relative::kMax);
    localization<float>(1, 1, 0, Relative::kNone, true);
    localization<double>(1, 1, 0, Relative::kNone, false, false);
    localization<float>(1, 1, 0.5, Relative::kNone, true, false);
    localization<float>(1, 1, 0, Relative::kNone, false, true, 300);  // whose bits take more room than scores
    std::puts("kernels: ok");
}

// The algorithms that are written against team.h: thread teams against the host team, on random ragged problems.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "d2kernels/connected_components.h"
#include "d2kernels/localize_block.h"
#include "d2kernels/nms_block.h"
#include "d2kernels/topk_pool.h"
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
    std::vector<int64_t> counts, sequence, label;
    std::vector<double> start, end, score;

    explicit Found(int64_t rows) : counts(kSequences), sequence(rows, -1), label(sequence), start(rows), end(rows),
                                   score(rows) {}

    bool operator==(const Found& other) const {
        return counts == other.counts && sequence == other.sequence && label == other.label && start == other.start &&
               end == other.end && score == other.score;
    }
};

template <class T, class Team>
void detect(Team& team, const Localization<T>& problem, const LocalizeMemory<T>& memory, Found& found) {
    const bool fine = in_order(team, problem.sequences);
    if (team.rank() == 0) *memory.valid = fine;
    team.barrier();
    for (int64_t i = 0; i < problem.items(); ++i) {
        localize_item(team, problem, memory, i);
        team.barrier();
    }
    if (team.rank() == 0)
        for (int64_t s = 0; s < kSequences; ++s) found.counts[s] = keep_of_sequence(problem, memory, s);
    team.barrier();
    const DetectionColumns out{found.sequence.data(), found.label.data(), found.start.data(), found.end.data(),
                               found.score.data()};
    int64_t first = 0;
    for (int64_t i = 0; i < problem.items(); ++i) {
        write_item(team, problem, memory, i, first, int64_t(found.score.size()), out);
        if (i % kClasses == kClasses - 1) first += found.counts[i / kClasses];
    }
}

template <class T>
void localization(int64_t upsample, int64_t smoothing, double sigma, Relative relative) {
    const auto values = scores<T>();
    const double levels[] = {0.1, 0.3, 0.5, 0.7};
    Localization<T> problem{};
    problem.sequences = {kOffsets, kLengths, kSequences, kTotal};
    problem.activations = values.data();
    problem.row_stride = problem.classes = kClasses;
    problem.class_stride = 1;
    problem.thresholds = levels;
    problem.levels = 4;
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

    const auto found = [&](const auto& run) {
        LocalizeMemory<T> memory{};
        memory.total = kTotal;
        memory.sequences = kSequences;
        memory.classes = kClasses;
        memory.factor = upsample;
        std::vector<double> work(memory.lay_out(0) / sizeof(double) + 2);
        memory.lay_out(reinterpret_cast<uintptr_t>(work.data()));
        Found result(kTotal * kClasses * upsample);
        run(memory, result);
        return result;
    };
    const Found want = found([&](const auto& memory, Found& result) {
        HostTeam host;
        detect(host, problem, memory, result);
    });
    CHECK(want.counts[3] > 5 && want.counts[1] == 0);
    const Found got = found([&](const auto& memory, Found& result) {
        run_team(32, [&](ThreadTeam& team) { detect(team, problem, memory, result); });
    });
    CHECK(got == want);
}

void topk() {
    auto values = scores<float>();
    values[5 * kClasses] = NAN;
    const int64_t ks[] = {1, 1, 5, 20};
    const TopkPool<float> problem{{kOffsets, kLengths, kSequences, kTotal}, values.data(), kClasses, ks};
    constexpr int kGroup = 2;
    const auto falls = [](float a, float b) { return (a != a) > (b != b) || (b == b && a > b); };
    for (const bool cached : {false, true}) {
        std::vector<float> mean(kSequences * kClasses, -1), threshold(mean);
        std::vector<int32_t> above(mean.size(), -1), tied(above);
        const TopkPoolOut<float> out{mean.data(), threshold.data(), above.data(), tied.data()};
        TopkShared<kGroup> shared;
        std::vector<KeyOf<float>> cache(cached ? kTotal * kGroup : 0);
        // As a block does: one team and its memory for item after item.
        run_team(32, [&](ThreadTeam& team) {
            for (int64_t i = 0; i < kSequences; ++i)
                for (int64_t label = 0; label < kClasses; label += kGroup)
                    topk_pool<kGroup>(team, problem, out, i, label, shared, cache.data(), int64_t(cache.size()));
        });
        for (int64_t at = 0; at < kSequences * kClasses; ++at) {
            const int64_t i = at / kClasses, c = at % kClasses, k = ks[i];
            std::vector<float> column;
            for (int64_t t = 0; t < kLengths[i]; ++t) column.push_back(values[(kOffsets[i] + t) * kClasses + c]);
            std::sort(column.begin(), column.end(), falls);
            if (column.empty()) {
                CHECK(mean[at] == 0 && above[at] == 0);
                continue;
            }
            const float edge = column[k - 1];
            CHECK(threshold[at] == edge || (edge != edge && threshold[at] != threshold[at]));
            int64_t higher = 0, equal = 0;
            double sum = 0;
            for (int64_t j = 0; j < int64_t(column.size()); ++j) {
                higher += falls(column[j], edge);
                equal += !falls(column[j], edge) && !falls(edge, column[j]);
                if (j < k) sum += column[j];
            }
            CHECK(above[at] == higher && tied[at] == equal);
            CHECK(std::abs(mean[at] - sum / double(k)) < 1e-6 || sum != sum);
        }
    }
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
    topk();
    suppression();
    localization<float>(1, 1, 0, Relative::kNone);
    localization<float>(2, 1, 0, Relative::kNone);
    localization<float>(3, 5, 0, Relative::kMinMax);
    localization<double>(1, 3, 0.5, Relative::kMax);
    std::puts("kernels: ok");
}

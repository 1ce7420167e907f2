// The algorithms that are written against team.h: thread teams against the host team, on random ragged problems.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "d2kernels/connected_components.h"
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
    for (const bool distinct : {false, true})
        for (const int64_t min_length : {1, 2}) {
            problem.distinct = distinct;
            problem.min_length = min_length;
            for (int64_t i = 0; i < problem.items(); ++i) {
                const auto item = problem.item(i);
                const auto column = problem.column(item);
                HostTeam host;
                const int64_t count = count_runs(host, problem, item, column);
                std::vector<int64_t> want(5 * count + 5, -1), got(want);
                fill_runs(host, problem, item, column, 0, count, Segments::in(want.data(), count + 1));
                for (int size : {32, 64}) {
                    std::fill(got.begin(), got.end(), -1);
                    run_team(size, [&](ThreadTeam& team) {
                        CHECK(count_runs(team, problem, item, column) == count);
                        fill_runs(team, problem, item, column, 0, count, Segments::in(got.data(), count + 1));
                    });
                    CHECK(got == want);
                }
            }
        }
}

void topk() {
    auto values = scores<float>();
    values[5 * kClasses] = NAN;
    const int64_t ks[] = {1, 1, 5, 20};
    const TopkPool<float> problem{{kOffsets, kLengths, kSequences, kTotal}, values.data(), kClasses, ks};
    constexpr int kGroup = 2;
    for (const bool cached : {false, true})
        for (int64_t i = 0; i < kSequences; ++i)
            for (int64_t label = 0; label < kClasses; label += kGroup) {
                std::vector<float> mean(kSequences * kClasses, -1), threshold(mean);
                std::vector<int32_t> above(mean.size(), -1), tied(above);
                const TopkPoolOut<float> out{mean.data(), threshold.data(), above.data(), tied.data()};
                TopkShared<kGroup> shared;
                std::vector<KeyOf<float>> cache(cached ? kTotal * kGroup : 0);
                run_team(32, [&](ThreadTeam& team) {
                    topk_pool<kGroup>(team, problem, out, i, label, shared, cache.data(), int64_t(cache.size()));
                });
                for (int64_t c = label; c < std::min(label + kGroup, kClasses); ++c) {
                    std::vector<float> column;
                    for (int64_t t = 0; t < kLengths[i]; ++t) column.push_back(values[(kOffsets[i] + t) * kClasses + c]);
                    const auto falls = [](float a, float b) { return (a != a) > (b != b) || (b == b && a > b); };
                    std::sort(column.begin(), column.end(), falls);
                    const int64_t at = i * kClasses + c, k = ks[i];
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

}  // namespace

int main() {
    components();
    topk();
    std::puts("kernels: ok");
}

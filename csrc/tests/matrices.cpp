// Small matrices: thread teams, one thread a column and four, against the host team to the bit.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "check.h"
#include "d2kernels/condition_number.h"
#include "d2kernels/pdmi.h"
#include "d2kernels/svd.h"
#include "thread_team.h"

namespace d2k {

// A team whose groups are four threads, as a block's are.
struct FourTeam : ThreadTeam {
    FourTeam(const ThreadTeam& team, std::deque<Meeting>& all) : ThreadTeam(team), groups(&all) {}
    std::deque<Meeting>* groups;
};

template <>
struct Group<FourTeam> {
    static constexpr int width = kParts;

    explicit Group(const FourTeam& t) : team(t) {}
    int64_t index() const { return team.rank() / width; }
    int64_t count() const { return team.size() / width; }
    int part() const { return team.rank() % width; }
    ThreadTeam own() const { return ThreadTeam((*team.groups)[index()], part()); }
    void sync() const { own().barrier(); }

    double sum(const double (&parts)[1]) const {
        double p[width];
        for (int i = 0; i < width; ++i) p[i] = own().broadcast(parts[0], i);
        return (p[0] + p[2]) + (p[1] + p[3]);
    }
    double from(const double* y, int64_t row) const {
        const int owner = static_cast<int>(row % width);
        return own().broadcast(part() == owner ? y[row] : 0.0, owner);
    }

    const FourTeam& team;
};

}  // namespace d2k

using namespace d2k;

namespace {

constexpr int kThreads = 32;

std::vector<double> normal(int64_t count, int seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> draw;
    std::vector<double> x(count);
    for (double& v : x) v = draw(random);
    return x;
}

// Runs body(team, results) with the host team, with single threads and with groups: the results must be the same bits.
template <class Body>
void same(int64_t results, const Body& body) {
    std::vector<double> want(results, NAN);
    HostTeam host;
    body(host, want.data());
    const auto compare = [&](const std::vector<double>& got) {
        CHECK(std::memcmp(got.data(), want.data(), results * sizeof(double)) == 0);
    };
    std::vector<double> got(results, NAN);
    run_team(kThreads, [&](ThreadTeam& team) { body(team, got.data()); });
    compare(got);
    std::fill(got.begin(), got.end(), NAN);
    std::deque<ThreadTeam::Meeting> groups;
    for (int i = 0; i < kThreads / kParts; ++i) groups.emplace_back(kParts);
    run_team(kThreads, [&](ThreadTeam& team) {
        FourTeam four(team, groups);
        body(four, got.data());
    });
    compare(got);
}

void condition(int64_t rows, int64_t inner, int64_t columns, bool factored, double dependent) {
    const int64_t batch = 3, k = factored ? inner : columns, sizes = rows * k + (factored ? inner * columns : 0);
    std::vector<double> a = normal(batch * rows * k, 1), b = normal(batch * inner * columns, 2);
    for (int64_t i = 0; i < rows; ++i) a[i * k] = dependent * a[i * k + k - 1];
    for (int64_t i = 0; i < rows * k; ++i) a[rows * k + i] *= i % 2 ? 1e-300 : 1e-290;
    a[2 * rows * k] = factored ? 0 : NAN;
    ConditionNumber<double> problem{a.data(), factored ? b.data() : nullptr, batch, rows, inner, columns, 0, 1e-13, true,
                                    nullptr, nullptr, nullptr};
    const Plan plan = problem.plan();
    const int64_t size = ExtremesWork<double>::size(plan), doubles = problem.doubles();
    std::vector<double> memory(size + doubles);
    same(batch * (1 + sizes), [&](auto& team, double* out) {
        ConditionNumber<double> own = problem;
        own.value = out;
        own.slope_a = out + batch;
        own.slope_b = own.slope_a + batch * rows * k;
        Scratch scratch(memory.data(), memory.size() * sizeof(double));
        const auto work = ExtremesWork<double>::in(scratch, plan);
        double* const extra = scratch.take<double>(doubles);
        CHECK(extra || doubles == 0);
        for (int64_t i = 0; i < batch; ++i) {
            Range range;
            prepare_all(team, own, i, work, extra, &range);
            const auto e = extremes(team, plan, work, own.atol, own.rtol, &range);
            finish_all(team, own, i, e, extra, &range);
        }
    });
}

void svd(int64_t rows, int64_t columns) {
    const int64_t batch = 2, k = std::min(rows, columns);
    std::vector<double> a = normal(batch * rows * columns, 3);
    for (int64_t i = 0; i < columns; ++i) a[i] = 0;
    const Svd<double> problem{a.data(), batch, rows, columns, nullptr, nullptr, nullptr};
    const Plan plan = problem.plan();
    std::vector<double> memory(SvdWork<double>::size(plan));
    same(batch * k * (rows + 1 + columns), [&](auto& team, double* out) {
        Svd<double> own = problem;
        own.u = out;
        own.s = own.u + batch * rows * k;
        own.vh = own.s + batch * k;
        Scratch scratch(memory.data(), memory.size() * sizeof(double));
        const auto work = SvdWork<double>::in(scratch, plan);
        for (int64_t i = 0; i < batch; ++i) {
            Range range;
            load_all(team, own, i, work, &range);
            decompose_whole(team, plan, work);
            write_all(team, own, i, work, &range);
        }
    });
}

void video(int64_t n, int64_t classes, bool options) {
    std::vector<double> p = normal(n * classes, 4);
    for (double& x : p) x = std::fabs(x);
    std::mt19937 random(5);
    std::vector<unsigned char> labels(n * classes), keep(n);
    for (auto& x : labels) x = random() % 3 == 0;
    for (auto& x : keep) x = random() % 5 != 0;
    for (int64_t i = 0; i < n; ++i) labels[i * classes] = labels[i * classes + classes - 1];
    int64_t ranks[1];
    PdmiVideo<double> problem{p.data(), reinterpret_cast<bool*>(labels.data()), reinterpret_cast<bool*>(keep.data()), n,
                              classes, options, 0.2, options, options, 0, 1e-13, nullptr, ranks, nullptr};
    std::vector<double> memory(PdmiVideoWork::bytes(problem) / 8);
    same(1 + n * classes, [&](auto& team, double* out) {
        PdmiVideo<double> own = problem;
        own.value = out;
        own.slope = out + 1;
        Scratch scratch(memory.data(), memory.size() * sizeof(double));
        PdmiVideoWork work = PdmiVideoWork::in(scratch, own);
        bool finite = true;
        const auto factors = video_joint(team, own, work, finite);
        CHECK(finite && factors.rows > 1 && factors.inner > 1);
        const Plan plan = factors.plan();
        Range range;
        work.extremes = ExtremesWork<double>::in(scratch, plan);
        CHECK(work.extremes.vectors);
        prepare_all(team, factors, 0, work.extremes, work.doubles, &range);
        const auto e = extremes(team, plan, work.extremes, own.atol, own.rtol, &range);
        finish_all(team, factors, 0, e, work.doubles, &range);
        write_video(team, own, work, factors.inner, finite, e.rank);
    });
}

}  // namespace

int main() {
    for (const double dependent : {1.0, 1e-6}) {
        condition(5, 0, 5, false, dependent);
        condition(9, 0, 4, false, dependent);
        condition(3, 0, 7, false, dependent);
        condition(7, 3, 9, true, dependent);
        condition(9, 4, 6, true, dependent);
        condition(4, 6, 5, true, dependent);
    }
    svd(6, 6);
    svd(9, 4);
    svd(3, 10);
    for (const bool options : {false, true}) {
        video(4, 7, options);
        video(12, 6, options);
    }
    std::puts("matrices: ok");
}

// The algorithms on small matrices: blocks in which four threads share a column, against the host, which adds in another
// order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/bidiagonal.h"
#include "d2kernels/condition_number.h"
#include "d2kernels/pdmi.h"
#include "d2kernels/svd.h"
#include "d2kernels/svd_backward.h"
#include "thread_team.h"

using namespace d2k;

namespace {

// Four threads of a warp: a meeting for __syncwarp, and a shuffle. The shuffle passes its values alone: whatever else it
// orders on a CPU is kept from ThreadSanitizer, since on a GPU it orders nothing.
struct Quad {
    ThreadTeam::Meeting meeting{kParts};
    double values[2][kParts] = {};
    uint32_t round[kParts] = {};

    __attribute__((no_sanitize("thread"), noinline)) void pass(int part, double value, double (&all)[kParts]) {
        const uint32_t mine = round[part] + 1;
        double* const now = values[mine % 2];
        __atomic_store(&now[part], &value, __ATOMIC_RELAXED);
        __atomic_store_n(&round[part], mine, __ATOMIC_RELEASE);
        for (int p = 0; p < kParts; ++p)
            while (int32_t(__atomic_load_n(&round[p], __ATOMIC_ACQUIRE) - mine) < 0) std::this_thread::yield();
        for (int p = 0; p < kParts; ++p) __atomic_load(&now[p], &all[p], __ATOMIC_RELAXED);
    }
};

struct QuadTeam : ThreadTeam {
    QuadTeam(const ThreadTeam& team, std::vector<Quad>& quads) : ThreadTeam(team), quad(quads[team.rank() / kParts]) {}
    Quad& quad;
};

}  // namespace

// As in a CUDA block.
template <>
struct d2k::Group<QuadTeam> {
    static constexpr int width = kParts;
    const QuadTeam& team;

    explicit Group(const QuadTeam& t) : team(t) {}
    int64_t index() const { return team.rank() / width; }
    int64_t count() const { return team.size() / width; }
    int part() const { return team.rank() % width; }
    void sync() const { team.quad.meeting.meet(part(), "sync"); }

    double sum(const double (&parts)[1]) const {
        double all[kParts];
        team.quad.pass(part(), parts[0], all);
        return (all[0] + all[2]) + (all[1] + all[3]);
    }

    double whole(double x) const { return sum({x}); }

    double most(double x) const {
        double all[kParts];
        team.quad.pass(part(), x, all);
        return *std::max_element(all, all + kParts);
    }

    double from(double x, int part) const {
        double all[kParts];
        team.quad.pass(this->part(), x, all);
        return all[part];
    }

    bool any(bool holds) const { return holds; }
};

namespace {

constexpr int kSize = 16;

// run(team) on a block of quads.
template <class Run>
void as_block(const Run& run) {
    std::vector<Quad> quads(kSize / kParts);
    run_team(kSize, [&](ThreadTeam& team) {
        QuadTeam block(team, quads);
        run(block);
    });
}

// Whether all values agree within `tolerance` of the largest one; NaN equals NaN.
bool close(const std::vector<double>& a, const std::vector<double>& b, double tolerance = 1e-11) {
    double largest = 0;
    for (const double x : b) largest = std::abs(x) > largest ? std::abs(x) : largest;
    bool same = a.size() == b.size();
    for (size_t i = 0; same && i < a.size(); ++i)
        same = std::isnan(b[i]) ? std::isnan(a[i]) : std::abs(a[i] - b[i]) <= tolerance * largest;
    return same;
}

std::vector<double> random_matrix(int64_t rows, int64_t columns, int64_t rank, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::vector<double> a(rows * columns), left(rows * rank), right(rank * columns);
    for (double& x : left) x = normal(random);
    for (double& x : right) x = normal(random);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            for (int64_t l = 0; l < rank; ++l) a[i * columns + j] += left[i * rank + l] * right[l * columns + j];
    return a;
}

void svd(const std::vector<double>& a, int64_t rows, int64_t columns) {
    const int64_t k = std::min(rows, columns), batch = int64_t(a.size()) / (rows * columns);
    struct Out {
        std::vector<double> u, s, vh;
    };
    const auto of = [&](const auto& start) {
        Out out{std::vector<double>(batch * rows * k, -1), std::vector<double>(batch * k, -1),
                std::vector<double>(batch * k * columns, -1)};
        const Svd<double> problem{a.data(), batch, rows, columns, out.u.data(), out.s.data(), out.vh.data()};
        const Plan plan = problem.plan();
        std::vector<double> memory(SvdWork<double>::size(plan));
        start([&](auto& team) {
            Scratch scratch(memory.data(), memory.size() * sizeof(double));
            const auto work = SvdWork<double>::in(scratch, plan);
            CHECK(work.right.first);
            for (int64_t i = 0; i < batch; ++i) {
                Range range;
                load_all(team, problem, i, work, &range);
                decompose_whole(team, plan, work);
                write_all(team, problem, i, work, &range);
            }
        });
        return out;
    };
    const Out want = of([](const auto& run) {
        HostTeam host;
        run(host);
    });
    const Out got = of([](const auto& run) { as_block(run); });
    CHECK(close(got.s, want.s, 1e-14));
    for (const Out* out : {&want, &got})
        for (int64_t b = 0; b < batch; ++b) {
            const double *const u = &out->u[b * rows * k], *const s = &out->s[b * k], *const vh = &out->vh[b * k * columns];
            CHECK(std::isnan(s[0]) == std::isnan(want.s[b * k]));
            if (!std::isfinite(s[0])) continue;
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < columns; ++j) {
                    double sum = 0;
                    for (int64_t l = 0; l < k; ++l) sum += u[i * k + l] * s[l] * vh[l * columns + j];
                    CHECK(std::abs(sum - a[(b * rows + i) * columns + j]) <= 1e-14 * k * s[0]);
                }
            for (int64_t x = 0; x < k; ++x)
                for (int64_t y = 0; y <= x; ++y) {
                    double left = 0, right = 0;
                    for (int64_t i = 0; i < rows; ++i) left += u[i * k + x] * u[i * k + y];
                    for (int64_t j = 0; j < columns; ++j) right += vh[x * columns + j] * vh[y * columns + j];
                    CHECK(std::abs(left - (x == y)) <= 1e-14 && std::abs(right - (x == y)) <= 1e-14);
                }
        }
}

// Any of the gradients may be absent; values as given, whether or not the vectors are anybody's.
void svd_gradient(int64_t rows, int64_t columns, const std::vector<double>& s) {
    const auto k = static_cast<int64_t>(s.size());
    const auto u = random_matrix(rows, k, k, 20), vh = random_matrix(k, columns, k, 21), grad_u = random_matrix(rows, k, k, 22),
               grad_s = random_matrix(1, k, 1, 23), grad_vh = random_matrix(k, columns, k, 24);
    for (int given = 0; given < 8; ++given) {
        const auto of = [&](const auto& start) {
            std::vector<double> gradient(rows * columns, -1);
            const SvdBackward<double> problem{given & 1 ? grad_u.data() : nullptr, given & 2 ? grad_s.data() : nullptr,
                                              given & 4 ? grad_vh.data() : nullptr, u.data(), s.data(), vh.data(), 1, rows,
                                              columns, gradient.data()};
            std::vector<double> memory(SvdBackwardWork::size(problem));
            start([&](auto& team) {
                Scratch scratch(memory.data(), memory.size() * sizeof(double));
                const auto work = SvdBackwardWork::in(scratch, problem);
                CHECK(work.u.first);
                svd_backward(team, problem, 0, work);
            });
            return gradient;
        };
        const auto want = of([](const auto& run) {
            HostTeam host;
            run(host);
        });
        CHECK(close(of([](const auto& run) { as_block(run); }), want, 1e-14));
        CHECK(given || close(want, std::vector<double>(rows * columns)));
    }
}

// Extreme values by bisection against those of Jacobi's rotations: as far off as a rounding of the largest.
void bidiagonal(const std::vector<double>& a, int64_t rows, int64_t columns) {
    const Plan plan = Plan::whole(rows, columns);
    std::vector<double> memory(ExtremesWork<double>::size(plan));
    Scratch scratch(memory.data(), memory.size() * sizeof(double));
    const auto work = ExtremesWork<double>::in(scratch, plan);
    HostTeam host;
    const auto fill = [&] {
        Range range = range_of(host, a.data(), rows * columns);
        load(host, a.data(), rows, columns, plan.turned, range, work.g.columns, 0);
        return range;
    };
    Range range = fill();
    const Chosen<double> want = decomposed(host, plan, work, 0, 0, &range).chosen;
    range = fill();
    double *const d = work.g.diagonal, *const e = work.w.diagonal;
    double of[2];
    cpu::bidiagonalize(host, work.g, e, work.square, work.vectors);
    for (int64_t i = 0; i < plan.q; ++i) {
        d[i] *= d[i];
        e[i] = i + 1 < plan.q ? e[i] * e[i] : 0;
    }
    cpu::bisect(d, e, plan.q, of);
    CHECK(std::abs(of[0] - want.largest) <= 1e-14 * want.largest);
    CHECK(std::abs(of[1] - (want.rank == double(plan.q) ? want.smallest : 0)) <= 1e-14 * want.largest);
}

void condition(const std::vector<double>& a, const std::vector<double>* b, int64_t rows, int64_t inner, int64_t columns) {
    struct Out {
        std::vector<double> value, slope_a, slope_b;
    };
    const auto of = [&](const auto& start) {
        Out out{std::vector<double>(1, -1), std::vector<double>(a.size(), -1), std::vector<double>(b ? b->size() : 0, -1)};
        const ConditionNumber<double> problem{a.data(), b ? b->data() : nullptr, 1, rows, inner, columns, 0, 1e-13, true,
                                              out.value.data(), out.slope_a.data(), out.slope_b.data()};
        const Plan plan = problem.plan();
        std::vector<double> memory(ExtremesWork<double>::size(plan) + problem.doubles());
        start([&](auto& team) {
            Scratch scratch(memory.data(), memory.size() * sizeof(double));
            const auto work = ExtremesWork<double>::in(scratch, plan);
            double* const doubles = scratch.take<double>(problem.doubles());
            CHECK(doubles);
            Range range;
            prepare_all(team, problem, 0, work, doubles, &range);
            const Extremes<double> e = extremes(team, plan, work, problem.atol, problem.rtol, &range);
            finish_all(team, problem, 0, e, doubles, &range);
        });
        return out;
    };
    const Out want = of([](const auto& run) {
        HostTeam host;
        run(host);
    });
    const Out got = of([](const auto& run) { as_block(run); });
    CHECK(want.value[0] >= 0);
    CHECK(close(got.value, want.value) && close(got.slope_a, want.slope_a) && close(got.slope_b, want.slope_b));
}

void video() {
    constexpr int64_t n = 7, c = 9;
    std::vector<double> p = random_matrix(n, c, c, 3);
    for (double& x : p) x = std::abs(x);
    bool labels[n * c] = {}, keep[n];
    for (int64_t i = 0; i < n; ++i) {
        keep[i] = i != 2;
        labels[i * c + i] = labels[i * c + (3 * i) % c] = true;
        labels[i * c + 8] = labels[i * c + 1];  // a repeated class
    }
    struct Out {
        double value = -1;
        int64_t rank = -1;
        std::vector<double> slope = std::vector<double>(n * c, -1);
    };
    const auto of = [&](const auto& start) {
        Out out;
        const PdmiVideo<double> problem{p.data(), labels, keep, n, c, true, 0.2, true, false, 0, 1e-13,
                                        &out.value, &out.rank, out.slope.data()};
        std::vector<double> memory(PdmiVideoWork::bytes(problem) / sizeof(double));
        start([&](auto& team) {
            Scratch scratch(memory.data(), memory.size() * sizeof(double));
            PdmiVideoWork work = PdmiVideoWork::in(scratch, problem);
            bool finite = true;
            const ConditionNumber<double> factors = video_joint(team, problem, work, finite);
            CHECK(finite && factors.rows == 6 && factors.inner == n - 1);
            const Plan plan = factors.plan();
            Range range;
            work.extremes = ExtremesWork<double>::in(scratch, plan);
            CHECK(work.extremes.vectors);
            prepare_all(team, factors, 0, work.extremes, work.doubles, &range);
            const Extremes<double> e = extremes(team, plan, work.extremes, problem.atol, problem.rtol, &range);
            finish_all(team, factors, 0, e, work.doubles, &range);
            write_video(team, problem, work, factors.inner, finite, e.rank);
        });
        return out;
    };
    const Out want = of([](const auto& run) {
        HostTeam host;
        run(host);
    });
    const Out got = of([](const auto& run) { as_block(run); });
    CHECK(want.value > 0 && want.rank > 1);
    CHECK(close({got.value}, {want.value}) && got.rank == want.rank && close(got.slope, want.slope));
}

void snippet() {
    constexpr int64_t total = 300, n = 3;
    const int64_t offsets[] = {0, 250, 255}, lengths[] = {241, 0, 45};
    std::mt19937 random(5);
    std::uniform_real_distribution<double> uniform;
    std::vector<double> attention(total), foreground(total);
    for (double& x : attention) x = uniform(random);
    for (double& x : foreground) x = uniform(random);
    struct Out {
        std::vector<double> value, foreground_mean, background_mean, foreground_slope, background_slope;
        std::vector<int64_t> foreground_count, background_count;
    };
    const auto of = [&](const auto& start) {
        const std::vector<double> none(n, -1);
        Out out{none, none, none, none, none, std::vector<int64_t>(n, -1), std::vector<int64_t>(n, -1)};
        const PdmiSnippet<double> problem{{offsets, lengths, n, total}, attention.data(), attention.data(),
                                          foreground.data(), 0.6, 0.4, true, 0, 1e-6};
        const PdmiSnippetOut<double> to{out.value.data(), out.foreground_count.data(), out.background_count.data(),
                                        out.foreground_mean.data(), out.background_mean.data(),
                                        out.foreground_slope.data(), out.background_slope.data()};
        start([&](auto& team) {
            for (int64_t i = 0; i < n; ++i) pdmi_snippet(team, problem, to, i);
        });
        return out;
    };
    const Out want = of([](const auto& run) {
        HostTeam host;
        run(host);
    });
    const Out got = of([](const auto& run) { as_block(run); });
    CHECK(got.foreground_count == want.foreground_count && got.background_count == want.background_count);
    CHECK(want.foreground_count[0] > 50 && want.background_count[0] > 50);
    CHECK(close(got.value, want.value) && close(got.foreground_mean, want.foreground_mean));
    CHECK(close(got.background_mean, want.background_mean) && close(got.foreground_slope, want.foreground_slope));
    CHECK(close(got.background_slope, want.background_slope));
}

}  // namespace

int main() {
    svd(random_matrix(10, 6, 6, 0), 10, 6);
    svd(random_matrix(5, 9, 3, 1), 5, 9);
    auto two = random_matrix(1, 3, 1, 2);
    two.insert(two.end(), {NAN, 0, 1});
    svd(two, 1, 3);
    svd(std::vector<double>(16), 4, 4);
    svd(random_matrix(70, 36, 30, 9), 70, 36);  // more rows than a group holds at once
    svd_gradient(1, 1, {2});
    svd_gradient(9, 5, {3e200, 2e200, 2e200, 1, 0});
    svd_gradient(6, 19, {6e-300, 5e-300, 4e-300, 3e-300, 2e-300, 1e-300});
    svd_gradient(3, 3, {NAN, NAN, NAN});
    for (const int64_t size : {1, 2, 3, 7, 40})
        for (const int64_t more : {0, 1, 9}) bidiagonal(random_matrix(size + more, size, size, 30), size + more, size);
    bidiagonal(random_matrix(5, 30, 5, 31), 5, 30);
    bidiagonal(random_matrix(20, 20, 15, 32), 20, 20);
    bidiagonal(std::vector<double>(36), 6, 6);
    auto diagonal = std::vector<double>(64);
    for (int64_t i = 0; i < 8; ++i) diagonal[i * 9] = std::ldexp(i % 3 == 1 ? -1 : 1, int(-2 * i));
    bidiagonal(diagonal, 8, 8);
    condition(random_matrix(9, 7, 7, 3), nullptr, 9, 0, 7);
    condition(random_matrix(6, 6, 4, 4), nullptr, 6, 0, 6);
    condition(random_matrix(67, 35, 35, 10), nullptr, 67, 0, 35);
    const auto narrow = random_matrix(3, 8, 3, 5), wide = random_matrix(9, 5, 5, 6);
    condition(random_matrix(7, 3, 3, 7), &narrow, 7, 3, 8);
    condition(random_matrix(4, 9, 4, 8), &wide, 4, 9, 5);
    video();
    snippet();
    std::puts("matrices: ok");
}

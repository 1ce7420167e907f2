// team.h on one thread and on many. Arguments: none runs every check; "race" and "divergent" plant a fault.
#include "d2kernels/team.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "thread_team.h"

using namespace d2k;

namespace {

const int kSizes[] = {1, 32, 128};

struct Pair {
    double value;
    int64_t index;
};

bool smaller(const Pair& a, const Pair& b) {
    return a.value < b.value || (a.value == b.value && a.index < b.index);
}

// check(team) on a HostTeam and on thread teams of several sizes.
template <class Check>
void each_team(const Check& check) {
    HostTeam host;
    check(host);
    for (int size : kSizes) run_team(size, check);
}

void reductions() {
    each_team([](auto& team) {
        const int n = team.size(), rank = team.rank();
        CHECK(team.reduce(rank + 1, Sum{}) == n * (n + 1) / 2);
        CHECK(team.reduce(double(rank), Max{}) == n - 1);
        CHECK(team.reduce(int64_t(rank), Min{}) == 0);
        CHECK(any(team, rank == n - 1) && !any(team, false));
        CHECK(all(team, true) && all(team, rank < n - 1) == false);
        CHECK(team.broadcast(rank * 3, n / 2) == n / 2 * 3);
        const Pair last = team.reduce(Pair{double(rank), rank}, [](Pair a, Pair b) { return smaller(a, b) ? b : a; });
        CHECK(last.index == n - 1);
    });
}

void scans() {
    each_team([](auto& team) {
        const int n = team.size(), rank = team.rank();
        int64_t carry = 5;
        for (int tile = 0; tile < 4; ++tile) {
            const int64_t place = tile * n + rank;
            CHECK(team.scan(int64_t{1}, Sum{}, carry) == 5 + place + 1);
            CHECK(carry == 5 + (tile + 1) * n);
        }
        double highest = -1;
        CHECK(team.scan(double(n - rank), Max{}, highest) == n && highest == n);
    });
}

void compactions() {
    std::mt19937 random(1);
    std::vector<int> items(1000);
    for (int& item : items) item = int(random() % 5);
    std::vector<int> want;
    for (int i = 0; i < int(items.size()); ++i)
        if (items[i] == 0) want.push_back(i);
    std::vector<int> got(items.size());
    HostTeam host;
    const auto run = [&](auto& team) {
        int64_t count = 0;
        for (size_t tile = 0; tile < items.size(); tile += team.size()) {
            const size_t i = tile + team.rank();
            const bool keep = i < items.size() && items[i] == 0;
            const int64_t place = compact(team, keep, count);
            if (keep) got[place] = int(i);
        }
        CHECK(count == int64_t(want.size()));
    };
    const auto equal = [&] { return std::equal(want.begin(), want.end(), got.begin()); };
    run(host);
    CHECK(equal());
    for (int size : kSizes) {
        std::fill(got.begin(), got.end(), -1);
        run_team(size, run);
        CHECK(equal());
    }
}

std::vector<Pair> unsorted(int64_t count, int kind) {
    std::mt19937 random(unsigned(count) + unsigned(kind));
    std::vector<Pair> items(count);
    for (int64_t i = 0; i < count; ++i)
        items[i] = {kind == 0 ? double(random() % 64) : kind == 1 ? double(i) : kind == 2 ? double(-i) : 0.0, i};
    if (kind == 3) std::reverse(items.begin(), items.end());
    return items;
}

void sorts() {
    for (int64_t count : {0, 1, 2, 3, 31, 64, 65, 200})
        for (int kind = 0; kind < 4; ++kind) {
            auto want = unsorted(count, kind);
            std::sort(want.begin(), want.end(), smaller);
            const auto same = [&](const std::vector<Pair>& got) {
                return std::equal(got.begin(), got.end(), want.begin(),
                                  [](const Pair& a, const Pair& b) { return a.index == b.index; });
            };
            auto items = unsorted(count, kind);
            HostTeam host;
            sort(host, items.data(), count, smaller);
            CHECK(same(items));
            for (int size : kSizes) {
                items = unsorted(count, kind);
                run_team(size, [&](ThreadTeam& team) { sort(team, items.data(), count, smaller); });
                CHECK(same(items));
            }
        }
}

void visits() {
    for (int size : kSizes) {
        std::vector<int> seen(77);
        run_team(size, [&](ThreadTeam& team) { for_each(team, 77, [&](int64_t i) { ++seen[i]; }); });
        CHECK(std::accumulate(seen.begin(), seen.end(), 0) == 77 && *std::min_element(seen.begin(), seen.end()) == 1);
    }
}

void scratch() {
    alignas(16) unsigned char memory[64];
    Scratch whole(memory, sizeof memory);
    Scratch part = whole;
    CHECK(part.take<char>(1) == reinterpret_cast<char*>(memory));
    CHECK(reinterpret_cast<unsigned char*>(part.take<double>(2)) == memory + 8);
    CHECK(part.take<double>(6) == nullptr && part.take<double>(5) != nullptr && part.take<char>(1) == nullptr);
    CHECK(whole.take<char>(64) != nullptr && Scratch(memory, 64).take<char>(-1) == nullptr);
    CHECK(Scratch(memory, 64).take<double>(INT64_MAX) == nullptr);
    CHECK(Scratch(memory + 1, 4).take<double>(1) == nullptr);
}

// A team whose barrier lets everyone through.
struct Careless : ThreadTeam {
    using ThreadTeam::ThreadTeam;
    explicit Careless(const ThreadTeam& team) : ThreadTeam(team) {}
    void barrier() const {}
};

void race() {
    auto items = unsorted(200, 2);
    run_team(32, [&](ThreadTeam& team) {
        Careless careless(team);
        sort(careless, items.data(), int64_t(items.size()), smaller);
    });
}

void divergent() {
    run_team(32, [](ThreadTeam& team) {
        if (team.rank() % 2) team.reduce(1, Sum{});
        else team.barrier();
    });
}

}  // namespace

int main(int count, char** arguments) {
    const std::string plant = count > 1 ? arguments[1] : "";
    if (plant == "race") race();
    else if (plant == "divergent") divergent();
    else {
        reductions();
        scans();
        compactions();
        sorts();
        visits();
        scratch();
        std::puts("team: ok");
    }
}

#include "d2kernels/connected_components.h"

#include <algorithm>
#include <vector>

#include "parallel.h"

namespace d2k::cpu {
namespace {

// Calls body(team, item index, item, column) for every wanted item; a class's strided scores are gathered once.
template <class T, class Body>
Status each_item(const Components<T>& problem, int threads, const Body& body) {
    int64_t rows = 0;
    for (int64_t i = 0; i < problem.sequences.count; ++i) rows += problem.sequences[i].length;
    const double steps = static_cast<double>(rows) * problem.classes * problem.levels;
    const int64_t chunk = std::max<int64_t>(1, problem.items() / 256);
    return parallel_for(problem.items(), chunk, steps, threads, [&](int64_t begin, int64_t end) {
        HostTeam team;
        std::vector<T> gathered;
        Column<T> column{};
        int64_t series = -1;
        for (int64_t i = begin; i < end; ++i) {
            const auto item = problem.item(i);
            if (!problem.wanted(item)) {
                i += problem.levels - item.level - 1;
                continue;
            }
            if (item.series != series) {
                series = item.series;
                column = problem.column(item);
                if (column.stride != 1) {
                    gathered.resize(column.length);
                    for (int64_t t = 0; t < column.length; ++t) gathered[t] = column.first[t * column.stride];
                    column = {gathered.data(), 1, column.length};
                }
            }
            body(team, i, item, column);
        }
    });
}

}  // namespace

template <class T>
Status connected_components_count(const Components<T>& problem, int64_t* positions, int threads) {
    const int64_t items = problem.items();
    std::fill_n(positions, items + 1, 0);
    const Status status = each_item(problem, threads, [&](auto& team, int64_t i, const auto& item, const auto& column) {
        positions[i] = count_runs(team, problem, item, column);
    });
    int64_t sum = 0;
    for (int64_t i = 0; i <= items; ++i) {
        const int64_t count = positions[i];
        positions[i] = sum;
        sum += count;
    }
    return status;
}

template <class T>
Status connected_components_fill(const Components<T>& problem, const int64_t* positions, Segments out, int threads) {
    return each_item(problem, threads, [&](auto& team, int64_t i, const auto& item, const auto& column) {
        const int64_t room = positions[i + 1] - positions[i];
        if (room > 0) fill_runs(team, problem, item, column, positions[i], room, out);
    });
}

#define D2K_INSTANTIATE(T)                                                                             \
    template Status connected_components_count<T>(const Components<T>&, int64_t*, int);                \
    template Status connected_components_fill<T>(const Components<T>&, const int64_t*, Segments, int);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)

}  // namespace d2k::cpu

#include "d2kernels/connected_components.h"

#include <algorithm>
#include <cmath>

#include "d2kernels/warp.h"
#include "launch.h"

namespace d2k::cuda {
namespace {

// A block has a tile of rows and classes in shared memory, and each warp an item of the tile after another, 32 rows of it
// a word of bits. A run that began before its tile is found by its end, and looked for in the tiles before.
constexpr int kThreads = 256, kTile = 512;
constexpr int64_t kMostBlocks = 1 << 20;  // blocks stride over more tiles than this

using Team = BlockTeam<kThreads>;

template <class T>
constexpr int kWidth = 64 / static_cast<int>(sizeof(T));  // classes of a tile: two sectors of a row

// The counts are added up in equal parts, a block each: few enough that a block adds up the parts before its own.
constexpr int64_t kMostParts = 1024, kLeastPart = 2048;

struct Parts {
    int64_t size, number, each;

    explicit Parts(int64_t items)
        : size(items + 1),
          number(std::min((size + kLeastPart - 1) / kLeastPart, kMostParts)),
          each((size + number - 1) / number) {}

    __device__ int64_t first() const { return blockIdx.x * each; }
    __device__ int64_t end() const { return first() + each < size ? first() + each : size; }
};

// A place is an item's part of a tile. Sequence by sequence, item by item, tile by tile: the order of the result.
struct Tiles {
    int64_t most, items;   // tiles that there can be; items of a sequence
    int32_t* first;        // (sequences + 1): of each sequence
    int64_t* sums;         // of each part of the counts
    int32_t *began, *ended;  // (places): where the last run begins, and where one ends that began before; or -1

    template <class T>
    Tiles(const Components<T>& problem, void* workspace)
        : most(problem.sequences.total / kTile + problem.sequences.count), items(problem.classes * problem.levels) {
        sums = static_cast<int64_t*>(workspace);
        first = reinterpret_cast<int32_t*>(sums + Parts(places()).number);
        began = first + problem.sequences.count + 1;
        ended = began + places();
    }

    __host__ __device__ int64_t places() const { return most * items; }
    size_t bytes() const { return reinterpret_cast<uintptr_t>(ended + places()) - reinterpret_cast<uintptr_t>(sums); }

    // The sequence that has the tile, of which there is one.
    __device__ int64_t sequence(int64_t tile, int64_t count) const {
        int64_t low = 0, high = count;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (first[middle + 1] <= tile) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    // Where the run began that was open before this place: the last to begin in its item. All lanes of a warp together.
    __device__ int64_t began_before(int64_t place) const {
        const int lane = threadIdx.x % kWarp;
        for (int64_t back = place - 1;; back -= kWarp) {
            const int32_t there = back - lane >= 0 ? began[back - lane] : 0;
            if (const unsigned found = __ballot_sync(~0u, there >= 0))
                return __shfl_sync(~0u, there, __ffs(static_cast<int>(found)) - 1);
        }
    }

    __device__ int64_t place(int64_t sequence, int64_t item) const {
        return first[sequence] * items + item * (first[sequence + 1] - first[sequence]);
    }
};

// Sequences that lie on top of each other may find no room; they then have no tiles. One block.
__global__ void __launch_bounds__(kThreads) first_kernel(Sequences sequences, Tiles tiles) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    int64_t through = 0;
    for (int64_t at = 0; at < sequences.count; at += kThreads) {
        const int64_t i = at + team.rank(), length = i < sequences.count ? sequences[i].length : 0;
        const int64_t after = team.scan((length + kTile - 1) / kTile, Sum{}, through);
        if (i < sequences.count) tiles.first[i + 1] = static_cast<int32_t>(after < tiles.most ? after : tiles.most);
    }
    if (team.rank() == 0) tiles.first[0] = 0;
}

// Rows first - 1 to first + kTile of a tile's classes, NaN outside the sequence: never above anything.
template <class T>
struct Window {
    static constexpr int kPitch = kWidth<T> + 1;  // odd, so that the rows of a class lie in different banks
    T scores[(kTile + 2) * kPitch];

    __device__ T at(int row, int label) const { return scores[(row + 1) * kPitch + label]; }

    __device__ void load(const Components<T>& problem, const Sequences::Range& range, int64_t first, int64_t label, int width) {
        const T* const from = problem.scores + (range.first + first) * problem.row_stride + label * problem.class_stride;
        const bool rows_first = problem.row_stride < problem.class_stride;
        const int64_t left = range.length - first;
        const int rows = static_cast<int>(left < kTile ? left : kTile) + 2, inner = rows_first ? rows : width;
        // The first row of all has none before it, and the last of all none after it.
        const int begin = first == 0 ? 1 : 0, end = left < kTile + 1 ? static_cast<int>(left) + 1 : kTile + 2;
        const int64_t stride_in = rows_first ? problem.row_stride : problem.class_stride;
        const int64_t stride_out = rows_first ? problem.class_stride : problem.row_stride;
        const int step_out = kThreads / inner, step_in = kThreads % inner;
        const int64_t step = step_out * stride_out + step_in * stride_in, turn = stride_out - inner * stride_in;
        int out = static_cast<int>(threadIdx.x) / inner, in = static_cast<int>(threadIdx.x) % inner;
        const T* at = from - problem.row_stride + out * stride_out + in * stride_in;
        for (int i = threadIdx.x; i < rows * width; i += kThreads, at += step) {
            const int row = rows_first ? in : out, c = rows_first ? out : in;
            scores[row * kPitch + c] = row >= begin && row < end ? *at : static_cast<T>(NAN);
            out += step_out;
            in += step_in;
            if (in >= inner) in -= inner, ++out, at += turn;
        }
    }
};

// Calls tile(window, sequence's range, tile's first row, its number in the sequence, sequence, first class, classes).
template <class T, class Body, class Rest>
__device__ void each_tile(const Components<T>& problem, const Tiles& tiles, Window<T>& window, const Body& body, const Rest& rest) {
    const int64_t groups = (problem.classes + kWidth<T> - 1) / kWidth<T>, used = tiles.first[problem.sequences.count];
    for (int64_t i = blockIdx.x; i < tiles.most * groups; i += gridDim.x) {
        const int64_t tile = i / groups, label = (i - tile * groups) * kWidth<T>;
        const int width = static_cast<int>(problem.classes - label < kWidth<T> ? problem.classes - label : kWidth<T>);
        if (tile >= used) {
            rest(tile, label, width);
            continue;
        }
        const int64_t sequence = tiles.sequence(tile, problem.sequences.count), number = tile - tiles.first[sequence];
        const auto range = problem.sequences[sequence];
        __syncthreads();
        window.load(problem, range, number * kTile, label, width);
        __syncthreads();
        const int rows = static_cast<int>(range.length - number * kTile < kTile ? range.length - number * kTile : kTile);
        const int levels = static_cast<int>(problem.levels);
        const int64_t series = sequence * problem.classes + label, place = tiles.place(sequence, label * levels) + number;
        const int64_t own = tiles.first[sequence + 1] - tiles.first[sequence];
        for (int j = threadIdx.x / kWarp; j < width * levels; j += kThreads / kWarp) {
            const int c = j / levels;
            body(typename Components<T>::Item{series + c, sequence, label + c, j - c * levels}, c, number, rows, place + j * own);
        }
    }
}

// An item's part of a tile, by one warp. Calls kept(lane is one, bits of those kept, start, end) for every 32 rows in
// which runs end that began in the tile; rows count from the tile's first.
struct Part {
    int began = -1, ended = -1;
};

template <class T, class Kept>
__device__ Part scan_part(const Components<T>& problem, const Window<T>& window, const typename Components<T>::Item& item,
                          int label, int rows, const Kept& kept) {
    const int lane = threadIdx.x % kWarp;
    const T* const here = problem.threshold(item);
    const T threshold = *here;
    const bool filter = problem.distinct && item.level > 0;
    const T before = filter ? here[-1] : threshold;
    Part part;
    const auto above = [&](int row) { return row <= rows && window.at(row, label) > threshold; };
    unsigned last = window.at(-1, label) > threshold, now = __ballot_sync(~0u, above(lane));
    D2K_ROLLED
    for (int first = 0; first < rows; first += kWarp) {
        const unsigned next = first + kWarp <= rows ? __ballot_sync(~0u, above(first + kWarp + lane)) : 0;
        // The row after the tile, if it is of the sequence, ends nothing here.
        const int left = rows - first;
        const unsigned mine = left < kWarp ? now & ((1u << left) - 1) : now;
        const unsigned starts = mine & ~(mine << 1 | last), ends = mine & ~(now >> 1 | next << 31);
        if (ends == 0) {  // as most words of smooth scores
            if (starts) part.began = first + kWarp - 1 - __clz(static_cast<int>(starts));
            last = mine >> 31;
            now = next;
            continue;
        }
        const unsigned until = starts & (~0u >> (kWarp - 1 - lane));
        const int start = until ? first + kWarp - 1 - __clz(static_cast<int>(until)) : part.began, end = first + lane + 1;
        const bool one = ends >> lane & 1;
        const bool keep = one && start >= 0 && end - start >= problem.min_length &&
                          (!filter || window.at(start - 1, label) > before || window.at(end, label) > before);
        const unsigned old = __ballot_sync(~0u, one && start < 0), bits = __ballot_sync(~0u, keep);
        if (old) part.ended = first + __ffs(static_cast<int>(old));
        if (bits) kept(keep, bits, start, end);
        if (starts) part.began = first + kWarp - 1 - __clz(static_cast<int>(starts));
        last = mine >> 31;
        now = next;
    }
    return part;
}

template <class T>
__global__ void __launch_bounds__(kThreads) count_kernel(Components<T> problem, Tiles tiles, int64_t* counts) {
    __shared__ Window<T> window;
    const int lane = threadIdx.x % kWarp;
    const auto body = [&](const auto& item, int label, int64_t number, int rows, int64_t place) {
        int count = 0;
        Part part;
        if (problem.wanted(item))
            part = scan_part(problem, window, item, label, rows, [&](bool, unsigned bits, int, int) { count += __popc(bits); });
        if (lane != 0) return;
        counts[place] = count;
        tiles.began[place] = part.began < 0 ? -1 : static_cast<int32_t>(number * kTile + part.began);
        tiles.ended[place] = part.ended < 0 ? -1 : static_cast<int32_t>(number * kTile + part.ended);
    };
    each_tile(problem, tiles, window, body, [&](int64_t tile, int64_t label, int width) {
        const int64_t first = (tile * problem.classes + label) * problem.levels;
        for (int64_t i = threadIdx.x; i < width * problem.levels; i += kThreads) {
            counts[first + i] = 0;
            tiles.ended[first + i] = -1;
        }
    });
    if (blockIdx.x == 0 && threadIdx.x == 0) counts[tiles.places()] = 0;
}

// Runs that began before their tile: those that are kept are counted too, of the others `ended` becomes -1.
template <class T>
__global__ void __launch_bounds__(kThreads) long_runs_kernel(Components<T> problem, Tiles tiles, int64_t* counts) {
    const int lane = threadIdx.x % kWarp;
    const int64_t places = tiles.places(), step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x - lane; first < places; first += step) {
        const int64_t mine = first + lane;
        const int32_t end_of_mine = mine < places ? tiles.ended[mine] : -1;
        for (unsigned waiting = __ballot_sync(~0u, end_of_mine >= 0); waiting; waiting &= waiting - 1) {
            const int which = __ffs(static_cast<int>(waiting)) - 1;
            const int64_t place = first + which;
            const int64_t end = __shfl_sync(~0u, end_of_mine, which);
            const int64_t start = tiles.began_before(place);
            if (lane != which) continue;
            int64_t low = 0, high = problem.sequences.count;  // the sequence whose places these are
            while (low < high) {
                const int64_t middle = (low + high) / 2;
                if (tiles.first[middle + 1] * tiles.items <= place) low = middle + 1;
                else high = middle;
            }
            const int64_t of = tiles.first[low], own = tiles.first[low + 1] - of;
            const auto item = problem.item(low * tiles.items + (place - of * tiles.items) / own);
            const auto column = problem.column(item);
            const T* const here = problem.threshold(item);
            const bool filter = problem.distinct && item.level > 0;
            const bool keep = end - start >= problem.min_length &&
                              (!filter || column.above(start - 1, here[-1]) || column.above(end, here[-1]));
            if (keep) ++counts[place];
            tiles.ended[place] = keep ? static_cast<int32_t>(end) : -1;
        }
    }
}

__global__ void __launch_bounds__(kThreads) sum_kernel(Parts parts, const int64_t* counts, int64_t* sums) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    int64_t sum = 0;
    for (int64_t i = parts.first() + team.rank(); i < parts.end(); i += team.size()) sum += counts[i];
    sum = team.reduce(sum, Sum{});
    if (team.rank() == 0) sums[blockIdx.x] = sum;
}

// counts[i] becomes the sum of those before it; `sums` is each part's, read where there are several.
__global__ void __launch_bounds__(kThreads) scan_kernel(Parts parts, const int64_t* sums, int64_t* counts) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    int64_t before = 0;
    for (int64_t i = team.rank(); i < blockIdx.x; i += team.size()) before += sums[i];
    before = team.reduce(before, Sum{});
    for (int64_t tile = parts.first(); tile < parts.end(); tile += team.size()) {
        const int64_t i = tile + team.rank(), count = i < parts.end() ? counts[i] : 0;
        const int64_t through = team.scan(count, Sum{}, before);
        if (i < parts.end()) counts[i] = through - count;
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(Components<T> problem, Tiles tiles, const int64_t* positions,
                                                        Segments out, int64_t size) {
    __shared__ Window<T> window;
    const int lane = threadIdx.x % kWarp;
    const auto body = [&](const auto& item, int label, int64_t number, int rows, int64_t place) {
        // Scores that changed since the count cannot write past what it found.
        int64_t at = positions[place];
        const int64_t end_of_room = positions[place + 1] < size ? positions[place + 1] : size;
        if (at >= end_of_room) return;
        const auto write = [&](int64_t i, int64_t start, int64_t end) {
            if (i >= end_of_room) return;
            out.sequence[i] = item.sequence;
            out.label[i] = item.label;
            out.threshold[i] = item.level;
            out.start[i] = start;
            out.end[i] = end;
        };
        if (const int32_t end = tiles.ended[place]; end >= 0) {
            const int64_t start = tiles.began_before(place);
            if (lane == 0) write(at, start, end);
            ++at;
        }
        const int64_t first = number * kTile;
        scan_part(problem, window, item, label, rows, [&](bool keep, unsigned bits, int start, int end) {
            if (keep) write(at + __popc(bits & ((1u << lane) - 1)), first + start, first + end);
            at += __popc(bits);
        });
    };
    each_tile(problem, tiles, window, body, [](int64_t, int64_t, int) {});
}

template <class T>
int64_t blocks(const Components<T>& problem, const Tiles& tiles) {
    return std::min(tiles.most * ((problem.classes + kWidth<T> - 1) / kWidth<T>), kMostBlocks);
}

}  // namespace

template <class T>
size_t connected_components_workspace(const Components<T>& problem, int64_t* places) {
    const Tiles tiles(problem, nullptr);
    *places = tiles.places();
    return tiles.bytes();
}

template <class T>
Status connected_components_count(const Components<T>& problem, int64_t* positions, void* workspace, int device,
                                  void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const Tiles tiles(problem, workspace);
    const int64_t grid = std::max<int64_t>(blocks(problem, tiles), 1), rounds = (tiles.places() + kThreads - 1) / kThreads;
    D2K_TRY(launch(first_kernel, 1, kThreads, 0, stream, problem.sequences, tiles));
    D2K_TRY(launch(count_kernel<T>, grid, kThreads, 0, stream, problem, tiles, positions));
    if (rounds > 0) D2K_TRY(launch(long_runs_kernel<T>, std::min(rounds, kMostBlocks), kThreads, 0, stream, problem, tiles, positions));
    const Parts parts(tiles.places());
    if (parts.number > 1) D2K_TRY(launch(sum_kernel, parts.number, kThreads, 0, stream, parts, positions, tiles.sums));
    D2K_TRY(launch(scan_kernel, parts.number, kThreads, 0, stream, parts, tiles.sums, positions));
    return kOk;
}

template <class T>
Status connected_components_fill(const Components<T>& problem, const int64_t* positions, const void* workspace,
                                 Segments out, int64_t size, int device, void* stream) {
    if (size == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const Tiles tiles(problem, const_cast<void*>(workspace));
    D2K_TRY(launch(fill_kernel<T>, blocks(problem, tiles), kThreads, 0, stream, problem, tiles, positions, out, size));
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                                          \
    template size_t connected_components_workspace<T>(const Components<T>&, int64_t*);                              \
    template Status connected_components_count<T>(const Components<T>&, int64_t*, void*, int, void*);               \
    template Status connected_components_fill<T>(const Components<T>&, const int64_t*, const void*, Segments, int64_t, int, void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)

}  // namespace d2k::cuda

// Top-k pooling of sequences that no block holds: blocks of rows count keys together, one launch for each 8 bits of a key.
#pragma once

#include "d2kernels/topk_block.h"

namespace d2k::cuda {

constexpr int kLongThreads = 256, kLongRows = 4096, kLongBits = 8, kLongBins = 1 << kLongBits;

using LongTeam = BlockTeam<kLongThreads>;

template <class T>
constexpr int kLongPasses = 8 * static_cast<int>(sizeof(T)) / kLongBits;

// The workspace. A slot is a long sequence, a chunk at most kLongRows of its rows.
struct TopkLong {
    int64_t capacity;               // rows; longer sequences are long
    int64_t slots, chunks, groups;  // how many there is room for; classes / group
    int32_t *count, *refused;       // slots in use; the first sequence that found no room, or the number of sequences
    int32_t *sequence, *first;      // (slots); (slots + 1): the first chunk
    int32_t *arrived;               // (slots, groups)
    int32_t* bins;                  // (slots, groups, kTopkGroup, kLongBins)
    TopkBracket* bracket;           // (slots, groups, kTopkGroup)
    double* sums;                   // (chunks, groups, kTopkGroup)

    // The bytes that it takes, all of them zero at first.
    template <class T>
    size_t lay_out(const TopkPool<T>& problem, int64_t rows, void* memory) {
        constexpr int64_t kGroup = kTopkGroup<T>;
        capacity = rows;
        const int64_t most = problem.sequences.total / (capacity + 1);
        slots = most < problem.sequences.count ? most : problem.sequences.count;
        chunks = problem.sequences.total / kLongRows + slots;
        groups = (problem.classes + kGroup - 1) / kGroup;
        char* next = static_cast<char*>(memory);
        const auto place = [&](auto*& pointer, int64_t size) {
            pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(next);
            next += (size * sizeof *pointer + 15) / 16 * 16;
        };
        place(count, 1);
        place(refused, 1);
        place(sequence, slots);
        place(first, slots + 1);
        place(arrived, slots * groups);
        place(bins, slots * groups * kGroup * kLongBins);
        place(bracket, slots * groups * kGroup);
        place(sums, chunks * groups * kGroup);
        return static_cast<size_t>(next - static_cast<char*>(memory));
    }
};

// Gives the long sequences slots and chunks. One block.
__global__ void __launch_bounds__(kLongThreads, 1) long_kernel(Sequences sequences, TopkLong work) {
    __shared__ typename LongTeam::Storage storage;
    LongTeam team(storage);
    int64_t slots = 0, chunks = 0, refused = sequences.count;
    for (int64_t tile = 0; tile < sequences.count; tile += team.size()) {
        const int64_t i = tile + team.rank(), length = i < sequences.count ? sequences[i].length : 0;
        const bool here = length > work.capacity;
        const int64_t own = here ? (length + kLongRows - 1) / kLongRows : 0;
        const int64_t slot = compact(team, here, slots), after = team.scan(own, Sum{}, chunks);
        const bool room = slot < work.slots && after <= work.chunks;
        if (here && room) {
            work.sequence[slot] = static_cast<int32_t>(i);
            work.first[slot + 1] = static_cast<int32_t>(after);
        }
        refused = team.reduce(here && !room && i < refused ? i : refused, Min{});
        if (refused < sequences.count) {
            slots = team.reduce(here && room ? slot + 1 : int64_t{0}, Max{});
            break;
        }
    }
    if (team.rank() == 0) {
        work.first[0] = 0;
        *work.count = static_cast<int32_t>(slots);
        *work.refused = static_cast<int32_t>(refused);
    }
}

// Counts the keys of a chunk by their next bits. The last block of a sequence's classes narrows their brackets, and after
// the last bits writes the result. What lies above a bracket is added up by the pass after it, chunk by chunk.
template <class T>
__global__ void __launch_bounds__(kLongThreads, 3)
    long_pass_kernel(TopkPool<T> problem, TopkPoolOut<T> out, TopkLong work, int pass) {
    using K = KeyOf<T>;
    using V = ArithmeticOf<T>;
    constexpr int kGroup = kTopkGroup<T>, kUnrolled = 4;
    __shared__ typename LongTeam::Storage storage;
    __shared__ int32_t bins[kGroup * kLongBins];
    __shared__ bool last;
    LongTeam team(storage);
    const Warp<LongTeam> warp(team);
    const int64_t chunk = blockIdx.x / work.groups, group = blockIdx.x % work.groups;
    const int slots = *work.count;
    if (chunk >= work.first[slots]) return;
    int slot = 0;
    for (int low = 1, high = slots; low < high;) {
        const int middle = (low + high) / 2;
        if (work.first[middle] <= chunk) slot = middle, low = middle + 1;
        else high = middle;
    }
    const int64_t sequence = work.sequence[slot], label = group * kGroup, at = slot * work.groups + group;
    const auto range = problem.sequences[sequence];
    const int64_t k = problem.count(sequence, range.length), from = (chunk - work.first[slot]) * kLongRows;
    const int length = static_cast<int>(range.length - from < kLongRows ? range.length - from : kLongRows);
    const int width = problem.classes - label < kGroup ? static_cast<int>(problem.classes - label) : kGroup;
    const int rank = team.rank(), shift = 8 * static_cast<int>(sizeof(K)) - kLongBits * (pass + 1);
    TopkBracket* const brackets = work.bracket + at * kGroup;

    for (int i = rank; i < kGroup * kLongBins; i += team.size()) bins[i] = 0;
    K low[kGroup];  // the bracket's beginning; `behind`: the bits in which it differs from the end of the one before it
    const K behind = pass <= 1 ? static_cast<K>(~K(0)) : static_cast<K>((uint64_t{1} << shift << 2 * kLongBits) - 1);
    V sum[kGroup];
    D2K_UNROLLED
    for (int g = 0; g < kGroup; ++g) {
        low[g] = pass == 0 ? K(0) : static_cast<K>(brackets[g].low);
        sum[g] = 0;
    }
    team.barrier();
    const T* const scores = problem.scores + (range.first + from) * problem.classes + label;
    const bool whole = problem.classes % kGroup == 0 && reinterpret_cast<uintptr_t>(problem.scores) % 16 == 0;
    for (int t = rank; t < length; t += kUnrolled * kLongThreads) {
        TopkRow<kGroup, K> found[kUnrolled];
        D2K_UNROLLED
        for (int u = 0; u < kUnrolled; ++u)
            if (t + u * kLongThreads < length)
                found[u] = read_scores<kGroup>(scores + (t + u * kLongThreads) * problem.classes, whole, width);
        D2K_UNROLLED
        for (int u = 0; u < kUnrolled; ++u)
            if (t + u * kLongThreads < length)
                D2K_UNROLLED
                for (int g = 0; g < kGroup; ++g) {
                    const K key = ordered_key(bit_cast<T>(found[u][g]));
                    if (key < low[g]) continue;
                    const K bin = static_cast<K>(key - low[g]) >> shift;
                    if (bin < kLongBins) count_shared(bins + g * kLongBins + static_cast<int>(bin));
                    else if (key <= static_cast<K>(low[g] | behind)) sum[g] += static_cast<V>(score_of<T>(key));
                }
    }
    D2K_UNROLLED
    for (int g = 0; g < kGroup; ++g) {
        if (pass == 0) break;
        const double total = team.reduce(static_cast<double>(sum[g]), Sum{});
        volatile double* const sums = work.sums + (chunk * work.groups + group) * kGroup + g;
        if (rank == 0) *sums = (pass > 1 ? *sums : 0.0) + total;
    }
    team.barrier();
    int32_t* const counts = work.bins + at * kGroup * kLongBins;
    for (int i = rank; i < kGroup * kLongBins; i += kLongThreads)
        if (bins[i] != 0) atomicAdd(counts + i, bins[i]);
    __threadfence();
    team.barrier();
    const int64_t chunks = work.first[slot + 1] - work.first[slot];
    if (rank == 0) last = atomicAdd(work.arrived + at, 1) == chunks * (pass + 1) - 1;
    team.barrier();
    if (!last) return;

    __threadfence();
    for (int i = rank; i < kGroup * kLongBins; i += kLongThreads) bins[i] = atomicExch(counts + i, 0);
    team.barrier();
    for (int64_t g = warp.index(); g < width; g += warp.count()) {
        const int wanted = pass == 0 ? static_cast<int>(k) : brackets[g].rank;
        const TopkBin bin = bin_of_rank(warp, bins + g * kLongBins, kLongBins, wanted);
        const uint64_t from_low = pass == 0 ? 0 : brackets[g].low, found = from_low | uint64_t(bin.bin) << shift;
        const int left = wanted - bin.above;
        __syncwarp();
        if (shift > 0) {
            if (warp.lane() == 0) brackets[g] = {found, left, bin.size};
            continue;
        }
        // Every key of the last bits is known by its bin.
        double parts[1] = {};
        own_parts(warp, chunks, [&](int64_t c, int) {
            parts[0] += *static_cast<volatile double*>(work.sums + ((work.first[slot] + c) * work.groups + group) * kGroup + g);
        });
        own_parts(warp, kLongBins, [&](int64_t b, int) {
            if (b <= bin.bin || bins[g * kLongBins + b] == 0) return;
            const K key = static_cast<K>(from_low + static_cast<uint64_t>(b));
            parts[0] += static_cast<double>(bins[g * kLongBins + b]) * static_cast<double>(static_cast<V>(score_of<T>(key)));
        });
        const double total = warp.sum(parts);
        if (warp.lane() != 0) continue;
        const T threshold = score_of<T>(static_cast<K>(found));
        const double rest = static_cast<double>(left) * static_cast<double>(static_cast<V>(threshold));
        const int64_t to = sequence * problem.classes + label + g;
        out.mean[to] = stored<T>(static_cast<V>((total + rest) / static_cast<double>(k)));
        out.threshold[to] = threshold;
        out.above[to] = static_cast<int32_t>(k - left);
        out.tied[to] = bin.size;
    }
}

}  // namespace d2k::cuda

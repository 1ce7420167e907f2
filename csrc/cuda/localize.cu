#include "d2kernels/localize_block.h"

#include <algorithm>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kPlaceThreads = 384;
constexpr int kItemThreads = 128;  // few, as sequences are short
// Five blocks on a multiprocessor of sm_90. Of float32, a sequence of 970 rows has its planes in there.
constexpr int kItemBlocks = 5, kShared = 44 << 10;
constexpr int64_t kMostItemBlocks = 1024;  // more than are resident; each takes item after item
constexpr int64_t kMostBlocks = 1 << 16;  // blocks stride over more items than this

using PlaceTeam = BlockTeam<kPlaceThreads>;
using Team = BlockTeam<kItemThreads>;

template <class T>
__global__ void __launch_bounds__(kPlaceThreads) place_kernel(Localization<T> problem, LocalizeMemory<T> memory,
                                                              int64_t* counts) {
    __shared__ typename PlaceTeam::Storage storage;
    PlaceTeam team(storage);
    place_items(team, problem, memory, counts);
}

// A slot that is done: whether it was the last of its sequence. One thread's call, after a barrier of its block.
template <class T>
__device__ bool arrive(const LocalizeMemory<T>& memory, int64_t slot, int64_t sequence) {
    __threadfence();
    if (memory.at[slot] >= 0) atomicAdd(&memory.counts->lengthy_done, 1);
    const int64_t before = static_cast<int64_t>(atomicAdd(memory.done + sequence, 1));
    __threadfence();
    return before + 1 == memory.slot[sequence + 1] - memory.slot[sequence];
}

// A slot a turn, the longest first. The last of a sequence applies its keep rule, the last of all places the sequences.
template <class T>
__global__ void __launch_bounds__(kItemThreads, kItemBlocks) item_kernel(Localization<T> problem, LocalizeMemory<T> memory,
                                                                         int64_t* counts, int64_t* first) {
    __shared__ typename Team::Storage storage;
    extern __shared__ __align__(16) unsigned char planes[];
    Team team(storage);
    const int64_t wanted = memory.counts->wanted;
    if (wanted == 0 && blockIdx.x == 0) first_of_counts(team, counts, memory.sequences, first);
    for (;;) {
        // Tickets are drawn in order, so that whoever waits waits for blocks that run or are done.
        const int64_t turn = team.broadcast(team.rank() == 0 ? atomicAdd(&memory.counts->next, 1ull) : 0ull, 0);
        if (turn >= wanted) return;
        const int64_t slot = memory.nth(turn), sequence = memory.item[slot] / problem.classes;
        if (team.rank() == 0) {
            if (const auto needed = static_cast<unsigned long long>(memory.done_before(slot))) {
                while (*static_cast<volatile unsigned long long*>(&memory.counts->lengthy_done) < needed) {
                }
                __threadfence();
            }
        }
        team.barrier();
        localize_item(team, problem, memory, slot, planes);
        team.barrier();
        if (!team.broadcast(team.rank() == 0 ? int{arrive(memory, slot, sequence)} : 0, 0)) continue;
        const int64_t count = keep_of_sequence(team, problem, memory, sequence);
        team.barrier();
        unsigned long long done = 0;
        if (team.rank() == 0) {
            counts[sequence] = count;
            const auto own = static_cast<unsigned long long>(memory.slot[sequence + 1] - memory.slot[sequence]);
            __threadfence();
            done = own + atomicAdd(&memory.counts->done, own);
            __threadfence();
        }
        if (static_cast<int64_t>(team.broadcast(done, 0)) == wanted)
            first_of_counts(team, counts, memory.sequences, first);
    }
}

template <class T>
__global__ void __launch_bounds__(kItemThreads) write_kernel(Localization<T> problem, LocalizeMemory<T> memory,
                                                             const int64_t* counts, const int64_t* first,
                                                             int64_t capacity, DetectionColumns out) {
    const int64_t rows = written(counts, first, memory.sequences), all = rows < capacity ? capacity : rows;
    const int64_t step = int64_t{gridDim.x} * kItemThreads;
    for (int64_t i = int64_t{blockIdx.x} * kItemThreads + threadIdx.x; i < all; i += step) {
        if (i < rows) {
            write_detection(problem, memory, i, first, capacity, out);
            continue;
        }
        out.sequence[i] = out.label[i] = -1;
        out.start[i] = out.end[i] = out.score[i] = 0;
    }
}

// Laid out in the workspace; `bytes` is how much of it that takes.
template <class T>
LocalizeMemory<T> memory_of(const Localization<T>& p, const LocalizeRoom& room, void* workspace, size_t* bytes) {
    LocalizeMemory<T> memory{};
    *bytes = static_cast<size_t>(memory.lay_out(reinterpret_cast<uintptr_t>(workspace), room, p.sequences.total,
                                                p.sequences.count, p.classes, p.rules.upsample, p.levels, kShared));
    return memory;
}

}  // namespace

template <class T>
size_t localize_workspace(const Localization<T>& problem, const LocalizeRoom& room) {
    size_t bytes = 0;
    memory_of(problem, room, nullptr, &bytes);
    return bytes;
}

template <class T>
Status localize_find(const Localization<T>& problem, const LocalizeCall& call) {
    const DeviceGuard guard(call.device);
    D2K_TRY(guard.status);
    size_t bytes = 0;
    const LocalizeMemory<T> memory = memory_of(problem, call.room, call.workspace, &bytes);
    const int64_t blocks = std::clamp<int64_t>(memory.items_most, 1, kMostItemBlocks);
    D2K_TRY(launch(place_kernel<T>, 1, kPlaceThreads, 0, call.stream, problem, memory, call.counts));
    D2K_TRY(cudaFuncSetAttribute(item_kernel<T>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared));
    D2K_TRY(launch(item_kernel<T>, blocks, kItemThreads, kShared, call.stream, problem, memory, call.counts, call.first));
    return kOk;
}

template <class T>
Status localize_write(const Localization<T>& problem, const LocalizeCall& call, int64_t capacity,
                      const DetectionColumns& out) {
    const DeviceGuard guard(call.device);
    D2K_TRY(guard.status);
    size_t bytes = 0;
    const LocalizeMemory<T> memory = memory_of(problem, call.room, call.workspace, &bytes);
    const int64_t blocks = std::clamp<int64_t>((capacity + kItemThreads - 1) / kItemThreads, 1, kMostBlocks);
    D2K_TRY(launch(write_kernel<T>, blocks, kItemThreads, 0, call.stream, problem, memory, call.counts, call.first,
                   capacity, out));
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                 \
    template size_t localize_workspace<T>(const Localization<T>&, const LocalizeRoom&);    \
    template Status localize_find<T>(const Localization<T>&, const LocalizeCall&);         \
    template Status localize_write<T>(const Localization<T>&, const LocalizeCall&, int64_t, const DetectionColumns&);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)

}  // namespace d2k::cuda

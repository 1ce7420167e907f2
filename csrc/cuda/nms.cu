#include "d2kernels/nms_block.h"

#include <algorithm>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMostBlocks = 1 << 14;  // blocks stride over more clusters than this

// Larger clusters are done by many blocks, 64 segments each, of which each waits for those before it.
constexpr int kLarge = 256, kChunk = 64, kChainThreads = 256, kParts = kChainThreads / kChunk;
constexpr int64_t kChainBlocks = 1024;

using Team = BlockTeam<kThreads>;
using Word = unsigned long long;

// The workspace of the large clusters; its first bytes and `ready` are 0 at first.
struct Chain {
    struct Cluster {
        int32_t chunk, number;  // its first chunk, and which it is
    };
    int64_t clusters, chunks;  // how many there is room for
    Word* reserved;            // clusters << 32 | chunks
    int32_t *ticket, *ready;   // the next chunk to be done; which are done
    Word* kept;                // of a chunk: bit i for its segment i
    Cluster* list;

    Chain(int64_t count, void* workspace) : clusters(count / kLarge), chunks(count / kChunk + clusters) {
        reserved = static_cast<Word*>(workspace);
        ticket = reinterpret_cast<int32_t*>(reserved + 1);
        ready = ticket + 2;
        kept = reinterpret_cast<Word*>(ready + (chunks + 1) / 2 * 2);
        list = reinterpret_cast<Cluster*>(kept + chunks);
    }
    size_t cleared() const { return reinterpret_cast<uintptr_t>(kept) - reinterpret_cast<uintptr_t>(reserved); }
    size_t bytes() const { return clusters == 0 ? 0 : reinterpret_cast<uintptr_t>(list + clusters) - reinterpret_cast<uintptr_t>(reserved); }

    // Whether there was room, as there is where clusters do not overlap.
    __device__ bool take(int64_t number, int64_t size) const {
        const Word own = static_cast<Word>((size + kChunk - 1) / kChunk), before = atomicAdd(reserved, Word{1} << 32 | own);
        const auto place = static_cast<int64_t>(before >> 32), chunk = static_cast<int64_t>(before & 0xffffffffu);
        const bool room = place < clusters && chunk + static_cast<int64_t>(own) <= chunks;
        // After the first that finds none there is none for any, so that the list still rises.
        if (place < clusters) list[place] = {room ? static_cast<int32_t>(chunk) : INT32_MAX, static_cast<int32_t>(number)};
        return room;
    }
};

int64_t blocks(int64_t count) { return std::min(count, kMostBlocks); }

template <class T>
__global__ void __launch_bounds__(kThreads) nms_kernel(NmsClustersOf<T> clusters, NmsRules rules, Chain chain, uint8_t* left) {
    __shared__ typename Team::Storage storage;
    __shared__ NmsRoundOf<T> round;
    Team team(storage);
    int64_t number = blockIdx.x;
    clusters.each(blockIdx.x, gridDim.x, [&](int64_t begin, int64_t size) {
        const bool elsewhere = size > kLarge && team.broadcast(team.rank() == 0 ? int{chain.take(number, size)} : 0, 0);
        if (!elsewhere) suppress(team, clusters.segments + 2 * begin, size, rules, round, left + begin);
        number += gridDim.x;
    });
}

// A chunk a turn. Tickets are drawn in order, so that whoever waits waits for a block that runs or is done.
template <class T>
__global__ void __launch_bounds__(kChainThreads, 2) chain_kernel(NmsClustersOf<T> clusters, NmsRules rules, Chain chain,
                                                              uint8_t* left) {
    __shared__ T own[2 * kChunk], other[2 * kChunk];
    __shared__ Word by[kParts][kChunk], kept;
    __shared__ bool gone[kParts][kChunk];
    __shared__ int32_t turn;
    const int rank = static_cast<int>(threadIdx.x), j = rank % kChunk, part = rank / kChunk;
    const Word reserved = *chain.reserved;
    const auto listed = static_cast<int64_t>(reserved >> 32);
    const int64_t entries = listed < chain.clusters ? listed : chain.clusters;
    const auto load = [&](const T* from, int64_t size, T (&to)[2 * kChunk]) {
        if (rank < 2 * size) to[rank] = from[rank];
    };
    for (;;) {
        __syncthreads();
        if (rank == 0) turn = atomicAdd(chain.ticket, 1);
        __syncthreads();
        const int64_t chunk = turn;
        if (chunk >= chain.chunks || entries == 0) return;
        int64_t low = 0, high = entries;  // the last cluster that begins at or before the chunk
        while (high - low > 1) {
            const int64_t middle = (low + high) / 2;
            if (chain.list[middle].chunk <= chunk) low = middle;
            else high = middle;
        }
        const Chain::Cluster cluster = chain.list[low];
        const int64_t before = chunk - cluster.chunk;
        if (before < 0) continue;
        clusters.each(cluster.number, clusters.count, [&](int64_t begin, int64_t size) {
            const int64_t from = before * kChunk, rest = size - from;
            const int mine = static_cast<int>(rest < kChunk ? rest : kChunk);
            if (rest <= 0) return;
            const T* const segments = clusters.segments + 2 * begin;
            load(segments + 2 * from, mine, own);
            __syncthreads();
            // Which of its own chunk would remove segment j, while others work on the chunks before.
            Word removed_by = 0;
            D2K_ROLLED
            for (int i = part; i < j && j < mine; i += kParts)
                if (rules.removes(own + 2 * i, own + 2 * j)) removed_by |= Word{1} << i;
            by[part][j] = removed_by;
            bool out = j >= mine;
            for (int64_t c = 0; c < before; ++c) {
                load(segments + 2 * c * kChunk, kChunk, other);
                if (rank == 0) {
                    while (*static_cast<volatile int32_t*>(chain.ready + cluster.chunk + c) == 0) {
                    }
                    __threadfence();
                    kept = *static_cast<volatile Word*>(chain.kept + cluster.chunk + c);
                }
                __syncthreads();
                const Word alive = kept;
                D2K_ROLLED
                for (int i = part; i < kChunk && !out; i += kParts)
                    if (alive >> i & 1) out = rules.removes(other + 2 * i, own + 2 * j);
                __syncthreads();
            }
            gone[part][j] = out;
            __syncthreads();
            if (rank == 0) {
                Word stay = 0;
                for (int i = 0; i < mine; ++i) {
                    Word reasons = 0;
                    bool dropped = false;
                    for (int p = 0; p < kParts; ++p) reasons |= by[p][i], dropped |= gone[p][i];
                    if (!dropped && !(reasons & stay)) stay |= Word{1} << i;
                }
                kept = stay;
                *static_cast<volatile Word*>(chain.kept + chunk) = stay;
                __threadfence();
                *static_cast<volatile int32_t*>(chain.ready + chunk) = 1;
            }
            __syncthreads();
            if (rank < mine) left[begin + from + rank] = kept >> rank & 1;
        });
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) soft_nms_kernel(NmsClustersOf<T> clusters, double sigma,
                                                            double score_threshold, double* score, uint8_t* taken) {
    __shared__ typename Team::Storage storage;
    Team team(storage);
    clusters.each(blockIdx.x, gridDim.x, [&](int64_t begin, int64_t size) {
        decay(team, clusters.segments + 2 * begin, size, sigma, score_threshold, score + begin, taken + begin);
    });
}

}  // namespace

size_t nms_workspace(int64_t count) { return Chain(count, nullptr).bytes(); }

template <class T>
Status nms(const NmsClustersOf<T>& clusters, const NmsRules& rules, uint8_t* left, void* workspace, int device,
           void* stream) {
    if (clusters.count == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const Chain chain(clusters.count, workspace);
    if (chain.clusters > 0) D2K_TRY(cudaMemsetAsync(workspace, 0, chain.cleared(), static_cast<cudaStream_t>(stream)));
    D2K_TRY(launch(nms_kernel<T>, blocks(clusters.count), kThreads, 0, stream, clusters, rules, chain, left));
    if (chain.clusters > 0)
        D2K_TRY(launch(chain_kernel<T>, std::min(chain.chunks, kChainBlocks), kChainThreads, 0, stream, clusters, rules,
                       chain, left));
    return kOk;
}

template <class T>
Status soft_nms(const NmsClustersOf<T>& clusters, double sigma, double score_threshold, double* score, uint8_t* taken,
                int device, void* stream) {
    if (clusters.count == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    D2K_TRY(launch(soft_nms_kernel<T>, blocks(clusters.count), kThreads, 0, stream, clusters, sigma, score_threshold,
                   score, taken));
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                                          \
    template Status nms<T>(const NmsClustersOf<T>&, const NmsRules&, uint8_t*, void*, int, void*);                  \
    template Status soft_nms<T>(const NmsClustersOf<T>&, double, double, double*, uint8_t*, int, void*);
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(int64_t)

}  // namespace d2k::cuda

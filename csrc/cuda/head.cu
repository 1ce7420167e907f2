#include "d2kernels/head.h"

#include <algorithm>

#include "d2kernels/warp.h"
#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
// Where __launch_bounds__ names blocks too: ptxas would spill for more of them.
constexpr int kPart = 64;  // rows of one sequence that a block sums
constexpr int64_t kMostBlocks = 1 << 20;

using Team = BlockTeam<kThreads>;

__device__ float sigmoid(float x) { return 1 / (1 + exp2f(-1.44269504f * x)); }

template <class V>
__device__ V larger_or_nan(V a, V b) { return b > a || b != b ? b : a; }

template <class V>
__device__ V warp_largest(V x) {
    for (int half = kWarp / 2; half > 0; half /= 2) x = larger_or_nan(x, __shfl_xor_sync(0xffffffffu, x, half));
    return x;
}

template <class V>
__device__ V warp_sum(V x) {
    for (int half = kWarp / 2; half > 0; half /= 2) x += __shfl_xor_sync(0xffffffffu, x, half);
    return x;
}

// Calls body(row, its sequence or -1, lane) with the rows of the buffer, a warp each.
template <class Body>
__device__ void each_row(const Sequences& sequences, const Body& body) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
    for (int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; t < sequences.total; t += step)
        body(t, sequence_of(sequences, t), lane);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4) activate_kernel(Head<T> problem, HeadOut<T> out) {
    using V = ArithmeticOf<T>;
    const int64_t classes = problem.classes, streams = problem.streams;
    each_row(problem.sequences, [&](int64_t t, int64_t i, int lane) {
        const V none = -static_cast<V>(INFINITY);
        V best = none, own = none;
        for (int64_t c = lane; c < classes; c += kWarp) {
            V mean = 0;
            if (i >= 0) {
                for (int64_t s = 0; s < streams; ++s)
                    mean += sigmoid(static_cast<V>(problem.logits[(t * streams + s) * classes + c]));
                mean /= static_cast<V>(streams);
            }
            out.activations[t * classes + c] = mean;
            best = larger_or_nan(best, mean);
            if (i >= 0 && out.own && problem.labels[i * classes + c]) own = larger_or_nan(own, mean);
        }
        best = warp_largest(best);
        own = warp_largest(own);
        if (lane != 0) return;
        out.attention[t] = best;
        if (out.own) out.own[t] = own == none ? V(0) : own;
    });
}

// What the parts of all sequences sum to; a sequence's parts lie together.
template <class V>
struct Parts {
    double* mass;      // (parts, 2)
    int64_t* lowest;   // (parts): the first row of lowest attention
    V *least, *sums;   // (parts), (parts, 2, width)

    static size_t bytes(int64_t parts, int64_t width) {
        return static_cast<size_t>(parts) * (2 * sizeof(double) + sizeof(int64_t) + sizeof(V) * (1 + 2 * width)) + 64;
    }

    Parts(void* workspace, int64_t parts) {
        mass = static_cast<double*>(workspace);
        lowest = reinterpret_cast<int64_t*>(mass + 2 * parts);
        least = reinterpret_cast<V*>(lowest + parts);
        sums = least + parts;
    }
};

D2K_DEVICE int64_t most_parts(const Sequences& sequences) { return sequences.total / kPart + sequences.count; }

__device__ int64_t parts_in(const Sequences& sequences, int64_t i) {
    return (sequences[i].length + kPart - 1) / kPart;
}

// Sequences may overlap where offsets are bad, but not have more parts than there is room for.
struct Place {
    int64_t sequence, part;  // -1: none
};

__device__ Place place_of(Team& team, const Sequences& sequences, int64_t part) {
    int64_t before = 0;
    for (int64_t tile = 0; tile < sequences.count; tile += team.size()) {
        const int64_t i = tile + team.rank(), count = i < sequences.count ? parts_in(sequences, i) : 0;
        const int64_t through = team.scan(count, Sum{}, before);
        const bool here = through - count <= part && part < through;
        const int64_t sequence = team.reduce(here ? i : int64_t{-1}, Max{});
        const int64_t first = team.reduce(here ? part - (through - count) : int64_t{-1}, Max{});
        if (sequence >= 0) return {sequence, first};
    }
    return {-1, -1};
}

template <class T>
__global__ void __launch_bounds__(kThreads) pool_kernel(Head<T> problem, HeadOut<T> out, Parts<ArithmeticOf<T>> parts) {
    using V = ArithmeticOf<T>;
    __shared__ typename Team::Storage storage;
    __shared__ V weight[2][kPart];
    __shared__ int chosen[kPart];
    Team team(storage);
    const int64_t part = blockIdx.x, width = problem.width, streams = problem.streams;
    const Place place = place_of(team, problem.sequences, part);
    if (place.sequence < 0) return;
    const auto range = problem.sequences[place.sequence];
    const int64_t first = range.first + place.part * kPart;
    const int64_t left = range.first + range.length - first;
    const int rows = static_cast<int>(left < kPart ? left : kPart);
    if (threadIdx.x < rows) {
        const V a = out.attention[first + threadIdx.x];
        weight[0][threadIdx.x] = a;
        weight[1][threadIdx.x] = V(1) - a;
        chosen[threadIdx.x] = int{problem.foreground(a)} | int{problem.background(a)} << 1;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double mass[2] = {0, 0};
        int lowest = 0;
        for (int t = 0; t < rows; ++t) {
            for (int side = 0; side < 2; ++side)
                if (chosen[t] & (1 << side)) mass[side] += static_cast<double>(weight[side][t]);
            const V a = weight[0][t], least = weight[0][lowest];
            if (a < least || (a != a && least == least)) lowest = t;
        }
        parts.mass[2 * part] = mass[0];
        parts.mass[2 * part + 1] = mass[1];
        parts.lowest[part] = first + lowest;
        parts.least[part] = weight[0][lowest];
    }
    for (int64_t j = threadIdx.x; j < width; j += kThreads) {
        V sum[2] = {0, 0};
        for (int t = 0; t < rows; ++t) {
            if (!chosen[t]) continue;
            const T* const z = problem.z + (first + t) * streams * width + j;
            V x = 0;
            for (int64_t s = 0; s < streams; ++s) x += static_cast<V>(z[s * width]);
            if (chosen[t] & 1) sum[0] += weight[0][t] * x;
            if (chosen[t] & 2) sum[1] += weight[1][t] * x;
        }
        parts.sums[2 * part * width + j] = sum[0];
        parts.sums[(2 * part + 1) * width + j] = sum[1];
    }
}

// A block is one sequence and kThreads channels.
template <class T>
__global__ void __launch_bounds__(kThreads) combine_kernel(Head<T> problem, HeadOut<T> out,
                                                           Parts<ArithmeticOf<T>> parts) {
    using V = ArithmeticOf<T>;
    __shared__ typename Team::Storage storage;
    Team team(storage);
    const int64_t i = blockIdx.x, width = problem.width, streams = problem.streams;
    int64_t before = 0;
    for (int64_t k = team.rank(); k < i; k += team.size()) before += parts_in(problem.sequences, k);
    before = team.reduce(before, Sum{});
    const int64_t room = most_parts(problem.sequences);
    const int64_t own = parts_in(problem.sequences, i), end = before + own < room ? before + own : room;
    double mass[2] = {0, 0};
    int64_t lowest = -1;
    V least = 0;
    for (int64_t p = before; p < end; ++p) {
        for (int side = 0; side < 2; ++side) mass[side] += parts.mass[2 * p + side];
        const V a = parts.least[p];
        if (lowest < 0 || a < least || (a != a && least == least)) {
            lowest = parts.lowest[p];
            least = a;
        }
    }
    const int64_t j = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
    for (int side = 0; side < 2; ++side) {
        const V whole = static_cast<V>(mass[side]);
        if (blockIdx.y == 0 && threadIdx.x == 0) out.mass[2 * i + side] = whole;
        if (j >= width) continue;
        V sum = 0;
        for (int64_t p = before; p < end; ++p) sum += parts.sums[(2 * p + side) * width + j];
        const V divisor = problem.normalize ? whole * static_cast<V>(streams) : static_cast<V>(streams);
        out.embedding[(2 * i + side) * width + j] = divisor != V(0) ? sum / divisor : V(0);
    }
    if (j >= width) return;
    V x = 0;
    if (lowest >= 0)
        for (int64_t s = 0; s < streams; ++s) x += static_cast<V>(problem.z[(lowest * streams + s) * width + j]);
    out.lowest[i * width + j] = x / static_cast<V>(streams);
}

// A warp is one side of one sequence: what its gradient is divided by, and what all its rows share.
template <class T>
__global__ void __launch_bounds__(kThreads) slope_kernel(Head<T> problem, HeadOut<T> saved,
                                                         const ArithmeticOf<T>* grad, ArithmeticOf<T>* slopes) {
    using V = ArithmeticOf<T>;
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
    if (at >= 2 * problem.sequences.count) return;
    const V mass = problem.normalize ? saved.mass[at] : V(1);
    const V factor = mass != V(0) ? V(1) / (mass * static_cast<V>(problem.streams)) : V(0);
    V along = 0;
    for (int64_t j = lane; j < problem.width; j += kWarp)
        along += saved.embedding[at * problem.width + j] * (grad[at * problem.width + j] * factor);
    along = warp_sum(along) * static_cast<V>(problem.streams);
    if (lane != 0) return;
    slopes[2 * at] = factor;
    slopes[2 * at + 1] = problem.normalize ? along : V(0);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) backward_kernel(Head<T> problem, HeadOut<T> saved, HeadGradients<T> g,
                                                            const ArithmeticOf<T>* slopes) {
    using V = ArithmeticOf<T>;
    const int64_t classes = problem.classes, streams = problem.streams, width = problem.width;
    each_row(problem.sequences, [&](int64_t t, int64_t i, int lane) {
        T* const dz = g.z + t * streams * width;
        T* const dl = g.logits + t * streams * classes;
        if (i < 0) {
            for (int64_t j = lane; j < streams * width; j += kWarp) dz[j] = stored<T>(0);
            for (int64_t c = lane; c < streams * classes; c += kWarp) dl[c] = stored<T>(0);
            return;
        }
        const T* const z = problem.z + t * streams * width;
        const V attention = saved.attention[t];
        const bool front = g.embedding && problem.foreground(attention);
        const bool back = g.embedding && problem.background(attention);
        const V* const to_front = g.embedding + 2 * i * width;
        const V* const to_back = to_front + width;
        const V scale_front = front ? slopes[4 * i] : V(0), scale_back = back ? slopes[4 * i + 2] : V(0);
        V along_front = 0, along_back = 0;
        for (int64_t j = lane; (front || back) && j < width; j += kWarp) {
            V x = 0;
            for (int64_t s = 0; s < streams; ++s) x += static_cast<V>(z[s * width + j]);
            const V f = front ? to_front[j] * scale_front : V(0), b = back ? to_back[j] * scale_back : V(0);
            along_front += x * f;
            along_back += x * b;
            const T value = stored<T>((front ? attention * f : V(0)) + (back ? (V(1) - attention) * b : V(0)));
            for (int64_t s = 0; s < streams; ++s) dz[s * width + j] = value;
        }
        if (!front && !back)
            for (int64_t j = lane; j < streams * width; j += kWarp) dz[j] = stored<T>(0);
        V by_attention = g.attention ? g.attention[t] : V(0);
        along_front = warp_sum(along_front);
        along_back = warp_sum(along_back);
        if (front) by_attention += along_front - slopes[4 * i + 1];
        if (back) by_attention -= along_back - slopes[4 * i + 3];

        // Ties share a maximum's gradient, as in torch.amax.
        const V* const mean = saved.activations + t * classes;
        const V by_own = g.own ? g.own[t] : V(0), own = g.own ? saved.own[t] : V(0);
        int ties = 0, own_ties = 0;
        for (int64_t c = lane; c < classes; c += kWarp) {
            ties += mean[c] == attention;
            own_ties += g.own && problem.labels[i * classes + c] && mean[c] == own;
        }
        ties = warp_sum(ties);
        own_ties = warp_sum(own_ties);
        for (int64_t c = lane; c < classes; c += kWarp) {
            V by = g.activations ? g.activations[t * classes + c] : V(0);
            if (mean[c] == attention) by += by_attention / static_cast<V>(ties);
            if (g.own && problem.labels[i * classes + c] && mean[c] == own) by += by_own / static_cast<V>(own_ties);
            by /= static_cast<V>(streams);
            for (int64_t s = 0; s < streams; ++s) {
                const V value = sigmoid(static_cast<V>(problem.logits[(t * streams + s) * classes + c]));
                dl[s * classes + c] = stored<T>(by * (value * (V(1) - value)));
            }
        }
    });
}

// A thread is one channel.
template <class T>
__global__ void __launch_bounds__(kThreads) update_kernel(ReferenceScore<T> problem, ArithmeticOf<T>* updated) {
    using V = ArithmeticOf<T>;
    __shared__ bool has[kThreads];
    const int64_t n = problem.sequences.count, j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    double mean = 0;
    int64_t counted = 0;
    for (int64_t tile = 0; tile < n; tile += kThreads) {
        const int64_t i = tile + threadIdx.x;
        bool own = i < n && problem.sequences.lengths[i] >= problem.min_snippets && problem.mass[2 * i + 1] > V(0);
        if (own) {
            bool labelled = false;
            for (int64_t c = 0; c < problem.classes; ++c) labelled |= problem.labels[i * problem.classes + c];
            own = labelled;
        }
        has[threadIdx.x] = own;
        __syncthreads();
        for (int64_t k = 0; k < kThreads && tile + k < n; ++k) {
            if (!has[k]) continue;
            ++counted;
            if (j < problem.width) mean += static_cast<double>(problem.candidate[(tile + k) * problem.stride + j]);
        }
        __syncthreads();
    }
    if (j >= problem.width) return;
    const double before = static_cast<double>(problem.reference[j]);
    const double now = problem.momentum * before + (1 - problem.momentum) * mean / static_cast<double>(counted);
    updated[j] = static_cast<V>(counted ? now : before);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4) score_kernel(ReferenceScore<T> problem, const ArithmeticOf<T>* updated,
                                                         ArithmeticOf<T>* score) {
    using V = ArithmeticOf<T>;
    __shared__ typename Team::Storage storage;
    Team team(storage);
    const int64_t width = problem.width, streams = problem.streams;
    double square = 0;
    for (int64_t j = threadIdx.x; j < width; j += kThreads)
        square += static_cast<double>(updated[j]) * static_cast<double>(updated[j]);
    const double norm = sqrt(team.reduce(square, Sum{})), safe = norm < 1e-8 ? 1e-8 : norm;
    const double share = 1 / static_cast<double>(streams);
    each_row(problem.sequences, [&](int64_t t, int64_t i, int lane) {
        double along = 0, squares = 0;
        for (int64_t j = lane; i >= 0 && j < width; j += kWarp) {
            double x = 0;
            for (int64_t s = 0; s < streams; ++s)
                x += static_cast<double>(static_cast<V>(problem.z[(t * streams + s) * width + j]));
            along += x * (static_cast<double>(updated[j]) / safe);
            squares += x * x;
        }
        along = warp_sum(along);
        const double own = sqrt(warp_sum(squares)) * share;
        if (lane == 0) score[t] = i < 0 ? V(0) : static_cast<V>(0.5 * (1 - along * share / (own < 1e-8 ? 1e-8 : own)));
    });
}

int blocks_of_rows(int64_t total) { return static_cast<int>(std::min((total + kWarps - 1) / kWarps, kMostBlocks)); }

}  // namespace

template <class T>
size_t head_workspace(const Head<T>& problem) {
    using V = ArithmeticOf<T>;
    return std::max(Parts<V>::bytes(most_parts(problem.sequences), problem.width),
                    static_cast<size_t>(problem.sequences.count) * 4 * sizeof(V));
}

template <class T>
Status head(const Head<T>& problem, const HeadOut<T>& out, void* workspace, int device, void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const int64_t n = problem.sequences.count, most = most_parts(problem.sequences);
    if (most > INT32_MAX) return cudaErrorInvalidConfiguration;
    if (problem.sequences.total > 0) {
        D2K_TRY(launch(activate_kernel<T>, blocks_of_rows(problem.sequences.total), kThreads, 0, stream, problem, out));
    }
    if (n == 0) return kOk;
    const Parts<ArithmeticOf<T>> parts(workspace, most);
    D2K_TRY(launch(pool_kernel<T>, most, kThreads, 0, stream, problem, out, parts));
    const dim3 grid(static_cast<unsigned>(n), static_cast<unsigned>(std::max<int64_t>(1, (problem.width + kThreads - 1) / kThreads)));
    D2K_TRY(launch(combine_kernel<T>, grid, kThreads, 0, stream, problem, out, parts));
    return kOk;
}

template <class T>
Status head_backward(const Head<T>& problem, const HeadOut<T>& saved, const HeadGradients<T>& gradients,
                     void* workspace, int device, void* stream) {
    using V = ArithmeticOf<T>;
    if (problem.sequences.total == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    V* const slopes = static_cast<V*>(workspace);
    if (gradients.embedding && problem.sequences.count > 0) {
        const auto blocks = static_cast<int>((2 * problem.sequences.count + kWarps - 1) / kWarps);
        D2K_TRY(launch(slope_kernel<T>, blocks, kThreads, 0, stream, problem, saved, gradients.embedding, slopes));
    }
    D2K_TRY(launch(backward_kernel<T>, blocks_of_rows(problem.sequences.total), kThreads, 0, stream, problem, saved,
                   gradients, slopes));
    return kOk;
}

template <class T>
Status reference_score(const ReferenceScore<T>& problem, ArithmeticOf<T>* updated, ArithmeticOf<T>* score, int device,
                       void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    if (problem.width > 0) {
        D2K_TRY(launch(update_kernel<T>, (problem.width + kThreads - 1) / kThreads, kThreads, 0, stream, problem,
                       updated));
    }
    if (!score || problem.sequences.total == 0) return kOk;
    D2K_TRY(launch(score_kernel<T>, blocks_of_rows(problem.sequences.total), kThreads, 0, stream, problem, updated,
                   score));
    return kOk;
}

#define D2K_INSTANTIATE(T)                                                                                          \
    template size_t head_workspace<T>(const Head<T>&);                                                              \
    template Status head<T>(const Head<T>&, const HeadOut<T>&, void*, int, void*);                                  \
    template Status head_backward<T>(const Head<T>&, const HeadOut<T>&, const HeadGradients<T>&, void*, int, void*); \
    template Status reference_score<T>(const ReferenceScore<T>&, ArithmeticOf<T>*, ArithmeticOf<T>*, int, void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cuda

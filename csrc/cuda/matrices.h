// Blocks of one matrix each, for the ops on small matrices.
#pragma once

#include <algorithm>

#include "d2kernels/extremes.h"
#include "launch.h"
#include "matrix_warp.h"

namespace d2k::cuda {

constexpr int64_t kMostBlocks = 1 << 20;      // of a launch
constexpr int64_t kMostWorkspaces = 1 << 10;  // the same where they work in device memory

constexpr int kBesideMatrix = sizeof(MatrixTeam::Storage) + 256;
constexpr int kMatrixThreads = 256;  // the most of a block

// Where a block works: in its own shared memory, or in its part of the workspace.
struct Room {
    size_t bytes;
    unsigned char* workspace;  // null for shared memory
    int64_t first;             // item of the launch's first block

    __device__ Scratch scratch(unsigned char* shared) const {
        return workspace ? Scratch(workspace + blockIdx.x * bytes, bytes) : Scratch(shared, bytes);
    }
    __device__ int64_t item() const { return first + blockIdx.x; }
};

// to[i] = from[i], its reads under way together.
template <class Team>
__device__ void copy(Team& team, const Floats& from, int64_t count, double* to) {
    const int step = team.size(), end = static_cast<int>(count);
    D2K_ROLLED
    for (int i = team.rank(); i < end; i += kRead * step) {
        double values[kRead];
        read(from, i, step, end, values);
        D2K_UNROLLED
        for (int j = 0; j < kRead; ++j)
            if (i + j * step < end) to[i + j * step] = values[j];
    }
    team.barrier();
}

// How many bytes of workspace `items` blocks with `bytes` each need: 0 where shared memory has them.
inline Status workspace_of(int64_t items, int64_t bytes, int64_t beside, int device, size_t* total) {
    int most = 0;
    D2K_TRY(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    *total = bytes + beside <= most ? 0 : std::min(items, kMostWorkspaces) * bytes;
    return kOk;
}

// Launches kernel(arguments..., room), a block an item, on the current device; again and again where the workspace is for
// fewer: a loop over items in the kernel would keep what it hoists in registers.
template <class... Parameters, class... Arguments>
Status launch_items(void (*kernel)(Parameters...), int threads, int64_t items, int64_t bytes, void* workspace,
                    size_t available, int device, void* stream, const Arguments&... arguments) {
    const bool shared = available == 0;
    const int64_t fit = shared ? kMostBlocks : static_cast<int64_t>(available) / bytes;
    if (fit < 1) return kOutOfMemory;
    int most = 0;
    D2K_TRY(raise_shared_limit(kernel, device, &most));
    if (shared && bytes > most) return kOutOfMemory;
    for (int64_t first = 0; first < items; first += fit) {
        const Room room{static_cast<size_t>(bytes), shared ? nullptr : static_cast<unsigned char*>(workspace), first};
        D2K_TRY(launch(kernel, std::min(items - first, fit), threads, shared ? bytes : 0, stream, arguments..., room));
    }
    return kOk;
}

template <int Threads, class... Parameters, class... Arguments>
Status launch_items(void (*kernel)(Parameters...), int64_t items, int64_t bytes, void* workspace, size_t available,
                    int device, void* stream, const Arguments&... arguments) {
    return launch_items(kernel, Threads, items, bytes, workspace, available, device, stream, arguments...);
}

// The same for matrices of so many columns: kMatrixThreads where those are more than a warp has lanes, or where every item
// has a multiprocessor to itself, else a warp. Threads count rows in 32 bits, which more memory could not hold.
template <class Kernel, class... Arguments>
Status launch_matrices(Kernel kernel, int64_t columns, int64_t items, int64_t bytes, void* workspace, size_t available,
                       int device, void* stream, const Arguments&... arguments) {
    if (bytes >= int64_t{1} << 34) return kOutOfMemory;
    int processors = 0;
    D2K_TRY(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    return launch_items(kernel, columns > 32 || items <= processors ? kMatrixThreads : 32, items, bytes, workspace,
                        available, device, stream, arguments...);
}

}  // namespace d2k::cuda

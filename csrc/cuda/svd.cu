#include "d2kernels/svd.h"

#include "matrices.h"

namespace d2k::cuda {
namespace {

using Problem = Svd<AnyFloat>;

int64_t bytes_of(const Problem& problem) { return 8 * SvdWork<double>::size(problem.plan()); }

template <int Threads>
__global__ void __launch_bounds__(Threads, 1) kernel(Problem problem, Room room) {
    __shared__ typename BlockTeam<Threads>::Storage storage;
    extern __shared__ __align__(16) unsigned char shared[];
    BlockTeam<Threads> team(storage);
    const Plan plan = problem.plan();
    Scratch scratch = room.scratch(shared);
    const auto work = SvdWork<double>::in(scratch, plan);
    for (int64_t i = blockIdx.x; i < problem.batch; i += gridDim.x) {
        Range range;
        load_all(team, problem, i, work, &range);
        decompose_whole(team, plan, work);
        write_all(team, problem, i, work, &range);
    }
}

}  // namespace

Status svd_workspace(const Problem& problem, int device, size_t* bytes) {
    constexpr int beside = sizeof(typename BlockTeam<256>::Storage) + 256;
    return workspace_of(problem.batch, bytes_of(problem), beside, device, bytes);
}

Status svd(const Problem& problem, void* workspace, size_t bytes, int device, void* stream) {
    if (problem.batch == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    return with_threads(problem.plan().q, [&](auto threads) {
        return launch_items<threads>(kernel<threads>, problem.batch, bytes_of(problem), workspace, bytes, device,
                                     stream, problem);
    });
}

}  // namespace d2k::cuda

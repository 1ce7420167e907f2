#include "d2kernels/svd.h"

#include "d2kernels/svd_backward.h"
#include "matrices.h"

namespace d2k::cuda {
namespace {

using Problem = Svd<AnyFloat>;

int64_t bytes_of(const Problem& problem) { return 8 * SvdWork<double>::size(problem.plan()); }

__global__ void __launch_bounds__(kMatrixThreads, 1) kernel(Problem problem, Room room) {
    __shared__ MatrixTeam::Storage storage;
    extern __shared__ __align__(16) unsigned char shared[];
    const Plan plan = problem.plan();
    const MatrixTeam block(storage);
    if (fits_lanes(plan) && !block.first_warp()) return;
    MatrixTeam team = fits_lanes(plan) ? block.lanes() : block;
    Scratch scratch = room.scratch(shared);
    const auto work = SvdWork<double>::in(scratch, plan);
    const int64_t size = problem.rows * problem.columns;
    double* const a = work.left.first;  // which has room for it, and is written last
    copy(team, problem.a + room.item() * size, size, a);
    Range range = range_of(team, a, size);
    load(team, a, problem.rows, problem.columns, plan.turned, range, work.g.columns, 0);
    decompose_whole(team, plan, work);
    write_all(team, problem, room.item(), work, &range);
}

using Gradient = SvdBackward<AnyFloat>;

int64_t bytes_of(const Gradient& problem) { return 8 * SvdBackwardWork::size(problem); }

__global__ void __launch_bounds__(kMatrixThreads, 1) gradient_kernel(Gradient problem, Room room) {
    __shared__ MatrixTeam::Storage storage;
    extern __shared__ __align__(16) unsigned char shared[];
    MatrixTeam team(storage);
    Scratch scratch = room.scratch(shared);
    svd_backward(team, problem, room.item(), SvdBackwardWork::in(scratch, problem));
}

}  // namespace

Status svd_workspace(const Problem& problem, int device, size_t* bytes) {
    return workspace_of(problem.batch, bytes_of(problem), kBesideMatrix, device, bytes);
}

Status svd(const Problem& problem, void* workspace, size_t bytes, int device, void* stream) {
    if (problem.batch == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    return launch_matrices(kernel, problem.plan().q, problem.batch, bytes_of(problem), workspace,
                           bytes, device, stream, problem);
}

Status svd_backward_workspace(const Gradient& problem, int device, size_t* bytes) {
    return workspace_of(problem.batch, bytes_of(problem), kBesideMatrix, device, bytes);
}

Status svd_backward(const Gradient& problem, void* workspace, size_t bytes, int device, void* stream) {
    if (problem.batch == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    return launch_matrices(gradient_kernel, problem.k(), problem.batch, bytes_of(problem), workspace, bytes, device,
                           stream, problem);
}

}  // namespace d2k::cuda

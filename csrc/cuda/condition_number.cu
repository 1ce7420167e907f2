#include "d2kernels/condition_number.h"

#include "matrices.h"

namespace d2k::cuda {
namespace {

constexpr int kScaleThreads = 256, kClosedThreads = 64;

using Problem = ConditionNumber<AnyFloat>;

// The factors, the value, and what one matrix in double works in.
int64_t bytes_of(const Problem& problem) {
    return 8 * (problem.size_a() + problem.size_b() + 1 + ExtremesWork<double>::size(problem.plan()) + problem.doubles());
}

__global__ void __launch_bounds__(kMatrixThreads, 1) kernel(Problem problem, Room room) {
    __shared__ MatrixTeam::Storage storage;
    extern __shared__ __align__(16) unsigned char shared[];
    MatrixTeam team(storage);
    const Plan plan = problem.plan();
    Scratch scratch = room.scratch(shared);
    const auto work = ExtremesWork<double>::in(scratch, plan);
    double* const doubles = scratch.take<double>(problem.doubles());
    const int64_t size_a = problem.size_a(), size_b = problem.size_b();
    double* const a = scratch.take<double>(size_a + size_b + 1);
    // One reading's code for both factors; no other touches their type.
    D2K_ROLLED
    for (int f = 0; f < (problem.b ? 2 : 1); ++f)
        copy(team, Floats::either(f == 1, problem.b + room.item() * size_b, problem.a + room.item() * size_a),
             f ? size_b : size_a, a + (f ? size_a : 0));
    double* const value = a + size_a + size_b;
    const ConditionNumber<double> one{a, problem.b ? a + size_a : nullptr, 1, problem.rows, problem.inner, problem.columns,
                                      problem.atol, problem.rtol, problem.log, value,
                                      problem.slope_a ? problem.slope_a + room.item() * size_a : nullptr,
                                      problem.slope_a ? problem.slope_b + room.item() * size_b : nullptr};
    Range range;
    prepare_all(team, one, 0, work, doubles, &range);
    const Extremes<double> e = extremes(team, plan, work, one.atol, one.rtol, &range);
    finish_all(team, one, 0, e, doubles, &range);
    if (team.rank() == 0) put(problem.value + room.item(), *value);
}

__global__ void __launch_bounds__(kClosedThreads) closed_kernel(Problem problem) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kClosedThreads + threadIdx.x;
    if (i < problem.batch) condition_numbers_2x2<double>(problem, i);
}

template <class T>
__global__ void __launch_bounds__(kScaleThreads) scale_kernel(const T* grad, const double* slope, int64_t batch,
                                                              int64_t size, T* gradient) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kScaleThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kScaleThreads + threadIdx.x; i < batch * size; i += step)
        gradient[i] = stored<T>(static_cast<ArithmeticOf<T>>(static_cast<double>(grad[i / size]) * slope[i]));
}

}  // namespace

Status condition_number_workspace(const Problem& problem, int device, size_t* bytes) {
    *bytes = 0;
    if (problem.closed()) return kOk;
    return workspace_of(problem.batch, bytes_of(problem), kBesideMatrix, device, bytes);
}

Status condition_number(const Problem& problem, void* workspace, size_t bytes, int device, void* stream) {
    if (problem.batch == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    if (problem.closed()) {
        const int64_t blocks = (problem.batch + kClosedThreads - 1) / kClosedThreads;
        D2K_TRY(launch(closed_kernel, blocks, kClosedThreads, 0, stream, problem));
        return kOk;
    }
    return launch_matrices(kernel, problem.plan().q, problem.batch, bytes_of(problem), workspace,
                           bytes, device, stream, problem);
}

template <class T>
Status scale_slopes(const T* grad, const double* slope, int64_t batch, int64_t size, T* gradient, int device,
                    void* stream) {
    if (batch == 0 || size == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const int64_t blocks = std::min((batch * size + kScaleThreads - 1) / kScaleThreads, kMostBlocks);
    D2K_TRY(launch(scale_kernel<T>, blocks, kScaleThreads, 0, stream, grad, slope, batch, size, gradient));
    return kOk;
}

#define D2K_INSTANTIATE(T) \
    template Status scale_slopes<T>(const T*, const double*, int64_t, int64_t, T*, int, void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cuda

#include "d2kernels/pdmi.h"

#include "matrices.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) snippet_kernel(PdmiSnippet<T> problem, PdmiSnippetOut<T> out) {
    __shared__ typename BlockTeam<kThreads>::Storage storage;
    BlockTeam<kThreads> team(storage);
    for (int64_t i = blockIdx.x; i < problem.sequences.count; i += gridDim.x) d2k::pdmi_snippet(team, problem, out, i);
}

template <class T>
__global__ void __launch_bounds__(kThreads) snippet_backward_kernel(PdmiSnippet<T> problem, PdmiSnippetSaved<T> saved,
                                                                    T* on, T* off) {
    using Real = ArithmeticOf<T>;
    const Real above = problem.above(), below = problem.below();
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; t < problem.sequences.total;
         t += step) {
        const int64_t i = sequence_of(problem.sequences, t);
        const Real score = i < 0 ? Real(0) : Real(problem.foreground[t]);
        const double g = i < 0 ? 0 : static_cast<double>(saved.grad[i]);
        on[t] = stored<T>(i >= 0 && score > above ? static_cast<Real>(g * saved.foreground_slope[i]) : Real(0));
        off[t] = stored<T>(i >= 0 && score < below ? static_cast<Real>(g * saved.background_slope[i]) : Real(0));
    }
}

__global__ void __launch_bounds__(kMatrixThreads, 1) video_kernel(PdmiVideo<AnyFloat> problem, Room room) {
    __shared__ MatrixTeam::Storage storage;
    extern __shared__ __align__(16) unsigned char shared[];
    MatrixTeam team(storage);
    d2k::pdmi_video(team, problem, room.scratch(shared));
}

}  // namespace

template <class T>
Status pdmi_snippet(const PdmiSnippet<T>& problem, const PdmiSnippetOut<T>& out, int device, void* stream) {
    if (problem.sequences.count == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const int64_t blocks = std::min(problem.sequences.count, kMostBlocks);
    D2K_TRY(launch(snippet_kernel<T>, blocks, kThreads, 0, stream, problem, out));
    return kOk;
}

template <class T>
Status pdmi_snippet_backward(const PdmiSnippet<T>& problem, const PdmiSnippetSaved<T>& saved, T* on, T* off,
                             int device, void* stream) {
    if (problem.sequences.total == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const int64_t blocks = std::min((problem.sequences.total + kThreads - 1) / kThreads, kMostBlocks);
    D2K_TRY(launch(snippet_backward_kernel<T>, blocks, kThreads, 0, stream, problem, saved, on, off));
    return kOk;
}

Status pdmi_video_workspace(const PdmiVideo<AnyFloat>& problem, int device, size_t* bytes) {
    return workspace_of(1, PdmiVideoWork::bytes(problem), kBesideMatrix, device, bytes);
}

Status pdmi_video(const PdmiVideo<AnyFloat>& problem, void* workspace, size_t bytes, int device, void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    return launch_matrices(video_kernel, problem.classes, 1, PdmiVideoWork::bytes(problem),
                           workspace, bytes, device, stream, problem);
}

#define D2K_INSTANTIATE(T)                                                                                    \
    template Status pdmi_snippet<T>(const PdmiSnippet<T>&, const PdmiSnippetOut<T>&, int, void*);             \
    template Status pdmi_snippet_backward<T>(const PdmiSnippet<T>&, const PdmiSnippetSaved<T>&, T*, T*, int,  \
                                             void*);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)
D2K_INSTANTIATE(BFloat16)
D2K_INSTANTIATE(Half)

}  // namespace d2k::cuda

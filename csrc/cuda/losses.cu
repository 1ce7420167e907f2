#include "d2kernels/losses.h"

#include "matrices.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 256;

using Team = BlockTeam<kThreads>;

template <class T>
__global__ void __launch_bounds__(kThreads, 1) losses_kernel(Losses<T> problem, LossesOut<T> out, Room room) {
    __shared__ typename Team::Storage storage;
    extern __shared__ __align__(16) unsigned char shared[];
    Team team(storage);
    Scratch scratch = room.scratch(shared);
    const LossesWork<T> work = LossesWork<T>::in(scratch, problem);
    d2k::losses(
        team, problem, work, out, [&](const PdmiVideo<T>& video) { pdmi_video(team, video, scratch); }, [](int64_t) {});
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4) backward_kernel(Sequences sequences, LossesSaved<T> saved, int64_t scores,
                                                            int64_t dense, LossesGradients<T> to) {
    const auto g = saved.of();
    const T above = static_cast<T>(saved.foreground_threshold), below = static_cast<T>(saved.background_threshold);
    const int64_t all = dense + (saved.score ? sequences.total : 0), step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < all; at += step) {
        if (at < dense) {
            dense_gradient(saved, g, at, scores, to);
            continue;
        }
        const int64_t t = at - dense, i = sequence_of(sequences, t);
        const bool on = i >= 0 && saved.score[t] > above, off = i >= 0 && saved.score[t] < below;
        to.on[t] = on ? static_cast<T>(g.ds * saved.snippet_by_row[2 * i]) : T(0);
        to.off[t] = off ? static_cast<T>(g.ds * saved.snippet_by_row[2 * i + 1]) : T(0);
    }
}

template <class T>
int64_t bytes_of(const Losses<T>& problem) {
    PdmiVideo<T> video{};
    video.videos = problem.videos();
    video.classes = problem.classes;
    return LossesWork<T>::bytes(problem) + (problem.video ? PdmiVideoWork::bytes(video) : 0);
}

}  // namespace

template <class T>
Status losses_workspace(const Losses<T>& problem, int device, size_t* bytes) {
    constexpr int beside = sizeof(typename Team::Storage) + 256;
    return workspace_of(1, bytes_of(problem), beside, device, bytes);
}

template <class T>
Status losses(const Losses<T>& problem, const LossesOut<T>& out, void* workspace, size_t bytes, int device,
              void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    return launch_items<kThreads>(losses_kernel<T>, 1, bytes_of(problem), workspace, bytes, device, stream, problem, out);
}

template <class T>
Status losses_backward(const Sequences& sequences, const LossesSaved<T>& saved, int64_t classes, int64_t width,
                       const LossesGradients<T>& to, int device, void* stream) {
    const int64_t scores = sequences.count * classes, dense = scores + 2 * sequences.count * width;
    const int64_t all = dense + (saved.score ? sequences.total : 0);
    if (all == 0) return kOk;
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    const int64_t blocks = std::min((all + kThreads - 1) / kThreads, kMostBlocks);
    D2K_TRY(launch(backward_kernel<T>, blocks, kThreads, 0, stream, sequences, saved, scores, dense, to));
    return kOk;
}

template Status losses_workspace<float>(const Losses<float>&, int, size_t*);
template Status losses<float>(const Losses<float>&, const LossesOut<float>&, void*, size_t, int, void*);
template Status losses_backward<float>(const Sequences&, const LossesSaved<float>&, int64_t, int64_t,
                                       const LossesGradients<float>&, int, void*);

}  // namespace d2k::cuda

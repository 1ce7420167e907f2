#include "d2kernels/losses.h"

#include <algorithm>

#include "aligned.h"
#include "parallel.h"
#include "patience.h"
#include "vectorize.h"

namespace d2k::cpu {
namespace {

struct RunVideo {
    Status* status;

    template <class T>
    void operator()(const PdmiVideo<T>& problem) const { *status = pdmi_video(problem); }
};

// Until whoever called wants it to end.
struct Pause {
    Patience* patience;

    void operator()(int64_t values) const { patience->spend(0.5 * static_cast<double>(values)); }
};

#define D2K_DEFINE(T)                                                                                                \
    D2K_CLONES_OF(T) D2K_FLATTEN void forward(const Losses<T>& problem, const LossesWork<T>& work, const LossesOut<T>& out, \
                                        const RunVideo& video, const Pause& pause) {                                 \
        HostTeam team;                                                                                               \
        d2k::losses(team, problem, work, out, video, pause);                                                         \
    }                                                                                                                \
    D2K_CLONES_OF(T) D2K_FLATTEN void backward(const Sequences& sequences, const LossesSaved<T>& saved, int64_t classes, \
                                         int64_t width, const LossesGradients<T>& to) {                              \
        const auto g = saved.of();                                                                                   \
        const int64_t n = sequences.count, scores = n * classes, all = scores + 2 * n * width;                       \
        for (int64_t at = 0; at < scores; ++at) dense_gradient(saved, g, at, scores, to);                            \
        for (int64_t at = scores; at < all; ++at) dense_gradient(saved, g, at, scores, to);                          \
        if (!saved.score) return;                                                                                    \
        const T above = static_cast<T>(saved.foreground_threshold);                                                  \
        const T below = static_cast<T>(saved.background_threshold);                                                  \
        for (int64_t i = 0; i < n; ++i) {                                                                            \
            const auto range = sequences[i];                                                                         \
            const T on = static_cast<T>(g.ds * saved.snippet_by_row[2 * i]);                                         \
            const T off = static_cast<T>(g.ds * saved.snippet_by_row[2 * i + 1]);                                    \
            const T* __restrict score = saved.score + range.first;                                                   \
            T *__restrict front = to.on + range.first, *__restrict back = to.off + range.first;                      \
            D2K_LANES                                                                                                \
            for (int64_t t = 0; t < range.length; ++t) {                                                             \
                front[t] = score[t] > above ? on : T(0);                                                             \
                back[t] = score[t] < below ? off : T(0);                                                             \
            }                                                                                                        \
        }                                                                                                            \
    }
D2K_DEFINE(float)
D2K_DEFINE(double)
#undef D2K_DEFINE

}  // namespace

template <class T>
Status losses(const Losses<T>& problem, const LossesOut<T>& out) {
    Status inner = kOk;
    const Status status = parallel_for(1, 1, 0, 1, [&](int64_t, int64_t) {
        Aligned<double> memory(LossesWork<T>::bytes(problem) / 8 + 1);
        Scratch scratch = memory.scratch();
        Patience patience;
        forward(problem, LossesWork<T>::in(scratch, problem), out, {&inner}, {&patience});
    });
    return status == kOk ? inner : status;
}

template <class T>
Status losses_backward(const Sequences& sequences, const LossesSaved<T>& saved, int64_t classes, int64_t width,
                       const LossesGradients<T>& to) {
    return parallel_for(1, 1, 0, 1, [&](int64_t, int64_t) {
        if (saved.score) {
            std::fill_n(to.on, sequences.total, T(0));
            std::fill_n(to.off, sequences.total, T(0));
        }
        backward(sequences, saved, classes, width, to);
    });
}

#define D2K_INSTANTIATE(T)                                              \
    template Status losses<T>(const Losses<T>&, const LossesOut<T>&);  \
    template Status losses_backward<T>(const Sequences&, const LossesSaved<T>&, int64_t, int64_t, const LossesGradients<T>&);
D2K_INSTANTIATE(float)
D2K_INSTANTIATE(double)

}  // namespace d2k::cpu

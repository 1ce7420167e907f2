#include "d2kernels/pdmi.h"

#include "bindings/bindings.h"
#include "bindings/dtype.h"

namespace d2k {
namespace {

// dtype, total, attention, background, foreground, offsets, lengths, sequences, both thresholds, joint, floor, rtol
template <class T>
PdmiSnippet<T> snippet(Reader r) {
    PdmiSnippet<T> x{};
    int dtype;
    r.rest(dtype, x.sequences.total, x.attention, x.background, x.foreground, x.sequences.offsets, x.sequences.lengths,
           x.sequences.count, x.foreground_threshold, x.background_threshold, x.joint, x.floor, x.rtol);
    return x;
}

// value, counts, means, slopes
template <class T>
PdmiSnippetOut<T> outputs(Reader r) {
    PdmiSnippetOut<T> x{};
    r.rest(x.value, x.foreground_count, x.background_count, x.foreground_mean, x.background_mean, x.foreground_slope,
           x.background_slope);
    return x;
}

// Calls call(the problem, a zero of its type).
template <class Function>
void with_snippet(const Reader& problem, const Function& call) {
    with_dtype(problem.at<int>(0), [&](auto zero) { call(snippet<decltype(zero)>(problem), zero); });
}

// dtype, p, labels, keep, videos, classes, floored, relative_floor, normalize_rows, per_class, atol, rtol, value, rank,
// slope
template <class T>
PdmiVideo<T> video(Reader r) {
    int dtype;
    Address p;
    WrittenAddress value;
    const bool *labels, *keep;
    int64_t videos, classes, *rank;
    bool floored, normalize_rows, per_class;
    double relative_floor, atol, rtol, *slope;
    r.rest(dtype, p, labels, keep, videos, classes, floored, relative_floor, normalize_rows, per_class, atol, rtol,
           value, rank, slope);
    return {floats_at<InputOf<T>>(p, dtype), labels, keep, videos, classes, floored, relative_floor, normalize_rows,
            per_class, atol, rtol, floats_at<OutputOf<T>>(value, dtype), rank, slope};
}

}  // namespace

void bind_pdmi(Module& m) {
    m.def("pdmi_snippet_cpu", [](Call& c) {
        with_snippet(c.next<Reader>(), [&](const auto& problem, auto zero) {
            const auto out = outputs<decltype(zero)>(c.next<Reader>());
            int threads;
            c.rest(threads);
            run([&] { return cpu::pdmi_snippet(problem, out, threads); });
        });
    });
    m.def("pdmi_snippet_backward_cpu", [](Call& c) {
        with_snippet(c.next<Reader>(), [&](const auto& problem, auto zero) {
            using T = decltype(zero);
            PdmiSnippetSaved<T> saved{};
            T *on, *off;
            int threads;
            c.rest(saved.grad, saved.foreground_slope, saved.background_slope, on, off, threads);
            run([&] { return cpu::pdmi_snippet_backward(problem, saved, on, off, threads); });
        });
    });
    m.def("pdmi_video_cpu", [](Call& c) {
        Reader problem;
        int64_t most;
        c.rest(problem, most);
        bool found = false;
        with_dtype(problem.at<int>(0), [&](auto zero) {
            const auto p = video<decltype(zero)>(problem);
            run([&] { return cpu::pdmi_video(p, most, &found); });
        });
        c.give(found);
    });

#ifdef D2K_CUDA
    m.def("pdmi_snippet_cuda", [](Call& c) {
        with_snippet(c.next<Reader>(), [&](const auto& problem, auto zero) {
            const auto out = outputs<decltype(zero)>(c.next<Reader>());
            int device;
            void* stream;
            c.rest(device, stream);
            run([&] { return cuda::pdmi_snippet(problem, out, device, stream); });
        });
    });
    m.def("pdmi_snippet_backward_cuda", [](Call& c) {
        with_snippet(c.next<Reader>(), [&](const auto& problem, auto zero) {
            using T = decltype(zero);
            PdmiSnippetSaved<T> saved{};
            T *on, *off;
            int device;
            void* stream;
            c.rest(saved.grad, saved.foreground_slope, saved.background_slope, on, off, device, stream);
            run([&] { return cuda::pdmi_snippet_backward(problem, saved, on, off, device, stream); });
        });
    });
    m.def_size("pdmi_video_workspace_cuda", [](Call& c) {
        const auto p = video<AnyFloat>(c.next<Reader>());
        int device;
        c.rest(device);
        size_t bytes = 0;
        run([&] { return cuda::pdmi_video_workspace(p, device, &bytes); });
        c.give(static_cast<int64_t>(bytes));
    });
    m.def("pdmi_video_cuda", [](Call& c) {
        const auto p = video<AnyFloat>(c.next<Reader>());
        void *workspace, *stream;
        size_t bytes;
        int device;
        c.rest(workspace, bytes, device, stream);
        run([&] { return cuda::pdmi_video(p, workspace, bytes, device, stream); });
    });
#endif
}

}  // namespace d2k

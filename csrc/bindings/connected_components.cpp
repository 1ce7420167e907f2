#include "d2kernels/connected_components.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

// Whether scores are double and not float, scores and so on, the same for every entry point.
template <class T>
Components<T> components(Reader r) {
    Components<T> x{};
    r.next<bool>();
    const Table scores = r.strided();
    x.scores = pointer<const T>(scores.at);
    x.classes = scores.width;
    x.row_stride = scores.stride;
    x.class_stride = scores.step;
    x.sequences.total = scores.count;
    r.rest(x.sequences.offsets, x.sequences.lengths, x.sequences.count, x.thresholds, x.levels, x.own_thresholds,
           x.class_mask, x.min_length, x.distinct);
    return x;
}

// Calls call(Components<float> or Components<double>).
template <class Function>
void with_components(const Reader& problem, const Function& call) {
    if (problem.at<bool>(0)) call(components<double>(problem));
    else call(components<float>(problem));
}

}  // namespace

void bind_connected_components(Module& m) {
    m.def("connected_components_count_cpu", [](Call& c) {
        Reader problem;
        int64_t* positions;
        int threads;
        c.rest(problem, positions, threads);
        with_components(problem, [&](const auto& p) {
            run([&] { return cpu::connected_components_count(p, positions, threads); });
            c.give(positions[p.sequences.count * p.classes * p.levels]);
        });
    });
    m.def("connected_components_fill_cpu", [](Call& c) {
        Reader problem;
        int64_t *positions, *out, size;
        int threads;
        c.rest(problem, positions, out, size, threads);
        with_components(problem, [&](const auto& p) {
            run([&] { return cpu::connected_components_fill(p, positions, Segments::in(out, size), threads); });
        });
    });

#ifdef D2K_CUDA
    m.def_size("connected_components_workspace_cuda", [](Call& c) {
        Reader problem;
        c.rest(problem);
        with_components(problem, [&](const auto& p) {
            int64_t places = 0;
            const size_t bytes = cuda::connected_components_workspace(p, &places);
            c.give(Py_BuildValue("nL", static_cast<Py_ssize_t>(bytes), static_cast<long long>(places)));
        });
    });
    m.def("connected_components_count_cuda", [](Call& c) {
        Reader problem;
        int64_t* positions;
        void *workspace, *stream;
        int device;
        c.rest(problem, positions, workspace, device, stream);
        with_components(problem, [&](const auto& p) {
            run([&] { return cuda::connected_components_count(p, positions, workspace, device, stream); });
        });
    });
    m.def("connected_components_fill_cuda", [](Call& c) {
        Reader problem;
        int64_t *positions, *out, size;
        int device;
        void *workspace, *stream;
        c.rest(problem, positions, workspace, out, size, device, stream);
        with_components(problem, [&](const auto& p) {
            run([&] {
                return cuda::connected_components_fill(p, positions, workspace, Segments::in(out, size), size, device, stream);
            });
        });
    });
#endif
}

}  // namespace d2k

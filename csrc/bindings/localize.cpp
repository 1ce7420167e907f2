#include "d2kernels/localize.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

LocalizeRules rules_of(Reader r) {
    LocalizeRules x{};
    r.read(x.margin, x.pooled);
    x.has_min_score = r.next_or_none(&x.min_score);
    r.read(x.min_length, x.iou_threshold, x.inclusive);
    r.next_or_none(&x.sigma);
    x.has_keep_ratio = r.next_or_none(&x.keep_ratio);
    int relative;
    r.rest(x.keep_per_class, x.upsample, x.smoothing, relative);
    x.relative = static_cast<Relative>(relative);
    return x;
}

// Whether activations are double and not float, activations and so on, the same for every entry point.
template <class T>
Localization<T> localization(Reader r, const LocalizeRules& rules) {
    Localization<T> x{};
    r.next<bool>();
    const Table activations = r.strided();
    x.activations = pointer<const T>(activations.at);
    x.classes = activations.width;
    x.row_stride = activations.stride;
    x.class_stride = activations.step;
    x.sequences.total = activations.count;
    r.rest(x.sequences.offsets, x.sequences.lengths, x.sequences.count, x.thresholds, x.levels, x.class_mask,
           x.class_score);
    x.rules = rules;
    return x;
}

// Runs call(Localization<float> or Localization<double>) -> Status without the GIL.
template <class Function>
void with_localization(const Reader& input, const Reader& rules, const Function& call) {
    const LocalizeRules r = rules_of(rules);
    if (input.at<bool>(0)) run([&, x = localization<double>(input, r)] { return call(x); });
    else run([&, x = localization<float>(input, r)] { return call(x); });
}

DetectionColumns columns(Reader r) {
    DetectionColumns x{};
    r.rest(x.sequence, x.label, x.start, x.end, x.score);
    return x;
}

#ifdef D2K_CUDA
// rows, counts, first, workspace
void read_call(Reader r, cuda::LocalizeCall& x) { r.rest(x.room.rows, x.counts, x.first, x.workspace); }
#endif

// What localize_cpu found, in Python's hands.
constexpr char kLocalized[] = "d2kernels.Localized";

void forget(PyObject* capsule) { delete static_cast<cpu::Localized*>(PyCapsule_GetPointer(capsule, kLocalized)); }

}  // namespace

void bind_localize(Module& m) {
    m.def("localize_cpu", [](Call& c) {
        Reader input, rules;
        int64_t* counts;
        int threads;
        c.rest(input, rules, counts, threads);
        cpu::Localized* found = nullptr;
        with_localization(input, rules, [&](const auto& problem) {
            return cpu::localize(problem, counts, threads, &found);
        });
        PyObject* const capsule = PyCapsule_New(found, kLocalized, forget);
        if (!capsule) delete found;
        c.give(capsule);
    });
    m.def("localized_size", [](Call& c) {
        cpu::Localized* const found = c.next_capsule<cpu::Localized>(kLocalized);
        c.end();
        c.give(found->size());
    });
    m.def("localized_write_cpu", [](Call& c) {
        cpu::Localized* const found = c.next_capsule<cpu::Localized>(kLocalized);
        const DetectionColumns out = columns(c.next<Reader>());
        int threads;
        c.rest(threads);
        run([&] { return found->write(out, threads); });
    });
    m.def("localize_as_block_cpu", [](Call& c) {
        Reader input, rules, out;
        int64_t *counts, capacity;
        c.rest(input, rules, counts, capacity, out);
        const DetectionColumns to = columns(out);
        with_localization(input, rules, [&](const auto& problem) {
            return cpu::localize_as_block(problem, counts, capacity, to);
        });
    });

#ifdef D2K_CUDA
    m.def_size("localize_workspace_cuda", [](Call& c) {
        Reader input, rules;
        int64_t rows;
        c.rest(input, rules, rows);
        size_t bytes = 0;
        with_localization(input, rules, [&](const auto& problem) {
            bytes = cuda::localize_workspace(problem, {rows});
            return kOk;
        });
        c.give(static_cast<int64_t>(bytes));
    });
    m.def("localize_find_cuda", [](Call& c) {
        Reader input, rules, call;
        cuda::LocalizeCall there{};
        c.rest(input, rules, call, there.device, there.stream);
        read_call(call, there);
        with_localization(input, rules, [&](const auto& problem) { return cuda::localize_find(problem, there); });
    });
    m.def("localize_write_cuda", [](Call& c) {
        Reader input, rules, call, out;
        int64_t capacity;
        cuda::LocalizeCall there{};
        c.rest(input, rules, call, capacity, out, there.device, there.stream);
        read_call(call, there);
        const DetectionColumns to = columns(out);
        with_localization(input, rules, [&](const auto& problem) {
            return cuda::localize_write(problem, there, capacity, to);
        });
    });
#endif
}

}  // namespace d2k

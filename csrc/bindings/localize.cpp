#include "d2kernels/localize.h"

#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <tuple>

#include "bindings/bindings.h"

namespace d2k {
namespace {

// The arguments that describe a localize problem, the same for every entry point.
using InputArguments = std::tuple<std::uintptr_t, bool, int64_t, int64_t, int64_t, int64_t, std::uintptr_t,
                                  std::uintptr_t, int64_t, std::uintptr_t, int64_t, std::uintptr_t, std::uintptr_t>;
using RuleArguments = std::tuple<double, bool, std::optional<double>, int64_t, double, bool, std::optional<double>,
                                 std::optional<double>, bool, int64_t, int64_t, int>;

LocalizeRules rules(const RuleArguments& a) {
    const auto& [margin, pooled, min_score, min_length, iou_threshold, inclusive, sigma, keep_ratio, keep_per_class,
                 upsample, smoothing, relative] = a;
    return {margin,
            pooled,
            min_score.has_value(),
            min_score.value_or(0),
            min_length,
            iou_threshold,
            inclusive,
            sigma.value_or(0),
            keep_ratio.has_value(),
            keep_ratio.value_or(0),
            keep_per_class,
            upsample,
            smoothing,
            static_cast<Relative>(relative)};
}

template <class T>
Localization<T> localization(const InputArguments& a, const LocalizeRules& rules) {
    const auto [activations, is_double, total, classes, row_stride, class_stride, offsets, lengths, sequences,
                thresholds, levels, class_mask, class_score] = a;
    return {{pointer<const int64_t>(offsets), pointer<const int64_t>(lengths), sequences, total},
            pointer<const T>(activations),
            row_stride,
            class_stride,
            classes,
            pointer<const double>(thresholds),
            levels,
            pointer<const bool>(class_mask),
            pointer<const double>(class_score),
            rules};
}

// Runs call(Localization<float> or Localization<double>) without the GIL.
template <class Call>
void with_localization(const py::tuple& input, const py::tuple& rule, const Call& call) {
    const auto a = input.cast<InputArguments>();
    const LocalizeRules r = rules(rule.cast<RuleArguments>());
    run([&] { return std::get<1>(a) ? call(localization<double>(a, r)) : call(localization<float>(a, r)); });
}

using ColumnArguments =
    std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t>;

DetectionColumns columns(const ColumnArguments& a) {
    const auto [sequence, label, start, end, score] = a;
    return {pointer<int64_t>(sequence), pointer<int64_t>(label), pointer<double>(start), pointer<double>(end),
            pointer<double>(score)};
}

}  // namespace

void bind_localize(py::module_& m) {
    py::class_<cpu::Localized>(m, "Localized")
        .def_property_readonly("size", &cpu::Localized::size)
        .def("write", [](cpu::Localized& found, const ColumnArguments& out, int threads) {
            run([&] { return found.write(columns(out), threads); });
        });
    m.def("localize_cpu", [](const py::tuple& input, const py::tuple& rule, std::uintptr_t counts, int threads) {
        cpu::Localized* found = nullptr;
        with_localization(input, rule, [&](const auto& problem) {
            return cpu::localize(problem, pointer<int64_t>(counts), threads, &found);
        });
        return std::unique_ptr<cpu::Localized>(found);
    });
    m.def("localize_as_block_cpu", [](const py::tuple& input, const py::tuple& rule, std::uintptr_t counts,
                                      int64_t capacity, const ColumnArguments& out) {
        with_localization(input, rule, [&](const auto& problem) {
            return cpu::localize_as_block(problem, pointer<int64_t>(counts), capacity, columns(out));
        });
    });

#ifdef D2K_CUDA
    m.def("localize_workspace_cuda", [](bool is_double, int64_t room, int64_t sequences, int64_t classes,
                                        int64_t upsample) {
        const auto query = is_double ? cuda::localize_workspace<double> : cuda::localize_workspace<float>;
        return query(room, sequences, classes, upsample);
    });
    m.def("localize_find_cuda", [](const py::tuple& input, const py::tuple& rule, int64_t room, std::uintptr_t counts,
                                   std::uintptr_t first, std::uintptr_t workspace, int device, std::uintptr_t stream) {
        with_localization(input, rule, [&](const auto& problem) {
            return cuda::localize_find(problem, room, pointer<int64_t>(counts), pointer<int64_t>(first),
                                       pointer<void>(workspace), device, pointer<void>(stream));
        });
    });
    m.def("localize_write_cuda", [](const py::tuple& input, const py::tuple& rule, int64_t room, std::uintptr_t first,
                                    int64_t capacity, const ColumnArguments& out, std::uintptr_t workspace,
                                    int device, std::uintptr_t stream) {
        with_localization(input, rule, [&](const auto& problem) {
            return cuda::localize_write(problem, room, pointer<const int64_t>(first), capacity, columns(out),
                                        pointer<void>(workspace), device, pointer<void>(stream));
        });
    });
#endif
}

}  // namespace d2k

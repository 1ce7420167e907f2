#include "d2kernels/pdmi.h"

#include "checks.h"

namespace {

using checks::Device;
using checks::Values;

template <class T>
void snippet(checks::Tally& tally, const checks::Batch& b, Values kind, bool joint) {
    const int64_t n = b.count();
    const auto attention = checks::make<T>(b.total, kind, 9), foreground = checks::make<T>(b.total, kind, 10);
    std::vector<T> background(b.total), value(n), mean_f(n), mean_b(n), on(b.total), off(b.total);
    for (int64_t i = 0; i < b.total; ++i)
        background[i] = d2k::stored<T>(1 - static_cast<d2k::ArithmeticOf<T>>(attention[i]));
    std::vector<double> slope_f(n), slope_b(n);
    std::vector<int64_t> count_f(n), count_b(n);
    const auto grad = checks::make<T>(n, Values::kSigned, 11);
    d2k::PdmiSnippet<T> host{{b.offsets.data(), b.lengths.data(), n, b.total}, attention.data(), background.data(),
                             foreground.data(), 0.5, 0.4, joint, 1e-12, 1e-10};
    CHECK(d2k::cpu::pdmi_snippet(host, {value.data(), count_f.data(), count_b.data(), mean_f.data(), mean_b.data(),
                                        slope_f.data(), slope_b.data()}, 1));
    CHECK(d2k::cpu::pdmi_snippet_backward(host, {grad.data(), slope_f.data(), slope_b.data()}, on.data(), off.data(), 1));

    const Device<int64_t> offsets(b.offsets), lengths(b.lengths), counts_f(n), counts_b(n);
    const Device<T> there_attention(attention), there_background(background), there_foreground(foreground);
    const Device<T> values(n), means_f(n), means_b(n), ons(b.total), offs(b.total), there_grad(grad);
    const Device<double> slopes_f(n), slopes_b(n), there_slope_f(slope_f), there_slope_b(slope_b);
    d2k::PdmiSnippet<T> there = host;
    there.sequences.offsets = offsets.get();
    there.sequences.lengths = lengths.get();
    there.attention = there_attention.get();
    there.background = there_background.get();
    there.foreground = there_foreground.get();
    CAPTURED(d2k::cuda::pdmi_snippet(there, {values.get(), counts_f.get(), counts_b.get(), means_f.get(), means_b.get(),
                                          slopes_f.get(), slopes_b.get()}, 0, checks::stream()));
    CAPTURED(d2k::cuda::pdmi_snippet_backward(there, {there_grad.get(), there_slope_f.get(), there_slope_b.get()},
                                           ons.get(), offs.get(), 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    const double tolerance = 100 * checks::kRounding<T>;
    const bool joints = checks::same(values.host(), value, tolerance);
    const bool sides = counts_f.host() == count_f && counts_b.host() == count_b &&
                       checks::same(means_f.host(), mean_f, checks::kRounding<T>) &&
                       checks::same(means_b.host(), mean_b, checks::kRounding<T>);
    // Where the means are as good as equal their difference, and with it the slope, is rounding.
    const bool slopes = kind == Values::kNearTies || kind == Values::kRising || b.total > 1200 ||
                        (checks::same(slopes_f.host(), slope_f, 1e-4) && checks::same(slopes_b.host(), slope_b, 1e-4));
    const bool gradients = !b.apart() || (checks::same(ons.host(), on) && checks::same(offs.host(), off));
    tally.add(joints && sides && slopes && gradients, checks::kDtypeNames[checks::kDtype<T>], name(kind), "rows", b.total,
              joint ? "joint" : "", joints ? "" : "value", sides ? "" : "means", slopes ? "" : "slopes",
              gradients ? "" : "gradients");
}

enum class Labels { kNone, kAll, kSome };

template <class T>
void video(checks::Tally& tally, int64_t videos, int64_t classes, Labels labels, Values kind, int variant) {
    const auto p = checks::make<T>(videos * classes, kind, 12);
    const auto bits = checks::bits(videos * classes, labels == Labels::kNone ? 0 : labels == Labels::kAll ? 2 : 0.2, 13);
    std::vector<uint8_t> kept(videos, variant == 7 ? 0 : 1);
    for (int64_t i = 0; i < videos && variant & 1; i += 2) kept[i] = 0;
    std::vector<T> value(1);
    std::vector<double> slope(p.size());
    std::vector<int64_t> rank(1);
    d2k::PdmiVideo<T> host{};
    host.p = p.data();
    host.labels = checks::as_bool(bits.data());
    const bool all = !(variant & 1);  // which need not be said
    host.keep = all ? nullptr : checks::as_bool(kept.data());
    host.videos = videos;
    host.classes = classes;
    host.floored = variant % 3 == 1;
    host.relative_floor = 1e-3;
    host.normalize_rows = variant & 2;
    host.per_class = variant & 4;
    host.rtol = 1e-10;
    host.value = value.data();
    host.rank = rank.data();
    host.slope = slope.data();
    CHECK(d2k::cpu::pdmi_video(host));

    const Device<T> there_p(p), values(1);
    const Device<double> slopes(p.size());
    const Device<uint8_t> there_labels(bits), there_keep(kept);
    const Device<int64_t> ranks(1);
    const auto floats = [](const Device<T>& x) { return d2k::Floats(x.get(), checks::kDtype<T>); };
    const d2k::PdmiVideo<d2k::AnyFloat> there{
        floats(there_p), checks::as_bool(there_labels.get()), all ? nullptr : checks::as_bool(there_keep.get()), videos, classes,
        host.floored, host.relative_floor, host.normalize_rows, host.per_class, 0, host.rtol, floats(values),
        ranks.get(), slopes.get()};
    size_t bytes = 0;
    CHECK(d2k::cuda::pdmi_video_workspace(there, 0, &bytes));
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    CAPTURED(d2k::cuda::pdmi_video(there, workspace.get(), bytes, 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    const bool joint = checks::same(values.host(), value, 1e4 * (sizeof(T) == 8 ? 1e-12 : checks::kRounding<T> / 1e3));
    const bool ranked = ranks.host() == rank, sloped = checks::same(slopes.host(), slope, 1e-5);
    tally.add(joint && ranked && sloped, checks::kDtypeNames[checks::kDtype<T>], name(kind), videos, "videos", classes,
              "classes, labels", static_cast<int>(labels), "variant", variant, joint ? "" : "value",
              ranked ? "" : "rank", sloped ? "" : "slopes");
}

}  // namespace

int check_pdmi() {
    checks::Tally snippets("pdmi_snippet"), videos("pdmi_video");
    for (const auto& b : checks::batches())
        for (const Values kind : checks::kEveryValues) {
            const bool joint = static_cast<int>(kind) % 2;
            snippet<double>(snippets, b, kind, joint);
            snippet<float>(snippets, b, kind, !joint);
            snippet<d2k::BFloat16>(snippets, b, kind, joint);
            snippet<d2k::Half>(snippets, b, kind, !joint);
        }
    int variant = 0;
    for (const Values kind : checks::kEveryValues)
        for (const Labels labels : {Labels::kNone, Labels::kAll, Labels::kSome}) {
            for (int i = 0; i < 3; ++i, variant = (variant + 3) % 8) {
                video<double>(videos, 6, 5, labels, kind, variant);
                video<float>(videos, 9, 3, labels, kind, variant);
            }
            video<double>(videos, 1, 4, labels, kind, variant);
            video<d2k::BFloat16>(videos, 5, 6, labels, kind, variant);
            video<d2k::Half>(videos, 5, 6, labels, kind, variant);
        }
    // Of 13 to 16 videos one factor may leave Q itself where the other leaves reflectors.
    for (const int64_t n : {10, 13, 14, 15, 16}) video<double>(videos, n, n == 14 ? 18 : 20, Labels::kSome, Values::kUniform, 0);
    video<double>(videos, 40, 100, Labels::kSome, Values::kUniform, 0);
    return snippets.finish() + videos.finish();
}

#include "d2kernels/pdmi.h"

#include "checks.h"

namespace {

using checks::Device;

int snippet(const checks::Batch& b, bool joint) {
    const int64_t n = static_cast<int64_t>(b.lengths.size());
    const auto attention = checks::uniform<double>(b.total, 9), foreground = checks::uniform<double>(b.total, 10);
    std::vector<double> background(b.total), value(n), mean_f(n), mean_b(n), slope_f(n), slope_b(n), on(b.total), off(on);
    for (int64_t i = 0; i < b.total; ++i) background[i] = 1 - attention[i];
    std::vector<int64_t> count_f(n), count_b(n);
    const auto grad = checks::uniform<double>(n, 11);
    d2k::PdmiSnippet<double> host{{b.offsets.data(), b.lengths.data(), n, b.total}, attention.data(), background.data(),
                                  foreground.data(), 0.5, 0.4, joint, 1e-12, 1e-10};
    CHECK(d2k::cpu::pdmi_snippet(host, {value.data(), count_f.data(), count_b.data(), mean_f.data(), mean_b.data(),
                                        slope_f.data(), slope_b.data()}, 1));
    CHECK(d2k::cpu::pdmi_snippet_backward(host, {grad.data(), slope_f.data(), slope_b.data()}, on.data(), off.data(), 1));

    const Device<int64_t> offsets(b.offsets), lengths(b.lengths), counts_f(n), counts_b(n);
    const Device<double> there_attention(attention), there_background(background), there_foreground(foreground);
    const Device<double> values(n), means_f(n), means_b(n), slopes_f(n), slopes_b(n), ons(b.total), offs(b.total);
    const Device<double> there_grad(grad);
    d2k::PdmiSnippet<double> there = host;
    there.sequences.offsets = offsets.get();
    there.sequences.lengths = lengths.get();
    there.attention = there_attention.get();
    there.background = there_background.get();
    there.foreground = there_foreground.get();
    CHECK(d2k::cuda::pdmi_snippet(there, {values.get(), counts_f.get(), counts_b.get(), means_f.get(), means_b.get(),
                                          slopes_f.get(), slopes_b.get()}, 0, nullptr));
    CHECK(d2k::cuda::pdmi_snippet_backward(there, {there_grad.get(), slopes_f.get(), slopes_b.get()}, ons.get(),
                                           offs.get(), 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    const bool found = checks::same(values.host(), value, 1e-9) && counts_f.host() == count_f &&
                       counts_b.host() == count_b && checks::same(means_f.host(), mean_f, 1e-12) &&
                       checks::same(means_b.host(), mean_b, 1e-12);
    const bool gradients = checks::same(ons.host(), on, 1e-8) && checks::same(offs.host(), off, 1e-8);
    return checks::report("pdmi_snippet", found && (!b.apart() || gradients));
}

int video(int64_t videos, int64_t classes, bool normalize_rows, bool per_class) {
    const auto p = checks::uniform<double>(videos * classes, 12), drawn = checks::uniform<double>(videos * classes, 13);
    std::vector<uint8_t> bits(videos * classes);
    for (size_t i = 0; i < bits.size(); ++i) bits[i] = drawn[i] < 0.2;
    std::vector<uint8_t> kept(videos, 1);
    kept[0] = per_class;
    const auto as_bool = [](const uint8_t* bytes) { return reinterpret_cast<const bool*>(bytes); };
    std::vector<double> value(1), slope(p.size());
    std::vector<int64_t> rank(1);
    d2k::PdmiVideo<double> host{};
    host.p = p.data();
    host.labels = as_bool(bits.data());
    host.keep = as_bool(kept.data());
    host.videos = videos;
    host.classes = classes;
    host.normalize_rows = normalize_rows;
    host.per_class = per_class;
    host.rtol = 1e-10;
    host.value = value.data();
    host.rank = rank.data();
    host.slope = slope.data();
    CHECK(d2k::cpu::pdmi_video(host));

    constexpr int kDouble = 1;
    const Device<double> there_p(p), values(1), slopes(p.size());
    const Device<uint8_t> there_labels(bits), there_keep(kept);
    const Device<int64_t> ranks(1);
    const d2k::PdmiVideo<d2k::AnyFloat> there{d2k::Floats(there_p.get(), kDouble), as_bool(there_labels.get()),
                                              as_bool(there_keep.get()), videos, classes, false, 0, normalize_rows,
                                              per_class, 0, host.rtol, d2k::Floats(values.get(), kDouble), ranks.get(),
                                              slopes.get()};
    size_t bytes = 0;
    CHECK(d2k::cuda::pdmi_video_workspace(there, 0, &bytes));
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    CHECK(d2k::cuda::pdmi_video(there, workspace.get(), bytes, 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    return checks::report("pdmi_video", checks::same(values.host(), value, 1e-9) && ranks.host() == rank &&
                                            checks::same(slopes.host(), slope, 1e-6));
}

}  // namespace

int check_pdmi() {
    int wrong = video(10, 20, false, false) + video(3, 5, true, true) + video(40, 100, false, false);
    for (const auto& b : checks::batches()) wrong += snippet(b, true) + snippet(b, false);
    return wrong;
}

#include "d2kernels/head.h"

#include "checks.h"

namespace {

using checks::Device;
using V = float;

const bool* as_bool(const uint8_t* bytes) { return reinterpret_cast<const bool*>(bytes); }

template <class T>
std::vector<double> wide(const std::vector<T>& values) {
    return {values.begin(), values.end()};
}

template <class T>
std::vector<double> wide(const Device<T>& values) { return wide(values.host()); }

template <class T>
int run(const checks::Batch& b, int64_t streams, int64_t width, int64_t classes, bool by_labels, bool release,
        double rounding) {
    const auto n = static_cast<int64_t>(b.lengths.size());
    auto z = checks::uniform<T>(b.total * streams * width, 1), logits = checks::uniform<T>(b.total * streams * classes, 2);
    for (T& x : logits) x = d2k::stored<T>(4 * (static_cast<V>(x) - V(0.6)));
    const auto drawn = checks::uniform<float>(n * classes, 3), reference = checks::uniform<float>(width, 4);
    std::vector<uint8_t> labels(n * classes);
    for (size_t i = 0; i < labels.size(); ++i) labels[i] = drawn[i] < 0.4f;
    // No attention lies on a threshold, where the last bit of an exponential would decide.
    const d2k::Head<T> host{{b.offsets.data(), b.lengths.data(), n, b.total}, z.data(), logits.data(), streams, width,
                            classes, by_labels ? as_bool(labels.data()) : nullptr, V(0.50001), V(0.49999), release, release};
    const size_t rows = b.total, own = by_labels ? rows : 0;
    std::vector<V> activations(rows * classes), attention(rows), mine(own), embedding(2 * n * width), mass(2 * n);
    std::vector<V> lowest(n * width), updated(width), score(rows);
    const d2k::HeadOut<T> out{activations.data(), attention.data(), by_labels ? mine.data() : nullptr, embedding.data(),
                              mass.data(), lowest.data()};
    CHECK(d2k::cpu::head(host, out, 1));
    const d2k::ReferenceScore<T> scored{host.sequences, z.data(), streams, width, classes, reference.data(), lowest.data(),
                                        width, mass.data(), as_bool(labels.data()), 3, 0.9};
    CHECK(d2k::cpu::reference_score(scored, updated.data(), score.data(), 1));

    const Device<int64_t> offsets(b.offsets), lengths(b.lengths);
    const Device<T> there_z(z), there_logits(logits);
    const Device<uint8_t> there_labels(labels);
    const Device<V> to_activations(rows * classes), to_attention(rows), to_own(own), to_embedding(2 * n * width);
    const Device<V> to_mass(2 * n), to_lowest(n * width), to_updated(width), to_score(rows), there_reference(reference);
    d2k::Head<T> there = host;
    there.sequences.offsets = offsets.get();
    there.sequences.lengths = lengths.get();
    there.z = there_z.get();
    there.logits = there_logits.get();
    there.labels = by_labels ? as_bool(there_labels.get()) : nullptr;
    const d2k::HeadOut<T> to{to_activations.get(), to_attention.get(), by_labels ? to_own.get() : nullptr,
                             to_embedding.get(), to_mass.get(), to_lowest.get()};
    const Device<char> workspace(d2k::cuda::head_workspace(there), checks::Holds::kNothing);
    CAPTURED(d2k::cuda::head(there, to, workspace.get(), 0, checks::stream()));
    d2k::ReferenceScore<T> there_scored = scored;
    there_scored.sequences = there.sequences;
    there_scored.z = there_z.get();
    there_scored.reference = there_reference.get();
    there_scored.candidate = to_lowest.get();
    there_scored.mass = to_mass.get();
    there_scored.labels = as_bool(there_labels.get());
    CAPTURED(d2k::cuda::reference_score(there_scored, to_updated.get(), to_score.get(), 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    constexpr double tolerance = 1e-5;
    bool fine = true;
    // Rows of two sequences are of one of them, which one is not defined.
    if (b.apart())
        fine = checks::same(to_activations.host(), activations, tolerance) &&
               checks::same(to_attention.host(), attention, tolerance) && checks::same(to_own.host(), mine, tolerance) &&
               checks::same(to_embedding.host(), embedding, tolerance) && checks::same(to_mass.host(), mass, tolerance) &&
               checks::same(to_lowest.host(), lowest, tolerance) && checks::same(to_updated.host(), updated, tolerance) &&
               checks::same(to_score.host(), score, tolerance);

    const auto by_activations = checks::uniform<float>(rows * classes, 5), by_attention = checks::uniform<float>(rows, 6);
    const auto by_own = checks::uniform<float>(rows, 7), by_embedding = checks::uniform<float>(2 * n * width, 8);
    std::vector<T> grad_z(z.size()), grad_logits(logits.size());
    const Device<V> kept_activations(activations), kept_attention(attention), kept_own(mine), kept_embedding(embedding);
    const Device<V> kept_mass(mass), g_activations(by_activations), g_attention(by_attention), g_own(by_own);
    const Device<V> g_embedding(by_embedding);
    const Device<T> to_z(z.size()), to_logits(logits.size());
    const d2k::HeadOut<T> saved{kept_activations.get(), kept_attention.get(), kept_own.get(), kept_embedding.get(),
                                kept_mass.get(), nullptr};
    const Device<char> again(d2k::cuda::head_workspace(there), checks::Holds::kNothing);
    // With a gradient of the embedding, and without.
    for (const bool embedded : {true, false}) {
        CHECK(d2k::cpu::head_backward(host, out, {by_activations.data(), by_attention.data(),
                                                  by_labels ? by_own.data() : nullptr,
                                                  embedded ? by_embedding.data() : nullptr, grad_z.data(),
                                                  grad_logits.data()}, 1));
        CAPTURED(d2k::cuda::head_backward(there, saved, {g_activations.get(), g_attention.get(),
                                                         by_labels ? g_own.get() : nullptr,
                                                         embedded ? g_embedding.get() : nullptr, to_z.get(),
                                                         to_logits.get()}, again.get(), 0, checks::stream()));
        CHECK(cudaDeviceSynchronize());
        if (b.apart())
            fine &= checks::same(wide(to_z), wide(grad_z), rounding) &&
                    checks::same(wide(to_logits), wide(grad_logits), rounding);
    }
    return checks::report("head", fine);
}

}  // namespace

int check_head() {
    int wrong = 0;
    for (const auto& b : checks::batches())
        for (const bool release : {true, false}) {
            wrong += run<float>(b, 2, 70, 5, release, release, 2e-5) + run<float>(b, 1, 300, 40, true, release, 2e-5);
            wrong += run<d2k::BFloat16>(b, 2, 33, 7, release, release, 1e-2) +
                     run<d2k::Half>(b, 3, 16, 3, true, release, 2e-3);
        }
    return wrong;
}

#include "d2kernels/losses.h"

#include <functional>
#include <numeric>

#include "checks.h"

namespace {

using checks::Device;

constexpr double kTolerance = 2e-6;

const bool* as_bool(const uint8_t* bytes) { return reinterpret_cast<const bool*>(bytes); }

// What a check changes about the released recipe.
using Change = std::function<void(d2k::Losses<float>&)>;

int run(const char* what, const std::vector<int64_t>& lengths, int64_t classes, int64_t width, const Change& change,
        bool given = false, float labelled = 0.3f) {
    const auto n = static_cast<int64_t>(lengths.size());
    std::vector<int64_t> offsets(n + 1, 2);
    for (int64_t i = 0; i < n; ++i) offsets[i + 1] = offsets[i] + lengths[i] + 2;
    const int64_t total = offsets[n];
    const auto p = checks::uniform<float>(n * classes, 1), embedding = checks::uniform<float>(2 * n * width, 2);
    auto mass = checks::uniform<float>(2 * n, 3);
    for (float& x : mass) x = x < 0.2f ? 0 : x;
    const auto on = checks::uniform<float>(total, 4), off = checks::uniform<float>(total, 5);
    const auto score = checks::uniform<float>(total, 6), keys = checks::uniform<float>(4 * n, 7);
    const auto drawn = checks::uniform<float>(n * classes, 8);
    std::vector<uint8_t> labels(n * classes);
    for (size_t i = 0; i < labels.size(); ++i) labels[i] = drawn[i] < labelled;
    std::vector<int64_t> permutations(4 * n);
    for (int64_t i = 0; i < 4 * n; ++i) permutations[i] = n - 1 - i % n;
    const std::vector<int64_t> iteration{1102};

    d2k::Losses<float> host{};
    host.sequences = {offsets.data(), lengths.data(), n, total};
    host.p = p.data();
    host.embedding = embedding.data();
    host.mass = mass.data();
    host.on = on.data();
    host.off = off.data();
    host.score = score.data();
    host.labels = as_bool(labels.data());
    host.keys = given ? nullptr : keys.data();
    host.permutations = given ? permutations.data() : nullptr;
    host.iteration = iteration.data();
    host.classes = classes;
    host.width = width;
    host.min_snippets = 5;
    host.clamp = 1e-3;
    host.pairs = d2k::Pairs::kRandom;
    host.per_entry = true;
    host.gamma = 0.01;
    host.beta = 2;
    host.pair_warmup = 2000;
    host.denoising_warmup = 3000;
    host.snippet = host.video = true;
    host.snippet_weight = host.video_weight = 0.1;
    host.foreground_threshold = host.background_threshold = 0.5;
    host.floor = 1e-10;
    host.rtol = 1e-6;
    host.skip_one_sided = true;
    host.floored = true;
    host.relative_floor = 0.2;
    host.normalize_rows = host.per_class = true;
    host.video_atol = 1e-5;
    change(host);

    std::vector<float> terms(4), by_p(p.size()), by_embedding(embedding.size());
    std::vector<double> factors(2), video_by_p(p.size()), by_row(2 * n);
    CHECK(d2k::cpu::losses(host, {&terms[0], &terms[1], &terms[2], &terms[3], factors.data(), by_p.data(),
                                  video_by_p.data(), by_embedding.data(), by_row.data()}));

    const Device<int64_t> there_offsets(offsets), there_lengths(lengths), there_permutations(permutations);
    const Device<int64_t> there_iteration(iteration);
    const Device<float> there_p(p), there_embedding(embedding), there_mass(mass), there_on(on), there_off(off);
    const Device<float> there_score(score), there_keys(keys);
    const Device<uint8_t> there_labels(labels);
    d2k::Losses<float> there = host;
    there.sequences.offsets = there_offsets.get();
    there.sequences.lengths = there_lengths.get();
    there.p = there_p.get();
    there.embedding = there_embedding.get();
    there.mass = there_mass.get();
    there.on = there_on.get();
    there.off = there_off.get();
    there.score = there_score.get();
    there.labels = as_bool(there_labels.get());
    there.keys = given ? nullptr : there_keys.get();
    there.permutations = given ? there_permutations.get() : nullptr;
    there.iteration = there_iteration.get();
    const Device<float> total_of(1), classification(1), ds(1), dv(1), slopes(p.size()), embedding_slopes(embedding.size());
    const Device<double> factors_of(2), video_slopes(p.size()), row_slopes(2 * n);
    size_t bytes = 0;
    CHECK(d2k::cuda::losses_workspace(there, 0, &bytes));
    const Device<char> workspace(bytes, checks::Holds::kNothing);
    CAPTURED(d2k::cuda::losses(there, {total_of.get(), classification.get(), ds.get(), dv.get(), factors_of.get(),
                                    slopes.get(), video_slopes.get(), embedding_slopes.get(), row_slopes.get()},
                            workspace.get(), bytes, 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    const std::vector<float> found{total_of.host()[0], classification.host()[0], ds.host()[0], dv.host()[0]};
    bool fine = checks::same(found, terms, kTolerance) && checks::same(factors_of.host(), factors, 1e-14) &&
                checks::same(slopes.host(), by_p, kTolerance) && checks::same(video_slopes.host(), video_by_p, 1e-6) &&
                checks::same(embedding_slopes.host(), by_embedding, kTolerance) &&
                checks::same(row_slopes.host(), by_row, 1e-9);

    const float one = 1, half = 0.5f;
    std::vector<float> grad_p(p.size()), grad_embedding(embedding.size()), grad_on(total), grad_off(total);
    const float* const rows = host.snippet ? score.data() : nullptr;
    const d2k::LossesSaved<float> saved{&one, nullptr, &half, nullptr, factors.data(), by_p.data(), video_by_p.data(),
                                        by_embedding.data(), by_row.data(), rows, 0.5, 0.5};
    CHECK(d2k::cpu::losses_backward(host.sequences, saved, classes, width,
                                    {grad_p.data(), grad_embedding.data(), grad_on.data(), grad_off.data()}));
    const Device<float> there_one(std::vector<float>{one}), there_half(std::vector<float>{half});
    const Device<double> kept_factors(factors), kept_video(video_by_p), kept_rows(by_row);
    const Device<float> kept_p(by_p), kept_embedding(by_embedding);
    const Device<float> to_p(p.size()), to_embedding(embedding.size()), to_on(total), to_off(total);
    const d2k::LossesSaved<float> there_saved{there_one.get(), nullptr, there_half.get(), nullptr, kept_factors.get(),
                                              kept_p.get(), kept_video.get(), kept_embedding.get(), kept_rows.get(),
                                              rows ? there_score.get() : nullptr, 0.5, 0.5};
    CAPTURED(d2k::cuda::losses_backward(there.sequences, there_saved, classes, width,
                                     {to_p.get(), to_embedding.get(), to_on.get(), to_off.get()}, 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    fine &= checks::same(to_p.host(), grad_p, kTolerance) && checks::same(to_embedding.host(), grad_embedding, kTolerance);
    if (rows) fine &= checks::same(to_on.host(), grad_on, 1e-6) && checks::same(to_off.host(), grad_off, 1e-6);
    return checks::report(what, fine);
}

}  // namespace

int check_losses() {
    const std::vector<int64_t> few{9, 4, 12, 7, 40, 6};
    std::vector<int64_t> many(40);
    std::iota(many.begin(), many.end(), 3);
    const Change none = [](d2k::Losses<float>&) {};
    const Change paper = [](d2k::Losses<float>& x) {
        x.min_snippets = 1;
        x.clamp = 0;
        x.pairs = d2k::Pairs::kAll;
        x.torch_cosine = x.joint = true;
        x.per_entry = x.skip_one_sided = x.floored = x.normalize_rows = x.per_class = false;
        x.floor = x.video_atol = 0;
        x.video_rtol = 1e-12;
    };
    const Change plain = [](d2k::Losses<float>& x) {
        x.pairs = d2k::Pairs::kNone;
        x.beta = 1.5;
        x.snippet = x.video = false;
        x.on = x.off = x.score = nullptr;
    };
    return run("losses, release", few, 5, 37, none) + run("losses, given pairs", few, 5, 37, none, true) +
           run("losses, paper", few, 5, 37, paper) + run("losses, no pairs", few, 5, 37, plain) +
           run("losses, one video", {8}, 3, 4, none) + run("losses, none", {}, 3, 4, none) +
           run("losses, no labels", few, 5, 37, none, false, 0) +
           run("losses, many", many, 20, 64, none) + run("losses, many, paper", many, 20, 64, paper);
}

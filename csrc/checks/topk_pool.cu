#include "d2kernels/topk_pool.h"

#include "checks.h"

namespace {

using checks::Device;
using checks::Values;

template <class T>
void compare(checks::Tally& tally, const checks::Batch& b, int64_t classes, Values kind,
             bool overlapping = false) {
    const auto scores = checks::make<T>(b.total * classes, kind, 1);
    const int64_t n = b.count();
    std::vector<int64_t> k(n);
    for (int64_t i = 0; i < n; ++i) k[i] = i == 0 ? 5000 : i == 1 ? -3 : i == 2 ? 1 : 9 + 50 * i;
    const size_t size = n * classes;
    std::vector<T> mean(size), threshold(size), grad_scores(scores.size());
    const auto grad = checks::make<T>(size, Values::kSigned, 2);
    std::vector<int32_t> above(size), tied(size);
    const d2k::TopkPool<T> problem{{b.offsets.data(), b.lengths.data(), n, b.total}, scores.data(), classes, k.data()};
    CHECK(d2k::cpu::topk_pool(problem, {mean.data(), threshold.data(), above.data(), tied.data()}, 1));
    const d2k::TopkPoolSaved<T> saved{grad.data(), threshold.data(), above.data(), tied.data()};
    CHECK(d2k::cpu::topk_pool_backward(problem, saved, grad_scores.data(), 1));

    const Device<int64_t> offsets(b.offsets), lengths(b.lengths), there_k(k);
    const Device<T> there_scores(scores), there_grad(grad), means(size), thresholds(size), grads(scores.size());
    const Device<int32_t> aboves(size), ties(size);
    const d2k::TopkPool<T> there{{offsets.get(), lengths.get(), n, b.total}, there_scores.get(), classes, there_k.get()};
    size_t bytes = 0;
    CHECK(d2k::cuda::topk_pool_workspace(there, 0, &bytes));
    const Device<unsigned char> workspace(bytes, checks::Holds::kNothing);
    const d2k::TopkPoolOut<T> out{means.get(), thresholds.get(), aboves.get(), ties.get()};
    CAPTURED(d2k::cuda::topk_pool(there, out, workspace.get(), 0, checks::stream()));
    const d2k::TopkPoolSaved<T> kept{there_grad.get(), thresholds.get(), aboves.get(), ties.get()};
    CAPTURED(d2k::cuda::topk_pool_backward(there, kept, grads.get(), 0, checks::stream()));
    CHECK(cudaDeviceSynchronize());
    if (overlapping) {  // what finds no room in the workspace is NaN, and the others are right
        const auto found = thresholds.host();
        for (size_t i = 0; i < size; ++i)
            if (found[i] != found[i]) threshold[i] = found[i], mean[i] = means.host()[i], above[i] = tied[i] = 0;
        tally.add(checks::same(means.host(), mean, checks::kRounding<T>) && checks::same(found, threshold) &&
                      aboves.host() == above && ties.host() == tied && found[0] == found[0],
                  "overlapping");
        return;
    }
    const bool value = checks::same(means.host(), mean, checks::kRounding<T>);
    const bool selection = checks::same(thresholds.host(), threshold) && aboves.host() == above && ties.host() == tied;
    const bool gradient = !b.apart() || checks::same(grads.host(), grad_scores, checks::kRounding<T>);
    tally.add(value && selection && gradient, checks::kDtypeNames[checks::kDtype<T>], name(kind), "rows", b.total,
              "classes", classes, value ? "" : "mean", selection ? "" : "threshold", gradient ? "" : "gradient");
}

}  // namespace

int check_topk_pool() {
    checks::Tally tally("topk_pool");
    for (const auto& b : checks::batches())
        for (const Values kind : checks::kEveryValues) {
            compare<float>(tally, b, 5, kind);
            compare<double>(tally, b, 3, kind);
            compare<d2k::BFloat16>(tally, b, 8, kind);
            compare<d2k::Half>(tally, b, 7, kind);
        }
    compare<float>(tally, checks::batches()[2], 37, Values::kUniform);
    compare<float>(tally, checks::batches()[2], 40, Values::kUniform);
    compare<double>(tally, checks::batches()[2], 4, Values::kNearTies);
    compare<d2k::BFloat16>(tally, checks::batches()[2], 5, Values::kNearTies);
    compare<d2k::Half>(tally, checks::batches()[2], 8, Values::kNearTies);
    // Longer than what a block keeps of a sequence, alone and beside short ones.
    const checks::Batch longest{{0, 40000}, {40000}, 40000};
    const checks::Batch mixed{{0, 10, 14010, 14010, 14400, 30800}, {9, 14000, 0, 300, 16385}, 30800};
    compare<float>(tally, longest, 3, Values::kNearTies);
    compare<float>(tally, mixed, 4, Values::kSigned);
    compare<double>(tally, longest, 1, Values::kSomeInfinite);
    compare<d2k::BFloat16>(tally, mixed, 8, Values::kTies);
    compare<d2k::Half>(tally, mixed, 3, Values::kSomeNan);
    compare<float>(tally, {{0, 0, 5, 10}, {20000, 19990, 19990}, 20000}, 4, Values::kUniform, true);
    return tally.finish();
}

#include "d2kernels/topk_pool.h"

#include "checks.h"

namespace {

using checks::Device;

template <class T>
int differences(const checks::Batch& b, int64_t classes) {
    const double tolerance = sizeof(T) == 2 ? 1e-2 : 1e-6;
    const auto scores = checks::uniform<T>(b.total * classes, 1);
    const int64_t n = static_cast<int64_t>(b.lengths.size());
    std::vector<int64_t> k(n);
    for (int64_t i = 0; i < n; ++i) k[i] = i == 0 ? 5000 : i == 1 ? -3 : 9;
    const size_t size = n * classes;
    std::vector<T> mean(size), threshold(size), grad = checks::uniform<T>(size, 2), grad_scores(scores.size());
    std::vector<int32_t> above(size), tied(size);
    const d2k::TopkPool<T> problem{{b.offsets.data(), b.lengths.data(), n, b.total}, scores.data(), classes, k.data()};
    CHECK(d2k::cpu::topk_pool(problem, {mean.data(), threshold.data(), above.data(), tied.data()}, 1));
    const d2k::TopkPoolSaved<T> saved{grad.data(), threshold.data(), above.data(), tied.data()};
    CHECK(d2k::cpu::topk_pool_backward(problem, saved, grad_scores.data(), 1));

    const Device<int64_t> offsets(b.offsets), lengths(b.lengths), there_k(k);
    const Device<T> there_scores(scores), there_grad(grad), means(size), thresholds(size), grads(scores.size());
    const Device<int32_t> aboves(size), ties(size);
    const d2k::TopkPool<T> there{{offsets.get(), lengths.get(), n, b.total}, there_scores.get(), classes, there_k.get()};
    CHECK(d2k::cuda::topk_pool(there, {means.get(), thresholds.get(), aboves.get(), ties.get()}, 0, nullptr));
    const d2k::TopkPoolSaved<T> kept{there_grad.get(), thresholds.get(), aboves.get(), ties.get()};
    CHECK(d2k::cuda::topk_pool_backward(there, kept, grads.get(), 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    const bool found = checks::same(means.host(), mean, tolerance) && checks::same(thresholds.host(), threshold) &&
                       aboves.host() == above && ties.host() == tied;
    return checks::report("topk_pool", found && (!b.apart() || checks::same(grads.host(), grad_scores, tolerance)));
}

}  // namespace

int check_topk_pool() {
    int wrong = 0;
    for (const auto& b : checks::batches())
        wrong += differences<float>(b, 1) + differences<float>(b, 37) + differences<double>(b, 20) +
                 differences<d2k::BFloat16>(b, 3) + differences<d2k::Half>(b, 5);
    // Longer than what a block keeps of a sequence.
    return wrong + differences<float>({{0, 90000}, {90000}, 90000}, 3);
}

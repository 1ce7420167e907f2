// connected_components on the GPU against the host team, without torch, for compute-sanitizer. Exit 1 on a difference.
#include "d2kernels/connected_components.h"

#include <cstdio>
#include <random>
#include <vector>

#include <cuda_runtime.h>

namespace {

#define CHECK(expression)                                                                  \
    do {                                                                                   \
        const int status = static_cast<int>(expression);                                   \
        if (status != 0) {                                                                 \
            std::fprintf(stderr, "%s:%d: %s: %d\n", __FILE__, __LINE__, #expression, status); \
            std::exit(1);                                                                  \
        }                                                                                  \
    } while (0)

template <class T>
T* on_device(const std::vector<T>& values) {
    T* copy = nullptr;
    CHECK(cudaMalloc(&copy, values.size() * sizeof(T) + 1));
    CHECK(cudaMemcpy(copy, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return copy;
}

template <class T>
std::vector<T> on_host(const T* values, size_t size) {
    std::vector<T> copy(size);
    CHECK(cudaMemcpy(copy.data(), values, size * sizeof(T), cudaMemcpyDeviceToHost));
    return copy;
}

template <class T>
int differences(int64_t classes, const std::vector<int64_t>& offsets, const std::vector<int64_t>& lengths,
                int64_t total, bool distinct, int64_t min_length) {
    std::mt19937 random(17);
    std::uniform_real_distribution<T> uniform(0, 1);
    std::vector<T> scores(total * classes);
    for (T& x : scores) x = uniform(random);
    const std::vector<T> levels{T(0.2), T(0.5), T(0.8)};
    d2k::Components<T> problem{};
    problem.sequences = {offsets.data(), lengths.data(), static_cast<int64_t>(lengths.size()), total};
    problem.scores = scores.data();
    problem.row_stride = classes;
    problem.class_stride = 1;
    problem.classes = classes;
    problem.thresholds = levels.data();
    problem.levels = static_cast<int64_t>(levels.size());
    problem.min_length = min_length;
    problem.distinct = distinct;
    const int64_t items = problem.items();

    std::vector<int64_t> positions(items + 1);
    CHECK(d2k::cpu::connected_components_count(problem, positions.data(), 1));
    const int64_t size = positions[items];
    std::vector<int64_t> rows(5 * size + 1);
    CHECK(d2k::cpu::connected_components_fill(problem, positions.data(), d2k::Segments::in(rows.data(), size), 1));

    d2k::Components<T> there = problem;
    there.sequences.offsets = on_device(offsets);
    there.sequences.lengths = on_device(lengths);
    there.scores = on_device(scores);
    there.thresholds = on_device(levels);
    int64_t *places = nullptr, *found = nullptr;
    void* workspace = nullptr;
    size_t bytes = 0;
    CHECK(d2k::cuda::connected_components_workspace(items, 0, &bytes));
    CHECK(cudaMalloc(&workspace, bytes + 1));
    CHECK(cudaMalloc(&places, (items + 1) * sizeof(int64_t)));
    CHECK(cudaMalloc(&found, 5 * size * sizeof(int64_t) + 1));
    CHECK(d2k::cuda::connected_components_count(there, places, workspace, bytes, 0, nullptr));
    CHECK(d2k::cuda::connected_components_fill(there, places, d2k::Segments::in(found, size), 0, nullptr));
    CHECK(cudaDeviceSynchronize());

    int wrong = on_host(places, items + 1) != positions;
    const std::vector<int64_t> got = on_host(found, 5 * size);
    for (int64_t i = 0; i < 5 * size; ++i) wrong += got[i] != rows[i];
    for (const void* p : {static_cast<const void*>(there.sequences.offsets), static_cast<const void*>(there.scores),
                          static_cast<const void*>(there.sequences.lengths), static_cast<const void*>(there.thresholds),
                          static_cast<const void*>(places), static_cast<const void*>(found),
                          static_cast<const void*>(workspace)})
        CHECK(cudaFree(const_cast<void*>(p)));
    std::printf("%lld classes, %lld rows, %lld runs: %s\n", static_cast<long long>(classes),
                static_cast<long long>(total), static_cast<long long>(size), wrong ? "WRONG" : "equal");
    return wrong;
}

}  // namespace

int main() {
    int wrong = 0;
    for (const bool distinct : {false, true})
        for (const int64_t min_length : {1, 3}) {
            wrong += differences<float>(1, {0}, {1}, 1, distinct, min_length);
            wrong += differences<float>(3, {0, 7, 7, 140}, {7, 0, 129, 1025}, 1200, distinct, min_length);
            wrong += differences<double>(20, {0, 128}, {128, 127}, 255, distinct, min_length);
            // Backwards, negative and past the end: clamped alike on both sides.
            wrong += differences<float>(2, {50, -9, 90, 300}, {60, 20, 1000, 4}, 100, distinct, min_length);
        }
    wrong += differences<float>(4, {}, {}, 0, true, 1);
    return wrong != 0;
}

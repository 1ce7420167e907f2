// What the checks share: memory on the device, random numbers, and how results are compared.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <cuda_runtime.h>

#include "d2kernels/dtype.h"

#define CHECK(expression)                                                                         \
    do {                                                                                          \
        const int d2k_status = static_cast<int>(expression);                                      \
        if (d2k_status != 0) {                                                                    \
            std::fprintf(stderr, "%s:%d: %s: %d\n", __FILE__, __LINE__, #expression, d2k_status); \
            std::exit(1);                                                                         \
        }                                                                                         \
    } while (0)

namespace checks {

// An allocation of its own, so that memcheck sees each step past its end. Results are compared where nothing was written,
// too: what they hold before is no result of any kernel. A workspace is left as it is, for initcheck.
enum class Holds { kJunk, kNothing };

template <class T>
class Device {
public:
    explicit Device(size_t size, Holds holds = Holds::kJunk) : size_(size) {
        CHECK(cudaMalloc(&data_, size * sizeof(T) + (size == 0)));
        if (holds == Holds::kJunk) CHECK(cudaMemset(data_, 0xa5, size * sizeof(T)));
    }
    explicit Device(const std::vector<T>& values) : Device(values.size(), Holds::kNothing) {
        CHECK(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
    }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    ~Device() { cudaFree(data_); }

    T* get() const { return data_; }

    std::vector<T> host() const {
        std::vector<T> copy(size_);
        CHECK(cudaMemcpy(copy.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
        return copy;
    }

private:
    T* data_ = nullptr;
    size_t size_;
};

template <class T>
std::vector<T> uniform(size_t size, unsigned seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> of(0, 1);
    std::vector<T> values(size);
    for (T& x : values) x = d2k::stored<T>(static_cast<d2k::ArithmeticOf<T>>(of(random)));
    return values;
}

// Whether all values agree within `tolerance` of the largest one; NaN equals NaN.
template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b, double tolerance = 0) {
    if (a.size() != b.size()) return false;
    double largest = 0;
    for (const T x : b)
        if (std::isfinite(static_cast<double>(x))) largest = std::fmax(largest, std::fabs(static_cast<double>(x)));
    for (size_t i = 0; i < a.size(); ++i) {
        const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
        if (x == y || (x != x && y != y)) continue;
        if (!(std::fabs(x - y) <= tolerance * largest)) return false;
    }
    return true;
}

// Prints one line; 1 where it is wrong.
inline int report(const char* what, bool fine) {
    std::printf("%s: %s\n", what, fine ? "equal" : "WRONG");
    return !fine;
}

// Ragged batches: one row, with empty and long sequences, with offsets backwards, negative and past the end (which both
// sides clamp alike), and none.
struct Batch {
    std::vector<int64_t> offsets, lengths;
    int64_t total;

    // Whether no row is of two sequences, so that a gradient's rows are defined.
    bool apart() const {
        for (size_t i = 0; i < lengths.size(); ++i)
            if (offsets[i] + lengths[i] > offsets[i + 1]) return false;
        return true;
    }
};

inline std::vector<Batch> batches() {
    return {{{0, 1}, {1}, 1},
            {{0, 7, 7, 140, 1200}, {7, 0, 129, 1025}, 1200},
            {{50, -9, 90, 300, 100}, {60, 20, 1000, 4}, 100},
            {{0}, {}, 0}};
}

}  // namespace checks

int check_condition_number();
int check_connected_components();
int check_head();
int check_localize();
int check_losses();
int check_nms();
int check_pdmi();
int check_svd();
int check_topk_pool();

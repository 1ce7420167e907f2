// What the checks share: memory on the device, random numbers, and how results are compared.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <vector>

#include <cuda_runtime.h>

#include "inputs.h"

#define CHECK(expression)                                                                         \
    do {                                                                                          \
        const int d2k_status = static_cast<int>(expression);                                      \
        if (d2k_status != 0) {                                                                    \
            std::fprintf(stderr, "%s:%d: %s: %d\n", __FILE__, __LINE__, #expression, d2k_status); \
            std::exit(1);                                                                         \
        }                                                                                         \
    } while (0)

// A launcher's call, captured as a graph and then run: none may wait for the device, allocate its memory, copy to the host or
// launch anything on another stream than the one that it is given.
#define CAPTURED(expression)                  \
    do {                                      \
        CHECK(checks::begin_capture());       \
        CHECK(expression);                    \
        CHECK(checks::end_capture_and_run()); \
    } while (0)

namespace checks {

// The stream that is captured.
inline cudaStream_t stream() {
    static cudaStream_t made = nullptr;
    if (!made) CHECK(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    return made;
}

inline cudaError_t begin_capture() {
    const cudaError_t before = cudaDeviceSynchronize();
    return before == cudaSuccess ? cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal) : before;
}

inline cudaError_t end_capture_and_run() {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t made = nullptr;
    cudaError_t error = cudaStreamEndCapture(stream(), &graph);
    if (error == cudaSuccess) error = cudaGraphInstantiate(&made, graph, 0);
    if (error == cudaSuccess) error = cudaGraphLaunch(made, stream());
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream());
    if (made) cudaGraphExecDestroy(made);
    if (graph) cudaGraphDestroy(graph);
    return error;
}

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

// The dtype numbers of csrc/bindings/dtype.h.
template <class T>
constexpr int kDtype = 1;
template <>
constexpr int kDtype<float> = 0;
template <>
constexpr int kDtype<d2k::BFloat16> = 2;
template <>
constexpr int kDtype<d2k::Half> = 3;

constexpr const char* kDtypeNames[] = {"float32", "float64", "bfloat16", "float16"};

// How far results may be apart that are summed in another order: a few units of the dtype.
template <class T>
constexpr double kRounding = sizeof(T) == 2 ? 1e-2 : sizeof(T) == 4 ? 1e-6 : 1e-12;

// Prints one line; 1 where it is wrong.
inline int report(const char* what, bool fine) {
    std::printf("%s: %s\n", what, fine ? "equal" : "WRONG");
    return !fine;
}

// Counts an op's cases, prints those that are wrong, and at its end one line.
class Tally {
public:
    explicit Tally(const char* op) : op_(op) {}

    template <class... Words>
    void add(bool fine, const Words&... words) {
        ++cases_;
        if (fine) return;
        ++wrong_;
        std::ostringstream text;
        ((text << ' ' << words), ...);
        std::printf("%s:%s: WRONG\n", op_, text.str().c_str());
    }

    // How many are wrong.
    int finish() const {
        std::printf("%s, %d cases: %s\n", op_, cases_, wrong_ ? "WRONG" : "equal");
        return wrong_;
    }

private:
    const char* op_;
    int cases_ = 0, wrong_ = 0;
};

}  // namespace checks

int check_condition_number();
int check_connected_components();
int check_gather_rows();
int check_head();
int check_launches();
int check_localize();
int check_losses();
int check_nms();
int check_pdmi();
int check_step_record();
int check_svd();
int check_topk_pool();
int check_tv_l1();

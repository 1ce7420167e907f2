// The convolution and its gradients with the instruction sets that the argument allows, v3 or v4: prints their bits.
#include <cstdio>
#include <cstring>

namespace {
const char* allowed = "";
bool supported(const char* set) { return strstr(allowed, strrchr(set, 'v')) != nullptr; }
}  // namespace

#define __builtin_cpu_supports(set) supported(set)
#include "cpu/temporal_conv.cpp"

#include <random>

#include "check.h"

using namespace d2k::cpu;

namespace {

std::mt19937 numbers(5);

std::vector<float> drawn(int64_t size) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(size));
    for (float& v : x) v = normal(numbers);
    return x;
}

void print(const char* name, const void* data, size_t bytes) {
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211u;
    std::printf("%s %016llx\n", name, static_cast<unsigned long long>(hash));
}

void print(const char* name, const std::vector<float>& x) { print(name, x.data(), x.size() * sizeof(float)); }

void bits(int64_t c_in, int64_t c_out, int64_t groups, int64_t taps, int64_t dilation, int threads,
          bool winograd = false) {
    const int64_t offsets[] = {2, 2, 45, 350}, lengths[] = {0, 40, 300, 1}, total = 353;
    const Convolution shape{{offsets, lengths, 4, total}, c_in, c_out, groups, taps, dilation, winograd};
    const int64_t in = groups * c_in, out = groups * c_out;
    const auto x = drawn(total * in), weight = drawn(out * c_in * taps), bias = drawn(out), grad = drawn(total * out);
    const float slope = 0.2f;
    const Dropping none{0, 0, 0, 1};
    std::vector<float> y(total * out), inner(y), grad_bias(out), grad_x(x.size()), grad_weight(weight.size());
    std::vector<uint8_t> sign(total * ((out + 7) / 8));
    CHECK(temporal_conv(shape, x.data(), in, weight.data(), bias.data(), &slope, in == out, none, y.data(), sign.data(), threads) == d2k::kOk);
    CHECK(temporal_conv_inner(shape, grad.data(), out, nullptr, sign.data(), &slope, none, inner.data(), nullptr, grad_bias.data(), threads) == d2k::kOk);
    CHECK(temporal_conv_input_gradient(shape, inner.data(), out, weight.data(), nullptr, 0, grad_x.data(), threads) == d2k::kOk);
    CHECK(temporal_conv_weight_gradient(shape, inner.data(), out, x.data(), in, grad_weight.data(), threads) == d2k::kOk);
    print("result", y);
    print("sign", sign.data(), sign.size());
    print("inner", inner);
    print("bias", grad_bias);
    print("input", grad_x);
    print("weight", grad_weight);
}

}  // namespace

int main(int, char** arguments) {
    allowed = arguments[1];
    if (!convolves()) return 1;
    std::printf("%d lanes\n", products()->lanes);
    for (const int threads : {1, 3}) {
        numbers.seed(5);
        bits(64, 64, 2, 3, 1, threads);
        bits(37, 13, 3, 5, 7, threads);
        bits(300, 20, 1, 3, 1, threads);
        bits(8, 100, 1, 1, 1, threads);
        bits(64, 64, 2, 3, 1, threads, true);
        bits(37, 13, 3, 3, 1, threads, true);
        bits(800, 20, 1, 3, 1, threads, true);
    }
}

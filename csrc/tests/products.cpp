// Every instruction set's tiles and rows against plain sums by fused multiply-adds: the same bits.
#include "cpu/products.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"

using namespace d2k::cpu;

namespace {

std::mt19937 numbers(3);

std::vector<float> drawn(int64_t size) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(size));
    for (float& v : x) v = normal(numbers);
    return x;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void tiles(const Products& by) {
    for (int m = 1; m <= by.rows; ++m)
        for (int n = 1; n <= 2; ++n)
            for (const int64_t depth : {int64_t{0}, int64_t{1}, int64_t{7}, kDepth / 3})
                for (const int64_t count : {1, 3})
                    for (const bool add : {false, true}) {
                        const int64_t width = n * by.lanes, stride = width + 5, b_step = (depth + 2) * width;
                        // A row on, or beside each other.
                        const int64_t of_a = depth == 1 ? 9 : kPackedStride, a_step = depth == 7 ? depth : of_a;
                        const auto a = drawn((m + count - 1) * of_a), b = drawn(count * b_step);
                        auto got = drawn(m * stride), want = got;
                        by.tile(m, n, {a.data(), b.data(), of_a, a_step, b_step, count, depth, nullptr, 8}, got.data(), stride, add);
                        for (int64_t i = 0; i < m; ++i)
                            for (int64_t j = 0; j < width; ++j) {
                                float sum = 0;
                                for (int64_t t = 0; t < count; ++t)
                                    for (int64_t k = 0; k < depth; ++k)
                                        sum = std::fma(a[i * of_a + t * a_step + k], b[t * b_step + k * width + j], sum);
                                float& out = want[i * stride + j];
                                out = add ? out + sum : sum;
                            }
                        CHECK(same(got, want));
                    }
}

void outers(const Products& by) {
    const Span spans[] = {{0, 1}, {3, 3}, {4, 11}};
    for (int m = 1; m <= by.rows; ++m)
        for (int n = 1; n <= 2; ++n)
            for (const int64_t shift : {int64_t{0}, int64_t{2}})
                for (const int64_t apart : {int64_t{0}, int64_t{3}})
                    for (const bool add : {false, true}) {
                        const int64_t width = n * by.lanes, rows = 13, of_a = m + apart, of_b = width + apart;
                        const auto a = drawn(rows * of_a), b = drawn(rows * of_b);
                        auto got = drawn(m * width), want = got;
                        by.outer(m, n, {a.data(), of_a}, {b.data(), of_b}, spans, 3, shift, 5, got.data(), add);
                        for (int64_t i = 0; i < m; ++i)
                            for (int64_t j = 0; j < width; ++j) {
                                float sum = 0;
                                for (const Span& s : spans)
                                    for (int64_t r = s.begin; r < s.end; ++r)
                                        sum = std::fma(a[r * of_a + i], b[(r + shift) * of_b + j], sum);
                                float& out = want[i * width + j];
                                out = add ? out + sum : sum;
                            }
                        CHECK(same(got, want));
                    }
}

uint32_t word(uint64_t seed, uint64_t counter, int64_t which) {
    uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
    uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 7; ++round, low += 0x9e3779b9u, high += 0xbb67ae85u) {
        const uint64_t p = uint64_t{0xd2511f53} * c[0], q = uint64_t{0xcd9e8d57} * c[2];
        const uint32_t next[4] = {static_cast<uint32_t>(q >> 32) ^ c[1] ^ low, static_cast<uint32_t>(q),
                                  static_cast<uint32_t>(p >> 32) ^ c[3] ^ high, static_cast<uint32_t>(p)};
        memcpy(c, next, sizeof c);
    }
    return c[which];
}

void drops(const Products& by) {
    for (int64_t size = 1; size < 70; ++size)
        for (const uint64_t first : {uint64_t{0}, uint64_t{5}, (uint64_t{1} << 32) - 3}) {
            const Dropping dropping{0x9876543210fedcbau, 0, 0xb0000000u, 1.75f};
            const auto x = drawn(size);
            auto got = x, want = x;
            by.drop(dropping, x.data(), size, first, got.data());
            for (int64_t j = 0; j < size; ++j) {
                const uint32_t w = word(dropping.seed, first + static_cast<uint64_t>(j / 4), j % 4);
                want[j] = w >= dropping.threshold ? x[j] * dropping.scale : 0.0f;
            }
            CHECK(same(got, want));
        }
}

void rows(const Products& by) {
    for (int64_t size = 1; size < 50; ++size)
        for (int choice = 0; choice < 64; ++choice) {
            const bool biased = choice & 1, activates = choice & 2, adds = choice & 4, signs = choice & 8;
            const int64_t first = choice & 16 ? 3 : 8;
            const float slope = choice & 32 ? -0.25f : 0.5f;
            // Rows, with something between them that stays.
            constexpr int64_t kRows = 3;
            const int64_t of_sums = size + 1, of_residual = size + 2, of_out = size + 3, of_bits = (first + size) / 8 + 2;
            const auto sums = drawn(kRows * of_sums), bias = drawn(size), residual = drawn(kRows * of_residual);
            std::vector<float> all(static_cast<size_t>(kRows * of_out), 3.0f), all_wanted(all);
            std::vector<uint8_t> bits(static_cast<size_t>(kRows * of_bits)), expected(bits);
            for (int64_t r = 0; r < kRows; ++r) bits[r * of_bits] = expected[r * of_bits] = 1;  // of the columns before
            by.finish(kRows, sums.data(), of_sums, size,
                      {biased ? bias.data() : nullptr, activates ? &slope : nullptr, {adds ? residual.data() : nullptr, of_residual},
                       all.data(), of_out, signs ? bits.data() : nullptr, of_bits, first});
            for (int64_t r = 0; r < kRows; ++r)
                for (int64_t j = 0; j < size; ++j) {
                    float y = sums[r * of_sums + j];
                    if (biased) y += bias[j];
                    if (signs && y > 0) expected[r * of_bits + (first + j) / 8] |= static_cast<uint8_t>(1u << ((first + j) % 8));
                    if (activates && !(y > 0)) y *= slope;
                    all_wanted[r * of_out + j] = adds ? y + residual[r * of_residual + j] : y;
                }
            CHECK(same(all, all_wanted));
            CHECK(bits == expected);
            std::vector<float> want(static_cast<size_t>(size));

            const auto out = drawn(size);
            const auto flags = [&](int64_t j) { return (bits[j / 8] >> (j % 8) & 1) != 0; };
            std::vector<float> inner(want.size()), total = drawn(size), sum = total;
            by.before_activation(sums.data(), size, choice & 16 ? out.data() : nullptr, bits.data(), slope, inner.data(),
                                 biased ? total.data() : nullptr);
            for (int64_t j = 0; j < size; ++j) {
                want[j] = (choice & 16 ? out[j] > 0 : flags(j)) ? sums[j] : sums[j] * slope;
                if (biased) sum[j] += want[j];
            }
            CHECK(same(inner, want) && same(total, sum));
            by.add(out.data(), size, total.data());
            for (int64_t j = 0; j < size; ++j) sum[j] += out[j];
            CHECK(same(total, sum));
        }
    for (int64_t size = 1; size < 40; ++size) {
        std::vector<float> packed(3 * kPackedStride, 7.0f);
        const auto x = drawn(2 * (size + 1) + size);  // the last row ends with the memory
        by.pack(x.data(), size + 1, 3, size, packed.data());
        for (int64_t r = 0; r < 3; ++r)
            CHECK(memcmp(packed.data() + r * kPackedStride, x.data() + r * (size + 1), size * sizeof(float)) == 0);
    }
}

void weights(const Products& by) {
    for (const int64_t taps : {1, 3, 5, 7})
        for (int n = 1; n <= 2; ++n)
            for (int64_t width = (n - 1) * by.lanes + 1; width <= n * by.lanes; ++width) {
                const int64_t all = n * by.lanes;
                for (const int64_t channels : {1, 5, 16, 21}) {
                    const int64_t stride = channels * taps + 2, step = channels * all + 3;
                    const auto weight = drawn(width * stride);
                    std::vector<float> got(static_cast<size_t>(taps * step), 7.0f), want(got);
                    by.pack_outputs(weight.data(), stride, width, taps, channels, n, got.data(), step);
                    for (int64_t t = 0; t < taps; ++t)
                        for (int64_t k = 0; k < channels; ++k)
                            for (int64_t j = 0; j < all; ++j)
                                want[t * step + k * all + j] = j < width ? weight[j * stride + k * taps + t] : 0.0f;
                    CHECK(same(got, want));
                }
                const auto weight = drawn(width * taps);
                std::vector<float> got(static_cast<size_t>(taps * (all + 1)), 7.0f), want(got);
                by.pack_inputs(weight.data(), width, taps, n, got.data(), all + 1);
                for (int64_t t = 0; t < taps; ++t)
                    for (int64_t j = 0; j < all; ++j)
                        want[(taps - 1 - t) * (all + 1) + j] = j < width ? weight[j * taps + t] : 0.0f;
                CHECK(same(got, want));
            }
}

}  // namespace

int main() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if (__builtin_cpu_supports("x86-64-v3")) {
        tiles(*kProductsAvx2);
        outers(*kProductsAvx2);
        rows(*kProductsAvx2);
        drops(*kProductsAvx2);
        weights(*kProductsAvx2);
    }
    if (__builtin_cpu_supports("x86-64-v4")) {
        tiles(*kProductsAvx512);
        outers(*kProductsAvx512);
        rows(*kProductsAvx512);
        drops(*kProductsAvx512);
        weights(*kProductsAvx512);
    }
#endif
    std::puts("products: ok");
}

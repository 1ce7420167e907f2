#include "d2kernels/gather_rows.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "vectorize.h"

#if D2K_TARGETS
#include <immintrin.h>
#endif

namespace d2k::cpu {
namespace {

constexpr double kSteps = 0.15;  // nanoseconds a byte of a row

template <class From, class To>
D2K_INLINE void convert(const From* x, int64_t width, To* to) {
    D2K_LANES
    for (int64_t j = 0; j < width; ++j) to[j] = converted<To>(x[j]);
}

// A name for each pair: a template cannot be compiled for several instruction sets.
#define D2K_DEFINE(From, To) \
    D2K_CLONES D2K_FLATTEN void convert_row(const From* x, int64_t width, To* to) { convert(x, width, to); }
D2K_DEFINE(float, BFloat16)
D2K_DEFINE(float, Half)
D2K_DEFINE(BFloat16, float)
D2K_DEFINE(BFloat16, Half)
D2K_DEFINE(Half, BFloat16)

#if D2K_TARGETS
// Compilers make no vectors of the conversion in plain C++, which takes four times as long.
__attribute__((target("avx,f16c"))) void convert_row_f16c(const Half* x, int64_t width, float* to) {
    int64_t j = 0;
    for (; j + 8 <= width; j += 8)
        _mm256_storeu_ps(to + j, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + j))));
    for (; j < width; ++j) to[j] = x[j];
}
#endif

void convert_row(const Half* x, int64_t width, float* to) {
#if D2K_TARGETS
    static const bool has = __builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c");
    if (has) return convert_row_f16c(x, width, to);
#endif
    convert(x, width, to);
}

}  // namespace

// The tiles of the team's algorithm, with an inner loop over a row, which is vectorised.
template <class From, class To>
Status gather_rows(const GatherRows<From, To>& problem, int threads) {
    const int64_t total = problem.sequences.total, width = problem.width;
    if (width == 0) return kOk;  // rows without a number may lie at no address
    const double bytes = static_cast<double>(total) * static_cast<double>(width) * (sizeof(From) + sizeof(To));
    const int64_t chunk = std::max(kGatherRows, total / 64);
    return parallel_for(total, chunk, kSteps * bytes, threads, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const int64_t from = problem.from(row);
            To* const to = problem.out + row * width;
            if (from < 0) {
                std::memset(to, 0, width * sizeof(To));
                continue;
            }
            const From* const x = problem.source + from * width;
            if constexpr (std::is_same_v<From, To>) std::memcpy(to, x, width * sizeof(To));
            else convert_row(x, width, to);
        }
    });
}

#define D2K_INSTANTIATE(From, To) template Status gather_rows<From, To>(const GatherRows<From, To>&, int);
D2K_EACH_GATHER(D2K_INSTANTIATE)

}  // namespace d2k::cpu

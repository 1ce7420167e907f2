#include "products.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#pragma GCC target("arch=x86-64-v3")

namespace d2k::cpu {
namespace {

template <int... m>
struct Tables;

struct Isa {
    using V = __m256;
    using Mask = __m256;
    using Rows = Tables<0, 1, 2, 3, 4, 5>;
    static constexpr int lanes = 8;
    static V load(const float* p) { return _mm256_loadu_ps(p); }
    static __m256i first(int count) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    static V load_some(const float* p, int count) { return _mm256_maskload_ps(p, first(count)); }
    static void store_some(float* p, V v, int count) { _mm256_maskstore_ps(p, first(count), v); }
    static void store(float* p, V v) { _mm256_storeu_ps(p, v); }
    static V all(float x) { return _mm256_set1_ps(x); }
    static V fused(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
    static V plus(V a, V b) { return _mm256_add_ps(a, b); }
    static V times(V a, V b) { return _mm256_mul_ps(a, b); }
    static Mask positive(V v) { return _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GT_OQ); }
    static V choose(Mask which, V a, V b) { return _mm256_blendv_ps(b, a, which); }
    static uint32_t bits(Mask mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask)); }
    static Mask of_bits(const uint8_t* p, int64_t) {
        const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(*p), bit), bit));
    }

    using W = __m256i;  // a counter a lane, in the order in which firsts and seconds of two bring them in turn
    static W words(uint32_t x) { return _mm256_set1_epi64x(x); }
    static W counters(uint64_t first) {
        return _mm256_add_epi64(_mm256_set1_epi64x(static_cast<long long>(first)), _mm256_setr_epi64x(0, 2, 1, 3));
    }
    static W product(W a, W b) { return _mm256_mul_epu32(a, b); }
    static W down(W a) { return _mm256_srli_epi64(a, 32); }
    static W up(W a) { return _mm256_slli_epi64(a, 32); }
    static W exclusive(W a, W b) { return _mm256_xor_si256(a, b); }
    static W both(W a, W b) { return _mm256_and_si256(a, b); }
    static W either(W a, W b) { return _mm256_or_si256(a, b); }
    static W firsts(W a, W b) { return _mm256_unpacklo_epi64(a, b); }
    static W seconds(W a, W b) { return _mm256_unpackhi_epi64(a, b); }
    static Mask at_least(W a, uint32_t least) {
        const __m256i x = _mm256_set1_epi32(static_cast<int>(least));
        return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(a, x), a));
    }
};

#include "products_tiles.h"

constexpr Products kSet = {6, Isa::lanes, any_tile, any_outer, finish, before_activation, add, drop, pack};

}  // namespace

const Products* const kProductsAvx2 = &kSet;

}  // namespace d2k::cpu
#else
const d2k::cpu::Products* const d2k::cpu::kProductsAvx2 = nullptr;
#endif

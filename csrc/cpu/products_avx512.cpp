#include "products.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#pragma GCC target("arch=x86-64-v4")

namespace d2k::cpu {
namespace {

template <int... m>
struct Tables;

struct Isa {
    using V = __m512;
    using Mask = __mmask16;
    using Rows = Tables<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13>;
    static constexpr int lanes = 16;
    static V load(const float* p) { return _mm512_loadu_ps(p); }
    static Mask first(int count) { return static_cast<Mask>((1u << count) - 1); }
    static V load_some(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
    static void store_some(float* p, V v, int count) { _mm512_mask_storeu_ps(p, first(count), v); }
    static void store(float* p, V v) { _mm512_storeu_ps(p, v); }
    static V all(float x) { return _mm512_set1_ps(x); }
    static V fused(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
    static V plus(V a, V b) { return _mm512_add_ps(a, b); }
    static V times(V a, V b) { return _mm512_mul_ps(a, b); }
    static Mask positive(V v) { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ); }
    static V choose(Mask which, V a, V b) { return _mm512_mask_blend_ps(which, b, a); }
    static uint32_t bits(Mask mask) { return mask; }
    static Mask of_bits(const uint8_t* p, int64_t count) {
        return static_cast<Mask>(count > 8 ? p[0] | p[1] << 8 : p[0]);
    }

    using W = __m512i;  // a counter a lane, in the order in which firsts and seconds of two bring them in turn
    static W words(uint32_t x) { return _mm512_set1_epi64(x); }
    static W counters(uint64_t first) {
        return _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(first)), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
    }
    // With masks, or by operators: GCC 12 takes the plain forms for uses of something uninitialised.
    static W product(W a, W b) { return _mm512_maskz_mul_epu32(0xff, a, b); }
    static W down(W a) { return _mm512_maskz_srli_epi64(0xff, a, 32); }
    static W up(W a) { return _mm512_maskz_slli_epi64(0xff, a, 32); }
    static W exclusive(W a, W b) { return a ^ b; }
    static W both(W a, W b) { return a & b; }
    static W either(W a, W b) { return a | b; }
    static W firsts(W a, W b) { return _mm512_maskz_unpacklo_epi64(0xff, a, b); }
    static W seconds(W a, W b) { return _mm512_maskz_unpackhi_epi64(0xff, a, b); }
    static Mask at_least(W a, uint32_t least) { return _mm512_cmpge_epu32_mask(a, _mm512_set1_epi32(static_cast<int>(least))); }
};

#include "products_tiles.h"

constexpr Products kSet = {14, Isa::lanes, any_tile, any_outer, finish, before_activation, add, drop, pack};

}  // namespace

const Products* const kProductsAvx512 = &kSet;

}  // namespace d2k::cpu
#else
const d2k::cpu::Products* const d2k::cpu::kProductsAvx512 = nullptr;
#endif

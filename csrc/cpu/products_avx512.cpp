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

    // With masks: GCC 12 takes the plain forms for uses of something uninitialised.
    static V low(V a, V b) { return _mm512_maskz_unpacklo_ps(0xffff, a, b); }
    static V high(V a, V b) { return _mm512_maskz_unpackhi_ps(0xffff, a, b); }
    template <int which>
    static V pairs(V a, V b) {
        return _mm512_maskz_shuffle_ps(0xffff, a, b, which);
    }
    template <int which>
    static V quarters(V a, V b) {
        return _mm512_maskz_shuffle_f32x4(0xffff, a, b, which);
    }
    static void transpose(V (&v)[lanes]) {
        V w[lanes];
        for (int i = 0; i < 16; i += 2) {
            w[i] = low(v[i], v[i + 1]);
            w[i + 1] = high(v[i], v[i + 1]);
        }
        // Of four rows, columns c + 4 · (a quarter's number).
        for (int i = 0; i < 16; i += 4)
            for (int h = 0; h < 2; ++h) {
                v[i + 2 * h] = pairs<0x44>(w[i + h], w[i + 2 + h]);
                v[i + 2 * h + 1] = pairs<0xee>(w[i + h], w[i + 2 + h]);
            }
        for (int c = 0; c < 4; ++c) {
            const V a = quarters<0x88>(v[c], v[4 + c]), b = quarters<0x88>(v[8 + c], v[12 + c]);
            const V d = quarters<0xdd>(v[c], v[4 + c]), e = quarters<0xdd>(v[8 + c], v[12 + c]);
            w[c] = quarters<0x88>(a, b);
            w[8 + c] = quarters<0xdd>(a, b);
            w[4 + c] = quarters<0x88>(d, e);
            w[12 + c] = quarters<0xdd>(d, e);
        }
        for (int i = 0; i < 16; ++i) v[i] = w[i];
    }
    // Of vectors side by side, every of-th lane from the one given on.
    template <int of>
    static V every(const V (&v)[of], int first) {
        alignas(64) int place[lanes];
        for (int i = 0; i < lanes; ++i) place[i] = i * of + first;
        const __m512i at = _mm512_load_si512(place);
        V all = _mm512_setzero_ps();
        for (int i = 0; i < of; ++i)
            all = _mm512_mask_permutexvar_ps(all, _mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(i * lanes)), at, v[i]);
        return all;
    }

    using W = __m512i;  // a counter a lane, in the order in which firsts and seconds of two bring them in turn
    static W words(uint32_t x) { return _mm512_set1_epi64(x); }
    static W counters(uint64_t first) {
        return _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(first)), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
    }
    // With masks, or by operators, likewise.
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

constexpr Products kSet = {14, Isa::lanes, any_tile, any_outer, finish, before_activation, add, drop, pack,
                           pack_outputs, pack_inputs};

}  // namespace

const Products* const kProductsAvx512 = &kSet;

}  // namespace d2k::cpu
#else
const d2k::cpu::Products* const d2k::cpu::kProductsAvx512 = nullptr;
#endif

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

    static void transpose(V (&v)[lanes]) {
        V w[lanes];
        for (int i = 0; i < 8; i += 2) {
            w[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
            w[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
        }
        // Of four rows, columns c + 4 · (a half's number).
        for (int i = 0; i < 8; i += 4)
            for (int h = 0; h < 2; ++h) {
                v[i + 2 * h] = _mm256_shuffle_ps(w[i + h], w[i + 2 + h], 0x44);
                v[i + 2 * h + 1] = _mm256_shuffle_ps(w[i + h], w[i + 2 + h], 0xee);
            }
        for (int c = 0; c < 4; ++c) {
            w[c] = _mm256_permute2f128_ps(v[c], v[4 + c], 0x20);
            w[4 + c] = _mm256_permute2f128_ps(v[c], v[4 + c], 0x31);
        }
        for (int i = 0; i < 8; ++i) v[i] = w[i];
    }
    // Of vectors side by side, every of-th lane from the one given on.
    template <int of>
    static V every(const V (&v)[of], int first) {
        alignas(32) int place[lanes];
        for (int i = 0; i < lanes; ++i) place[i] = i * of + first;
        const __m256i at = _mm256_load_si256(reinterpret_cast<const __m256i*>(place));
        V all = _mm256_setzero_ps();
        for (int i = 0; i < of; ++i) {
            const __m256i beyond = _mm256_cmpgt_epi32(at, _mm256_set1_epi32(i * lanes - 1));
            all = _mm256_blendv_ps(all, _mm256_permutevar8x32_ps(v[i], at), _mm256_castsi256_ps(beyond));
        }
        return all;
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

constexpr Products kSet = {6, Isa::lanes, any_tile, any_outer, finish, before_activation, add, drop, pack,
                           pack_outputs, pack_inputs};

}  // namespace

const Products* const kProductsAvx2 = &kSet;

}  // namespace d2k::cpu
#else
const d2k::cpu::Products* const d2k::cpu::kProductsAvx2 = nullptr;
#endif

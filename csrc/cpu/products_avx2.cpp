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
};

#include "products_tiles.h"

constexpr Products kSet = {6, Isa::lanes, any_tile, any_outer, finish, before_activation, add, pack};

}  // namespace

const Products* const kProductsAvx2 = &kSet;

}  // namespace d2k::cpu
#else
const d2k::cpu::Products* const d2k::cpu::kProductsAvx2 = nullptr;
#endif

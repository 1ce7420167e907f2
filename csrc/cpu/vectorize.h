// Hot functions compiled for several instruction sets, the best of which is chosen where the program runs.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define D2K_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define D2K_FEWER_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#define D2K_TARGETS 1
#else
#define D2K_CLONES
#define D2K_FEWER_CLONES
#define D2K_TARGETS 0
#endif

// By type, where AVX2 does nearly as well for float64, which takes as long to compile as float32 and is for checking.
#define D2K_CLONES_float D2K_CLONES
#define D2K_CLONES_double D2K_FEWER_CLONES
#define D2K_CLONES_BFloat16 D2K_CLONES
#define D2K_CLONES_Half D2K_CLONES
#define D2K_CLONES_OF(T) D2K_CLONES_##T

// What a hot function calls has to be inlined to be compiled for the same instructions.
#if defined(__GNUC__)
#define D2K_INLINE __attribute__((always_inline)) inline
#define D2K_NOINLINE __attribute__((noinline))
#define D2K_FLATTEN __attribute__((flatten))
#else
#define D2K_INLINE inline
#define D2K_NOINLINE
#define D2K_FLATTEN
#endif

// Before a loop over lanes: no lane reads what another one writes.
#if defined(__clang__)
#define D2K_LANES _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define D2K_LANES _Pragma("GCC ivdep")
#else
#define D2K_LANES
#endif

// Inputs that are easy to get wrong, the same on the host and on the device: values, ragged batches and matrices.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "d2kernels/dtype.h"

namespace checks {

enum class Values {
    kUniform,
    kTies,
    kSomeNan,
    kAllNan,
    kEqual,
    kZeros,  // of both signs
    kSomeInfinite,
    kSubnormal,
    kSigned,
    kRising,
    kHuge,
    kNearTies,
};
constexpr Values kEveryValues[] = {Values::kUniform,      Values::kTies,      Values::kSomeNan, Values::kAllNan,
                                   Values::kEqual,        Values::kZeros,     Values::kSomeInfinite,
                                   Values::kSubnormal,    Values::kSigned,    Values::kRising,  Values::kHuge,
                                   Values::kNearTies};
constexpr const char* kValueNames[] = {"uniform", "ties",   "some NaN", "all NaN", "equal", "zeros", "infinities",
                                       "subnormal", "signed", "rising", "huge",    "near ties"};

inline const char* name(Values kind) { return kValueNames[static_cast<int>(kind)]; }

// In [0, 1) but for kSigned, kHuge and what is no number.
template <class T>
std::vector<T> make(size_t size, Values kind, unsigned seed) {
    constexpr double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
    constexpr double small = sizeof(T) == 8 ? 1e-310 : sizeof(T) == 4 ? 1e-40 : 1e-7;
    constexpr double large = sizeof(T) == 8 ? 1e305 : sizeof(T) == 4 ? 1e37 : 1e4;
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> of(0, 1);
    std::vector<T> values(size);
    for (size_t i = 0; i < size; ++i) {
        double x = of(random);
        const double y = of(random), step = std::floor(x * 4) / 4;
        switch (kind) {
            case Values::kUniform: break;
            case Values::kTies: x = step; break;
            case Values::kSomeNan: x = y < 0.1 ? nan : x; break;
            case Values::kAllNan: x = nan; break;
            case Values::kEqual: x = 0.5; break;
            case Values::kZeros: x = y < 0.5 ? 0.0 : -0.0; break;
            case Values::kSomeInfinite: x = y < 0.1 ? infinity : y < 0.2 ? -infinity : x; break;
            case Values::kSubnormal: x *= small; break;
            case Values::kSigned: x = 2 * x - 1; break;
            case Values::kRising: x = static_cast<double>(i) / static_cast<double>(size); break;
            case Values::kHuge: x *= large; break;
            case Values::kNearTies: x = step + 1e-5 * y; break;
        }
        values[i] = d2k::stored<T>(static_cast<d2k::ArithmeticOf<T>>(x));
    }
    return values;
}

template <class T>
std::vector<T> uniform(size_t size, unsigned seed) { return make<T>(size, Values::kUniform, seed); }

// Bits that are set with this chance.
inline std::vector<uint8_t> bits(size_t size, double chance, unsigned seed) {
    const auto drawn = uniform<double>(size, seed);
    std::vector<uint8_t> set(size);
    for (size_t i = 0; i < size; ++i) set[i] = drawn[i] < chance;
    return set;
}

inline const bool* as_bool(const uint8_t* bytes) { return reinterpret_cast<const bool*>(bytes); }

struct Batch {
    std::vector<int64_t> offsets, lengths;
    int64_t total;

    int64_t count() const { return static_cast<int64_t>(lengths.size()); }

    // Whether no row is of two sequences, so that a gradient's rows are defined.
    bool apart() const {
        for (size_t i = 0; i < lengths.size(); ++i)
            if (offsets[i] + lengths[i] > offsets[i + 1]) return false;
        return true;
    }
};

// One row; one sequence; with empty and long sequences; lengths about multiples of a block's threads; with offsets
// backwards, negative and past the end, which both sides clamp alike; sequences on top of each other; no rows; none.
inline std::vector<Batch> batches() {
    return {{{0, 1}, {1}, 1},
            {{3, 300}, {290}, 300},
            {{0, 7, 7, 140, 1200}, {7, 0, 129, 1025}, 1200},
            {{0, 127, 255, 384, 703, 1023, 1344}, {127, 128, 129, 319, 320, 321}, 1344},
            {{50, -9, 90, 300, 100}, {60, 20, 1000, 4}, 100},
            {{0, 0, 0, 0}, {20, 20, 20}, 20},
            {{0, 0, 0}, {0, 0}, 0},
            {{0}, {}, 0}};
}

enum class Matrices {
    kUniform,
    kZero,
    kIdentity,
    kRankOne,
    kNan,
    kInfinite,
    kHuge,
    kTiny,
    kEqualColumns,
    kHilbert,
    kSigns,
    kGraded,
};
constexpr Matrices kEveryMatrices[] = {Matrices::kUniform,  Matrices::kZero, Matrices::kIdentity,
                                       Matrices::kRankOne,  Matrices::kNan,  Matrices::kInfinite,
                                       Matrices::kHuge,     Matrices::kTiny, Matrices::kEqualColumns,
                                       Matrices::kHilbert,  Matrices::kSigns, Matrices::kGraded};
constexpr const char* kMatrixNames[] = {"uniform", "zero", "identity",      "rank 1",  "NaN",   "infinite",
                                        "huge",    "tiny", "equal columns", "Hilbert", "signs", "graded"};

inline const char* name(Matrices kind) { return kMatrixNames[static_cast<int>(kind)]; }

// (batch, rows, columns)
template <class T>
std::vector<T> make(int64_t batch, int64_t rows, int64_t columns, Matrices kind, unsigned seed) {
    auto entries = make<double>(batch * rows * columns, Values::kSigned, seed);
    const auto left = make<double>(batch * rows, Values::kSigned, seed + 1);
    const auto right = make<double>(batch * columns, Values::kSigned, seed + 2);
    std::vector<T> values(entries.size());
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                const int64_t at = (b * rows + i) * columns + j;
                double& x = entries[at];
                switch (kind) {
                    case Matrices::kUniform: break;
                    case Matrices::kZero: x = 0; break;
                    case Matrices::kIdentity: x = i == j; break;
                    case Matrices::kRankOne: x = left[b * rows + i] * right[b * columns + j]; break;
                    case Matrices::kNan: x = i == rows / 2 && j == columns / 2 ? NAN : x; break;
                    case Matrices::kInfinite: x = i == 0 && j == columns - 1 ? -INFINITY : x; break;
                    case Matrices::kHuge: x *= sizeof(T) == 8 ? 1.7e308 : sizeof(T) == 4 ? 3e38 : 6e4; break;
                    case Matrices::kTiny: x *= sizeof(T) == 8 ? 1e-307 : sizeof(T) == 4 ? 1e-37 : 1e-4; break;
                    case Matrices::kEqualColumns: x = entries[(b * rows + i) * columns]; break;
                    case Matrices::kHilbert: x = 1.0 / static_cast<double>(i + j + 1); break;
                    case Matrices::kSigns: x = (i * 7 + j * 3 + b) % 2 ? 1 : -1; break;
                    case Matrices::kGraded: x = i == j ? std::pow(2.0, -4.0 * static_cast<double>(i)) : 0; break;
                }
                values[at] = d2k::stored<T>(static_cast<d2k::ArithmeticOf<T>>(x));
            }
    return values;
}

}  // namespace checks

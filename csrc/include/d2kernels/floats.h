// Floats whose type is known at run time: one kernel for every dtype where reading them is not what takes the time.
#pragma once

#include <cstdint>

#include "d2kernels/dtype.h"

namespace d2k {

// Numbers that are read together, so that their reads are under way at the same time.
constexpr int kRead = 8;

// from[i], from[i + step], …; 0 at `end` and beyond.
template <class T>
D2K_DEVICE void read(const T* from, int i, int step, int end, double (&to)[kRead]) {
    for (int j = 0; j < kRead; ++j, i += step)
        to[j] = i < end ? static_cast<double>(static_cast<ArithmeticOf<T>>(from[i])) : 0.0;
}

// Numbered as csrc/bindings/dtype.h does.
class Floats {
public:
    D2K_DEVICE Floats(void* first, int dtype) : first_(first), at_(0), dtype_(dtype) {}

    D2K_DEVICE explicit operator bool() const { return first_ != nullptr; }
    D2K_DEVICE bool is_double() const { return dtype_ == 1; }

    D2K_DEVICE Floats operator+(int64_t count) const {
        Floats moved = *this;
        moved.at_ += count;
        return moved;
    }

    // One of two, no address of which is taken, so that both stay in registers.
    D2K_DEVICE static Floats either(bool which, const Floats& a, const Floats& b) {
        Floats one(which ? a.first_ : b.first_, which ? a.dtype_ : b.dtype_);
        one.at_ = which ? a.at_ : b.at_;
        return one;
    }

    D2K_DEVICE double operator[](int64_t i) const {
        const int64_t at = at_ + i;
        switch (dtype_) {
            case 0: return static_cast<const float*>(first_)[at];
            case 1: return static_cast<const double*>(first_)[at];
            case 2: return static_cast<float>(static_cast<const BFloat16*>(first_)[at]);
            default: return static_cast<float>(static_cast<const Half*>(first_)[at]);
        }
    }

    D2K_DEVICE void read(int i, int step, int end, double (&to)[kRead]) const {
        const auto of = [&](auto* first) { d2k::read(first + at_, i, step, end, to); };
        switch (dtype_) {
            case 0: return of(static_cast<const float*>(first_));
            case 1: return of(static_cast<const double*>(first_));
            case 2: return of(static_cast<const BFloat16*>(first_));
            default: return of(static_cast<const Half*>(first_));
        }
    }

    D2K_DEVICE void put(double x) const {
        switch (dtype_) {
            case 0: static_cast<float*>(first_)[at_] = static_cast<float>(x); break;
            case 1: static_cast<double*>(first_)[at_] = x; break;
            case 2: static_cast<BFloat16*>(first_)[at_] = BFloat16::from(static_cast<float>(x)); break;
            default: static_cast<Half*>(first_)[at_] = Half::from(static_cast<float>(x));
        }
    }

private:
    void* first_;
    int64_t at_;
    int dtype_;
};

D2K_DEVICE void read(const Floats& from, int i, int step, int end, double (&to)[kRead]) {
    from.read(i, step, end, to);
}

template <class T>
D2K_DEVICE const T* either(bool which, const T* a, const T* b) { return which ? a : b; }
D2K_DEVICE Floats either(bool which, const Floats& a, const Floats& b) { return Floats::either(which, a, b); }

// The pointers of an op on T, or on floats of any type.
struct AnyFloat {};

template <class T>
struct PointerOf {
    using Input = const T*;
    using Output = T*;
};
template <>
struct PointerOf<AnyFloat> {
    using Input = Floats;
    using Output = Floats;
};
template <class T>
using InputOf = typename PointerOf<T>::Input;
template <class T>
using OutputOf = typename PointerOf<T>::Output;

template <class T>
D2K_DEVICE void put(T* to, double x) { *to = stored<T>(static_cast<ArithmeticOf<T>>(x)); }
D2K_DEVICE void put(const Floats& to, double x) { to.put(x); }

}  // namespace d2k

// Singular values of 2 × 2 matrices in closed form.
#pragma once

#include "d2kernels/real.h"

namespace d2k {

// [[a, b], [c, d]]: σ₁ = ½ [hypot(a + d, b − c) + hypot(a − d, b + c)] and σ₂ = |det| / σ₁.
template <class Real>
struct TwoByTwo {
    Real largest, smallest;
    Real slope[4];  // ∂ log(σ₁/σ₂) by a, b, c, d; 2 ∂σ₁/σ₁ − ∂det/det

    // Of a matrix whose largest entry is in [1, 2) or 0; the slope has no meaning where either value is 0.
    D2K_DEVICE static TwoByTwo of(Real a, Real b, Real c, Real d) {
        const Real p = a + d, q = b - c, r = a - d, t = b + c;
        const Real h1 = root(p * p + q * q), h2 = root(r * r + t * t);
        const Real s1 = (h1 + h2) * 0.5;
        // ad − bc to the last bit but one (Kahan).
        const Real bc = b * c, error = fused(b, c, -bc);
        const Real det = fused(a, d, -bc) - error;
        const auto zero = s1 == Real(0.0), singular = det == Real(0.0);
        const Real over1 = Real(1.0) / select(h1 == Real(0.0), Real(1.0), h1);
        const Real over2 = Real(1.0) / select(h2 == Real(0.0), Real(1.0), h2);
        const Real safe = select(zero, Real(1.0), s1);
        const Real x1 = p * over1 / safe, y1 = q * over1 / safe, x2 = r * over2 / safe, y2 = t * over2 / safe;
        const Real by = select(singular, Real(0.0), Real(1.0) / select(singular, Real(1.0), det));
        return {s1, smaller(s1, magnitude(det) / safe),
                {x1 + x2 - d * by, y1 + y2 + c * by, y2 - y1 + b * by, x1 - x2 - a * by}};
    }
};

}  // namespace d2k

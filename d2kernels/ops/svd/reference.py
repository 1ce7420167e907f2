"""svd in plain PyTorch: the oracle, the fallback and the documentation."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype
from d2kernels.ops.condition_number.reference import scaled, times_power


def svd(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin U, S, Vh of (batch, m, n), differentiable by torch away from repeated singular values."""
    wide = a.to(accumulation_dtype(a.dtype))
    # Scaled: near the largest and the smallest numbers LAPACK loses values and vectors.
    x, exponent, finite = scaled(wide)
    u, s, vh = torch.linalg.svd(torch.where(finite[:, None, None], x, wide), full_matrices=False)
    s = times_power(s[:, None], exponent)[:, 0]
    return u.to(a.dtype), s.to(a.dtype), vh.to(a.dtype)


def svdvals(a: Tensor) -> Tensor:
    """S (batch, k) alone."""
    return torch.linalg.svdvals(a.to(accumulation_dtype(a.dtype))).to(a.dtype)


def svdvals_forward(a: Tensor) -> Tensor:
    return svdvals(a).contiguous()


def svd_forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.contiguous() for t in svd(a))  # type: ignore[return-value]


def _inverse(x: Tensor, scale: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0 to rounding at this scale."""
    small = x.abs() <= 10 * torch.finfo(x.dtype).eps * scale
    return torch.where(small, 0, 1 / torch.where(small, 1, x))


def svd_backward(
    grad_u: Tensor | None, grad_s: Tensor | None, grad_vh: Tensor | None, u: Tensor, s: Tensor, vh: Tensor
) -> Tensor:
    """U [(skew(Uᵀ gU) / E) S + S (skew(Vᵀ gV) / E) + diag(gS)] Vᵀ and the parts outside U's and V's spans.

    E[j, k] = σ_k² − σ_j²; its inverse is 0 at repeated singular values, and 1/σ is 0 at σ = 0. Nothing is outside the
    span of a square U or V.
    """
    dtype = accumulation_dtype(u.dtype)
    out, (u, s, vh) = u.dtype, (t.to(dtype) for t in (u, s, vh))
    v = vh.mT
    # Scaled by a power of 2, so that no square overflows; what comes through U and V grows by it.
    exponent = s.amax(1).frexp().exponent.long() if s.shape[1] else s.new_zeros(len(s), dtype=torch.long)
    s = times_power(s[:, None], -exponent)[:, 0]
    inner = torch.zeros((u.shape[0], s.shape[1], s.shape[1]), dtype=dtype, device=u.device)
    outer = torch.zeros((u.shape[0], u.shape[1], vh.shape[2]), dtype=dtype, device=u.device)
    largest = s[:, :1]
    # Factored: small distinct singular values have squares that differ by less than rounding.
    row, column = s[:, :, None], s[:, None, :]
    gaps = _inverse(column - row, largest[..., None]) * _inverse(column + row, largest[..., None])
    inverse = _inverse(s, largest)
    if grad_u is not None:
        g = grad_u.to(dtype)
        w = u.mT @ g
        inner = inner + (w - w.mT) * gaps * s[:, None, :]
        if u.shape[1] > u.shape[2]:
            outer = outer + ((g - u @ w) * inverse[:, None, :]) @ vh
    if grad_vh is not None:
        g = grad_vh.to(dtype).mT
        w = v.mT @ g
        inner = inner + s[:, :, None] * ((w - w.mT) * gaps)
        if vh.shape[2] > vh.shape[1]:
            outer = outer + u @ (inverse[:, :, None] * (g - v @ w).mT)
    gradient = times_power(u @ inner @ vh + outer, -exponent)
    if grad_s is not None:
        gradient = gradient + (u * grad_s.to(dtype)[:, None]) @ vh
    return gradient.to(out)

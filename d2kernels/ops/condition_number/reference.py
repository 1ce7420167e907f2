"""condition_number in plain PyTorch, in float64 throughout."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Extremes(NamedTuple):
    """log η, the rank r, and ∂ log η / ∂a = u₁v₁ᵀ/σ₁ − u_r v_rᵀ/σ_r, of each matrix of a batch."""

    log: Tensor
    rank: Tensor
    slope: Tensor


def extremes(a: Tensor, atol: float, rtol: float) -> Extremes:
    """a: (batch, m, n) float64. log η and the slope are 0 where nothing counts, where η = 1, and at NaN."""
    finite = a.isfinite().all(2).all(1)
    u, s, vh = torch.linalg.svd(torch.where(finite[:, None, None], a, 0), full_matrices=False)
    counted = s > (s[:, :1] * rtol).clamp(min=atol)
    rank = counted.sum(1)
    last = (rank - 1).clamp(min=0)[:, None]
    smallest = s.gather(1, last)[:, 0]
    # At η = 1 the singular vectors are not unique, and the minimum's gradient is defined as 0.
    flat = (rank < 2) | (smallest == s[:, 0])
    safe = torch.where(flat, 1, smallest)
    largest = torch.where(flat, 1, s[:, 0])
    u_last = u.gather(2, last[:, None].expand(-1, u.shape[1], 1))[..., 0]
    v_last = vh.gather(1, last[..., None].expand(-1, 1, vh.shape[2]))[:, 0]
    first = u[:, :, 0, None] * vh[:, 0, None, :] / largest[:, None, None]
    slope = first - u_last[:, :, None] * v_last[:, None, :] / safe[:, None, None]
    return Extremes((largest / safe).log(), rank, torch.where(flat[:, None, None], 0, slope))


def factored_extremes(a: Tensor, b: Tensor, atol: float, rtol: float) -> tuple[Extremes, Tensor]:
    """As `extremes` for a @ b with its slope in a, and the slope in b; a: (batch, m, k), b: (batch, k, n).

    Where k is the smallest, both factors are first reduced to k × k by QR, which keeps the singular values.
    """
    m, k, n = a.shape[1], a.shape[2], b.shape[2]
    finite = (a.isfinite().all(2).all(1) & b.isfinite().all(2).all(1))[:, None, None]
    a, b = torch.where(finite, a, 0), torch.where(finite, b, 0)
    if k >= min(m, n):
        e = extremes(a @ b, atol, rtol)
        slope = e.slope
    else:
        qa, ra = torch.linalg.qr(a)
        qb, rb = torch.linalg.qr(b.mT)
        e = extremes(ra @ rb.mT, atol, rtol)
        slope = qa @ e.slope @ qb.mT
    return Extremes(e.log, e.rank, slope @ b.mT), a.mT @ slope


def condition_number(
    a: Tensor, b: Tensor | None = None, atol: float = 0.0, rtol: float = 0.0, log: bool = False
) -> Tensor:
    """(batch,) σ₁/σ_r of a, or of a @ b, differentiable by torch away from repeated singular values."""
    s = torch.linalg.svdvals(a.double() if b is None else a.double() @ b.double())
    counted = s > (s[:, :1] * rtol).clamp(min=atol)
    last = (counted.sum(1) - 1).clamp(min=0)[:, None]
    none = ~counted.any(1)
    largest, smallest = (torch.where(none, 1, x) for x in (s[:, 0], s.gather(1, last)[:, 0]))
    value = largest.log() - smallest.log()
    return (value if log else value.exp()).to(a.dtype)


def condition_number_forward(
    a: Tensor, b: Tensor | None, atol: float, rtol: float, log: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if b is None:
        e, slope_b = extremes(a.double(), atol, rtol), a.new_empty(0, dtype=torch.float64)
    else:
        e, slope_b = factored_extremes(a.double(), b.double(), atol, rtol)
    value, slope_a = e.log, e.slope
    if not log:
        value = value.exp()
        slope_a = slope_a * value[:, None, None]
        slope_b = slope_b if b is None else slope_b * value[:, None, None]
    return value.to(a.dtype), slope_a.contiguous(), slope_b.contiguous()


def condition_number_backward(grad: Tensor, slope: Tensor) -> Tensor:
    return (grad.double()[:, None, None] * slope).to(grad.dtype)

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


def times_power(x: Tensor, exponent: Tensor) -> Tensor:
    """x · 2^exponent of each matrix, exact where the result is normal: in two factors, for one may overflow."""
    half = exponent.clamp(-2000, 2000).div(2, rounding_mode="floor")
    for part in (half, exponent.clamp(-2000, 2000) - half):
        x = x * ((part.long() + 1023) << 52).view(torch.float64).to(x.dtype)[:, None, None]
    return x


def scaled(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices divided by 2^e so that their largest entry is in [½, 1) or 0; e; and where all of a is finite.

    What is not finite becomes 0.
    """
    finite = a.isfinite().all(2).all(1)
    a = torch.where(finite[:, None, None], a, 0)
    largest = a.detach().abs().amax((1, 2)) if a[0:1].numel() else a.new_zeros(len(a))
    exponent = largest.frexp().exponent.long()
    return times_power(a, -exponent), exponent, finite


def _column(atol: float | Tensor, a: Tensor) -> Tensor:
    return atol if isinstance(atol, Tensor) else torch.full((len(a), 1, 1), atol, dtype=a.dtype, device=a.device)


def undefined(*factors: Tensor) -> Tensor:
    """η of matrices that are not finite, (batch,): NaN with NaN in them, else infinity."""
    nan = torch.stack([f.isnan().any(2).any(1) for f in factors]).any(0)
    return torch.where(nan, torch.nan, torch.inf)


def extremes(a: Tensor, atol: float | Tensor, rtol: float) -> Extremes:
    """a: (batch, m, n) float64. log η and the slope are 0 where nothing counts and where η = 1.

    Of a matrix that is not finite log η is infinity, or NaN where it holds that, and the slope NaN.
    """
    given = a
    a, exponent, finite = scaled(a)
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    least = times_power(_column(atol, a), -exponent)[:, 0]
    counted = s > torch.maximum(s[:, :1] * rtol, least)
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
    slope = times_power(first - u_last[:, :, None] * v_last[:, None, :] / safe[:, None, None], -exponent)
    slope = torch.where(flat[:, None, None], 0, slope)
    log = torch.where(finite, (largest / safe).log(), undefined(given))
    return Extremes(log, torch.where(finite, rank, 0), torch.where(finite[:, None, None], slope, torch.nan))


def factored_extremes(a: Tensor, b: Tensor, atol: float, rtol: float) -> tuple[Extremes, Tensor]:
    """As `extremes` for a @ b with its slope in a, and the slope in b; a: (batch, m, k), b: (batch, k, n).

    Where k is the smallest, both factors are first reduced to k × k by QR, which keeps the singular values.
    """
    m, k, n = a.shape[1], a.shape[2], b.shape[2]
    log = undefined(a, b)
    (a, of_a, finite), (b, of_b, finite_b) = scaled(a), scaled(b)
    finite = finite & finite_b
    exponent = of_a + of_b
    least = times_power(_column(atol, a), -exponent)
    if k >= min(m, n):
        e = extremes(a @ b, least, rtol)
        slope = e.slope
    else:
        qa, ra = torch.linalg.qr(a)
        qb, rb = torch.linalg.qr(b.mT)
        e = extremes(ra @ rb.mT, least, rtol)
        slope = qa @ e.slope @ qb.mT
    where = finite[:, None, None]
    slope_a = torch.where(where, times_power(slope @ b.mT, -of_a), torch.nan)
    slope_b = torch.where(where, times_power(a.mT @ slope, -of_b), torch.nan)
    return Extremes(torch.where(finite, e.log, log), torch.where(finite, e.rank, 0), slope_a), slope_b


def condition_number(
    a: Tensor, b: Tensor | None = None, atol: float = 0.0, rtol: float = 0.0, log: bool = False
) -> Tensor:
    """(batch,) σ₁/σ_r of a, or of a @ b, differentiable by torch away from repeated singular values."""
    factors = [a.double()] if b is None else [a.double(), b.double()]
    parts = [scaled(f) for f in factors]
    product, exponent, finite = parts[0]
    if b is not None:
        product, more, _ = scaled(product @ parts[1][0])
        exponent, finite = exponent + parts[1][1] + more, finite & parts[1][2]
    s = torch.linalg.svdvals(product)
    counted = s > torch.maximum(s[:, :1] * rtol, times_power(_column(atol, product), -exponent)[:, 0])
    last = (counted.sum(1) - 1).clamp(min=0)[:, None]
    none = ~counted.any(1)
    largest, smallest = (torch.where(none, 1, x) for x in (s[:, 0], s.gather(1, last)[:, 0]))
    value = torch.where(finite, largest.log() - smallest.log(), undefined(*factors))
    return (value if log else value.exp()).to(a.dtype)


def condition_number_forward(
    a: Tensor, b: Tensor | None, atol: float, rtol: float, log: bool, for_backward: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if b is None:
        e, slope_b = extremes(a.double(), atol, rtol), None
    else:
        e, slope_b = factored_extremes(a.double(), b.double(), atol, rtol)
    value, slope_a = e.log, e.slope
    if not log:
        value = value.exp()
        slope_a = slope_a * value[:, None, None]
        slope_b = None if slope_b is None else slope_b * value[:, None, None]
    if not for_backward:
        return value.to(a.dtype), None, None
    return value.to(a.dtype), slope_a.contiguous(), None if slope_b is None else slope_b.contiguous()


def condition_number_backward(grad: Tensor, slope: Tensor) -> Tensor:
    return (grad.double()[:, None, None] * slope).to(grad.dtype)

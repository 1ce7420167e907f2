"""foreground_score in plain PyTorch: the oracle, the fallback and the documentation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype, row_dots, rows, weighted_sum


def _scale(x: Tensor) -> Tensor:
    """(total, 1): a power of two that brings each row's largest element near 1, since squares leave the range first."""
    largest = x.detach().abs().amax(1, keepdim=True) if x.shape[1] else x.new_zeros((x.shape[0], 1))
    usual = (largest > 0) & largest.isfinite()
    lowest = -1000 if x.dtype == torch.float64 else -100  # 2^1074 and 2^149 would be infinite
    exponent = torch.frexp(torch.where(usual, largest, 0.5)).exponent.clamp(min=lowest)
    return torch.ldexp(torch.ones_like(largest), -exponent)


class _Cosine(NamedTuple):
    """Of rows times `scale` (total, 1) with a reference times its own: all in a range where squares are numbers."""

    cosine: Tensor  # (total,)
    rows: Tensor  # (total, D), scaled
    norm: Tensor  # (total,), of them
    limit: Tensor  # (total,), eps where the norm is smaller
    scale: Tensor
    unit: Tensor  # (D,): the reference over its limit
    direction: Tensor  # (D,): over its norm; 0 where that is 0
    reference_limit: Tensor  # (), not scaled


def _cosine(x: Tensor, reference: Tensor, eps: float) -> _Cosine:
    scale, of_reference = _scale(x), _scale(reference[None])
    rows, ahead = x * scale, reference * of_reference[0]
    norm, ahead_norm = torch.linalg.vector_norm(rows, dim=1), torch.linalg.vector_norm(ahead)
    limit = torch.maximum(norm, eps * scale[:, 0])
    ahead_limit = torch.maximum(ahead_norm, eps * of_reference[0, 0])
    unit = ahead / ahead_limit
    first = torch.zeros((x.shape[0], 1), dtype=torch.int64, device=x.device)
    cosine = row_dots(rows, unit[None], first)[:, 0] / limit
    direction = torch.where(ahead_norm != 0, ahead / ahead_norm, 0)
    return _Cosine(cosine, rows, norm, limit, scale, unit, direction, ahead_limit / of_reference[0, 0])


def foreground_score_forward(
    x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float
) -> Tensor:
    dtype = accumulation_dtype(torch.promote_types(x.dtype, reference.dtype))
    cosine = _cosine(x.to(dtype), reference.to(dtype), eps).cosine
    _, _, valid = rows(offsets, lengths, x.shape[0])
    return torch.where(valid, 0.5 * (1 - cosine), 0).to(x.dtype)


def foreground_score_backward(
    grad: Tensor,
    x: Tensor,
    reference: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    eps: float,
    need_x: bool,
    need_reference: bool,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(torch.promote_types(x.dtype, reference.dtype))
    c = _cosine(x.to(dtype), reference.to(dtype), eps)
    _, _, valid = rows(offsets, lengths, x.shape[0])
    # As in torch, eps replaces a small norm but is not differentiated; the norm's own gradient at 0 is 0.
    half = -0.5 * grad.to(dtype)
    along = torch.where(valid, half / c.limit, 0)
    grad_x, grad_reference = x.new_zeros(0), reference.new_zeros(0)
    if need_x:
        back = torch.where(valid & (c.norm != 0), -along * c.cosine / c.norm, 0)
        grad_x = torch.where(valid[:, None], c.rows, 0).mul_(back[:, None]).addcmul_(along[:, None], c.unit)
        grad_x = (grad_x * torch.where(valid[:, None], c.scale, 0)).to(x.dtype)
    if need_reference:
        total = weighted_sum(c.rows, along[:, None], valid[:, None], offsets).sum((0, 1))
        back = torch.where(valid, half * c.cosine, 0).sum()
        grad_reference = ((total - back * c.direction) / c.reference_limit).to(reference.dtype)
    return grad_x, grad_reference


def foreground_score(
    x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float = 1e-8
) -> Tensor:
    """(total,) 0.5 (1 - cos(x, reference)), 0 on gap rows."""
    dtype = accumulation_dtype(torch.promote_types(x.dtype, reference.dtype))
    _, _, valid = rows(offsets, lengths, x.shape[0])
    inside = torch.where(valid[:, None], x, 0).to(dtype)
    up = reference.to(dtype)
    scale, of_reference = _scale(inside), _scale(up[None])[0]

    def limited(norm: Tensor, least: Tensor) -> Tensor:
        return norm + (torch.maximum(norm, least) - norm).detach()  # eps is not differentiated

    norm, ahead = torch.linalg.vector_norm(inside * scale, dim=1), torch.linalg.vector_norm(up * of_reference)
    unit = up * of_reference / limited(ahead, eps * of_reference)
    cosine = (inside * scale) @ unit / limited(norm, eps * scale[:, 0])
    return torch.where(valid, 0.5 * (1 - cosine), 0).to(x.dtype)

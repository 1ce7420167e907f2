"""foreground_score in plain PyTorch: the oracle, the fallback and the documentation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from d2kernels.ops._rows import accumulation_dtype, row_dots, rows, weighted_sum


def _cosine(x: Tensor, reference: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cosine (total,), norm of each row (total,), unit reference (D,) and its norm (), norms before eps."""
    norm = torch.linalg.vector_norm(x, dim=1)
    reference_norm = torch.linalg.vector_norm(reference)
    unit = reference / reference_norm.clamp(min=eps)
    first = torch.zeros((x.shape[0], 1), dtype=torch.int64, device=x.device)
    cosine = row_dots(x, unit[None], first)[:, 0] / norm.clamp(min=eps)
    return cosine, norm, unit, reference_norm


def foreground_score_forward(
    x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float
) -> Tensor:
    dtype = accumulation_dtype(torch.promote_types(x.dtype, reference.dtype))
    cosine, *_ = _cosine(x.to(dtype), reference.to(dtype), eps)
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
    up = x.to(dtype)
    cosine, norm, unit, reference_norm = _cosine(up, reference.to(dtype), eps)
    _, _, valid = rows(offsets, lengths, x.shape[0])
    # As in torch, eps replaces a small norm but is not differentiated; the norm's own gradient at 0 is 0.
    along = torch.where(valid, -0.5 * grad.to(dtype) / norm.clamp(min=eps), 0)
    grad_x, grad_reference = x.new_zeros(0), reference.new_zeros(0)
    if need_x:
        back = torch.where(valid & (norm != 0), -along * cosine / norm, 0)
        grad_x = torch.where(valid[:, None], up, 0).mul_(back[:, None]).addcmul_(along[:, None], unit)
        grad_x = grad_x.to(x.dtype)
    if need_reference:
        total = weighted_sum(up, along[:, None], valid[:, None], offsets).sum((0, 1))
        back = torch.where(valid, -0.5 * grad.to(dtype) * cosine, 0).sum()
        direction = torch.where(reference_norm != 0, reference.to(dtype) / reference_norm, 0)
        grad_reference = ((total - back * direction) / reference_norm.clamp(min=eps)).to(reference.dtype)
    return grad_x, grad_reference


def foreground_score(
    x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float = 1e-8
) -> Tensor:
    """(total,) 0.5 (1 - cos(x, reference)), 0 on gap rows."""
    dtype = accumulation_dtype(torch.promote_types(x.dtype, reference.dtype))
    _, _, valid = rows(offsets, lengths, x.shape[0])
    inside = torch.where(valid[:, None], x, 0).to(dtype)
    cosine = F.cosine_similarity(inside, reference.to(dtype)[None], dim=1, eps=eps)
    return torch.where(valid, 0.5 * (1 - cosine), 0).to(x.dtype)

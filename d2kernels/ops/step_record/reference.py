"""step_record in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def step_record_forward(
    total: Tensor,
    classification: Tensor,
    ds: Tensor,
    dv: Tensor,
    norm: Tensor,
    left_out: Tensor | None,
    reference: Tensor,
    kept: Tensor,
    sums: Tensor,
) -> Tensor:
    skip = ((total == 0) | ~total.isfinite() | ~norm.isfinite()).float()
    kept.copy_(torch.where(reference.isfinite().all(), reference, kept))
    last = torch.zeros_like(total) if left_out is None else left_out.to(total.dtype)
    sums.add_(torch.nan_to_num(torch.stack([total, classification, ds, dv, norm, skip, last]), 0, 0, 0))
    return skip

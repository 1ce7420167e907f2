"""step_record through csrc."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels import _native


def why_not(device: str, dtype: object) -> str | None:
    return None if dtype in (None, torch.float32) else f"native kernels take torch.float32, not {dtype}"


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
    found_inf = torch.empty_like(total)
    given = total, classification, ds, dv, norm, left_out, reference
    arguments = (*given, reference.shape[0], kept, sums, found_inf)
    if total.is_cpu:
        _native.module().step_record_cpu(arguments)
    else:
        _native.module().step_record_cuda(arguments, *_native.device_and_stream(total.device))
    return found_inf

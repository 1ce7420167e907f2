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
    found_inf, reference = torch.empty_like(total), reference.contiguous()
    arguments = (
        *(x.data_ptr() for x in (total, classification, ds, dv, norm)),
        0 if left_out is None else left_out.data_ptr(),
        reference.data_ptr(),
        reference.shape[0],
        *(x.data_ptr() for x in (kept, sums, found_inf)),
    )
    if total.device.type == "cpu":
        _native.module().step_record_cpu(arguments)
    else:
        _native.module().step_record_cuda(arguments, *_native.device_and_stream(total.device))
    return found_inf

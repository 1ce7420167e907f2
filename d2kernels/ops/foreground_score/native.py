"""foreground_score through csrc, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops._rows import accumulation_dtype


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype) or _native.why_not_cpu_only("foreground_score", device)


def _inputs(
    x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float
) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
    """The problem for csrc, and the tensors behind it: x and the reference first."""
    dtype = accumulation_dtype(torch.promote_types(x.dtype, reference.dtype))
    x = (x.double() if dtype == torch.float64 else x).contiguous()
    reference = reference.to(dtype).contiguous()
    offsets, lengths = offsets.contiguous(), lengths.contiguous()
    problem = (
        x.data_ptr(),
        _native.dtype_number(x.dtype),
        *x.shape,
        reference.data_ptr(),
        eps,
        offsets.data_ptr(),
        lengths.data_ptr(),
        lengths.shape[0],
    )
    return problem, (x, reference, offsets, lengths)


def foreground_score_forward(
    x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float
) -> Tensor:
    problem, kept = _inputs(x, reference, offsets, lengths, eps)
    out = kept[0].new_empty(x.shape[0])
    _native.module().foreground_score_cpu(problem, out.data_ptr(), torch.get_num_threads())
    return out.to(x.dtype)


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
    problem, kept = _inputs(x, reference, offsets, lengths, eps)
    grad = grad.to(kept[0].dtype).contiguous()
    grad_x = torch.empty_like(kept[0]) if need_x else kept[0].new_empty(0)
    grad_reference = torch.empty_like(kept[1]) if need_reference else kept[1].new_empty(0)
    _native.module().foreground_score_backward_cpu(
        problem,
        grad.data_ptr(),
        grad_x.data_ptr() if need_x else 0,
        grad_reference.data_ptr() if need_reference else 0,
        torch.get_num_threads(),
    )
    return grad_x.to(x.dtype), grad_reference.to(reference.dtype)

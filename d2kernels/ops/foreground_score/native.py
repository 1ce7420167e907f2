"""foreground_score through csrc, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops._rows import common_dtype


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype) or _native.why_not_cpu_only("foreground_score", device)


def _inputs(
    x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float
) -> tuple[tuple[Any, ...], Tensor, Tensor]:
    """The problem for csrc, and x and the reference in it."""
    dtype = common_dtype(x.dtype, reference.dtype)
    x = x.double() if dtype is torch.float64 else x
    reference = _native.cast(reference, dtype)
    problem = (
        x,
        _native.dtype_number(x.dtype),
        *x.shape,
        reference,
        eps,
        offsets,
        lengths,
        lengths.shape[0],
    )
    return problem, x, reference


def foreground_score_forward(
    x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float
) -> Tensor:
    problem, wide, _ = _inputs(x, reference, offsets, lengths, eps)
    out = wide.new_empty(x.shape[0])
    _native.module().foreground_score_cpu(problem, out, torch.get_num_threads())
    return _native.cast(out, x.dtype)


def foreground_score_backward(
    grad: Tensor,
    x: Tensor,
    reference: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    eps: float,
    need_x: bool,
    need_reference: bool,
) -> tuple[Tensor | None, Tensor | None]:
    problem, wide, wide_reference = _inputs(x, reference, offsets, lengths, eps)
    grad_x = wide.new_empty(*x.shape) if need_x else None
    grad_reference = wide_reference.new_empty(*reference.shape) if need_reference else None
    _native.module().foreground_score_backward_cpu(
        problem,
        _native.cast(grad, wide.dtype),
        grad_x,
        grad_reference,
        torch.get_num_threads(),
    )
    return _native.cast(grad_x, x.dtype), _native.cast(grad_reference, reference.dtype)

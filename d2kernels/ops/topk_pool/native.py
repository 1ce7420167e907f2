"""topk_pool through csrc."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.topk_pool import reference


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype)


def _problem(
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    k: Tensor | None,
    each: int = 0,
    divisor: int = 1,
    ceil: bool = False,
) -> tuple[Any, ...]:
    total, classes = scores.shape
    return (
        scores,
        _native.dtype_number(scores.dtype),
        total,
        classes,
        offsets,
        lengths,
        lengths.shape[0],
        k,
        each,
        divisor,
        divisor - 1 if ceil else 0,
    )


def topk_pool_forward(
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    k: Tensor | None,
    each: int = 0,
    divisor: int = 1,
    ceil: bool = False,
    for_backward: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    problem = _problem(scores, offsets, lengths, k, each, divisor, ceil)
    n, classes = lengths.shape[0], scores.shape[1]
    mean = scores.new_empty(n, classes)
    if not for_backward and scores.is_cpu:
        _native.module().topk_pool_cpu(problem, mean, None, None, None, torch.get_num_threads())
        return mean, None, None, None
    threshold = torch.empty_like(mean)
    above, tied = (scores.new_empty(n, classes, dtype=torch.int32) for _ in range(2))
    out = mean, threshold, above, tied
    if scores.is_cpu:
        _native.module().topk_pool_cpu(problem, *out, torch.get_num_threads())
    else:
        module, (device, stream) = _native.module(), _native.device_and_stream(scores.device)
        # Bytes that depend on shapes alone, so that nothing waits for the device.
        size = module.topk_pool_workspace_cuda(problem, device)
        workspace = scores.new_empty(size, dtype=torch.uint8) if size else None
        module.topk_pool_cuda(problem, *out, workspace, device, stream)
    return out if for_backward else (mean, None, None, None)


def topk_indices_forward(scores: Tensor, offsets: Tensor, lengths: Tensor, k: Tensor, most: int) -> Tensor:
    if not scores.is_cpu:
        return reference.topk_indices_forward(scores, offsets, lengths, k, most)
    out = lengths.new_empty(lengths.shape[0], scores.shape[1], most)
    problem = (*_problem(scores, offsets, lengths, k)[:8], most)
    _native.module().topk_indices_cpu(problem, out, torch.get_num_threads())
    return out


def topk_pool_backward(
    grad: Tensor,
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    k: Tensor | None,
    threshold: Tensor,
    above: Tensor,
    tied: Tensor,
    each: int = 0,
    divisor: int = 1,
    ceil: bool = False,
) -> Tensor:
    out = scores.new_empty(*scores.shape)
    saved = _native.cast(grad, scores.dtype), threshold, above, tied
    problem = _problem(scores, offsets, lengths, k, each, divisor, ceil)
    if scores.is_cpu:
        _native.module().topk_pool_backward_cpu(problem, *saved, out, torch.get_num_threads())
    else:
        where = _native.device_and_stream(scores.device)
        _native.module().topk_pool_backward_cuda(problem, *saved, out, *where)
    return out

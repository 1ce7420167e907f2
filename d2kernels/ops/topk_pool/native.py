"""topk_pool through csrc."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.topk_pool import reference


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype)


def _problem(scores: Tensor, offsets: Tensor, lengths: Tensor, k: Tensor) -> tuple[Any, ...]:
    total, classes = scores.shape
    return (
        scores.data_ptr(),
        _native.dtype_number(scores.dtype),
        total,
        classes,
        offsets.data_ptr(),
        lengths.data_ptr(),
        lengths.shape[0],
        k.data_ptr(),
    )


def topk_pool_forward(
    scores: Tensor, offsets: Tensor, lengths: Tensor, k: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scores, offsets, lengths, k = scores.contiguous(), offsets.contiguous(), lengths.contiguous(), k.contiguous()
    shape = (lengths.shape[0], scores.shape[1])
    mean, threshold = scores.new_empty(shape), scores.new_empty(shape)
    above, tied = (scores.new_empty(shape, dtype=torch.int32) for _ in range(2))
    out = mean.data_ptr(), threshold.data_ptr(), above.data_ptr(), tied.data_ptr()
    problem = _problem(scores, offsets, lengths, k)
    if scores.device.type == "cpu":
        _native.module().topk_pool_cpu(problem, *out, torch.get_num_threads())
    else:
        module, (device, stream) = _native.module(), _native.device_and_stream(scores.device)
        # Bytes that depend on shapes alone, so that nothing waits for the device.
        size = module.topk_pool_workspace_cuda(problem, device)
        workspace = scores.new_empty(size, dtype=torch.uint8) if size else None
        module.topk_pool_cuda(problem, *out, workspace.data_ptr() if workspace is not None else 0, device, stream)
    return mean, threshold, above, tied


def topk_indices_forward(scores: Tensor, offsets: Tensor, lengths: Tensor, k: Tensor, most: int) -> Tensor:
    if scores.device.type != "cpu":
        return reference.topk_indices_forward(scores, offsets, lengths, k, most)
    scores, offsets, lengths, k = scores.contiguous(), offsets.contiguous(), lengths.contiguous(), k.contiguous()
    out = lengths.new_empty((lengths.shape[0], scores.shape[1], most))
    _native.module().topk_indices_cpu(
        (*_problem(scores, offsets, lengths, k), most), out.data_ptr(), torch.get_num_threads()
    )
    return out


def topk_pool_backward(
    grad: Tensor,
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    k: Tensor,
    threshold: Tensor,
    above: Tensor,
    tied: Tensor,
) -> Tensor:
    grad, scores, threshold = grad.to(scores.dtype).contiguous(), scores.contiguous(), threshold.contiguous()
    offsets, lengths, k = offsets.contiguous(), lengths.contiguous(), k.contiguous()
    above, tied = above.contiguous(), tied.contiguous()
    out = torch.empty_like(scores)
    saved = grad.data_ptr(), threshold.data_ptr(), above.data_ptr(), tied.data_ptr()
    problem = _problem(scores, offsets, lengths, k)
    if scores.device.type == "cpu":
        _native.module().topk_pool_backward_cpu(problem, *saved, out.data_ptr(), torch.get_num_threads())
    else:
        where = _native.device_and_stream(scores.device)
        _native.module().topk_pool_backward_cuda(problem, *saved, out.data_ptr(), *where)
    return out

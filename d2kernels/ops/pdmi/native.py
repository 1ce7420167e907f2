"""pdmi_snippet and pdmi_video through csrc; joints of many videos and many classes through torch.linalg."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.condition_number.native import LARGEST
from d2kernels.ops.condition_number.native import condition_number_backward as scale_slopes
from d2kernels.ops.pdmi import reference


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype)


def _problem(rows: tuple[Tensor, ...], offsets: Tensor, lengths: Tensor, *options: Any) -> tuple[Any, ...]:
    """The arguments of csrc in its order; rows are attention, background attention and foreground."""
    pointers = (*(x.data_ptr() for x in rows), offsets.data_ptr(), lengths.data_ptr())
    return _native.dtype_number(rows[0].dtype), rows[0].shape[0], *pointers, lengths.shape[0], *options


def _thresholds(foreground: Tensor, *thresholds: float) -> tuple[float, ...]:
    """As they are when compared in the scores' own precision."""
    return tuple(torch.tensor(thresholds, dtype=foreground.dtype, device="cpu").tolist())


def pdmi_snippet_forward(
    attention: Tensor,
    background_attention: Tensor,
    foreground: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    foreground_threshold: float,
    background_threshold: float,
    joint: bool,
    floor: float,
    rtol: float,
) -> tuple[Tensor, ...]:
    if foreground.dtype != attention.dtype:
        wide = torch.promote_types(foreground.dtype, attention.dtype)
        on, off, score = (x.to(wide) for x in (attention, background_attention, foreground))
        high, low = _thresholds(foreground, foreground_threshold, background_threshold)
        out = pdmi_snippet_forward(on, off, score, offsets, lengths, high, low, joint, floor, rtol)
        return tuple(x.to(attention.dtype) if i in (0, 3, 4) else x for i, x in enumerate(out))
    attention, background_attention = attention.contiguous(), background_attention.contiguous()
    foreground, offsets, lengths = foreground.contiguous(), offsets.contiguous(), lengths.contiguous()
    n = lengths.shape[0]
    value, foreground_mean, background_mean = (attention.new_empty(n) for _ in range(3))
    counts = [lengths.new_empty(n) for _ in range(2)]
    slopes = [attention.new_empty(n, dtype=torch.float64) for _ in range(2)]
    out = value, *counts, foreground_mean, background_mean, *slopes
    rows = attention, background_attention, foreground
    options = foreground_threshold, background_threshold, joint, floor, rtol
    problem = _problem(rows, offsets, lengths, *options)
    pointers = tuple(x.data_ptr() for x in out)
    if attention.device.type == "cpu":
        _native.module().pdmi_snippet_cpu(problem, pointers, torch.get_num_threads())
    else:
        stream = torch.cuda.current_stream(attention.device).cuda_stream
        _native.module().pdmi_snippet_cuda(problem, pointers, attention.device.index, stream)
    return out


def pdmi_snippet_backward(
    grad: Tensor,
    attention: Tensor,
    foreground: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    foreground_slope: Tensor,
    background_slope: Tensor,
    foreground_threshold: float,
    background_threshold: float,
) -> tuple[Tensor, Tensor]:
    if foreground.dtype != attention.dtype:
        wide = torch.promote_types(foreground.dtype, attention.dtype)
        wider = attention.new_empty(attention.shape, dtype=wide), foreground.to(wide)
        thresholds = _thresholds(foreground, foreground_threshold, background_threshold)
        slopes = foreground_slope, background_slope
        on, off = pdmi_snippet_backward(grad.to(wide), *wider, offsets, lengths, *slopes, *thresholds)
        return on.to(attention.dtype), off.to(attention.dtype)
    grad = grad.to(attention.dtype).contiguous()
    foreground, offsets, lengths = foreground.contiguous(), offsets.contiguous(), lengths.contiguous()
    slopes = foreground_slope.contiguous(), background_slope.contiguous()
    on, off = (torch.empty_like(attention, memory_format=torch.contiguous_format) for _ in range(2))
    # The attention's values are not read.
    problem = _problem(
        (on, off, foreground), offsets, lengths, foreground_threshold, background_threshold, False, 0.0, 0.5
    )
    pointers = [x.data_ptr() for x in (grad, *slopes, on, off)]
    if attention.device.type == "cpu":
        _native.module().pdmi_snippet_backward_cpu(problem, *pointers, torch.get_num_threads())
    else:
        stream = torch.cuda.current_stream(attention.device).cuda_stream
        _native.module().pdmi_snippet_backward_cuda(problem, *pointers, attention.device.index, stream)
    return on, off


def pdmi_video_forward(
    p: Tensor,
    labels: Tensor,
    keep: Tensor,
    relative_floor: float | None,
    normalize_rows: bool,
    per_class: bool,
    atol: float,
    rtol: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if min(p.shape) > LARGEST[p.device.type]:
        return reference.pdmi_video_forward(
            p, labels, keep, relative_floor, normalize_rows, per_class, atol, rtol
        )
    p, labels, keep = p.contiguous(), labels.bool().contiguous(), keep.contiguous()
    value, rank = p.new_empty(()), p.new_empty((), dtype=torch.int64)
    slope = p.new_empty(p.shape, dtype=torch.float64)
    problem = (
        _native.dtype_number(p.dtype),
        p.data_ptr(),
        labels.data_ptr(),
        keep.data_ptr(),
        *p.shape,
        relative_floor is not None,
        relative_floor or 0.0,
        normalize_rows,
        per_class,
        atol,
        rtol,
        value.data_ptr(),
        rank.data_ptr(),
        slope.data_ptr(),
    )
    module = _native.module()
    if p.device.type == "cpu":
        module.pdmi_video_cpu(problem)
    else:
        workspace = p.new_empty(module.pdmi_video_workspace_cuda(problem, p.device.index), dtype=torch.uint8)
        stream = torch.cuda.current_stream(p.device).cuda_stream
        module.pdmi_video_cuda(problem, workspace.data_ptr(), workspace.numel(), p.device.index, stream)
    return value, rank, slope


def pdmi_video_backward(grad: Tensor, slope: Tensor) -> Tensor:
    return scale_slopes(grad, slope)

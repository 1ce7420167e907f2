"""pdmi_snippet and pdmi_video through csrc; joints of many videos and many classes through torch.linalg."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.condition_number.native import LARGEST
from d2kernels.ops.condition_number.native import condition_number_backward as scale_slopes
from d2kernels.ops.pdmi import reference

LARGEST_VALUE = 256  # joints of so many columns whose value alone is asked for; see csrc/cpu/bidiagonal.h


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype)


def _problem(rows: tuple[Tensor, ...], offsets: Tensor, lengths: Tensor, *options: Any) -> tuple[Any, ...]:
    """The arguments of csrc in its order; rows are attention, background attention and foreground."""
    return _native.dtype_number(rows[0].dtype), rows[0].shape[0], *rows, offsets, lengths, lengths.shape[0], *options


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
    for_backward: bool = True,
) -> tuple[Tensor | None, ...]:
    if foreground.dtype != attention.dtype:
        wide = torch.promote_types(foreground.dtype, attention.dtype)
        on, off, score = (x.to(wide) for x in (attention, background_attention, foreground))
        high, low = _thresholds(foreground, foreground_threshold, background_threshold)
        out = pdmi_snippet_forward(on, off, score, offsets, lengths, high, low, joint, floor, rtol, for_backward)
        return tuple(_native.cast(x, attention.dtype) if i in (0, 3, 4) else x for i, x in enumerate(out))
    n = lengths.shape[0]
    on_cpu = attention.is_cpu
    value, foreground_mean, background_mean = [attention.new_empty(n) for _ in range(3)]
    foreground_count, background_count = lengths.new_empty(n), lengths.new_empty(n)
    results = value, foreground_count, background_count, foreground_mean, background_mean
    slopes: tuple[Tensor | None, Tensor | None] = None, None
    if for_backward or not on_cpu:
        slopes = attention.new_empty(n, dtype=torch.float64), attention.new_empty(n, dtype=torch.float64)
    rows = attention, background_attention, foreground
    options = foreground_threshold, background_threshold, joint, floor, rtol
    problem = _problem(rows, offsets, lengths, *options)
    out = (*results, *slopes)
    if on_cpu:
        _native.module().pdmi_snippet_cpu(problem, out, torch.get_num_threads())
    else:
        stream = torch.cuda.current_stream(attention.device).cuda_stream
        _native.module().pdmi_snippet_cuda(problem, out, attention.device.index, stream)
    return out if for_backward else (*results, None, None)


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
    shared: bool = False,
) -> tuple[Tensor, Tensor | None]:
    if foreground.dtype != attention.dtype:
        wide = torch.promote_types(foreground.dtype, attention.dtype)
        wider = attention.new_empty(attention.shape, dtype=wide), foreground.to(wide)
        slopes = foreground_slope, background_slope
        high, low = _thresholds(foreground, foreground_threshold, background_threshold)
        on, off = pdmi_snippet_backward(grad.to(wide), *wider, offsets, lengths, *slopes, high, low)
        assert off is not None
        on, off = on.to(attention.dtype), off.to(attention.dtype)
        return (on + off, None) if shared else (on, off)
    on = attention.new_empty(*attention.shape)
    # The attention's values are not read.
    thresholds = foreground_threshold, background_threshold
    problem = _problem((on, on, foreground), offsets, lengths, *thresholds, False, 0.0, 0.5)
    given = _native.cast(grad, attention.dtype), foreground_slope, background_slope, on
    if attention.is_cpu:
        off = None if shared else attention.new_empty(*attention.shape)
        _native.module().pdmi_snippet_backward_cpu(problem, *given, off, torch.get_num_threads())
        return on, off
    other = attention.new_empty(*attention.shape)
    stream = torch.cuda.current_stream(attention.device).cuda_stream
    _native.module().pdmi_snippet_backward_cuda(problem, *given, other, attention.device.index, stream)
    return (on.add_(other), None) if shared else (on, other)


def pdmi_video_forward(
    p: Tensor,
    labels: Tensor,
    keep: Tensor | None,
    relative_floor: float | None,
    normalize_rows: bool,
    per_class: bool,
    atol: float,
    rtol: float,
    for_backward: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    on_cpu = p.is_cpu
    options = relative_floor, normalize_rows, per_class, atol, rtol, for_backward
    largest = LARGEST["cpu" if on_cpu else "cuda"]
    bisects = on_cpu and not for_backward and p.dtype != torch.float64
    if min(p.shape) > (LARGEST_VALUE if bisects else largest):
        return reference.pdmi_video_forward(p, labels, keep, *options)
    value = p.new_empty(())
    rank = torch.empty_like(value, dtype=torch.int64)
    slope = p.new_empty(*p.shape, dtype=torch.float64) if for_backward or not on_cpu else None
    problem = (
        _native.dtype_number(p.dtype),
        p,
        _native.cast(labels, torch.bool),
        keep,
        *p.shape,
        relative_floor is not None,
        relative_floor or 0.0,
        normalize_rows,
        per_class,
        atol,
        rtol,
        value,
        rank,
        slope,
    )
    module = _native.module()
    if on_cpu:
        # Not where extreme values alone would be too far off, and all of them would take Jacobi's rotations.
        if not module.pdmi_video_cpu(problem, largest):
            return reference.pdmi_video_forward(p, labels, keep, *options)
    else:
        workspace = p.new_empty(module.pdmi_video_workspace_cuda(problem, p.device.index), dtype=torch.uint8)
        stream = torch.cuda.current_stream(p.device).cuda_stream
        module.pdmi_video_cuda(problem, workspace.data_ptr(), workspace.numel(), p.device.index, stream)
    return value, rank, slope if for_backward else None


def pdmi_video_backward(grad: Tensor, slope: Tensor) -> Tensor:
    return scale_slopes(grad, slope)

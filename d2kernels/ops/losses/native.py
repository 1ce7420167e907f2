"""losses through csrc; batches of many videos and many classes through torch.linalg."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.condition_number.native import LARGEST
from d2kernels.ops.losses import reference
from d2kernels.ops.losses.schema import Options


def why_not(device: str, dtype: object) -> str | None:
    # Nobody trains in float64 on a GPU; tests of it have the reference.
    known = (torch.float32,) if device == "cuda" else (torch.float32, torch.float64)
    if dtype is None or dtype in known:
        return None
    return f"native kernels take {' and '.join(map(str, known))} on {device}, not {dtype}"


def _sequences(offsets: Tensor, lengths: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, int, int]:
    return offsets, lengths, lengths.shape[0], 0 if rows is None else rows.shape[0]


def losses_forward(
    p: Tensor,
    embedding: Tensor,
    mass: Tensor,
    on: Tensor | None,
    off: Tensor | None,
    score: Tensor | None,
    labels: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    pairs_drawn: Tensor | None,
    iteration: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    o = Options(*settings)
    on_cpu = p.is_cpu
    if o.video and min(p.shape) > LARGEST["cpu" if on_cpu else "cuda"]:
        return reference.losses_forward(
            p, embedding, mass, on, off, score, labels, offsets, lengths, pairs_drawn, iteration, *settings
        )
    keys = drawn = None
    if pairs_drawn is not None:
        if pairs_drawn.is_floating_point():
            keys = _native.cast(pairs_drawn, p.dtype)
        else:
            drawn = pairs_drawn
    n, classes = p.shape
    total = p.new_empty(())
    terms = total, torch.empty_like(total), torch.empty_like(total), torch.empty_like(total)
    factors, by_row = p.new_empty(2, dtype=torch.float64), p.new_empty(n, 2, dtype=torch.float64)
    by_p, video_by_p = p.new_empty(n, classes), p.new_empty(n, classes, dtype=torch.float64)
    by_embedding = embedding.new_empty(*embedding.shape)
    out = *terms, factors, by_p, video_by_p, by_embedding, by_row
    relative = o.relative_floor is not None
    problem = (
        *_sequences(offsets, lengths, score),
        *(p, embedding, mass, on, off, score, labels, keys, drawn, iteration),
        classes,
        embedding.shape[2],
        *o[:21],
        relative,
        o.relative_floor if relative else 0.0,
        *o[22:],
    )
    module, dtype = _native.module(), _native.dtype_number(p.dtype)
    if on_cpu:
        module.losses_cpu(dtype, problem, out)
    else:
        device, stream = _native.device_and_stream(p.device)
        workspace = p.new_empty(module.losses_workspace_cuda(problem, device), dtype=torch.uint8)
        module.losses_cuda(problem, out, workspace.data_ptr(), workspace.numel(), device, stream)
    return out


def losses_backward(
    total: Tensor | None,
    classification: Tensor | None,
    ds: Tensor | None,
    dv: Tensor | None,
    factors: Tensor,
    by_p: Tensor,
    video_by_p: Tensor,
    by_embedding: Tensor,
    snippet_by_row: Tensor,
    score: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    foreground_threshold: float,
    background_threshold: float,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    grads = [_native.cast(g, by_p.dtype) for g in (total, classification, ds, dv)]
    p, embedding = by_p.new_empty(*by_p.shape), by_embedding.new_empty(*by_embedding.shape)
    on = off = None
    if score is not None:
        on, off = by_p.new_empty(score.shape[0]), by_p.new_empty(score.shape[0])
    arguments = (
        *_sequences(offsets, lengths, score),
        *grads,
        *(factors, by_p, video_by_p, by_embedding, snippet_by_row, score),
        foreground_threshold,
        background_threshold,
        by_p.shape[1],
        by_embedding.shape[2],
        p,
        embedding,
        on,
        off,
    )
    module, dtype = _native.module(), _native.dtype_number(by_p.dtype)
    if by_p.is_cpu:
        module.losses_backward_cpu(dtype, arguments)
    else:
        module.losses_backward_cuda(arguments, *_native.device_and_stream(by_p.device))
    return p, embedding, on, off

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


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _sequences(offsets: Tensor, lengths: Tensor, rows: Tensor | None) -> tuple[int, int, int, int]:
    total = 0 if rows is None else rows.shape[0]
    return offsets.data_ptr(), lengths.data_ptr(), lengths.shape[0], total


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
    if o.video and min(p.shape) > LARGEST[p.device.type]:
        return reference.losses_forward(
            p, embedding, mass, on, off, score, labels, offsets, lengths, pairs_drawn, iteration, *settings
        )
    p, embedding, mass, labels = p.contiguous(), embedding.contiguous(), mass.contiguous(), labels.contiguous()
    on, off, score = (None if x is None else x.contiguous() for x in (on, off, score))
    offsets, lengths = offsets.contiguous(), lengths.contiguous()
    keys = drawn = None
    if pairs_drawn is not None:
        if pairs_drawn.is_floating_point():
            keys = pairs_drawn.to(p.dtype).contiguous()
        else:
            drawn = pairs_drawn.contiguous()
    n, classes = p.shape
    terms = [p.new_empty(()) for _ in range(4)]
    factors, by_row = p.new_empty(2, dtype=torch.float64), p.new_empty((n, 2), dtype=torch.float64)
    by_p, video_by_p = torch.empty_like(p), torch.empty_like(p, dtype=torch.float64)
    by_embedding = torch.empty_like(embedding)
    out = *terms, factors, by_p, video_by_p, by_embedding, by_row
    relative = o.relative_floor is not None
    problem = (
        *_sequences(offsets, lengths, score),
        *map(_address, (p, embedding, mass, on, off, score, labels, keys, drawn, iteration)),
        classes,
        embedding.shape[2],
        *o[:21],
        relative,
        o.relative_floor if relative else 0.0,
        *o[22:],
    )
    pointers = tuple(x.data_ptr() for x in out)
    module, dtype = _native.module(), _native.dtype_number(p.dtype)
    if p.device.type == "cpu":
        module.losses_cpu(dtype, problem, pointers)
    else:
        device, stream = _native.device_and_stream(p.device)
        workspace = p.new_empty(module.losses_workspace_cuda(problem, device), dtype=torch.uint8)
        module.losses_cuda(problem, pointers, workspace.data_ptr(), workspace.numel(), device, stream)
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = [None if g is None else g.to(by_p.dtype) for g in (total, classification, ds, dv)]
    score = None if score is None else score.contiguous()
    offsets, lengths = offsets.contiguous(), lengths.contiguous()
    saved = [x.contiguous() for x in (factors, by_p, video_by_p, by_embedding, snippet_by_row)]
    rows = 0 if score is None else score.shape[0]
    p, embedding = torch.empty_like(saved[1]), torch.empty_like(saved[3])
    on, off = by_p.new_empty(rows), by_p.new_empty(rows)
    arguments = (
        *_sequences(offsets, lengths, score),
        *map(_address, grads),
        *(x.data_ptr() for x in saved),
        _address(score),
        foreground_threshold,
        background_threshold,
        by_p.shape[1],
        by_embedding.shape[2],
        p.data_ptr(),
        embedding.data_ptr(),
        on.data_ptr(),
        off.data_ptr(),
    )
    module, dtype = _native.module(), _native.dtype_number(by_p.dtype)
    if by_p.device.type == "cpu":
        module.losses_backward_cpu(dtype, arguments)
    else:
        module.losses_backward_cuda(arguments, *_native.device_and_stream(by_p.device))
    return p, embedding, on, off

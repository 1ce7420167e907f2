"""head and reference_score through csrc."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.head.schema import _fake


def why_not(device: str, dtype: object) -> str | None:
    # Nobody trains in float64 on a GPU; tests of it have the reference.
    if device == "cuda" and dtype == torch.float64:
        return f"native kernels take no {dtype} on {device}"
    return _native.why_not_dtype(dtype)


def _problem(
    z: Tensor, logits: Tensor, labels: Tensor | None, offsets: Tensor, lengths: Tensor, streams: int, *options: Any
) -> tuple[Any, ...]:
    return (
        offsets.data_ptr(),
        lengths.data_ptr(),
        lengths.shape[0],
        z.shape[0],
        z.data_ptr(),
        logits.data_ptr(),
        streams,
        z.shape[1] // streams,
        logits.shape[1] // streams,
        0 if labels is None else labels.data_ptr(),
        *options,
    )


def _address(x: Tensor | None) -> int:
    return 0 if x is None or x.numel() == 0 else x.data_ptr()


def head_forward(
    z: Tensor, logits: Tensor, labels: Tensor | None, offsets: Tensor, lengths: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    z, logits, offsets, lengths = z.contiguous(), logits.contiguous(), offsets.contiguous(), lengths.contiguous()
    labels = None if labels is None else labels.contiguous()
    out = _fake(z, logits, labels, offsets, lengths, *options)
    problem = _problem(z, logits, labels, offsets, lengths, *options)
    pointers, module, dtype = tuple(map(_address, out)), _native.module(), _native.dtype_number(z.dtype)
    if z.device.type == "cpu":
        module.head_cpu(dtype, problem, pointers, torch.get_num_threads())
    else:
        workspace = z.new_empty(module.head_workspace_cuda(dtype, problem), dtype=torch.uint8)
        module.head_cuda(dtype, problem, pointers, workspace.data_ptr(), *_native.device_and_stream(z.device))
    return out


def head_backward(
    z: Tensor,
    logits: Tensor,
    labels: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    activations: Tensor,
    attention: Tensor,
    own: Tensor,
    embedding: Tensor,
    mass: Tensor,
    grad_activations: Tensor | None,
    grad_attention: Tensor | None,
    grad_own: Tensor | None,
    grad_embedding: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    z, logits, offsets, lengths = z.contiguous(), logits.contiguous(), offsets.contiguous(), lengths.contiguous()
    labels = None if labels is None else labels.contiguous()
    saved = tuple(x.contiguous() for x in (activations, attention, own, embedding, mass))
    grads = [
        None if g is None else g.to(activations.dtype).contiguous()
        for g in (grad_activations, grad_attention, grad_own, grad_embedding)
    ]
    to_z, to_logits = torch.empty_like(z), torch.empty_like(logits)
    problem = _problem(z, logits, labels, offsets, lengths, *options)
    kept = (*map(_address, saved), 0)
    gradients = (*map(_address, grads), to_z.data_ptr(), to_logits.data_ptr())
    module, dtype = _native.module(), _native.dtype_number(z.dtype)
    if z.device.type == "cpu":
        module.head_backward_cpu(dtype, problem, kept, gradients, torch.get_num_threads())
    else:
        workspace = z.new_empty(module.head_workspace_cuda(dtype, problem), dtype=torch.uint8)
        where = _native.device_and_stream(z.device)
        module.head_backward_cuda(dtype, problem, kept, gradients, workspace.data_ptr(), *where)
    return to_z, to_logits


def reference_score_forward(
    z: Tensor,
    reference: Tensor,
    candidate: Tensor,
    mass: Tensor,
    labels: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    streams: int,
    min_snippets: int,
    momentum: float,
    score: bool,
) -> tuple[Tensor, Tensor]:
    z, reference, mass, labels = z.contiguous(), reference.contiguous(), mass.contiguous(), labels.contiguous()
    offsets, lengths = offsets.contiguous(), lengths.contiguous()
    candidate = candidate if candidate.stride(-1) == 1 else candidate.contiguous()
    updated, out = torch.empty_like(reference), reference.new_empty(z.shape[0] if score else 0)
    problem = (
        offsets.data_ptr(),
        lengths.data_ptr(),
        lengths.shape[0],
        z.shape[0],
        z.data_ptr(),
        streams,
        z.shape[1] // streams,
        labels.shape[1],
        reference.data_ptr(),
        candidate.data_ptr(),
        candidate.stride(0),
        mass.data_ptr(),
        labels.data_ptr(),
        min_snippets,
        momentum,
    )
    module, dtype = _native.module(), _native.dtype_number(z.dtype)
    if z.device.type == "cpu":
        module.reference_score_cpu(dtype, problem, updated.data_ptr(), _address(out), torch.get_num_threads())
    else:
        where = _native.device_and_stream(z.device)
        module.reference_score_cuda(dtype, problem, updated.data_ptr(), _address(out), *where)
    return updated, out

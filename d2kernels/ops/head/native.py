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
        offsets,
        lengths,
        lengths.shape[0],
        z.shape[0],
        z,
        logits,
        streams,
        z.shape[1] // streams,
        logits.shape[1] // streams,
        labels,
        *options,
    )


def head_forward(
    z: Tensor, logits: Tensor, labels: Tensor | None, offsets: Tensor, lengths: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    out = _fake(z, logits, labels, offsets, lengths, *options)
    problem = _problem(z, logits, labels, offsets, lengths, *options)
    activations, attention, own, *pooled = out
    pointers = activations, attention, None if labels is None else own, *pooled
    module, dtype = _native.module(), _native.dtype_number(z.dtype)
    if z.is_cpu:
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
    dtype = activations.dtype
    grads = [_native.cast(g, dtype) for g in (grad_activations, grad_attention, grad_own, grad_embedding)]
    to_z, to_logits = z.new_empty(*z.shape), logits.new_empty(*logits.shape)
    problem = _problem(z, logits, labels, offsets, lengths, *options)
    kept = activations, attention, None if labels is None else own, embedding, mass, None
    gradients = (*grads, to_z, to_logits)
    module, number = _native.module(), _native.dtype_number(z.dtype)
    if z.is_cpu:
        module.head_backward_cpu(number, problem, kept, gradients, torch.get_num_threads())
    else:
        workspace = z.new_empty(module.head_workspace_cuda(number, problem), dtype=torch.uint8)
        where = _native.device_and_stream(z.device)
        module.head_backward_cuda(number, problem, kept, gradients, workspace.data_ptr(), *where)
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
    updated, out = reference.new_empty(*reference.shape), reference.new_empty(z.shape[0] if score else 0)
    problem = (
        offsets,
        lengths,
        lengths.shape[0],
        z.shape[0],
        z,
        streams,
        z.shape[1] // streams,
        labels.shape[1],
        reference,
        candidate,
        mass,
        labels,
        min_snippets,
        momentum,
    )
    module, dtype = _native.module(), _native.dtype_number(z.dtype)
    if z.is_cpu:
        module.reference_score_cpu(dtype, problem, updated, out if score else None, torch.get_num_threads())
    else:
        where = _native.device_and_stream(z.device)
        module.reference_score_cuda(dtype, problem, updated, out if score else None, *where)
    return updated, out

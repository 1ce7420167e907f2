"""What the losses need of the network's output, from one read of layer 2's rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2kernels._arguments import flag, number, whole
from d2kernels.ops._library import apply, once, without_gradient
from d2kernels.ops._rows import accumulation_dtype
from d2kernels.ops.head import schema
from d2kernels.ragged import Ragged

__all__ = ["Head", "head", "reference_score"]


class Head(NamedTuple):
    """Of the rows: T (total, C), λ (total,) and the largest T of the sequence's own labels (total,), or None.

    Of the sequences: foreground and background embeddings (n, 2, D), their masses (n, 2), and x (n, D) of the first
    row of lowest λ, the last two without gradient. All in float32, of float64 rows in float64.
    """

    activations: Tensor
    attention: Tensor
    own_attention: Tensor | None
    embedding: Tensor
    mass: Tensor
    lowest: Tensor


class _Head(torch.autograd.Function):
    inputs = 2
    forward = staticmethod(schema.head)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:5], *output[:5])
        ctx.options = inputs[5:]
        ctx.mark_non_differentiable(*output[4:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        wanted, saved = ctx.needs_input_grad, ctx.saved_tensors
        own = grads[2] if saved[2] is not None else None
        if all(g is None for g in (*grads[:2], own, grads[3])):
            return (None,) * len(wanted)
        z, logits = schema.head_backward(*saved, *grads[:2], own, grads[3], *ctx.options)
        return z if wanted[0] else None, logits if wanted[1] else None, *[None] * (len(wanted) - 2)


def _check(op: str, rows: Tensor, n: int, streams: int, labels: Tensor | None) -> None:
    shape = rows.shape
    if len(shape) != 2 or not rows.is_floating_point() or streams < 1 or shape[1] % streams:
        raise ValueError(
            f"{op}: z must be float rows (total, streams · D) of {streams} streams, got {rows.dtype} {tuple(shape)}"
        )
    if labels is not None and (labels.dtype != torch.bool or labels.dim() != 2 or labels.shape[0] != n):
        raise ValueError(f"{op}: labels must be bool ({n}, C), got {labels.dtype} {tuple(labels.shape)}")


def head(
    z: Ragged,
    logits: Tensor,
    *,
    streams: int = 1,
    labels: Tensor | None = None,
    foreground_threshold: float = 0.5,
    background_threshold: float = 0.5,
    inclusive: bool = False,
    normalize: bool = False,
) -> Head:
    """Activations, attention and pooled embeddings of a network with parallel streams (Eqs. 2 and 8).

    T = mean over the streams of σ(logits), λ = max T over the classes, x = mean over the streams of z; foreground are
    the rows with λ above its threshold, background those with 1 − λ above its own, and an embedding is the sum of
    their x weighted by λ or 1 − λ. Ties at a maximum share its gradient, as in torch.amax.

    Args:
        z: rows (total, streams · D), the streams one after the other; float.
        logits: (total, streams · C) in z's dtype.
        labels: (n, C) bool, for own_attention.
        inclusive: whether a row on the threshold is selected.
        normalize: weighted means in place of sums.

    Raises:
        ValueError: an argument of the wrong shape, dtype or device.
    """
    streams = whole("head", "streams", streams)
    rows, lengths = z.values, z.lengths
    _check("head", rows, lengths.shape[0], streams, labels)
    shape = logits.shape
    if len(shape) != 2 or shape[0] != rows.shape[0] or shape[1] % streams or shape[1] == 0:
        raise ValueError(f"head: logits must be ({rows.shape[0]}, {streams} · C), got {tuple(shape)}")
    if logits.dtype != rows.dtype or logits.device != rows.device:
        raise ValueError(
            f"head: logits must be {rows.dtype} on {rows.device} as z, got {logits.dtype} on {logits.device}"
        )
    if labels is not None and labels.shape[1] * streams != shape[1]:
        raise ValueError(f"head: {shape[1] // streams} classes need as many labels, got {labels.shape[1]}")
    options = (
        streams,
        number("head", "foreground_threshold", foreground_threshold),
        number("head", "background_threshold", background_threshold),
        flag("head", "inclusive", inclusive),
        flag("head", "normalize", normalize),
    )
    out = apply(_Head, rows, logits, labels, z.offsets, lengths, *options)
    return Head(out[0], out[1], out[2] if labels is not None else None, *out[3:])


def reference_score(
    z: Ragged,
    reference: Tensor,
    candidate: Tensor,
    mass: Tensor,
    labels: Tensor,
    *,
    streams: int = 1,
    min_snippets: int = 1,
    momentum: float = 0.9,
    score: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """x_ref's update, and λ' = 0.5 (1 − cos(x, x_ref)) of every row by the updated one (Eq. 8); without gradient.

    x_ref becomes momentum · x_ref + (1 − momentum) · mean of the candidates of the videos that have a background, a
    label and at least min_snippets rows; without any it stays.

    Args:
        z: rows (total, streams · D); x is their mean over the streams.
        reference: x_ref (D,), and candidate (n, D), mass (n, 2) of `head`, float32 (of float64 rows float64).
        labels: (n, C) bool.
        score: whether λ' is wanted.

    Returns:
        x_ref (D,) and λ' (total,), 0 on gap rows, or None.

    Raises:
        ValueError: an argument of the wrong shape, dtype or device.
    """
    streams = whole("reference_score", "streams", streams)
    min_snippets = whole("reference_score", "min_snippets", min_snippets, 0)
    momentum = number("reference_score", "momentum", momentum)
    rows, lengths = z.values, z.lengths
    n = lengths.shape[0]
    _check("reference_score", rows, n, streams, labels)
    dtype, width = accumulation_dtype(rows.dtype), rows.shape[1] // streams
    expected = ("reference", reference, (width,)), ("candidate", candidate, (n, width)), ("mass", mass, (n, 2))
    device = rows.device
    for name, x, shape in expected:
        if x.dtype is not dtype or x.shape != shape or x.device != device:
            raise ValueError(
                f"reference_score: {name} must be {dtype} {shape} on {device},"
                f" got {x.dtype} {tuple(x.shape)} on {x.device}"
            )
    given = rows, reference, candidate, mass, labels, z.offsets, lengths
    updated, found = without_gradient(schema.reference_score, *given, streams, min_snippets, momentum, score)
    return updated, found if score else None

"""Schemas and fake kernels of head and reference_score."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define
from d2kernels.ops._rows import accumulation_dtype


def _fake(
    z: Tensor, logits: Tensor, labels: Tensor | None, offsets: Tensor, lengths: Tensor, streams: int, *_: object
) -> tuple[Tensor, ...]:
    total, n, width = z.shape[0], lengths.shape[0], z.shape[1] // streams
    attention = logits.new_empty(total, dtype=accumulation_dtype(z.dtype))
    return (
        attention.new_empty(total, logits.shape[1] // streams),
        attention,
        attention.new_empty(0 if labels is None else total),
        attention.new_empty(n, 2, width),
        attention.new_empty(n, 2),
        attention.new_empty(n, width),
    )


head = define(
    "head",
    "head",
    "(Tensor z, Tensor logits, Tensor? labels, Tensor offsets, Tensor lengths, int streams,"
    " float foreground_threshold, float background_threshold, bool inclusive, bool normalize)"
    " -> (Tensor activations, Tensor attention, Tensor own, Tensor embedding, Tensor mass, Tensor lowest)",
    _fake,
)
head_backward = define(
    "head",
    "head_backward",
    "(Tensor z, Tensor logits, Tensor? labels, Tensor offsets, Tensor lengths, Tensor activations, Tensor attention,"
    " Tensor own, Tensor embedding, Tensor mass, Tensor? grad_activations, Tensor? grad_attention, Tensor? grad_own,"
    " Tensor? grad_embedding, int streams, float foreground_threshold, float background_threshold, bool inclusive,"
    " bool normalize) -> (Tensor z, Tensor logits)",
    lambda z, logits, *_: (
        torch.empty_like(z, memory_format=torch.contiguous_format),
        torch.empty_like(logits, memory_format=torch.contiguous_format),
    ),
)


def _fake_score(
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
    return torch.empty_like(reference), reference.new_empty(z.shape[0] if score else 0)


reference_score = define(
    "head",
    "reference_score",
    "(Tensor z, Tensor reference, Tensor candidate, Tensor mass, Tensor labels, Tensor offsets, Tensor lengths,"
    " int streams, int min_snippets, float momentum, bool score) -> (Tensor reference, Tensor score)",
    _fake_score,
)

"""Schemas and fake kernels of losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from d2kernels.ops._library import define

PAIRS = ("none", "all", "random")


class Options(NamedTuple):
    """What the equations leave open, in the schema's order; `losses` says what each means."""

    min_snippets: int = 1
    clamp: float = 0.0
    pairs: int = 0
    torch_cosine: bool = False
    per_entry: bool = False
    gamma: float = 0.01
    beta: float = 2.0
    pair_warmup: float = 0.0
    denoising_start: float = 0.0
    denoising_warmup: float = 0.0
    snippet: bool = False
    video: bool = False
    snippet_weight: float = 0.1
    video_weight: float = 0.1
    foreground_threshold: float = 0.5
    background_threshold: float = 0.5
    joint: bool = False
    floor: float = 0.0
    rtol: float = 1e-6
    skip_one_sided: bool = False
    forward_only: bool = False
    relative_floor: float | None = None
    normalize_rows: bool = False
    per_class: bool = False
    video_atol: float = 0.0
    video_rtol: float = 0.0


def _fake(p: Tensor, embedding: Tensor, mass: Tensor, on: Tensor, *_: object) -> tuple[Tensor, ...]:
    terms = [p.new_empty(()) for _ in range(4)]
    double = torch.float64
    return (
        *terms,
        p.new_empty(2, dtype=double),
        p.new_empty(p.shape),
        p.new_empty(p.shape, dtype=double),
        p.new_empty(embedding.shape),
        p.new_empty((p.shape[0], 2), dtype=double),
    )


losses = define(
    "losses",
    "losses",
    "(Tensor p, Tensor embedding, Tensor mass, Tensor? on, Tensor? off, Tensor? score, Tensor labels, Tensor offsets,"
    " Tensor lengths, Tensor? pairs_drawn, Tensor iteration, int min_snippets, float clamp, int pairs,"
    " bool torch_cosine, bool per_entry, float gamma, float beta, float pair_warmup, float denoising_start,"
    " float denoising_warmup, bool snippet, bool video, float snippet_weight, float video_weight,"
    " float foreground_threshold, float background_threshold, bool joint, float floor, float rtol,"
    " bool skip_one_sided, bool forward_only, float? relative_floor, bool normalize_rows, bool per_class,"
    " float video_atol, float video_rtol)"
    " -> (Tensor total, Tensor classification, Tensor ds, Tensor dv, Tensor factors, Tensor by_p, Tensor video_by_p,"
    " Tensor by_embedding, Tensor snippet_by_row)",
    _fake,
)


def _fake_backward(
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
    *_: object,
) -> tuple[Tensor, ...]:
    rows = 0 if score is None else score.shape[0]
    return (
        by_p.new_empty(by_p.shape),
        by_embedding.new_empty(by_embedding.shape),
        by_p.new_empty(rows),
        by_p.new_empty(rows),
    )


losses_backward = define(
    "losses",
    "losses_backward",
    "(Tensor? total, Tensor? classification, Tensor? ds, Tensor? dv, Tensor factors, Tensor by_p, Tensor video_by_p,"
    " Tensor by_embedding, Tensor snippet_by_row, Tensor? score, Tensor offsets, Tensor lengths,"
    " float foreground_threshold, float background_threshold)"
    " -> (Tensor p, Tensor embedding, Tensor on, Tensor off)",
    _fake_backward,
)

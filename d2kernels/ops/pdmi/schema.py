"""Schemas and fake kernels of pdmi_snippet and pdmi_video; slopes are empty without `for_backward`."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _fake_snippet(
    attention: Tensor, background: Tensor, foreground: Tensor, offsets: Tensor, lengths: Tensor, *rest: object
):
    n = lengths.shape[0]
    for_backward = len(rest) < 6 or rest[5]
    double = attention.new_empty(n if for_backward else 0, dtype=torch.float64)
    count = lengths.new_empty(n)
    return (
        attention.new_empty(n),
        count,
        torch.empty_like(count),
        attention.new_empty(n),
        attention.new_empty(n),
        double,
        torch.empty_like(double),
    )


pdmi_snippet = define(
    "pdmi",
    "pdmi_snippet",
    "(Tensor attention, Tensor background_attention, Tensor foreground, Tensor offsets, Tensor lengths,"
    " float foreground_threshold, float background_threshold, bool joint, float floor, float rtol,"
    " bool for_backward=True)"
    " -> (Tensor value, Tensor foreground_count, Tensor background_count, Tensor foreground_mean,"
    " Tensor background_mean, Tensor foreground_slope, Tensor background_slope)",
    _fake_snippet,
)

def _fake_snippet_backward(grad: Tensor, attention: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    of = torch.empty_like(attention, memory_format=torch.contiguous_format)
    shared = len(rest) > 7 and rest[7]
    return of, attention.new_empty(0) if shared else torch.empty_like(of)


# `shared`: attention is the background's too; its whole gradient comes first, and the other is empty.
pdmi_snippet_backward = define(
    "pdmi",
    "pdmi_snippet_backward",
    "(Tensor grad, Tensor attention, Tensor foreground, Tensor offsets, Tensor lengths, Tensor foreground_slope,"
    " Tensor background_slope, float foreground_threshold, float background_threshold, bool shared=False)"
    " -> (Tensor, Tensor)",
    _fake_snippet_backward,
)


def _fake_video(p: Tensor, labels: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    for_backward = len(rest) < 7 or rest[6]
    slope = p.new_empty(p.shape if for_backward else (0,), dtype=torch.float64)
    return p.new_empty(()), labels.new_empty((), dtype=torch.int64), slope


pdmi_video = define(
    "pdmi",
    "pdmi_video",
    "(Tensor p, Tensor labels, Tensor? keep, float? relative_floor, bool normalize_rows, bool per_class, float atol,"
    " float rtol, bool for_backward=True) -> (Tensor value, Tensor rank, Tensor slope)",
    _fake_video,
)
pdmi_video_backward = define(
    "pdmi",
    "pdmi_video_backward",
    "(Tensor grad, Tensor slope) -> Tensor",
    lambda grad, slope: slope.new_empty(slope.shape, dtype=grad.dtype),
)

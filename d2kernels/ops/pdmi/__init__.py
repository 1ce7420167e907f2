"""Pseudo-determinant mutual information: log condition numbers of the snippet- and video-level joints."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2kernels._arguments import choice, flag, number
from d2kernels.ops._library import apply, constant, once, takes_as
from d2kernels.ops.condition_number import tolerances
from d2kernels.ops.pdmi import schema
from d2kernels.ragged import Ragged, take


class PdmiSnippet(NamedTuple):
    """Per sequence, (n,): log η (differentiable), snippets on either side, and their mean attention."""

    value: Tensor
    foreground_count: Tensor
    background_count: Tensor
    foreground_mean: Tensor
    background_mean: Tensor


class PdmiVideo(NamedTuple):
    """0-d: log η (differentiable), and how many singular values counted."""

    value: Tensor
    rank: Tensor


class _Snippet(torch.autograd.Function):
    op, inputs = "pdmi_snippet", 2

    # One tensor in both places comes once, as torch.compile asks of a Function's inputs.
    @staticmethod
    @takes_as(schema.pdmi_snippet)
    def forward(attention: Tensor, other: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
        return schema.pdmi_snippet(attention, attention if other is None else other, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        attention, other, foreground, offsets, lengths = inputs[:5]
        ctx.save_for_backward(attention, foreground, offsets, lengths, *output[5:])
        ctx.shared, ctx.thresholds = other is None, inputs[5:7]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple:
        if grad is None:
            return (None,) * 11
        of, of_other = schema.pdmi_snippet_backward(grad, *ctx.saved_tensors, *ctx.thresholds, ctx.shared)
        wanted = ctx.needs_input_grad
        return of if wanted[0] else None, of_other if wanted[1] else None, *(None,) * 9


class _Video(torch.autograd.Function):
    op, inputs = "pdmi_video", 1
    forward = staticmethod(schema.pdmi_video)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(output[2])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple:
        if grad is None:
            return (None,) * 9
        return schema.pdmi_video_backward(grad, *ctx.saved_tensors), *(None,) * 8


def pdmi_snippet(
    attention: Tensor | Ragged,
    foreground: Tensor | Ragged,
    *,
    background_attention: Tensor | Ragged | None = None,
    foreground_threshold: float = 0.5,
    background_threshold: float = 0.5,
    normalization: str = "joint",
    floor: float = 0.0,
    rtol: float = 1e-6,
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> PdmiSnippet:
    """log η of each sequence's 2 × 2 joint of attention and pseudo-label, U₁ = P₁Y₁ (Eqs. 7, 9).

    Pseudo-foreground are the rows with λ' > foreground_threshold, pseudo-background those with
    λ' < background_threshold. With m_f and m_b the mean attention on either side and α the share of foreground
    rows, U₁ᵀ = [[α m_f, α (1 − m_f)], [(1 − α) m_b, (1 − α)(1 − m_b)]]. The gradient is bounded: see rtol.

    Args:
        attention: λ, (total,) rows as Ragged or packed, or dense (n, s); float, in [0, 1].
        foreground: λ', in the same form; selects rows and gets no gradient.
        foreground_threshold, background_threshold: of λ', as above; rounded to its dtype before comparing.
        background_attention: attention on background rows where it differs from `attention`, in the same form.
        normalization: "joint" divides by the rows on both sides (the paper), "side" gives each side weight 1
            (the authors' code).
        floor: entries of the joint are at least this; no gradient passes an entry below it.
        rtol: η is at most 1 / rtol; closer to singular, the gradient takes 1/σ₂ as 1/(rtol·σ₁).
        offsets, lengths, mask: see `Ragged`; dense rows take exactly one of lengths and mask.

    Returns:
        value 0 without gradient where a side is empty; all in the dtype of attention, computed in float64.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    form = take("pdmi_snippet", attention, offsets, lengths, mask)
    _check_rows("attention", form.values)
    score = form.align("foreground", foreground, 1)
    _check_rows("foreground", score)
    other = form.values if background_attention is None else form.align("background_attention", background_attention, 1)
    if other.dtype != form.values.dtype:
        raise TypeError(
            f"pdmi_snippet: background_attention must be {form.values.dtype} as attention, got {other.dtype}"
        )
    out = apply(
        _Snippet,
        form.values,
        None if other is form.values else other,
        *constant(score),
        form.offsets,
        form.lengths,
        number("pdmi_snippet", "foreground_threshold", foreground_threshold, finite=False),
        number("pdmi_snippet", "background_threshold", background_threshold, finite=False),
        choice("pdmi_snippet", "normalization", normalization, ("joint", "side")) == "joint",
        number("pdmi_snippet", "floor", floor, least=0, below=1),
        number("pdmi_snippet", "rtol", rtol, above=0, below=1),
        keeps=True,
    )
    return PdmiSnippet(*out[:5])


def _check_rows(name: str, x: Tensor) -> None:
    if x.dim() != 1 or not x.is_floating_point():
        raise ValueError(f"pdmi_snippet: {name} must be float rows (total,), got {x.dtype} {tuple(x.shape)}")


def pdmi_video(
    p: Tensor,
    labels: Tensor,
    *,
    keep: Tensor | None = None,
    relative_floor: float | None = None,
    normalize_rows: bool = False,
    label_normalization: str = "batch",
    atol: float | None = None,
    rtol: float | None = None,
) -> PdmiVideo:
    """log η of the batch's C × C joint of video-level scores and labels, U₂ = P₂Y₂ (Eqs. 7, 10).

    Computed in float64 from factors of rank at most n, never from a squared matrix; classes with the same videos
    are merged exactly, so that they do not pass as small singular values.

    Args:
        p: (n, C) float scores of n videos.
        labels: (n, C) bool, or numbers whose non-zeros are labels.
        keep: (n,) bool, videos that take part; all by default.
        relative_floor: scores of at most this share of their video's largest become 0; None for none.
        normalize_rows: divides each video's scores by their sum where that is positive.
        label_normalization: "batch" divides Y by the number of videos (the paper), "class" each class by its number
            of videos (the authors' code).
        atol, rtol: which singular values count, as in `condition_number`.

    Returns:
        value 0 with zero gradient for rank 0 or 1 and for scores that are not finite.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    if not (isinstance(p, Tensor) and isinstance(labels, Tensor) and (keep is None or isinstance(keep, Tensor))):
        given = {"p": p, "labels": labels, "keep": keep}
        name = next(name for name, x in given.items() if not isinstance(x, Tensor))
        raise TypeError(f"pdmi_video: {name} must be a tensor, got {type(given[name]).__name__}")
    shape = p.shape
    if len(shape) != 2 or not p.is_floating_point():
        raise ValueError(f"pdmi_video: p must be float (n, C), got {p.dtype} {tuple(shape)}")
    if labels.shape != shape:
        raise ValueError(f"pdmi_video: labels must be {tuple(shape)} as p, got {tuple(labels.shape)}")
    if keep is not None and (keep.dtype != torch.bool or keep.shape != shape[:1]):
        raise ValueError(f"pdmi_video: keep must be bool ({shape[0]},), got {keep.dtype} {tuple(keep.shape)}")
    per_class = choice("pdmi_video", "label_normalization", label_normalization, ("batch", "class")) == "class"
    normalize_rows = flag("pdmi_video", "normalize_rows", normalize_rows)
    if relative_floor is not None:
        relative_floor = number("pdmi_video", "relative_floor", relative_floor, least=0, below=1)
    limits = tolerances("pdmi_video", atol, rtol, max(shape))
    if 0 in shape:
        return PdmiVideo(p.sum(), torch.zeros((), dtype=torch.int64, device=p.device))
    if labels.dtype is not torch.bool:
        labels = labels != 0
    rule = relative_floor, normalize_rows, per_class, *limits
    value, rank, _ = apply(_Video, p, labels, keep, *rule, keeps=True)
    return PdmiVideo(value, rank)

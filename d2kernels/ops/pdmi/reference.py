"""pdmi_snippet and pdmi_video in plain PyTorch, in float64 throughout."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2kernels.ops._rows import rows, segment_sum
from d2kernels.ops.condition_number.reference import factored_extremes, scaled, times_power


class Joint(NamedTuple):
    """Snippet-level statistics of each sequence, (n,): counts, float64 means, and the weights of the two rows."""

    foreground_count: Tensor
    background_count: Tensor
    foreground_mean: Tensor
    background_mean: Tensor
    foreground_weight: Tensor
    background_weight: Tensor


def _sides(
    foreground: Tensor, offsets: Tensor, lengths: Tensor, foreground_threshold: float, background_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the pseudo-foreground and of the pseudo-background (Eq. 8), and each row's sequence."""
    sequence, _, valid = rows(offsets, lengths, foreground.shape[0])
    return (foreground > foreground_threshold) & valid, (foreground < background_threshold) & valid, sequence


def _joint(attention: Tensor, background: Tensor, on: Tensor, off: Tensor, offsets: Tensor, joint: bool) -> Joint:
    n_f, n_b = (segment_sum(side.double(), offsets) for side in (on, off))
    m_f = segment_sum(torch.where(on, attention.double(), 0), offsets) / n_f.clamp(min=1)
    m_b = segment_sum(torch.where(off, background.double(), 0), offsets) / n_b.clamp(min=1)
    if joint:
        total = (n_f + n_b).clamp(min=1)
        return Joint(n_f, n_b, m_f, m_b, n_f / total, n_b / total)
    return Joint(n_f, n_b, m_f, m_b, torch.ones_like(n_f), torch.ones_like(n_b))


def pdmi_snippet(
    attention: Tensor,
    background_attention: Tensor,
    foreground: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    foreground_threshold: float = 0.5,
    background_threshold: float = 0.5,
    joint: bool = True,
    floor: float = 0.0,
) -> Tensor:
    """(n,) log η of U = [[A, B], [C, D]], differentiable by torch away from singular and one-sided joints.

    A, B = α m_f, α (1 − m_f) and C, D = (1 − α) m_b, (1 − α)(1 − m_b), each at least `floor`.
    """
    on, off, _ = _sides(foreground, offsets, lengths, foreground_threshold, background_threshold)
    j = _joint(attention, background_attention, on, off, offsets, joint)
    first = j.foreground_weight[:, None] * torch.stack([j.foreground_mean, 1 - j.foreground_mean], 1)
    second = j.background_weight[:, None] * torch.stack([j.background_mean, 1 - j.background_mean], 1)
    s = torch.linalg.svdvals(torch.stack([first, second], 1).clamp(min=floor))
    value = (s[:, 0] / s[:, 1]).log()
    return torch.where((j.foreground_count > 0) & (j.background_count > 0), value, 0).to(attention.dtype)


def _over(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(y > 0, x / torch.where(y > 0, y, 1), 0)


def _two_by_two(j: Joint, floor: float, rtol: float) -> tuple[Tensor, Tensor, Tensor]:
    """log η, ∂/∂m_f and ∂/∂m_b, (n,) each.

    σ₁ = ½ [hypot(A + D, B − C) + hypot(A − D, B + C)] and log η = 2 log σ₁ − log|det|. Where no entry is at the
    floor, |det| = αβ |m_f − m_b|, which no subtraction of products can match. Where σ₂ < rtol·σ₁ the value is
    −log rtol and 1/σ₂ becomes 1/(rtol·σ₁): the gradient stays bounded, and at m_f = m_b it still parts the means.
    """
    m_f, m_b, wf, wb = j.foreground_mean, j.background_mean, j.foreground_weight, j.background_weight
    raw = torch.stack([wf * m_f, wf * (1 - m_f), wb * m_b, wb * (1 - m_b)])
    entries = raw.clamp(min=floor)
    free = raw >= floor
    # By a power of 2 to about 1, so that no product overflows: η stays, and slopes grow by it.
    scale = torch.ldexp(torch.ones_like(m_f), -entries.abs().amax(0).frexp().exponent.clamp(-1020, 1020))
    a, b, c, d = entries * scale
    p, q, r, t = a + d, b - c, a - d, b + c
    h1, h2 = torch.hypot(p, q), torch.hypot(r, t)
    s1 = (h1 + h2) / 2
    ds1 = torch.stack([_over(p, h1) + _over(r, h2), _over(q, h1) + _over(t, h2), _over(t, h2) - _over(q, h1),
                       _over(p, h1) - _over(r, h2)]) / 2  # fmt: skip
    exact = free.all(0)
    determinant = torch.where(exact, wf * wb * (m_f * scale - m_b * scale) * scale, a * d - b * c)
    ddet = torch.stack([d, -c, -b, a])

    def by_means(g: Tensor) -> tuple[Tensor, Tensor]:
        g = torch.where(free, g, 0)
        return wf * (g[0] - g[1]), wb * (g[2] - g[3])

    ds1_f, ds1_b = by_means(ds1)
    ddet_f, ddet_b = by_means(ddet)
    ddet_f, ddet_b = torch.where(exact, wf * wb * scale, ddet_f), torch.where(exact, -wf * wb * scale, ddet_b)
    safe = torch.where(s1 > 0, s1, 1)
    s2 = determinant.abs() / safe
    effective = torch.maximum(s2, rtol * safe)
    sign = torch.where(determinant < 0, -1.0, 1.0).to(s2.dtype)

    def slope(ds1_: Tensor, ddet_: Tensor) -> Tensor:
        ds2 = sign * ddet_ / safe - s2 * ds1_ / safe
        return (ds1_ / safe - ds2 / effective) * scale

    usable = (j.foreground_count > 0) & (j.background_count > 0) & (s1 > 0)
    best = (h1 == 0) | (h2 == 0)  # η = 1: the minimum
    value = torch.where(usable & ~best, (safe / effective).log(), 0)
    keep = usable & ~best
    return value, torch.where(keep, slope(ds1_f, ddet_f), 0), torch.where(keep, slope(ds1_b, ddet_b), 0)


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
) -> tuple[Any, ...]:
    on, off, _ = _sides(foreground, offsets, lengths, foreground_threshold, background_threshold)
    j = _joint(attention, background_attention, on, off, offsets, joint)
    value, slope_f, slope_b = _two_by_two(j, floor, rtol)
    dtype = attention.dtype
    return (
        value.to(dtype),
        j.foreground_count.long(),
        j.background_count.long(),
        j.foreground_mean.to(dtype, copy=True),
        j.background_mean.to(dtype, copy=True),
        slope_f / j.foreground_count.clamp(min=1) if for_backward else None,
        slope_b / j.background_count.clamp(min=1) if for_backward else None,
    )


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
) -> tuple[Tensor, Tensor]:
    """Gradients of attention on foreground rows and of the attention on background rows, or their sum and nothing."""
    on, off, sequence = _sides(foreground, offsets, lengths, foreground_threshold, background_threshold)
    if lengths.shape[0] == 0:
        zero = torch.zeros_like(attention, memory_format=torch.contiguous_format)
        return zero, attention.new_empty(0) if shared else zero.clone()
    g = grad.double()
    of_f, of_b = (g * foreground_slope)[sequence], (g * background_slope)[sequence]
    of, of_other = torch.where(on, of_f, 0).to(attention.dtype), torch.where(off, of_b, 0).to(attention.dtype)
    return (of + of_other, attention.new_empty(0)) if shared else (of, of_other)


def _scores(p: Tensor, keep: Tensor, relative_floor: float | None, normalize_rows: bool) -> Tensor:
    """(n, C) float64 rows of P₂ᵀ; dropped videos are 0."""
    q = torch.where(keep[:, None], p.double(), 0)
    if relative_floor is not None:
        q = torch.where(q > relative_floor * q.amax(1, keepdim=True), q, 0)
    if normalize_rows:
        rows = scaled(q[:, None])[0][:, 0]  # row by row, so that no sum overflows
        total = rows.sum(1, keepdim=True)
        q = torch.where(total > 0, rows / torch.where(total > 0, total, 1), q)
    return q


def _label_rows(labels: Tensor, keep: Tensor, per_class: bool) -> Tensor:
    """(C, n) float64 rows of Y₂ᵀ. Classes with the same videos are merged into the first, scaled by √count.

    That keeps every singular value of Y₂ᵀ P₂ᵀ but the exact zeros that repetition makes.
    """
    y = (labels.bool() & keep[:, None]).double()
    per = y.sum(0)
    scale = per.clamp(min=1) if per_class else keep.sum().clamp(min=1).double()
    shared = y.mT @ y
    same = (shared == per[:, None]) & (shared == per)
    place = torch.arange(len(per), device=y.device)
    first = torch.where(same, place, len(per)).amin(1) == place
    return (y / scale * torch.where(first, same.sum(1).double().sqrt(), 0)).mT


def pdmi_video(
    p: Tensor,
    labels: Tensor,
    keep: Tensor,
    relative_floor: float | None = None,
    normalize_rows: bool = False,
    per_class: bool = False,
    atol: float = 0.0,
    rtol: float = 0.0,
) -> Tensor:
    """0-d log η of U₂ᵀ = Y₂ᵀ P₂ᵀ, differentiable by torch away from repeated singular values."""
    joint = _label_rows(labels, keep, per_class) @ _scores(p, keep, relative_floor, normalize_rows)
    joint, exponent, _ = scaled(joint[None])
    s = torch.linalg.svdvals(joint[0])
    least = times_power(torch.full_like(joint[:, :1, :1], atol), -exponent)[0, 0, 0]
    last = ((s > torch.maximum(s[0] * rtol, least)).sum() - 1).clamp(min=0)
    value = s[0].log() - s.gather(0, last[None])[0].log()
    return torch.where(s[0] > least.clamp(min=0), value, 0).to(p.dtype)


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
) -> tuple[Tensor, Tensor, Any]:
    if keep is None:
        keep = torch.ones(p.shape[0], dtype=torch.bool, device=p.device)
    q = _scores(p, keep, relative_floor, normalize_rows)
    e, slope = factored_extremes(_label_rows(labels, keep, per_class)[None], q[None], atol, rtol)
    slope = slope[0]
    if normalize_rows:
        rows, exponent, _ = scaled(_scores(p, keep, relative_floor, False)[:, None])
        raw = rows[:, 0].sum(1, keepdim=True)
        divided = (slope - (slope * q).sum(1, keepdim=True)) / torch.where(raw > 0, raw, 1)
        slope = torch.where(raw > 0, times_power(divided[:, None], -exponent)[:, 0], slope)
    counted = keep[:, None].expand_as(q)
    if relative_floor is not None:
        counted = counted & (q > 0)
    # The floor would drop a video with NaN in silence.
    finite = e.log.isfinite() & slope.isfinite().all() & (p.isfinite() | ~keep[:, None]).all()
    value, rank = torch.where(finite, e.log, 0)[0], torch.where(finite, e.rank, 0)[0]
    kept = torch.where(finite & counted, slope, 0).contiguous() if for_backward else None
    return value.to(p.dtype), rank, kept


def pdmi_video_backward(grad: Tensor, slope: Tensor) -> Tensor:
    return (grad.double() * slope).to(grad.dtype)

"""losses in plain PyTorch, differentiable: the equations one after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from d2kernels.ops._rows import segment_sum
from d2kernels.ops.losses.schema import PAIRS, Options
from d2kernels.ops.pdmi import reference as pdmi


class Permutations(NamedTuple):
    """Positions within the lists of videos that have a foreground / background embedding; each (n,) int64.

    Only the first entries count: as many as the list is long (x_foreground, x_background: the shorter list).
    """

    foreground: Tensor
    background: Tensor
    x_foreground: Tensor
    x_background: Tensor


class PairWeights(NamedTuple):
    """Each (n,): 1 - cos among foregrounds, among backgrounds, and max(0, cos) across."""

    foreground: Tensor
    background: Tensor
    cross: Tensor


def cosine(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """Cosine along the last dimension; ``release`` adds 1e-12 to each squared norm."""
    if kind == "torch":
        return F.cosine_similarity(a, b, dim=-1)
    return (a * b).sum(-1) / (((a * a).sum(-1) + 1e-12) * ((b * b).sum(-1) + 1e-12)).sqrt()


def permutations_of(keys: Tensor, has_foreground: Tensor, has_background: Tensor) -> Permutations:
    """The orders that sort the rows of keys (4, n), each as far as its list goes."""
    place = torch.arange(keys.shape[1], device=keys.device)
    counts = torch.stack([has.sum() for has in (has_foreground, has_background)] * 2)[:, None]
    order = keys.masked_fill(place >= counts, float("inf")).argsort(dim=1, stable=True)
    return Permutations(*order.unbind())


def _listed(has: Tensor) -> Tensor:
    """Videos of the list, in batch order, then the others: a permutation of 0..n-1."""
    return (~has).to(torch.uint8).argsort(stable=True)


def _scatter(target: Tensor, values: Tensor, counted: Tensor) -> Tensor:
    # Counted targets are distinct, so the sum is exact; the others add 0 wherever they point.
    return torch.zeros_like(values).scatter_add(0, target, torch.where(counted, values, 0))


def random_pairs(
    foreground: Tensor,
    background: Tensor,
    has_foreground: Tensor,
    has_background: Tensor,
    kind: str,
    permutations: Permutations,
) -> PairWeights:
    """One partner for each video, possibly itself; the cross weight goes to the foreground's video.

    Args:
        foreground, background: (n, D) embeddings.
        has_foreground, has_background: (n,) bool, whether the video has that embedding; other weights are 0.
        kind: of cosine.
    """
    fg, bg = _listed(has_foreground), _listed(has_background)
    place = torch.arange(fg.shape[0], device=fg.device)
    n_fg, n_bg = has_foreground.sum(), has_background.sum()

    def within(x: Tensor, listed: Tensor, permutation: Tensor, count: Tensor) -> Tensor:
        return _scatter(listed, 1 - cosine(x[listed], x[listed[permutation]], kind), place < count)

    a, b = fg[permutations.x_foreground], bg[permutations.x_background]
    cross = cosine(foreground[a], background[b], kind).clamp(min=0)
    return PairWeights(
        within(foreground, fg, permutations.foreground, n_fg),
        within(background, bg, permutations.background, n_bg),
        _scatter(a, cross, place < torch.minimum(n_fg, n_bg)),
    )


def all_pairs(
    foreground: Tensor, background: Tensor, has_foreground: Tensor, has_background: Tensor, kind: str
) -> PairWeights:
    """Every other video of the batch that has the embedding, averaged. Arguments as `random_pairs`."""
    other = ~torch.eye(foreground.shape[0], dtype=torch.bool, device=foreground.device)

    def mean(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        counted = other & rows[:, None] & columns
        return torch.where(counted, values, 0).sum(1) / counted.sum(1).clamp(min=1)

    def table(a: Tensor, b: Tensor) -> Tensor:
        return cosine(a[:, None], b[None], kind)

    return PairWeights(
        mean(1 - table(foreground, foreground), has_foreground, has_foreground),
        mean(1 - table(background, background), has_background, has_background),
        mean(table(foreground, background).clamp(min=0), has_foreground, has_background),
    )


def kept_videos(lengths: Tensor, labels: Tensor, min_snippets: int) -> Tensor:
    """(n,) bool: long enough and with a label."""
    return (lengths >= min_snippets) & labels.any(1)


def _pair_weights(
    embedding: Tensor, mass: Tensor, keep: Tensor, drawn: Tensor | None, options: Options
) -> PairWeights | None:
    has_foreground, has_background = ((mass > 0) & keep[:, None]).unbind(1)
    foreground, background = embedding.unbind(1)
    kind = "torch" if options.torch_cosine else "release"
    lists = foreground, background, has_foreground, has_background, kind
    if PAIRS[options.pairs] == "none":
        return None
    if PAIRS[options.pairs] == "all":
        return all_pairs(*lists)
    assert drawn is not None
    if drawn.is_floating_point():
        return random_pairs(*lists, permutations_of(drawn, has_foreground, has_background))
    return random_pairs(*lists, Permutations(*drawn.unbind()))


def discriminative(p: Tensor, labels: Tensor, keep: Tensor, weights: PairWeights | None, options: Options) -> Tensor:
    """Eq. 4 of p (n, C), already clamped; weights have their warm-up's factor."""
    positive = negative = p.new_zeros(p.shape[0], 1)
    if weights is not None:
        w_ff, w_bb, w_fb = (w[:, None].to(p.dtype) for w in weights)
        positive, negative = w_fb + options.gamma * w_ff, w_fb + options.gamma * w_bb
    tiny = 1e-12 if p.dtype == torch.float64 else 1e-7
    log_p, log_q = p.clamp(min=tiny).log(), (1 - p).clamp(min=tiny).log()
    on = -(1 - p + positive).clamp(min=0).pow(options.beta) * log_p
    off = -(p + negative).clamp(min=0).pow(options.beta) * log_q
    count = keep.sum().clamp(min=1)
    if options.per_entry:
        on = on * p.shape[1]
        count = count * p.shape[1]
    entries = torch.where(labels, on, off)
    return torch.where(keep[:, None], entries, 0).sum() / count


def _linear(value: Tensor, slope: Tensor, x: Tensor) -> Tensor:
    """value, with the gradient slope by x."""
    return value.to(x.dtype) + (slope.to(x.dtype) * (x - x.detach())).sum()


def _snippets(
    on: Tensor,
    off: Tensor,
    score: Tensor,
    keep: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    options: Options,
) -> Tensor:
    """L_DS: the mean of log η over the videos that count."""
    thresholds = options.foreground_threshold, options.background_threshold
    value, n_f, n_b, m_f, m_b, slope_f, slope_b = pdmi.pdmi_snippet_forward(
        on.detach(), off.detach(), score, offsets, lengths, *thresholds, options.joint, options.floor, options.rtol
    )
    two_sided = (n_f > 0) & (n_b > 0)
    counted = keep & value.isfinite()
    if options.skip_one_sided:
        counted = counted & two_sided
    if options.forward_only:
        # A one-sided video has no polarity.
        counted = counted & ~(two_sided & (m_f < m_b))
    is_f, is_b, sequence = pdmi._sides(score, offsets, lengths, *thresholds)
    if lengths.shape[0] == 0:
        return on.new_zeros(())
    moved = torch.where(is_f, slope_f.to(on.dtype)[sequence] * (on - on.detach()), 0)
    moved = moved + torch.where(is_b, slope_b.to(on.dtype)[sequence] * (off - off.detach()), 0)
    values = value + segment_sum(moved, offsets)
    return torch.where(counted, values, 0).sum() / counted.sum().clamp(min=1)


def losses(
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
    *settings: float | bool | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, classification loss, L_DS, L_DV and the last two's factors in the total, (2,)."""
    options = Options(*settings)  # type: ignore[arg-type]
    labels = labels.bool()
    keep = kept_videos(lengths, labels, options.min_snippets)
    q = p.clamp(options.clamp, 1 - options.clamp) if options.clamp else p
    weights = _pair_weights(embedding, mass, keep, pairs_drawn, options)
    when = iteration.double()
    if weights is not None and options.pair_warmup:
        warm = (when / options.pair_warmup).clamp(max=1).to(p.dtype)
        weights = PairWeights(*(w * warm for w in weights))
    classification = discriminative(q, labels, keep, weights, options)
    ds = dv = classification.new_zeros(())
    if options.snippet:
        assert on is not None and off is not None and score is not None
        ds = _snippets(on, off, score, keep, offsets, lengths, options)
    if options.video and 0 not in p.shape:
        value, _, slope = pdmi.pdmi_video_forward(
            q.detach(), labels, keep, options.relative_floor, options.normalize_rows, options.per_class,
            options.video_atol, options.video_rtol,
        )  # fmt: skip
        dv = _linear(value, slope, q)
    since = when - options.denoising_start
    scale = (since > 0).double()
    if options.denoising_warmup:
        scale = scale * (since / options.denoising_warmup).clamp(max=1)
    factors = torch.stack([scale * options.snippet_weight, scale * options.video_weight])
    total = classification + factors[0].to(p.dtype) * ds + factors[1].to(p.dtype) * dv
    return total, classification, ds, dv, factors


def losses_forward(
    p: Tensor,
    embedding: Tensor,
    mass: Tensor,
    on: Tensor | None,
    off: Tensor | None,
    score: Tensor | None,
    *rest: Tensor | float | bool | None,
) -> tuple[Tensor, ...]:
    offsets = rest[1]
    assert isinstance(offsets, Tensor)

    def slopes(value: Tensor, *leaves: Tensor) -> list[Tensor]:
        if not value.requires_grad:
            return [torch.zeros_like(x) for x in leaves]
        found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]

    with torch.enable_grad():
        p, embedding = (x.detach().requires_grad_() for x in (p, embedding))
        rows = [None if x is None else x.detach().requires_grad_() for x in (on, off)]
        found = losses(p, embedding, mass, rows[0], rows[1], score, *rest)  # type: ignore[arg-type]
        total, classification, ds, dv, factors = found
        by_p, by_embedding = slopes(classification, p, embedding)
        (video_by_p,) = slopes(dv, p)
        by_row = p.new_zeros((p.shape[0], 2), dtype=torch.float64)
        if rows[0] is not None and rows[1] is not None and p.shape[0]:
            # Every row of a side has the same slope.
            by = [g.double() for g in slopes(ds, rows[0], rows[1])]
            by_row = torch.stack([_one_of(g, offsets) for g in by], 1)
    out = total, classification, ds, dv, factors, by_p, video_by_p.double(), by_embedding, by_row
    return tuple(x.detach().clone(memory_format=torch.contiguous_format) for x in out)


def _one_of(g: Tensor, offsets: Tensor) -> Tensor:
    """(n,): the value of a sequence's rows that are not 0, all of which are the same."""
    return segment_sum(g, offsets) / segment_sum((g != 0).double(), offsets).clamp(min=1)


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
    zero = factors.new_zeros(())
    g, g_c, g_ds, g_dv = (zero if x is None else x.double() for x in (total, classification, ds, dv))
    g_c, g_ds, g_dv = g + g_c, g * factors[0] + g_ds, g * factors[1] + g_dv
    dtype = by_p.dtype
    p = (g_c * by_p + g_dv * video_by_p).to(dtype)
    embedding = (g_c * by_embedding).to(dtype)
    if score is None or lengths.shape[0] == 0:
        rows = by_p.new_zeros(0 if score is None else score.shape[0])
        return p, embedding, rows, rows.clone()
    is_f, is_b, sequence = pdmi._sides(score, offsets, lengths, foreground_threshold, background_threshold)
    of_f, of_b = (g_ds * snippet_by_row).unbind(1)
    return (
        p,
        embedding,
        torch.where(is_f, of_f[sequence], 0).to(dtype),
        torch.where(is_b, of_b[sequence], 0).to(dtype),
    )

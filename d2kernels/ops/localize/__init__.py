"""From activations to detections, for a whole batch of sequences at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from d2kernels.ops.localize import schema
from d2kernels.ragged import Ragged, take


class Detections(NamedTuple):
    """Scored segments, ordered by sequence and falling score, and how many each sequence has.

    sequence, label: (m,) int64; start, end: (m,) float64, half-open, in snippets from the sequence's first;
    score: (m,) float64; count: (n,) int64.
    """

    sequence: Tensor
    label: Tensor
    start: Tensor
    end: Tensor
    score: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count


def localize(
    activations: Tensor | Ragged,
    *,
    thresholds: Sequence[float] | Tensor,
    class_mask: Tensor | None = None,
    margin: float = 0.25,
    outer: str = "pooled",
    min_score: float | None = None,
    min_length: int = 1,
    iou_threshold: float,
    inclusive: bool = True,
    sigma: float | None = None,
    keep_ratio: float | None = None,
    keep_scope: str = "sequence",
    upsample: int = 1,
    smoothing: int = 1,
    relative: str | None = None,
    class_score: Tensor | None = None,
    capacity: int | None = None,
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Detections:
    """Thresholds, connected components, contrast scores, NMS and a keep rule (Sec. 3.3).

    A run of snippets above a threshold is a proposal; runs that several thresholds share count once. Its score is its
    mean activation minus that of its surroundings; a run that is the whole sequence has no surroundings. NaN is above
    nothing and counts as 0 in means.

    Args:
        activations: (total, C) rows as Ragged or packed, or dense (n, s, C); float.
        thresholds: rising; a run lies strictly above.
        class_mask: (n, C) bool, the classes to search each sequence for; all where None.
        margin: surroundings on either side are max(1, ⌊width · margin⌋) snippets (upsampled: positions), as far as they
            exist.
        outer: "pooled", one mean over both sides' snippets, or "sides", the mean of both sides' means.
        min_score: drops proposals with a smaller contrast.
        min_length: of a proposal, in snippets.
        iou_threshold, inclusive: of the NMS within each sequence and class.
        sigma: Gaussian soft-NMS in place of removal.
        keep_ratio: then drops what scores below this share of the scope's best, and all where that is not positive.
        keep_scope: "sequence" or "class" (of a sequence).
        upsample: linear interpolation to so many positions a snippet before thresholding.
        smoothing: moving average over so many snippets, odd, before that.
        relative: None; "max", thresholds times each sequence and class's maximum; "minmax", within its range.
        class_score: (n, C), added to each proposal's score after min_score.
        capacity: fixed size m; rows beyond the detections hold sequence −1.
        offsets, lengths, mask: see `Ragged`; dense activations take exactly one of lengths and mask.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value; a capacity that is too small, naming
            the one that is needed.
    """
    form = take("localize", activations, offsets, lengths, mask)
    values, n = form.values, form.lengths.shape[0]
    if values.dim() != 2 or not values.is_floating_point():
        raise ValueError(
            f"localize: activations must be float rows (total, C), got {values.dtype} {tuple(values.shape)}"
        )
    for name, given, choices in (
        ("outer", outer, ("pooled", "sides")),
        ("keep_scope", keep_scope, ("sequence", "class")),
        ("relative", relative, (None, "max", "minmax")),
    ):
        if given not in choices:
            raise ValueError(f"localize: {name} must be one of {', '.join(map(repr, choices))}, got {given!r}")
    for name, value, usable in (
        ("margin", margin, margin >= 0),
        ("min_length", min_length, min_length >= 1),
        ("iou_threshold", iou_threshold, 0 < iou_threshold <= 1),
        ("sigma", sigma, sigma is None or sigma > 0),
        ("upsample", upsample, upsample >= 1),
        ("smoothing", smoothing, smoothing >= 1 and smoothing % 2 == 1),
        ("capacity", capacity, capacity is None or capacity >= 0),
    ):
        if not usable:
            raise ValueError(f"localize: {name} = {value} is out of range")
    for name, table in (("class_mask", class_mask), ("class_score", class_score)):
        if table is not None and table.shape != (n, values.shape[1]):
            raise ValueError(f"localize: {name} must be {(n, values.shape[1])}, got {tuple(table.shape)}")
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    levels = torch.as_tensor(thresholds, dtype=torch.float64, device=values.device)
    found = schema.localize(
        values.detach(),
        form.offsets,
        form.lengths,
        levels,
        class_mask,
        float(margin),
        outer == "pooled",
        min_score,
        min_length,
        float(iou_threshold),
        bool(inclusive),
        sigma,
        keep_ratio,
        keep_scope == "class",
        upsample,
        smoothing,
        relative,
        class_score,
    )
    detections = Detections(*found)
    return detections if capacity is None else _padded(detections, capacity)


def _padded(d: Detections, capacity: int) -> Detections:
    needed = d.score.shape[0]
    if needed > capacity:
        raise ValueError(f"localize: capacity = {capacity} is too small; {needed} is needed")
    extra = (0, capacity - needed)
    columns = [F.pad(c, extra, value=v) for c, v in zip(d[:5], (-1, -1, 0, 0, 0), strict=True)]
    return Detections._make((*columns, d.count))

"""From activations to detections, for a whole batch of sequences at once. Does not import torch for NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from d2kernels._arguments import choice, flag, number, whole
from d2kernels._dlpack import takes_dlpack
from d2kernels.ops._capacity import padded_array
from d2kernels.ops.connected_components.checks import check_order
from d2kernels.ops.localize.capacity import PADDING
from d2kernels.ops.localize.checks import (
    MOST_UPSAMPLED,
    Given,
    check_positions,
    check_tables,
    check_thresholds,
)

if TYPE_CHECKING:
    from torch import Tensor

    from d2kernels.ragged import Ragged


class Detections(NamedTuple):
    """Scored segments, ordered by sequence and falling score, and how many each sequence has.

    sequence, label: (m,) int64; start, end: (m,) float64, half-open, in snippets from the sequence's first;
    score: (m,) float64; count: (n,) int64.
    """

    sequence: Any
    label: Any
    start: Any
    end: Any
    score: Any
    count: Any  # type: ignore[assignment]  # over tuple.count


@takes_dlpack
def localize(
    activations: Tensor | Ragged | np.ndarray,
    *,
    thresholds: Sequence[float] | Tensor | np.ndarray,
    class_mask: Tensor | np.ndarray | None = None,
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
    class_score: Tensor | np.ndarray | None = None,
    capacity: int | None = None,
    offsets: Tensor | np.ndarray | None = None,
    lengths: Tensor | np.ndarray | None = None,
    mask: Tensor | np.ndarray | None = None,
) -> Detections:
    """Thresholds, connected components, contrast scores, NMS and a keep rule (Sec. 3.3).

    A run of snippets above a threshold is a proposal; runs that several thresholds share count once. Its score is its
    mean activation minus that of its surroundings; a run that is the whole sequence has no surroundings. NaN is above
    nothing and counts as 0 in means.

    Args:
        activations: (total, C) rows as Ragged or packed, or dense (n, s, C); float. NumPy arrays
            give NumPy arrays, through the native backend and without importing torch.
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
        upsample: linear interpolation to so many positions a snippet before thresholding; at most 1024, and fewer than
            2³¹ positions in all.
        smoothing: moving average over so many snippets, odd, before that.
        relative: None; "max", thresholds times each sequence and class's maximum; "minmax", within its range.
        class_score: (n, C), added to each proposal's score after min_score.
        capacity: fixed size m; rows beyond the detections hold sequence −1. On a GPU nothing is waited for then:
            `count` tells all that were found, and is negative for a sequence with a proposal whose score is NaN;
            what has no room is left out, and `D2K_CHECK=1` waits and raises.
        offsets, lengths, mask: see `Ragged`; dense activations take exactly one of lengths and mask.

    Returns:
        Detections(sequence, label, start, end, score, count), by sequence and falling score: sequence and label (m,)
        int64; start and end (m,) float64, [start, end) in snippets from the sequence's first; score (m,) float64; count
        (n,) int64, how many each sequence has.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value; a proposal whose score is NaN; a
            capacity that is too small, naming the one that is needed.
        BackendUnavailable: NumPy arrays where there is no compiled extension.
    """
    rules = (
        number("localize", "margin", margin, least=0),
        choice("localize", "outer", outer, ("pooled", "sides")) == "pooled",
        None if min_score is None else number("localize", "min_score", min_score, finite=False),
        whole("localize", "min_length", min_length),
        number("localize", "iou_threshold", iou_threshold, above=0, most=1),
        flag("localize", "inclusive", inclusive),
        None if sigma is None else number("localize", "sigma", sigma, above=0, finite=False),
        None if keep_ratio is None else number("localize", "keep_ratio", keep_ratio),
        choice("localize", "keep_scope", keep_scope, ("sequence", "class")) == "class",
        whole("localize", "upsample", upsample, most=MOST_UPSAMPLED),
        whole("localize", "smoothing", smoothing),
        choice("localize", "relative", relative, (None, "max", "minmax")),
    )
    if smoothing % 2 == 0:
        raise ValueError(f"localize: smoothing must be odd, got {smoothing}")
    if capacity is not None:
        capacity = whole("localize", "capacity", capacity, 0)
    form = activations, offsets, lengths, mask
    given = Given(form, thresholds, class_mask, class_score, capacity, rules)
    if isinstance(activations, np.ndarray):
        return _of_arrays(given)
    from d2kernels.ops.localize.tensors import of_tensors

    return Detections(*of_tensors(given))


def _of_arrays(given: Given) -> Detections:
    from d2kernels._arrays import backend_for_arrays, take_array
    from d2kernels._arrays import levels as as_levels

    _, thresholds, class_mask, class_score, capacity, rules = given
    form = take_array("localize", *given.form)
    values, n = form.values, len(form.lengths)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise ValueError(f"localize: activations must be float rows (total, C), got {values.dtype} {values.shape}")
    class_mask = None if class_mask is None else np.asarray(class_mask)
    class_score = None if class_score is None else np.asarray(class_score)
    check_tables((n, values.shape[1]), class_mask=class_mask, class_score=class_score)
    if class_mask is not None and class_mask.dtype != bool:
        raise TypeError(f"localize: class_mask must be bool, got {class_mask.dtype}")
    if class_score is not None and class_score.dtype.kind not in "fiub":
        raise TypeError(f"localize: class_score must be numbers, got {class_score.dtype}")
    check_positions(values.shape[0], rules[9])
    levels = as_levels("localize", thresholds).astype(np.float64)
    check_thresholds(levels)
    values = values.astype(np.float64 if values.dtype.itemsize >= 8 else np.float32, copy=False)
    check_order("localize", levels if rules[-1] else levels.astype(values.dtype))
    backend = backend_for_arrays("localize")
    found = Detections(
        *backend.localize_arrays(
            values, form.offsets, form.lengths, levels, class_mask, rules, class_score
        )
    )
    if capacity is None:
        return found
    columns = [padded_array("localize", c, capacity, v) for c, v in zip(found[:5], PADDING, strict=True)]
    return Detections._make((*columns, found.count))

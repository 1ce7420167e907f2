"""A batch's rows out of features that stay in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels._arguments import FEW, listed
from d2kernels.ops._library import without_gradient
from d2kernels.ops.gather_rows import schema
from d2kernels.ragged import _check_layout, _values_can_be_checked

__all__ = ["DTYPES", "gather_rows"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def gather_rows(source: Tensor, first: Tensor, offsets: Tensor, lengths: Tensor, out: Tensor) -> Tensor:
    """Sequence i of `out` becomes rows first[i], ..., first[i] + lengths[i] - 1 of the source, cast to its dtype; all
    other rows of `out` become 0.

    Args:
        source: (rows, d) float32, bfloat16 or float16, contiguous.
        first: (n,) int64; offsets: (n + 1,) int64, lengths: (n,) int64 of `out`, as of a `Ragged`.
        out: (total, d) float32, bfloat16 or float16, contiguous; written whole.

    Returns:
        `out`. Nothing is differentiated.

    Raises:
        ValueError: an argument of the wrong shape, dtype or layout; where they are on the CPU or D2K_CHECK=1, indices
            that lie outside. Elsewhere, rows that the source does not have are 0.
    """
    for name, x in (("source", source), ("out", out)):
        if x.dim() != 2 or x.dtype not in DTYPES or not x.is_contiguous():
            raise ValueError(
                f"gather_rows: {name} must be contiguous rows (total, d) of float32, bfloat16 or float16, "
                f"got {x.dtype} {tuple(x.shape)}"
            )
    if source.shape[1] != out.shape[1]:
        raise ValueError(f"gather_rows: source has {source.shape[1]} columns but out has {out.shape[1]}")
    n = lengths.numel()
    for name, x, size in (("first", first, n), ("offsets", offsets, n + 1), ("lengths", lengths, n)):
        if x.dtype != torch.int64 or x.shape != (size,) or not x.is_contiguous():
            raise ValueError(
                f"gather_rows: {name} must be contiguous int64 ({size},) beside {n} lengths, "
                f"got {x.dtype} {tuple(x.shape)}"
            )
    if _values_can_be_checked(first, offsets, lengths):
        _check_layout("gather_rows", out.shape[0], offsets, lengths)
        _check_first(first, lengths, source.shape[0])
    without_gradient(schema.gather_rows, source, first, offsets, lengths, out)
    return out


def _check_first(first: Tensor, lengths: Tensor, rows: int) -> None:
    if len(lengths) <= FEW:
        pairs = zip(listed(first), listed(lengths), strict=True)
        if all([0 <= at <= rows - size for at, size in pairs]):
            return
    at, size = first.numpy(force=True), lengths.numpy(force=True)
    # Compared before they are added: sums of numbers from anywhere wrap.
    wrong = (at < 0) | (at > rows) | (size > rows - at.clip(0, rows))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"gather_rows: {size[i]} rows from first[{i}] = {at[i]} on are not among the {rows} rows of source"
        )

"""Where each sequence's attention is lowest."""

from __future__ import annotations

from torch import Tensor

from d2kernels.ops._library import constant
from d2kernels.ops.lowest_attention import schema
from d2kernels.ragged import Ragged, take


def lowest_attention(
    attention: Tensor | Ragged,
    *,
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """First index of each sequence's lowest attention: its surest background snippet.

    Args:
        attention: (total,) rows as Ragged or packed, or dense (n, s), float; NaN is lowest, as torch.argmin.
        offsets, lengths, mask: see `Ragged`; dense attention takes exactly one of lengths and mask.

    Returns:
        (n,) int64, counted from each sequence's first row; -1 for an empty sequence. Not differentiable.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    form = take("lowest_attention", attention, offsets, lengths, mask)
    rows = form.values
    if rows.dim() != 1 or not rows.is_floating_point():
        raise ValueError(
            f"lowest_attention: attention must be float rows (total,), got {rows.dtype} {tuple(rows.shape)}"
        )
    return schema.lowest_attention(*constant(rows), form.offsets, form.lengths)

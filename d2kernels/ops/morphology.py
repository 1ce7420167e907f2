"""Flat erosion and dilation in time, sequence by sequence: torch's pooling over packed rows, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from d2kernels._arguments import number, whole
from d2kernels.ops._rows import rows
from d2kernels.ragged import Form, Ragged, take


def dilation(
    x: Tensor | Ragged,
    size: int,
    *,
    border: float | None = None,
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor | Ragged:
    """Largest value of a window of `size` rows around each row, as scipy.ndimage's grey_dilation and binary_dilation.

    out[t] = max over j of x[t - j], for j from -((size - 1) // 2) to size // 2, and the windows of `erosion` mirrored,
    so that an even size leans to earlier rows here and to later ones there. Equal to grey_dilation(x, size) of each
    sequence and column for border=None, and to binary_dilation(x, ones(size)) for border=0.

    Args:
        x: (total, ...) rows as Ragged or packed, or dense (n, s, ...); float, integer or bool.
        size: of the window, in rows.
        border: what lies before and after a sequence; None leaves it out, which scipy's default, reflection, comes to.
        offsets, lengths, mask: see `Ragged`.

    Returns:
        As x, in its form and dtype, zero on gap rows. Floats are differentiable: the gradient goes to the first of the
        largest values. Integers beyond 2**53 are rounded.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    return _extreme("dilation", x, size, border, offsets, lengths, mask)


def erosion(
    x: Tensor | Ragged,
    size: int,
    *,
    border: float | None = None,
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor | Ragged:
    """Smallest value of a window of `size` rows around each row, as scipy.ndimage's grey_erosion and binary_erosion.

    out[t] = min over j of x[t + j], for j from -(size // 2) to (size - 1) // 2. Equal to grey_erosion(x, size) of each
    sequence and column for border=None, and to binary_erosion(x, ones(size)) for border=0, which is scipy's default
    there: what touches a sequence's end is eroded from that side too.

    Args:
        x: (total, ...) rows as Ragged or packed, or dense (n, s, ...); float, integer or bool.
        size: of the window, in rows.
        border: what lies before and after a sequence; None leaves it out, which scipy's default, reflection, comes to.
        offsets, lengths, mask: see `Ragged`.

    Returns:
        As x, in its form and dtype, zero on gap rows. Floats are differentiable: the gradient goes to the first of the
        smallest values. Integers beyond 2**53 are rounded.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    return _extreme("erosion", x, size, border, offsets, lengths, mask)


def _extreme(
    op: str,
    x: Tensor | Ragged,
    size: int,
    border: float | None,
    offsets: Tensor | None,
    lengths: Tensor | None,
    mask: Tensor | None,
) -> Tensor | Ragged:
    size = whole(op, "size", size)
    if border is not None:
        border = number(op, "border", border, finite=False)
    form = take(op, x, offsets, lengths, mask)
    if form.values.is_complex():
        raise TypeError(f"{op}: x must hold real numbers, got {form.values.dtype}")
    sign = 1.0 if op == "dilation" else -1.0
    before = size // 2 if op == "erosion" else (size - 1) // 2
    found = _windows(form, sign, size, before, border)
    return form.restore(found.to(form.values.dtype))


def _windows(form: Form, sign: float, size: int, before: int, border: float | None) -> Tensor:
    """sign · max of sign · x over [t - before, t - before + size) within the sequence; 0 on gap rows."""
    values = form.values
    if not values.is_floating_point():
        values = values.to(torch.float64)
    elif values.dtype in (torch.float16, torch.bfloat16):
        values = values.to(torch.float32)
    total, n = values.shape[0], form.lengths.shape[0]
    if total == 0 or n == 0 or values.numel() == 0:
        return torch.zeros_like(values)
    sequence, place, valid = rows(form.offsets, form.lengths, total)
    if n * size > total:  # what reaches beyond a sequence's ends sees one row of the border, or a thousand, alike
        longest = int(form.lengths.max())
        before, after = min(before, longest), min(size - 1 - before, longest)
        size = before + after + 1
    # Every sequence gets size - 1 rows of the border on both sides, which no window of a neighbour reaches across.
    room = size - 1
    outside = -float("inf") if border is None else sign * border
    start = form.lengths.cumsum(0) - form.lengths + (torch.arange(n, device=values.device) * 2 + 1) * room
    at = torch.where(valid, start[sequence] + place, total + 2 * n * room)
    flat = sign * values.reshape(total, -1)
    wide = flat.new_full((total + 2 * n * room + 1, flat.shape[1]), outside)
    wide = wide.index_put((at,), torch.where(valid[:, None], flat, outside))
    pooled = F.max_pool1d(wide.t()[None], size, stride=1)[0].t()
    out = sign * pooled[(at - before).clamp(0, pooled.shape[0] - 1)]
    return torch.where(valid[:, None], out, 0).view(values.shape)

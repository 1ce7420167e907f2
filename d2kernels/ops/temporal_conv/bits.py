"""One bit per element in plain PyTorch: along channels, eight to a byte, the first in the lowest bit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype

# One product gathers eight 0/1 bytes of a little-endian word in its top byte, without carries.
_GATHER = 0x0102040810204080
_SPREAD = 0x0101010101010101
_SELECT = 0x8040201008040201 - (1 << 64)  # byte i keeps bit i


def rows_at_a_time(channels: int) -> int:
    """Rows whose intermediate results are held at a time: 65 536 elements, of any batch a small part."""
    return max(1, (1 << 16) // max(1, channels))


def width(channels: int) -> int:
    """Bytes a row."""
    return (channels + 7) // 8


def pack(flags: Tensor) -> Tensor:
    """(total, ceil(c / 8)) uint8 of (total, c) bool."""
    total, channels = flags.shape
    if channels % 8:
        flags = F.pad(flags, (0, -channels % 8))
    words = flags.contiguous().view(torch.uint8).view(-1).view(torch.int64)
    gathered = (words * _GATHER).view(torch.uint8).view(total, width(channels), 8)
    return gathered[:, :, 7].clone(memory_format=torch.contiguous_format)


def unpack(bits: Tensor, channels: int) -> Tensor:
    """(total, channels) bool of what `pack` made."""
    words = (bits.to(torch.int64) * _SPREAD).bitwise_and_(_SELECT)
    return words.reshape(-1).view(torch.uint8).view(len(bits), 8 * bits.shape[1])[:, :channels] != 0


def before_activation(grad: Tensor, sign: Tensor | None, slope: float) -> Tensor:
    """grad where the activation passed its input, elsewhere grad · slope: as `torch.where` on `unpack`, on the CPU.

    A table's row for each byte of flags takes a seventh of what `where` takes there.
    """
    assert sign is not None  # an activation has one
    channels = grad.shape[1]
    if channels % 8 or not len(grad):
        return torch.where(unpack(sign, channels), grad, grad * slope)
    bit = unpack(torch.arange(256, dtype=torch.uint8, device=sign.device)[:, None], 8)
    # In float32 for 16-bit gradients: the slope itself must not be rounded.
    table = torch.ones((), dtype=accumulation_dtype(grad.dtype), device=grad.device).where(bit, slope)
    out, rows = torch.empty_like(grad, memory_format=torch.contiguous_format), rows_at_a_time(channels)
    for g, s, to in zip(grad.split(rows), sign.split(rows), out.split(rows), strict=True):
        to.copy_(table.index_select(0, s.reshape(-1).to(torch.int32)).view(g.shape).mul_(g))
    return out

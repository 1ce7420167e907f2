"""One bit per element in plain PyTorch: along channels, eight to a byte, the first in the lowest bit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# One product gathers eight 0/1 bytes of a little-endian word in its top byte, without carries.
_GATHER = 0x0102040810204080
_SPREAD = 0x0101010101010101
_SELECT = 0x8040201008040201 - (1 << 64)  # byte i keeps bit i


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


def passed(sign: Tensor, channels: int) -> Tensor:
    """(total, channels) bool: where the activation passed its input, by packed bits or by the output's own sign."""
    return sign > 0 if sign.is_floating_point() else unpack(sign, channels)

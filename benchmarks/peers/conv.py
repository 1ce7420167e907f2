"""Temporal convolution by other means: padded F.conv1d, channels last, and the bare matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def padded(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, groups: int, dilation: int = 1) -> Tensor:
    """LeakyReLU(conv(x)) + x on a (n, s, d) batch, padding masked to zero on the way out."""
    pad = dilation * (weight.shape[2] - 1) // 2
    out = F.conv1d(x.mT, weight, bias, padding=pad, dilation=dilation, groups=groups).mT
    return (F.leaky_relu(out, 0.2) + x) * mask[..., None]


def channels_last(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, groups: int, dilation: int = 1) -> Tensor:
    """The same as a 2-D convolution of height 1 in channels-last memory: a view of (n, s, d), no transposed copy."""
    pad = dilation * (weight.shape[2] - 1) // 2
    image = x.mT[:, :, None]
    kernel = weight[:, :, None].contiguous(memory_format=torch.channels_last)
    out = F.conv2d(image, kernel, bias, padding=(0, pad), dilation=(1, dilation), groups=groups)
    return (F.leaky_relu(out[:, :, 0].mT, 0.2) + x) * mask[..., None]


def plain(x: Tensor, weight: Tensor, bias: Tensor, groups: int, dilation: int = 1) -> Tensor:
    """The convolution alone, in its own layout (n, d, s)."""
    pad = dilation * (weight.shape[2] - 1) // 2
    return F.conv1d(x, weight, bias, padding=pad, dilation=dilation, groups=groups)


def plain_channels_last(x: Tensor, weight: Tensor, bias: Tensor, groups: int, dilation: int = 1) -> Tensor:
    """The same of (n, s, d) rows, as a 2-D convolution of height 1 in channels-last memory."""
    pad = dilation * (weight.shape[2] - 1) // 2
    kernel = weight[:, :, None].contiguous(memory_format=torch.channels_last)
    out = F.conv2d(x.mT[:, :, None], kernel, bias, padding=(0, pad), dilation=(1, dilation), groups=groups)
    return out[:, :, 0].mT


def product_inputs(total: int, weight: Tensor, groups: int) -> list[tuple[Tensor, Tensor]]:
    """For each group, random (total, k · c_in) columns and (k · c_in, c_out) weights of the same FLOPs."""
    columns, outputs = weight.shape[1] * weight.shape[2], weight.shape[0] // groups
    kind = {"dtype": weight.dtype, "device": weight.device}
    return [(torch.randn(total, columns, **kind), torch.randn(columns, outputs, **kind)) for _ in range(groups)]


def products(pairs: list[tuple[Tensor, Tensor]], backward: bool) -> list[Tensor]:
    """The bare products, and those of their two gradients: nothing gathered, no bias, no activation."""
    out = [a @ w for a, w in pairs]
    if backward:
        out += [y @ w.t() for y, (_, w) in zip(out, pairs, strict=True)]
        out += [a.t() @ y for y, (a, _) in zip(out, pairs, strict=False)]
    return out

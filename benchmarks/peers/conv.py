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


def products(x: Tensor, weight: Tensor, groups: int) -> list[Tensor]:
    """Bare products of the same FLOPs: (rows, k · c_in) by (k · c_in, c_out) for each group, nothing gathered."""
    columns = weight.shape[1] * weight.shape[2]
    rows = x.reshape(-1, x.shape[-1])
    tall = rows.repeat(1, weight.shape[2])[:, : columns * groups].reshape(-1, groups, columns)
    by_group = weight.reshape(groups, -1, columns)
    return [tall[:, g].contiguous() @ by_group[g].t() for g in range(groups)]

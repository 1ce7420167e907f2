"""Kernel 3 in float32 on the CPU by Winograd's F(4, 3): half the multiplications, about twice the rounding.

The products are 1×1 convolutions over an image of two rows of pixels: the library is twice as fast there as in a
product of matrices on some CPUs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.temporal_conv.precision import float32

ROWS = 4  # of a tile; every sequence begins with one
_POINTS = 6
_LEAST = 64  # tiles: on fewer pixels the library adds in another order, and a row must not depend on the batch


def wanted(x: Tensor, weight: Tensor, dilation: int, groups: int) -> bool:
    """Whether it was asked for (D2K_FLOAT32=winograd) and the layer is one where it wins: never by the batch."""
    c_out, c_in, kernel = weight.shape
    wide = min(c_in, c_out // groups) >= 64 and c_in % 16 == 0 and c_out // groups % 16 == 0
    return (
        x.dtype == torch.float32
        and (kernel, dilation) == (3, 1)
        and wide
        and float32() == "winograd"
        and _native.extension()[0] is not None
    )


def _tiles(rows: int) -> int:
    """An even number, for images of two rows of pixels."""
    return max(-(-rows // (2 * ROWS)) * 2, _LEAST)


def _part(x: Tensor, group: int, groups: int) -> tuple[int, int, int, int]:
    """One group's channels of x (rows, c) for csrc: address, rows, channels, stride."""
    part = x.chunk(groups, 1)[group]
    return part.data_ptr(), part.shape[0], part.shape[1], part.stride(0)


def _addresses(products: list[Tensor]) -> tuple[int, ...]:
    return tuple(p.data_ptr() for p in products)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """(rows, c_out) of the buffer's rows, zero beyond both ends."""
    c_out, c_in, _ = weight.shape
    split, tiles, native, threads = c_out // groups, _tiles(len(x)), _native.module(), torch.get_num_threads()
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    y = x.new_empty((len(x), c_out))
    v, u = x.new_empty((_POINTS, tiles, c_in)), x.new_empty((_POINTS, split, c_in))
    for g in range(groups):
        native.winograd_input_cpu(*_part(x, g, groups), tiles, v.data_ptr(), threads)
        native.winograd_weight_cpu(weight[g * split :].data_ptr(), split * c_in, u.data_ptr(), threads)
        products = [
            F.conv2d(a.view(1, 2, tiles // 2, c_in).permute(0, 3, 1, 2), b[:, :, None, None])
            .permute(0, 2, 3, 1)
            .contiguous()
            for a, b in zip(v, u, strict=True)
        ]
        at = 0 if bias is None else bias[g * split :].data_ptr()
        native.winograd_output_cpu(_addresses(products), tiles, at, *_part(y, g, groups), threads)
    return y


def weight_gradient(inner: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """(c_out, c_in, 3) of inner (rows, c_out) and x (rows, c_in), both with zero rows between sequences."""
    c_out, c_in, _ = weight.shape
    split, tiles, native, threads = c_out // groups, _tiles(len(x)), _native.module(), torch.get_num_threads()
    grad = weight.new_empty(weight.shape)
    v, z = x.new_empty((_POINTS, tiles, c_in)), x.new_empty((_POINTS, split, tiles))
    for g in range(groups):
        native.winograd_input_cpu(*_part(x, g, groups), tiles, v.data_ptr(), threads)
        native.winograd_gradient_cpu(*_part(inner, g, groups), tiles, z.data_ptr(), threads)
        products = [
            F.conv2d(a.view(1, tiles, 16, c_in // 16), b[:, :, None, None]).contiguous()
            for a, b in zip(v, z, strict=True)
        ]
        to = grad[g * split :].data_ptr()
        native.winograd_weight_gradient_cpu(_addresses(products), split * c_in, to, threads)
    return grad

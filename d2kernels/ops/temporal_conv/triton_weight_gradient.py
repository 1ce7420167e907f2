"""The weights' gradient: a sum over rows in parts, which are then added in order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from d2kernels.ops._triton import INTERPRETED, bound, cdiv, steps
from d2kernels.ops.temporal_conv.triton_configs import Config, config, plain
from d2kernels.ops.temporal_conv.triton_launch import device_of, precision, repacked, tuned
from d2kernels.ops.temporal_conv.triton_operands import transposed
from d2kernels.ops.temporal_conv.triton_product import Layer
from d2kernels.ops.temporal_conv.triton_weight import (
    mend_weight_kernel,
    plain_weight_kernel,
    sum_kernel,
    weight_gradient_kernel,
)

_PROGRAMS = 264  # what the rows are split for: two programs on each of 132 multiprocessors


def takes_plain_tiles(gap: int, inner: Tensor, x: Tensor, taps: int, dilation: int) -> bool:
    """Whether the weight gradient's operands are plain tiles."""
    # Unknown gap rows hold anything, though one tap reaches none. Triton 3.6 does not compile it for sm_100.
    if gap == 0 or not (90 <= device_of(x)[0] < 100 and (x.dtype.itemsize == 2 or repacked(x))):
        return False
    return plain(gap, taps, dilation, inner) and plain(gap, taps, dilation, x)


def sum_parts(parts: Tensor, out: Tensor) -> Tensor:
    """out (size,) = parts (p, size) summed in order."""
    size = out.numel()
    block = 128 if parts.shape[0] > 8 else 1024
    rows = 32 if parts.shape[0] > 8 else 1
    bound(sum_kernel, BLOCK_P=rows, BLOCK_S=block)((cdiv(size, block),), parts, out, parts.shape[0], size)
    return out


def split(total: int, tiles: int, block_k: int) -> tuple[int, int]:
    """Rows of each part of the weight gradient's sum, whole blocks, and the number of parts."""
    parts = max(1, min(_PROGRAMS // tiles, cdiv(total, 256)))
    rows = cdiv(cdiv(total, parts), block_k) * block_k
    return rows, cdiv(total, rows)


def plain_weight_gradient(
    inner: Tensor, x: Tensor, offsets: Tensor, lengths: Tensor, weight: Tensor, dilation: int, groups: int
) -> Tensor:
    """`weight_gradient` where both have zero gap rows that suffice and rows of whole 16 bytes."""
    c_out, c_in, taps, _, *_ = layer = Layer(weight.shape[0] // groups, weight.shape[1], weight.shape[2], groups)
    out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    total, n, how, (arch, _) = x.shape[0], lengths.shape[0], precision(x.dtype), device_of(x)
    across = repacked(x) and not INTERPRETED  # which takes tiles that begin at whole 16 bytes alone
    sides = [transposed(t) if across else t for t in (inner, x)]

    def launch(chosen: Config) -> None:
        tiles = cdiv(c_out, chosen.block_m) * cdiv(c_in, chosen.block_n) * groups * taps
        rows, parts = split(total, tiles, chosen.block_k)
        partial = out
        if parts > 1:
            partial = torch.empty((parts, out.numel()), dtype=torch.float32, device=out.device)
        blocks = [[width, chosen.block_k][:: 1 if across else -1] for width in (chosen.block_m, chosen.block_n)]
        tensors = [
            TensorDescriptor(side, list(side.shape), [side.stride(0), 1], block)
            for side, block in zip(sides, blocks, strict=True)
        ]
        broken = torch.empty(tiles * parts, dtype=torch.int32, device=out.device)
        constants = _weight_constants(layer, how, chosen, dilation)
        bound(
            plain_weight_kernel,
            **constants,
            TRANSPOSED=across,
            num_warps=chosen.warps,
            num_stages=chosen.stages,
        )((tiles, parts), *tensors, partial, broken, total, rows)
        bound(
            mend_weight_kernel,
            **constants,
            INNER_STRIDE=inner.stride(0),
            X_STRIDE=x.stride(0),
            STEPS=steps(n),
            num_warps=8,
            num_stages=1,
        )((tiles, parts), inner, x, partial, broken, offsets, lengths, n, total, rows)
        if parts > 1:
            sum_parts(partial, out)

    shipped = config("plain weight", arch, x.dtype, how, c_in, c_out)
    launch(tuned("plain wgrad", x, shipped, (how, c_in, c_out, taps, groups, dilation), launch))
    return out


def _weight_constants(layer: Layer, how: str, chosen: Config, dilation: int) -> dict[str, Any]:
    found = {"GROUPS": layer.groups, "C_IN": layer.c_in, "C_OUT": layer.c_out, "TAPS": layer.taps}
    found |= {"BLOCK_M": chosen.block_m, "BLOCK_N": chosen.block_n, "BLOCK_K": chosen.block_k}
    return found | {"DILATION": dilation, "PRECISION": how}


def weight_gradient(
    inner: Tensor, x: Tensor, reach: tuple[Tensor, ...], weight: Tensor, dilation: int, groups: int
) -> Tensor:
    c_out, c_in, taps, _, *_ = layer = Layer(weight.shape[0] // groups, weight.shape[1], weight.shape[2], groups)
    out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    total, how, together = x.shape[0], precision(x.dtype), 3 if taps % 3 == 0 else 1
    arch, _ = device_of(x)

    def launch(chosen: Config) -> None:
        tiles = cdiv(c_out, chosen.block_m) * cdiv(c_in, chosen.block_n) * groups * taps // together
        rows, parts = split(total, tiles, chosen.block_k)
        partial = out
        if parts > 1:
            partial = torch.empty((parts, out.numel()), dtype=torch.float32, device=out.device)
        bound(
            weight_gradient_kernel,
            **_weight_constants(layer, how, chosen, dilation),
            INNER_STRIDE=inner.stride(0),
            X_STRIDE=x.stride(0),
            TOGETHER=together,
            num_warps=chosen.warps,
            num_stages=chosen.stages,
        )((tiles, parts), inner, x, partial, *reach, total, rows)
        if parts > 1:
            sum_parts(partial, out)

    shipped = config("weight", arch, x.dtype, how, c_in, c_out, together)
    launch(tuned("wgrad", x, shipped, (how, c_in, c_out, taps, groups, dilation), launch))
    return out

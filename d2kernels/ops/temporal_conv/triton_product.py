"""One product over taps, forward or to the input's gradient: by pointers and masks, or of plain tiles."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from d2kernels.ops._triton import Launch, cdiv, steps
from d2kernels.ops.temporal_conv.dropout import threshold
from d2kernels.ops.temporal_conv.triton_configs import (
    BITS,
    BYTES,
    NO_SIGN,
    Config,
    config,
    described,
    layout_of,
    plain,
)
from d2kernels.ops.temporal_conv.triton_convolve import convolve_kernel, plain_kernel
from d2kernels.ops.temporal_conv.triton_launch import device_of, precision, tuned


class Layer(NamedTuple):
    """What one product is of, by `layout_of`."""

    c_out: int
    c_in: int
    taps: int
    groups: int
    backward: bool = False
    repacked: bool = False


@lru_cache(maxsize=512)
def _product(
    plainly: bool, layer: Layer, chosen: Config, strides: tuple[int, int], given: tuple[bool, ...], **constants: Any
) -> Launch:
    """given: whether there are a bias, an activation, a residual; a descriptor of the weights."""
    layout = layout_of(*layer)
    values: dict[str, Any] = dict(zip(("BIAS", "ACTIVATION", "RESIDUAL", "DESCRIPTOR"), given, strict=True))
    values |= layout | constants | {"X_STRIDE": strides[0], "RESIDUAL_STRIDE": strides[1], "FLATTEN": chosen.waves > 0}
    values |= {"BLOCK_M": chosen.block_m, "BLOCK_N": chosen.block_n, "BLOCK_K": chosen.block_k}
    values |= {"GROUP_M": chosen.group_m}
    kernel = plain_kernel if plainly else convolve_kernel
    values = {k: v for k, v in values.items() if k in kernel.arg_names}
    return Launch(kernel, values | {"num_warps": chosen.warps, "num_stages": chosen.stages})


def convolve(
    x: Tensor,
    by_tap: Tensor,
    layer: Layer,
    bias: Tensor | None,
    residual: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    dilation: int,
    slope: float | None,
    sign: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    gap: int = 0,
) -> Tensor:
    """(total, channels) of one product over taps; `sign` is filled, a byte an element or a bit by its width."""
    taps, outer, inner = by_tap.shape
    groups, backward, size = layer.groups, layer.backward, x.element_size()
    c_out, c_in = (layer.c_in, layer.c_out) if backward else (layer.c_out, layer.c_in)
    total, n = x.shape[0], lengths.shape[0]
    out = torch.empty((total, groups * c_out), dtype=x.dtype, device=x.device)
    how, (arch, processors) = precision(x.dtype), device_of(x)
    signs = NO_SIGN if sign is None else BYTES if sign.shape[1] == groups * c_out else BITS
    drops = 0 if dropout == 0 else 2 if backward else 1
    strides = x.stride(0), 0 if residual is None else residual.stride(0)

    def launch(chosen: Config) -> None:
        by_descriptor = by_tap.data_ptr() % 16 == 0 and described(arch, c_in, inner, size, chosen.block_k)
        plainly = by_descriptor and (size == 2 or how == "tf32") and plain(gap, taps, dilation, x)
        weight: Any = by_tap
        rows: Any = x
        if by_descriptor:
            across = backward and not layer.repacked
            block = [chosen.block_k, chosen.block_n] if across else [chosen.block_n, chosen.block_k]
            weight = TensorDescriptor(by_tap.view(taps * outer, inner), [taps * outer, inner], [inner, 1], block)
        if plainly:
            rows = TensorDescriptor(x, list(x.shape), [strides[0], 1], [chosen.block_m, chosen.block_k])
        tiles = cdiv(total, chosen.block_m) * cdiv(c_out, chosen.block_n) * groups
        given = (bias is not None, slope is not None, residual is not None, by_descriptor)
        _product(
            plainly, layer, chosen, strides, given, DILATION=dilation, SIGN=signs, DROPOUT=drops,
            LEAST=threshold(dropout), PRECISION=how, STEPS=steps(n),
        )(
            (min(tiles, processors * chosen.waves) if chosen.waves else tiles,),
            rows,
            weight,
            x if bias is None else bias,
            x if residual is None else residual,
            out,
            x if sign is None else sign,
            offsets,
            lengths,
            n,
            total,
            0.0 if slope is None else slope,
            x if seed is None else seed,
            1 / (1 - dropout),
        )  # fmt: skip

    shipped = config("convolve", arch, x.dtype, how, c_in, c_out)
    kind = "dgrad" if backward else "forward"
    launch(tuned(kind, x, shipped, (how, c_in, c_out, taps, groups, dilation), launch))
    return out

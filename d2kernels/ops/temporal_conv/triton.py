"""temporal_conv by Triton: every tap of a tile of rows is the same tile shifted, all groups in one launch.

float32 products are ieee, or tf32 where torch.backends.cuda.matmul allows it; D2K_FLOAT32=ieee|tf32|tf32x3 overrides.
"""

from __future__ import annotations

import math
import os
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from d2kernels.ops._triton import INTERPRETED, Launch, bound, cdiv, on_device, power, steps
from d2kernels.ops.temporal_conv import bits
from d2kernels.ops.temporal_conv.dropout import threshold
from d2kernels.ops.temporal_conv.precision import float32
from d2kernels.ops.temporal_conv.schema import needs_sign
from d2kernels.ops.temporal_conv.triton_beside import gradient_kernel, repack_kernel, transpose_kernel
from d2kernels.ops.temporal_conv.triton_configs import (
    BITS,
    BYTES,
    NO_SIGN,
    Config,
    choose,
    config,
    described,
    layout_of,
    plain,
)
from d2kernels.ops.temporal_conv.triton_convolve import convolve_kernel, plain_kernel
from d2kernels.ops.temporal_conv.triton_forms import specializations
from d2kernels.ops.temporal_conv.triton_weight import (
    mend_weight_kernel,
    plain_weight_kernel,
    sum_kernel,
    weight_gradient_kernel,
)

__all__ = ["specializations", "temporal_conv_backward", "temporal_conv_forward", "why_not"]
_CHUNK, _CHUNKS = 64, 256  # rows added in one program of the bias gradient, at least; programs, at most
_PROGRAMS = 264  # what the weight gradient's rows are split for: two programs on each of 132 multiprocessors


def why_not(device: str, dtype: torch.dtype | None) -> str | None:
    if dtype in (None, torch.float32, torch.bfloat16, torch.float16):
        return None
    return f"its products accumulate in float32, which is too little for {dtype}"


def precision(dtype: torch.dtype) -> str:
    """tl.dot's name for how float32 is multiplied; 16-bit products are exact in float32."""
    if dtype.itemsize == 2:
        return "ieee"
    asked = float32()
    if asked not in (None, "winograd"):
        return asked
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


@cache
def _device(index: int | None) -> tuple[int, int]:
    """Compute capability, 90 for 9.0, and multiprocessors; the pointer path's where the kernels are interpreted."""
    if index is None:
        return 80, 1
    found = torch.cuda.get_device_properties(index)
    return found.major * 10 + found.minor, found.multi_processor_count


def _of(x: Tensor) -> tuple[int, int]:
    return _device(x.device.index if x.device.type == "cuda" else None)


def _rows(x: Tensor) -> Tensor:
    """x with channels next to each other; rows may lie apart."""
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()


def _by_tap(weight: Tensor) -> Tensor:
    """(k, c_out, c_in) with inputs next to each other: weight itself where it lies so, else a copy."""
    by_tap = weight.permute(2, 0, 1)
    if by_tap.is_contiguous():
        return by_tap
    return _repack(weight, 1, False) if weight.is_contiguous() else by_tap.contiguous()


def _repack(weight: Tensor, groups: int, back: bool) -> Tensor:
    """(k, c_out, c_in) of weight, or `back`: (k, groups · c_in, c_out / groups), outputs next to each other."""
    outer, inner, taps = weight.shape[0] // groups, weight.shape[1], weight.shape[2]
    shape = (taps, groups * inner, outer) if back else (taps, groups * outer, inner)
    out = torch.empty(shape, dtype=weight.dtype, device=weight.device)
    rows, columns = (32, 32) if back else (8, 128)
    bound(
        repack_kernel,
        OUTER=outer,
        INNER=inner,
        TAPS=taps,
        W_GROUP=outer * weight.stride(0),
        W_OUTER=weight.stride(0),
        W_INNER=weight.stride(1),
        W_TAP=weight.stride(2),
        OUT_OUTER=1 if back else inner,
        OUT_INNER=outer if back else 1,
        OUT_TAP=groups * outer * inner,
        WIDTH=power(taps),
        BLOCK_O=rows,
        BLOCK_I=columns,
        num_warps=4,
    )((cdiv(outer, rows) * cdiv(inner, columns), groups), weight, out)
    return out


_TUNED: dict[Any, Config] = {}  # what D2K_AUTOTUNE=1 chose in this process


def _tuning_key(kind: str, device: torch.device, dtype: torch.dtype, layer: tuple[Any, ...]) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return " ".join(map(str, (kind, name, dtype, *layer)))


def _tuned(kind: str, x: Tensor, shipped: Config, layer: tuple[Any, ...], launch: Any) -> Config:
    if os.environ.get("D2K_AUTOTUNE") != "1":
        return shipped

    def milliseconds(chosen: Config) -> float:
        try:
            return triton.testing.do_bench(lambda: launch(chosen), return_mode="median")
        except Exception as error:
            # The compiler raises anything; after an error of CUDA's nothing more can be timed.
            if "CUDA" in str(error):
                raise
            return math.inf

    place = (os.environ.get("XDG_CACHE_HOME"), kind, x.device, x.dtype, layer)
    if place not in _TUNED:
        tuning = x.device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
        found = choose(_tuning_key(kind, x.device, x.dtype, layer), shipped, tuning, milliseconds)
        if not tuning:
            return found
        _TUNED[place] = found
    return _TUNED[place]


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


def _convolve(
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
    how, (arch, processors) = precision(x.dtype), _of(x)
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
    launch(_tuned(kind, x, shipped, (how, c_in, c_out, taps, groups, dilation), launch))
    return out


def temporal_conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    dilation: int,
    groups: int,
    negative_slope: float | None,
    residual: bool,
    dropout: float,
    seed: Tensor | None,
    gap: int = 0,
) -> tuple[Tensor, Tensor]:
    total, c_out = x.shape[0], weight.shape[0]
    signs = needs_sign(negative_slope, residual)
    # Groups that end within a byte would share it: their flags are packed afterwards.
    straddles = c_out // groups % 8 != 0
    width = c_out if straddles else bits.width(c_out)
    sign = torch.empty((total if signs else 0, width), dtype=torch.uint8, device=x.device)
    if total == 0 or lengths.shape[0] == 0 or weight.numel() == 0:
        from d2kernels.ops.temporal_conv import reference

        return reference.temporal_conv_forward(
            x, weight, bias, offsets, lengths, dilation, groups, negative_slope, residual, dropout, seed
        )
    with on_device(x):
        x, bias = _rows(x), None if bias is None else bias.contiguous()
        out = _convolve(
            x,
            _by_tap(weight),
            Layer(c_out // groups, weight.shape[1], weight.shape[2], groups),
            bias,
            x if residual else None,
            offsets.contiguous(),
            lengths.contiguous(),
            dilation,
            negative_slope,
            sign if signs else None,
            dropout,
            seed,
            gap,
        )
        if straddles:
            sign = bits.pack(sign)
    return out, sign


def _repacked(x: Tensor) -> bool:
    """Whether the way back takes weights along the outputs: tf32 warpgroup products have no other operand."""
    return x.dtype == torch.float32 and precision(x.dtype) == "tf32" and 90 <= _of(x)[0] < 120


def _plainly(gap: int, inner: Tensor, x: Tensor, taps: int, dilation: int) -> bool:
    """Whether the weight gradient's operands are plain tiles."""
    # Unknown gap rows hold anything, though one tap reaches none. Triton 3.6 does not compile it for sm_100.
    if gap == 0 or not (90 <= _of(x)[0] < 100 and (x.dtype.itemsize == 2 or _repacked(x))):
        return False
    return plain(gap, taps, dilation, inner) and plain(gap, taps, dilation, x)


def _dense(weight: Tensor) -> Tensor:
    """weight where it lies in one of two orders, else a copy: each is a form of a kernel."""
    return weight if weight.is_contiguous() or weight.permute(2, 0, 1).is_contiguous() else weight.contiguous()


def _sum(parts: Tensor, out: Tensor) -> Tensor:
    """out (size,) = parts (p, size) summed in order."""
    size = out.numel()
    block = 128 if parts.shape[0] > 8 else 1024
    rows = 32 if parts.shape[0] > 8 else 1
    bound(sum_kernel, BLOCK_P=rows, BLOCK_S=block)((cdiv(size, block),), parts, out, parts.shape[0], size)
    return out


def _split(total: int, tiles: int, block_k: int) -> tuple[int, int]:
    """Rows of each part of the weight gradient's sum, whole blocks, and the number of parts."""
    parts = max(1, min(_PROGRAMS // tiles, cdiv(total, 256)))
    rows = cdiv(cdiv(total, parts), block_k) * block_k
    return rows, cdiv(total, rows)


def _transposed(x: Tensor) -> Tensor:
    """(c, total) of (total, c), with rows of whole 16 bytes."""
    total, channels = x.shape
    stride = cdiv(total, 16) * 16
    out = torch.empty((channels, stride), dtype=x.dtype, device=x.device)
    rows, columns = 64, min(32, power(channels))
    grid = (cdiv(total, rows), cdiv(channels, columns))
    constants = {"CHANNELS": channels, "X_STRIDE": x.stride(0), "BLOCK_R": rows, "BLOCK_C": columns}
    bound(transpose_kernel, **constants, num_warps=4)(grid, x, out, total, stride)
    return out[:, :total]


def _plain_weight_gradient(
    inner: Tensor, x: Tensor, offsets: Tensor, lengths: Tensor, weight: Tensor, dilation: int, groups: int
) -> Tensor:
    """`_weight_gradient` where both have zero gap rows that suffice and rows of whole 16 bytes."""
    c_out, c_in, taps, _, *_ = layer = Layer(weight.shape[0] // groups, weight.shape[1], weight.shape[2], groups)
    out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    total, n, how, (arch, _) = x.shape[0], lengths.shape[0], precision(x.dtype), _of(x)
    across = _repacked(x) and not INTERPRETED  # which takes tiles that begin at whole 16 bytes alone
    sides = [_transposed(t) if across else t for t in (inner, x)]

    def launch(chosen: Config) -> None:
        tiles = cdiv(c_out, chosen.block_m) * cdiv(c_in, chosen.block_n) * groups * taps
        rows, parts = _split(total, tiles, chosen.block_k)
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
            _sum(partial, out)

    shipped = config("plain weight", arch, x.dtype, how, c_in, c_out)
    launch(_tuned("plain wgrad", x, shipped, (how, c_in, c_out, taps, groups, dilation), launch))
    return out


def _weight_constants(layer: Layer, how: str, chosen: Config, dilation: int) -> dict[str, Any]:
    found = {"GROUPS": layer.groups, "C_IN": layer.c_in, "C_OUT": layer.c_out, "TAPS": layer.taps}
    found |= {"BLOCK_M": chosen.block_m, "BLOCK_N": chosen.block_n, "BLOCK_K": chosen.block_k}
    return found | {"DILATION": dilation, "PRECISION": how}


def _weight_gradient(
    inner: Tensor, x: Tensor, reach: tuple[Tensor, ...], weight: Tensor, dilation: int, groups: int
) -> Tensor:
    c_out, c_in, taps, _, *_ = layer = Layer(weight.shape[0] // groups, weight.shape[1], weight.shape[2], groups)
    out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    total, how, together = x.shape[0], precision(x.dtype), 3 if taps % 3 == 0 else 1
    arch, _ = _of(x)

    def launch(chosen: Config) -> None:
        tiles = cdiv(c_out, chosen.block_m) * cdiv(c_in, chosen.block_n) * groups * taps // together
        rows, parts = _split(total, tiles, chosen.block_k)
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
            _sum(partial, out)

    shipped = config("weight", arch, x.dtype, how, c_in, c_out, together)
    launch(_tuned("wgrad", x, shipped, (how, c_in, c_out, taps, groups, dilation), launch))
    return out


def temporal_conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    sign: Tensor,
    dilation: int,
    groups: int,
    negative_slope: float | None,
    residual: bool,
    dropout: float,
    seed: Tensor | None,
    need_x: bool,
    need_weight: bool,
    gap: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    total, c_out = grad.shape
    if total == 0 or lengths.shape[0] == 0 or weight.numel() == 0:
        from d2kernels.ops.temporal_conv import reference

        return reference.temporal_conv_backward(
            grad, x, weight, offsets, lengths, sign, dilation, groups, negative_slope, residual, dropout, seed,
            need_x, need_weight,
        )
    grad_x, grad_w, grad_b = x.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    with on_device(x):
        grad, x, n = _rows(grad), _rows(x), lengths.shape[0]
        offsets, lengths = offsets.contiguous(), lengths.contiguous()
        kind = NO_SIGN if negative_slope is None else BYTES if sign.is_floating_point() else BITS
        # Products that transformed their operand on the way would do so once a tap and a tile, in registers. What a
        # gradient's gap rows hold is anything: where they count as zero rows, they are written.
        changes = kind != NO_SIGN or dropout > 0 or (gap > 0 and 90 <= _of(x)[0] < 120)
        inner = torch.empty((total, c_out), dtype=grad.dtype, device=x.device) if changes else grad
        rows = cdiv(cdiv(total, _CHUNKS), _CHUNK) * _CHUNK
        sums = torch.empty((cdiv(total, rows), c_out), dtype=torch.float32, device=x.device)
        taps = weight.shape[2]
        plainly = need_weight and _plainly(gap, inner, x, taps, dilation)
        reaches = need_weight and not plainly
        reach = torch.empty((2, total if reaches else 0), dtype=torch.int32, device=x.device).unbind()
        block = min(power(c_out), 128)
        bound(
            gradient_kernel,
            CHANNELS=c_out,
            GRAD_STRIDE=grad.stride(0),
            SIGN=kind,
            DROPOUT=dropout > 0,
            LEAST=threshold(dropout),
            WRITE=changes,
            REACH=reaches,
            STEPS=steps(n),
            BLOCK_R=16,
            BLOCK_C=block,
            num_warps=4,
        )(
            (sums.shape[0], cdiv(c_out, block)),
            grad,
            grad if kind == NO_SIGN else sign.contiguous(),
            inner,
            sums,
            *reach,
            offsets,
            lengths,
            n,
            total,
            rows,
            negative_slope or 0.0,
            grad if seed is None else seed,
            1 / (1 - dropout),
        )
        if need_x:
            across = not _repacked(x)
            grad_x = _convolve(
                inner,
                _by_tap(weight) if across else _repack(_dense(weight), groups, True),
                Layer(c_out // groups, weight.shape[1], weight.shape[2], groups, True, not across),
                None,
                grad if residual else None,
                offsets,
                lengths,
                dilation,
                None,
                None,
                dropout if residual else 0.0,
                seed,
                gap,
            )
        if need_weight:
            grad_b = _sum(sums, torch.empty(c_out, dtype=weight.dtype, device=x.device))
            if plainly:
                grad_w = _plain_weight_gradient(inner, x, offsets, lengths, weight, dilation, groups)
            else:
                grad_w = _weight_gradient(inner, x, reach, weight, dilation, groups)
    return grad_x, grad_w, grad_b

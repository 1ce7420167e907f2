"""temporal_conv by Triton: every tap of a tile of rows is the same tile shifted, all groups in one launch.

float32 products are ieee, or tf32 where torch.backends.cuda.matmul allows it; D2K_FLOAT32=ieee|tf32|tf32x3 overrides.
"""

from __future__ import annotations

import math
import os
from functools import cache, lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.errors import TritonError
from triton.tools.tensor_descriptor import TensorDescriptor

from d2kernels.ops._triton import on_device, steps
from d2kernels.ops.temporal_conv import bits
from d2kernels.ops.temporal_conv.dropout import threshold
from d2kernels.ops.temporal_conv.precision import float32
from d2kernels.ops.temporal_conv.schema import needs_sign
from d2kernels.ops.temporal_conv.triton_configs import (
    BITS,
    BYTES,
    NO_SIGN,
    Config,
    choose,
    config,
    described,
    layout_of,
)
from d2kernels.ops.temporal_conv.triton_forms import specializations
from d2kernels.ops.temporal_conv.triton_kernels import (
    convolve_kernel,
    gradient_kernel,
    repack_kernel,
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
    taps = weight.shape[2]
    by_tap = weight.permute(2, 0, 1)
    if by_tap.is_contiguous():
        return by_tap
    if not weight.is_contiguous():
        return by_tap.contiguous()
    out = torch.empty(by_tap.shape, dtype=weight.dtype, device=weight.device)
    size, block = weight.numel() // taps, 1024
    repack_kernel[(triton.cdiv(size, block),)](weight, out, size, TAPS=taps, BLOCK=block)
    return out


@lru_cache(maxsize=256)
def _tuning_key(kind: str, device: torch.device, dtype: torch.dtype, layer: tuple[Any, ...]) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return " ".join(map(str, (kind, name, dtype, *layer)))


def _tuned(kind: str, x: Tensor, shipped: Config, layer: tuple[Any, ...], launch: Any) -> Config:
    if os.environ.get("D2K_AUTOTUNE") != "1":
        return shipped

    def milliseconds(chosen: Config) -> float:
        try:
            return triton.testing.do_bench(lambda: launch(chosen), return_mode="median")
        except (TritonError, RuntimeError) as error:
            # The compiler's passes raise RuntimeError, too; after an error of CUDA's nothing more can be timed.
            if "CUDA" in str(error):
                raise
            return math.inf

    tuning = x.device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
    return choose(_tuning_key(kind, x.device, x.dtype, layer), shipped, tuning, milliseconds)


def _convolve(
    x: Tensor,
    by_tap: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    dilation: int,
    groups: int,
    slope: float | None,
    backward: bool,
    sign: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """(total, channels) of one product over taps; `sign` is filled, a byte an element or a bit by its width."""
    taps, outer, inner = by_tap.shape
    layout = layout_of(outer // groups, inner, taps, groups, backward)
    total, n, c_in, c_out = x.shape[0], lengths.shape[0], layout["C_IN"], layout["C_OUT"]
    out = torch.empty((total, groups * c_out), dtype=x.dtype, device=x.device)
    how, (arch, processors) = precision(x.dtype), _of(x)

    def launch(chosen: Config) -> None:
        aligned = by_tap.data_ptr() % 16 == 0
        by_descriptor = aligned and described(arch, c_in, inner, x.element_size(), chosen.block_k)
        tiles = triton.cdiv(total, chosen.block_m) * triton.cdiv(c_out, chosen.block_n) * groups
        block = [chosen.block_k, chosen.block_n] if backward else [chosen.block_n, chosen.block_k]
        flat = by_tap.view(taps * outer, inner)
        convolve_kernel[(min(tiles, processors * chosen.waves) if chosen.waves else tiles,)](
            x,
            TensorDescriptor(flat, list(flat.shape), [inner, 1], block) if by_descriptor else by_tap,
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
            **layout,
            DILATION=dilation,
            X_STRIDE=x.stride(0),
            RESIDUAL_STRIDE=0 if residual is None else residual.stride(0),
            BIAS=bias is not None,
            ACTIVATION=slope is not None,
            RESIDUAL=residual is not None,
            SIGN=NO_SIGN if sign is None else BYTES if sign.shape[1] == groups * c_out else BITS,
            DROPOUT=0 if dropout == 0 else 2 if backward else 1,
            LEAST=threshold(dropout),
            DESCRIPTOR=by_descriptor,
            PRECISION=how,
            STEPS=steps(n),
            BLOCK_M=chosen.block_m,
            BLOCK_N=chosen.block_n,
            BLOCK_K=chosen.block_k,
            GROUP_M=chosen.group_m,
            num_warps=chosen.warps,
            num_stages=chosen.stages,
        )

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
            bias,
            x if residual else None,
            offsets.contiguous(),
            lengths.contiguous(),
            dilation,
            groups,
            negative_slope,
            False,
            sign if signs else None,
            dropout,
            seed,
        )
        if straddles:
            sign = bits.pack(sign)
    return out, sign


def _sum(parts: Tensor, out: Tensor) -> Tensor:
    """out (size,) = parts (p, size) summed in order."""
    size = out.numel()
    block = 128 if parts.shape[0] > 8 else 1024
    rows = 32 if parts.shape[0] > 8 else 1
    sum_kernel[(triton.cdiv(size, block),)](parts, out, parts.shape[0], size, BLOCK_P=rows, BLOCK_S=block)
    return out


def _split(total: int, tiles: int, block_k: int) -> tuple[int, int]:
    """Rows of each part of the weight gradient's sum, whole blocks, and the number of parts."""
    parts = max(1, min(_PROGRAMS // tiles, triton.cdiv(total, 256)))
    rows = triton.cdiv(triton.cdiv(total, parts), block_k) * block_k
    return rows, triton.cdiv(total, rows)


def _weight_gradient(
    inner: Tensor, x: Tensor, reach: tuple[Tensor, ...], weight: Tensor, dilation: int, groups: int
) -> Tensor:
    c_out, c_in, taps = weight.shape[0] // groups, weight.shape[1], weight.shape[2]
    out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    total, how, together = x.shape[0], precision(x.dtype), 3 if taps % 3 == 0 else 1
    arch, _ = _of(x)

    def launch(chosen: Config) -> None:
        tiles = triton.cdiv(c_out, chosen.block_m) * triton.cdiv(c_in, chosen.block_n) * groups * taps // together
        rows, parts = _split(total, tiles, chosen.block_k)
        partial = out
        if parts > 1:
            partial = torch.empty((parts, out.numel()), dtype=torch.float32, device=out.device)
        weight_gradient_kernel[(tiles, parts)](
            inner,
            x,
            partial,
            *reach,
            total,
            rows,
            GROUPS=groups,
            C_IN=c_in,
            C_OUT=c_out,
            TAPS=taps,
            DILATION=dilation,
            INNER_STRIDE=inner.stride(0),
            X_STRIDE=x.stride(0),
            TOGETHER=together,
            PRECISION=how,
            BLOCK_M=chosen.block_m,
            BLOCK_N=chosen.block_n,
            BLOCK_K=chosen.block_k,
            num_warps=chosen.warps,
            num_stages=chosen.stages,
        )
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
        # Products that transformed their operand on the way would do so once a tap and a tile, in registers.
        changes = kind != NO_SIGN or dropout > 0
        inner = torch.empty((total, c_out), dtype=grad.dtype, device=x.device) if changes else grad
        rows = triton.cdiv(triton.cdiv(total, _CHUNKS), _CHUNK) * _CHUNK
        sums = torch.empty((triton.cdiv(total, rows), c_out), dtype=torch.float32, device=x.device)
        reach = torch.empty((2, total), dtype=torch.int32, device=x.device).unbind()
        block = min(triton.next_power_of_2(c_out), 128)
        gradient_kernel[(sums.shape[0], triton.cdiv(c_out, block))](
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
            CHANNELS=c_out,
            GRAD_STRIDE=grad.stride(0),
            SIGN=kind,
            DROPOUT=dropout > 0,
            LEAST=threshold(dropout),
            STEPS=steps(n),
            BLOCK_R=32,
            BLOCK_C=block,
            num_warps=4,
        )
        if need_x:
            grad_x = _convolve(
                inner,
                _by_tap(weight),
                None,
                grad if residual else None,
                offsets,
                lengths,
                dilation,
                groups,
                None,
                True,
                None,
                dropout if residual else 0.0,
                seed,
            )
        if need_weight:
            grad_b = _sum(sums, torch.empty(c_out, dtype=weight.dtype, device=x.device))
            grad_w = _weight_gradient(inner, x, reach, weight, dilation, groups)
    return grad_x, grad_w, grad_b

"""attention_pool by Triton: chunks of each sequence, both columns from one read, then a sum in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype
from d2kernels.ops._triton import POINTER, SAME_BITS, Specialization, on_device, slots, steps
from d2kernels.ops.attention_pool import reference
from d2kernels.ops.attention_pool.triton_kernels import add_chunks, pool_chunks, spread, through_mass

_CHUNK, _ROWS, _BLOCK, _MASS_ROWS = 128, 8, 512, 256
_OPTIONS = {"num_warps": 4, **SAME_BITS}
_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def why_not(device: str, dtype: torch.dtype | None) -> str | None:
    return None if dtype is None or dtype in POINTER else f"no {dtype} kernel"


@lru_cache(maxsize=64)
def _levels(threshold: tuple[float, ...], attention: torch.dtype, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rounded to the dtype of attention, in which they are compared; kept, so that later calls do not wait."""
    return torch.tensor(threshold, dtype=attention, device="cpu").to(dtype).to(device)


def _block(width: int) -> int:
    return min(_BLOCK, max(16, triton.next_power_of_2(width)))


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _spread_rows(x: torch.dtype) -> int:
    return _ROWS if x.itemsize == 2 else _ROWS // 2


def attention_pool_forward(
    x: Tensor,
    attention: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    threshold: Sequence[float],
    inclusive: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    (total, width), columns, n = x.shape, attention.shape[1], lengths.shape[0]
    if n == 0 or total == 0 or width == 0:
        return reference.attention_pool_forward(x, attention, offsets, lengths, threshold, inclusive, normalize)
    dtype = accumulation_dtype(torch.promote_types(x.dtype, attention.dtype))
    x, attention, offsets, lengths = _rows(x), attention.contiguous(), offsets.contiguous(), lengths.contiguous()
    levels = _levels(tuple(threshold), attention.dtype, dtype, x.device)
    block = _block(width)
    across, used = triton.cdiv(width, block), slots(total, n, _CHUNK)
    parts, masses = x.new_empty((used, 2, width), dtype=dtype), x.new_empty((used, 2), dtype=torch.float64)
    embedding, mass = x.new_empty((n, columns, width)), x.new_empty((n, columns), dtype=dtype)
    with on_device(x):
        for column in range(0, columns, 2):
            two = column + 1 < columns
            pool_chunks[(used, across)](
                x, attention, levels, offsets, lengths, parts, masses, n, total, width, x.stride(0), columns, column,
                INCLUSIVE=inclusive, TWO=two, ACC=_ACC[dtype], STEPS=steps(n), CHUNK=_CHUNK, ROWS=_ROWS, BLOCK=block,
                **_OPTIONS,
            )  # fmt: skip
            add_chunks[(n, across, 2 if two else 1)](
                parts, masses, offsets, lengths, embedding, mass, total, width, columns, column,
                NORMALIZE=normalize, ACC=_ACC[dtype], CHUNK=_CHUNK, BLOCK=block, **_OPTIONS,
            )  # fmt: skip
    return embedding, mass


def attention_pool_backward(
    grad: Tensor,
    grad_mass: Tensor,
    mass: Tensor,
    x: Tensor,
    attention: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    threshold: Sequence[float],
    inclusive: bool,
    normalize: bool,
    need_x: bool,
    need_attention: bool,
) -> tuple[Tensor, Tensor]:
    (total, width), columns, n = x.shape, attention.shape[1], lengths.shape[0]
    if n == 0 or total == 0 or width == 0:
        return reference.attention_pool_backward(
            grad, grad_mass, mass, x, attention, offsets, lengths, threshold, inclusive, normalize, need_x,
            need_attention,
        )  # fmt: skip
    dtype = mass.dtype
    x, attention, offsets, lengths = _rows(x), attention.contiguous(), offsets.contiguous(), lengths.contiguous()
    grad, grad_mass, mass = grad.contiguous(), grad_mass.to(dtype).contiguous(), mass.contiguous()
    levels = _levels(tuple(threshold), attention.dtype, dtype, x.device)
    grad_x = x.new_empty((total, width)) if need_x else x.new_empty(0)
    # Gap rows keep the zeros.
    grad_attention = torch.zeros_like(attention) if need_attention else attention.new_empty(0)
    each = x.new_empty((total, columns) if need_attention else 0, dtype=dtype)
    with on_device(x):
        rows = _spread_rows(x.dtype)
        spread[(triton.cdiv(total, rows),)](
            grad, mass, x, attention, levels, offsets, lengths, grad_x, each, n, total, width, x.stride(0), columns,
            COLUMNS=columns, INCLUSIVE=inclusive, NORMALIZE=normalize, NEED_X=need_x, NEED_ATTENTION=need_attention,
            ACC=_ACC[dtype], STEPS=steps(n), ROWS=rows, BLOCK=_block(width), **_OPTIONS,
        )  # fmt: skip
        if need_attention:
            through_mass[(n, columns)](
                each, attention, levels, grad_mass, mass, offsets, lengths, grad_attention, total, columns,
                INCLUSIVE=inclusive, NORMALIZE=normalize, ACC=_ACC[dtype], ROWS=_MASS_ROWS, **_OPTIONS,
            )  # fmt: skip
    return grad_x, grad_attention


def specializations(arch: int) -> list[Specialization]:
    """Foreground and background of 1024 and of 2048 channels."""
    found = []
    places = {"offsets": "*i64", "lengths": "*i64", "masses": "*fp64", "parts": "*fp32", "levels": "*fp32"}
    counts = dict.fromkeys(("n", "total", "width", "x_stride", "columns", "column"), "i32")
    for dtype in (torch.bfloat16, torch.float32):
        p = POINTER[dtype]
        floats = dict.fromkeys(("x", "embedding", "grad", "grad_x"), p)
        floats |= dict.fromkeys(("attention", "mass", "each", "grad_mass", "grad_attention"), "*fp32")
        types = {**places, **counts, **floats}
        shape = {"ACC": tl.float32, "BLOCK": _BLOCK, "NORMALIZE": False}
        inner = {"INCLUSIVE": False, "STEPS": 8, "ROWS": _ROWS}
        name = str(dtype).removeprefix("torch.")
        values = {"width": 1024, "x_stride": 1024, "columns": 2, "column": 0}
        for kernel, constants in (
            (pool_chunks, {"TWO": True, "CHUNK": _CHUNK}),
            (add_chunks, {"CHUNK": _CHUNK}),
            (spread, {"ROWS": _spread_rows(dtype), "COLUMNS": 2, "NEED_X": True, "NEED_ATTENTION": True}),
            (through_mass, {"ROWS": _MASS_ROWS}),
        ):
            wanted = {k: v for k, v in {**shape, **inner, **constants}.items() if k in kernel.arg_names}
            found.append(Specialization(f"{kernel.__name__} {name}", kernel, types, wanted, _OPTIONS, {}, values))
    return found

"""attention_pool by Triton: chunks of each sequence, both columns from one read, then a sum in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton.language as tl
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype
from d2kernels.ops._triton import POINTER, SAME_BITS, Specialization, bound, cdiv, on_device, power, slots, steps
from d2kernels.ops.attention_pool import reference
from d2kernels.ops.attention_pool.schema import with_column, with_column_backward
from d2kernels.ops.attention_pool.triton_kernels import (
    FAN,
    add_chunks,
    add_through,
    fold_chunks,
    pool_chunks,
    spread,
    through_sums,
    weighted_chunks,
)

_CHUNK, _ROWS, _BLOCK = 32, 8, 512
_MOST = FAN * FAN  # chunks of a sequence that its last program adds
_FOLD = 128  # channels of a program that adds chunks: a register for each of their sums
_ATTENTIONS = 256  # rows of a program of attentions alone
_OPTIONS = {"num_warps": 4, **SAME_BITS}
_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def why_not(device: str, dtype: torch.dtype | None) -> str | None:
    return None if dtype is None or dtype in POINTER else f"no {dtype} kernel"


@lru_cache(maxsize=64)
def _levels(threshold: tuple[float, ...], attention: torch.dtype, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rounded to the dtype of attention, in which they are compared; filled in, as a graph can capture."""
    levels = torch.empty(len(threshold), dtype=attention, device=device)
    for level, value in zip(levels.unbind(), threshold, strict=True):
        level.fill_(value)
    return levels.to(dtype)


def _block(width: int, most: int = _BLOCK) -> int:
    return min(most, max(16, power(width)))


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _spread_rows(x: torch.dtype) -> int:
    return _ROWS if x.itemsize == 2 else _ROWS // 2


@with_column
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
    across, used = cdiv(width, block), slots(total, n, _CHUNK)
    parts, masses = x.new_empty((used, 2, width), dtype=dtype), x.new_empty((used, 2), dtype=torch.float64)
    embedding, mass = x.new_empty((n, columns, width)), x.new_empty((n, columns), dtype=dtype)
    with on_device(x):
        for column in range(0, columns, 2):
            two = column + 1 < columns
            bound(
                pool_chunks, INCLUSIVE=inclusive, TWO=two, ACC=_ACC[dtype], STEPS=steps(n), CHUNK=_CHUNK, ROWS=_ROWS,
                BLOCK=block, **_OPTIONS,
            )(
                (used, across), x, attention, levels, offsets, lengths, parts, masses, n, total, width, x.stride(0),
                columns, column,
            )  # fmt: skip
            sums, chunk = _folded(parts, offsets, lengths, total, _CHUNK)
            of_masses, _ = _folded(masses, offsets, lengths, total, _CHUNK)
            few = _block(width, _FOLD)
            bound(add_chunks, PARTS=2, NORMALIZE=normalize, ACC=_ACC[dtype], BLOCK=few, **_OPTIONS)(
                (n, cdiv(width, few), 2 if two else 1), sums, of_masses, offsets, lengths, embedding, mass,
                total, chunk, width, columns, column,
            )  # fmt: skip
    return embedding, mass


def _folded(parts: Tensor, offsets: Tensor, lengths: Tensor, total: int, chunk: int) -> tuple[Tensor, int]:
    """Sums of chunks (slots, ...) of so many rows that _MOST of them hold `total` rows; and how many rows."""
    n = lengths.shape[0]
    while cdiv(total, chunk) > _MOST:
        width, more = parts[0].numel(), slots(total, n, chunk * FAN)
        block = _block(width, _FOLD)
        out = parts.new_empty((more, *parts.shape[1:]))
        grid = (more, cdiv(width, block))
        bound(fold_chunks, STEPS=steps(n), BLOCK=block, **_OPTIONS)(
            grid, parts, out, offsets, lengths, n, total, chunk, width
        )
        parts, chunk = out, chunk * FAN
    return parts, chunk


@with_column_backward
def attention_pool_backward(
    grad: Tensor,
    grad_mass: Tensor | None,
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
    grad, mass = grad.contiguous(), mass.contiguous()
    grad_mass = torch.zeros_like(mass) if grad_mass is None else grad_mass.to(dtype).contiguous()
    levels = _levels(tuple(threshold), attention.dtype, dtype, x.device)
    grad_x = x.new_empty((total, width)) if need_x else x.new_empty(0)
    grad_attention = torch.empty_like(attention) if need_attention else attention.new_empty(0)
    each = x.new_empty((total, columns) if need_attention else 0, dtype=dtype)
    with on_device(x):
        rows = _spread_rows(x.dtype)
        bound(
            spread, COLUMNS=columns, INCLUSIVE=inclusive, NORMALIZE=normalize, NEED_X=need_x,
            NEED_ATTENTION=need_attention, ACC=_ACC[dtype], STEPS=steps(n), ROWS=rows, BLOCK=_block(width), **_OPTIONS,
        )(
            (cdiv(total, rows),), grad, mass, x, attention, levels, offsets, lengths, grad_x, each, n, total,
            width, x.stride(0), columns,
        )  # fmt: skip
        if not need_attention:
            return grad_x, grad_attention
        through = grad_mass
        if normalize:
            parts = x.new_empty((slots(total, n, _ATTENTIONS), columns), dtype=torch.float64)
            shape = {"INCLUSIVE": inclusive, "ACC": _ACC[dtype], "STEPS": steps(n), "CHUNK": _ATTENTIONS}
            bound(weighted_chunks, **shape, **_OPTIONS)(
                tuple(parts.shape), each, attention, levels, offsets, lengths, parts, n, total, columns
            )
            parts, chunk = _folded(parts, offsets, lengths, total, _ATTENTIONS)
            through = torch.empty_like(grad_mass)
            bound(through_sums, ACC=_ACC[dtype], BLOCK=power(columns), **_OPTIONS)(
                (n,), parts, grad_mass, mass, offsets, lengths, through, total, chunk, columns
            )
        shape = {"INCLUSIVE": inclusive, "ACC": _ACC[dtype], "STEPS": steps(n), "ROWS": _ATTENTIONS}
        bound(add_through, **shape, **_OPTIONS)(
            (cdiv(total, _ATTENTIONS), columns), each, attention, levels, through, offsets, lengths,
            grad_attention, n, total, columns,
        )  # fmt: skip
    return grad_x, grad_attention


def specializations(arch: int) -> list[Specialization]:
    """Foreground and background of 1024 and of 2048 channels."""
    found = []
    places = {"offsets": "*i64", "lengths": "*i64", "masses": "*fp64", "levels": "*fp32"}
    counts = dict.fromkeys(("n", "total", "chunk", "width", "x_stride", "columns", "column"), "i32")
    for dtype in (torch.bfloat16, torch.float32):
        p = POINTER[dtype]
        floats = dict.fromkeys(("x", "embedding", "grad", "grad_x"), p)
        floats |= dict.fromkeys(("attention", "mass", "each", "grad_mass", "grad_attention", "through", "out"), "*fp32")
        types = {**places, **counts, **floats}
        shape = {"ACC": tl.float32, "BLOCK": _FOLD, "NORMALIZE": False, "PARTS": 2}
        inner = {"INCLUSIVE": False, "STEPS": 8, "ROWS": _ROWS}
        name, wide = str(dtype).removeprefix("torch."), {"BLOCK": _BLOCK}
        values = {"width": 1024, "x_stride": 1024, "columns": 2, "column": 0}
        for kernel, constants in (
            (pool_chunks, {"TWO": True, "CHUNK": _CHUNK, "BLOCK": _BLOCK}),
            (fold_chunks, {}),
            (add_chunks, {}),
            (spread, {"ROWS": _spread_rows(dtype), "COLUMNS": 2, "NEED_X": True, "NEED_ATTENTION": True} | wide),
            (weighted_chunks, {"CHUNK": _ATTENTIONS}),
            (through_sums, {"BLOCK": 2}),
            (add_through, {"ROWS": _ATTENTIONS}),
        ):
            wanted = {k: v for k, v in {**shape, **inner, **constants}.items() if k in kernel.arg_names}
            sums = {"parts": "*fp64" if kernel in (weighted_chunks, through_sums) else "*fp32"}
            named = f"{kernel.__name__} {name}"
            found.append(Specialization(named, kernel, types | sums, wanted, _OPTIONS, {}, values))
    return found

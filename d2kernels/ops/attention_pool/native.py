"""attention_pool through csrc, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops._rows import common_dtype


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype) or _native.why_not_cpu_only("attention_pool", device)


@lru_cache(maxsize=64)
def _thresholds(threshold: tuple[float, ...], attention: torch.dtype, dtype: torch.dtype) -> Tensor:
    """Rounded to the dtype of attention, in which they are compared."""
    return torch.tensor(threshold, dtype=attention, device="cpu").to(dtype)


def _inputs(
    x: Tensor,
    attention: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    threshold: Sequence[float],
    inclusive: bool,
    normalize: bool,
) -> tuple[tuple[Any, ...], Tensor, Tensor]:
    """The problem for csrc, and x and the attention in it."""
    dtype = common_dtype(x.dtype, attention.dtype)
    x = x.double() if dtype is torch.float64 else x
    levels = _thresholds(tuple(threshold), attention.dtype, dtype)
    attention = _native.cast(attention, dtype)
    problem = (
        x,
        _native.dtype_number(x.dtype),
        *x.shape,
        attention,
        attention.shape[1] if attention.dim() == 2 else 1,
        offsets,
        lengths,
        lengths.shape[0],
        levels,
        inclusive,
        normalize,
    )
    return problem, x, attention


def attention_pool_forward(
    x: Tensor,
    attention: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    threshold: Sequence[float],
    inclusive: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    problem, wide, wide_attention = _inputs(x, attention, offsets, lengths, threshold, inclusive, normalize)
    n, columns = lengths.shape[0], attention.shape[1:]
    embedding, mass = wide.new_empty(n, *columns, x.shape[1]), wide_attention.new_empty(n, *columns)
    _native.module().attention_pool_cpu(problem, embedding, mass, torch.get_num_threads())
    return _native.cast(embedding, x.dtype), mass


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
) -> tuple[Tensor | None, Tensor | None]:
    problem, wide, wide_attention = _inputs(x, attention, offsets, lengths, threshold, inclusive, normalize)
    grad_x = wide.new_empty(*x.shape) if need_x else None
    grad_attention = wide_attention.new_empty(*attention.shape) if need_attention else None
    _native.module().attention_pool_backward_cpu(
        problem,
        _native.cast(grad, wide.dtype),
        _native.cast(grad_mass, mass.dtype),
        mass,
        grad_x,
        grad_attention,
        torch.get_num_threads(),
    )
    return _native.cast(grad_x, x.dtype), _native.cast(grad_attention, attention.dtype)

"""attention_pool through csrc, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops._rows import accumulation_dtype


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
) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
    """The problem for csrc, and the tensors behind it, the first of which is x."""
    dtype = accumulation_dtype(torch.promote_types(x.dtype, attention.dtype))
    x = (x.double() if dtype == torch.float64 else x).contiguous()
    levels = _thresholds(tuple(threshold), attention.dtype, dtype)
    attention = attention.to(dtype).contiguous()
    offsets, lengths = offsets.contiguous(), lengths.contiguous()
    problem = (
        x.data_ptr(),
        _native.dtype_number(x.dtype),
        *x.shape,
        attention.data_ptr(),
        attention.shape[1],
        offsets.data_ptr(),
        lengths.data_ptr(),
        lengths.shape[0],
        levels.data_ptr(),
        inclusive,
        normalize,
    )
    return problem, (x, attention, offsets, lengths, levels)


def attention_pool_forward(
    x: Tensor,
    attention: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    threshold: Sequence[float],
    inclusive: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    problem, kept = _inputs(x, attention, offsets, lengths, threshold, inclusive, normalize)
    shape = (lengths.shape[0], attention.shape[1])
    embedding, mass = kept[0].new_empty((*shape, x.shape[1])), kept[1].new_empty(shape)
    _native.module().attention_pool_cpu(problem, embedding.data_ptr(), mass.data_ptr(), torch.get_num_threads())
    return embedding.to(x.dtype), mass


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
    problem, kept = _inputs(x, attention, offsets, lengths, threshold, inclusive, normalize)
    grad, mass = grad.to(kept[0].dtype).contiguous(), mass.contiguous()
    grad_mass = grad_mass.to(mass.dtype).contiguous()
    grad_x = torch.empty_like(kept[0]) if need_x else kept[0].new_empty(0)
    grad_attention = torch.empty_like(kept[1]) if need_attention else kept[1].new_empty(0)
    _native.module().attention_pool_backward_cpu(
        problem,
        grad.data_ptr(),
        grad_mass.data_ptr(),
        mass.data_ptr(),
        grad_x.data_ptr() if need_x else 0,
        grad_attention.data_ptr() if need_attention else 0,
        torch.get_num_threads(),
    )
    return grad_x.to(x.dtype), grad_attention.to(attention.dtype)

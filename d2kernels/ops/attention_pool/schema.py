"""Schema and fake kernels of attention_pool.

attention is (total, A), with embedding (n, A, D) and mass (n, A), or one column (total,) with (n, D) and (n,). A
grad_mass of None is zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._library import define
from d2kernels.ops._rows import accumulation_dtype


def _fake(
    x: Tensor, attention: Tensor, offsets: Tensor, lengths: Tensor, *_: object
) -> tuple[Tensor, Tensor]:
    shape = (lengths.shape[0], *attention.shape[1:])
    dtype = accumulation_dtype(torch.promote_types(x.dtype, attention.dtype))
    return x.new_empty((*shape, x.shape[1])), attention.new_empty(shape, dtype=dtype)


def _fake_backward(
    grad: Tensor, grad_mass: Tensor | None, mass: Tensor, x: Tensor, attention: Tensor, *rest: object
):
    need_x, need_attention = rest[-2:]
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0),
        torch.empty_like(attention, memory_format=torch.contiguous_format)
        if need_attention
        else attention.new_empty(0),
    )


def with_column(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Lets a forward of attention (total, A) take (total,)."""

    @functools.wraps(function)
    def wrapper(x: Tensor, attention: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        if attention.dim() == 2:
            return function(x, attention, *rest, **options)
        embedding, mass = function(x, attention[:, None], *rest, **options)
        return embedding[:, 0], mass[:, 0]

    return wrapper


def with_column_backward(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Lets a backward of attention (total, A) take (total,)."""

    @functools.wraps(function)
    def wrapper(
        grad: Tensor, grad_mass: Tensor | None, mass: Tensor, x: Tensor, attention: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        if attention.dim() == 2:
            return function(grad, grad_mass, mass, x, attention, *rest)
        through = None if grad_mass is None else grad_mass[:, None]
        grad_x, grad_attention = function(grad[:, None], through, mass[:, None], x, attention[:, None], *rest)
        return grad_x, grad_attention.flatten()

    return wrapper


attention_pool = define(
    "attention_pool",
    "attention_pool",
    "(Tensor x, Tensor attention, Tensor offsets, Tensor lengths, float[] threshold, bool inclusive,"
    " bool normalize) -> (Tensor embedding, Tensor mass)",
    _fake,
)
attention_pool_backward = define(
    "attention_pool",
    "attention_pool_backward",
    "(Tensor grad, Tensor? grad_mass, Tensor mass, Tensor x, Tensor attention, Tensor offsets, Tensor lengths,"
    " float[] threshold, bool inclusive, bool normalize, bool need_x, bool need_attention)"
    " -> (Tensor grad_x, Tensor grad_attention)",
    _fake_backward,
)

"""Schema and fake kernels of attention_pool."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define
from d2kernels.ops._rows import accumulation_dtype


def _fake(
    x: Tensor, attention: Tensor, offsets: Tensor, lengths: Tensor, *_: object
) -> tuple[Tensor, Tensor]:
    shape = (lengths.shape[0], attention.shape[1])
    dtype = accumulation_dtype(torch.promote_types(x.dtype, attention.dtype))
    return x.new_empty((*shape, x.shape[1])), attention.new_empty(shape, dtype=dtype)


def _fake_backward(
    grad: Tensor, grad_mass: Tensor, mass: Tensor, x: Tensor, attention: Tensor, *rest: object
):
    need_x, need_attention = rest[-2:]
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0),
        torch.empty_like(attention, memory_format=torch.contiguous_format)
        if need_attention
        else attention.new_empty(0),
    )


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
    "(Tensor grad, Tensor grad_mass, Tensor mass, Tensor x, Tensor attention, Tensor offsets, Tensor lengths,"
    " float[] threshold, bool inclusive, bool normalize, bool need_x, bool need_attention)"
    " -> (Tensor grad_x, Tensor grad_attention)",
    _fake_backward,
)

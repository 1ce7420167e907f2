"""Schema and fake kernels of foreground_score."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _fake_backward(grad: Tensor, x: Tensor, reference: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    need_x, need_reference = rest[-2:]
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0),
        torch.empty_like(reference, memory_format=torch.contiguous_format)
        if need_reference
        else reference.new_empty(0),
    )


foreground_score = define(
    "foreground_score",
    "foreground_score",
    "(Tensor x, Tensor reference, Tensor offsets, Tensor lengths, float eps) -> Tensor",
    lambda x, *_: x.new_empty(x.shape[0]),
)
foreground_score_backward = define(
    "foreground_score",
    "foreground_score_backward",
    "(Tensor grad, Tensor x, Tensor reference, Tensor offsets, Tensor lengths, float eps, bool need_x,"
    " bool need_reference) -> (Tensor grad_x, Tensor grad_reference)",
    _fake_backward,
)

"""Decompositions of ops into PyTorch's own, for torch.export and ONNX.

program = torch.export.export(model, inputs).run_decompositions(d2kernels.export.decompositions())
torch.onnx.export(program).save("model.onnx")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype, rows
from d2kernels.ops.foreground_score import schema as foreground_score
from d2kernels.ops.temporal_conv import reference as temporal_conv
from d2kernels.ops.temporal_conv import schema as convolution

__all__ = ["decompositions"]


def _foreground(x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float) -> Tensor:
    """As the reference backend, by a product that exporters know."""
    dtype = accumulation_dtype(torch.promote_types(x.dtype, reference.dtype))
    valid = rows(offsets, lengths, x.shape[0]).valid
    inside, reference = torch.where(valid[:, None], x, 0).to(dtype), reference.to(dtype)
    norms = inside.square().sum(1).sqrt().clamp(min=eps) * reference.square().sum().sqrt().clamp(min=eps)
    return torch.where(valid, 0.5 * (1 - inside @ reference / norms), 0).to(x.dtype)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's default decompositions, and those of what networks are made of: temporal_conv and foreground_score.

    They compute what the reference backend does, on any number of rows.
    """
    return {
        **torch.export.default_decompositions(),
        convolution.temporal_conv.op: temporal_conv.temporal_conv_forward,
        foreground_score.foreground_score.op: _foreground,
    }

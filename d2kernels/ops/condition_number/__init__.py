"""Ratio of the largest to the smallest non-zero singular value of small matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels._arguments import flag, number
from d2kernels.ops._library import apply, once
from d2kernels.ops.condition_number import schema

_EPS = torch.finfo(torch.float64).eps


class ConditionNumber(torch.autograd.Function):
    inputs = 2
    forward = staticmethod(schema.condition_number)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        slopes = output[1:]
        ctx.save_for_backward(*slopes)
        ctx.mark_non_differentiable(*slopes if slopes[1] is not None else slopes[:1])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple:
        need_a, need_b = ctx.needs_input_grad[:2]
        (of_a, of_b), backward = ctx.saved_tensors, schema.condition_number_backward
        grad_a = backward(grad, of_a) if need_a and grad is not None else None
        grad_b = backward(grad, of_b) if need_b and grad is not None else None
        return grad_a, grad_b, None, None, None, None


def tolerances(op: str, atol: float | None, rtol: float | None, largest: int) -> tuple[float, float]:
    """(atol, rtol): rtol is max(m, n)·eps of float64 where neither is given, else what is left out is 0."""
    if atol is None and rtol is None:
        # torch.jit.trace counts in tensors.
        rtol = (int(largest) if isinstance(largest, Tensor) else largest) * _EPS
    return (
        0.0 if atol is None else number(op, "atol", atol, least=0),
        0.0 if rtol is None else number(op, "rtol", rtol, least=0),
    )


def _check(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.dim() not in (2, 3) or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"condition_number: {name} must be a float (m, n) or (batch, m, n) tensor, got {got}")
    if 0 in x.shape[-2:]:
        raise ValueError(f"condition_number: {name} must not be an empty matrix, got {tuple(x.shape)}")


def condition_number(
    a: Tensor, b: Tensor | None = None, *, atol: float | None = None, rtol: float | None = None, log: bool = False
) -> Tensor:
    """η = σ₁ / σ_r of each matrix, σ_r its smallest singular value that counts (Eq. 7).

    A singular value counts if it exceeds max(atol, rtol·σ₁). Computed in float64, never through a squared matrix, and
    at any magnitude: matrices are scaled by a power of 2 first. The gradient of log η is u₁v₁ᵀ/σ₁ − u_r v_rᵀ/σ_r; at
    η = 1 and of a zero matrix log η and the gradient are 0. With infinity in the matrix η is infinity, with NaN NaN,
    and the gradient NaN.

    Args:
        a: (m, n) or (batch, m, n), float.
        b: None, or (n, l) or (batch, n, l) of the same dtype: then of the product a @ b, kept factored.
        atol, rtol: what is left out is 0; with neither, rtol is max(m, n, l)·eps of float64.
        log: log η instead of η.

    Returns:
        () or (batch,) in the dtype of a.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit, a negative tolerance.
    """
    _check("a", a)
    single, largest = a.dim() == 2, max(a.shape[-2:])
    if b is not None:
        _check("b", b)
        if b.dtype != a.dtype:
            raise TypeError(f"condition_number: b must be {a.dtype} as a, got {b.dtype}")
        if b.dim() != a.dim() or b.shape[:-2] != a.shape[:-2] or b.shape[-2] != a.shape[-1]:
            raise ValueError(f"condition_number: a {tuple(a.shape)} and b {tuple(b.shape)} have no product")
        largest = max(largest, b.shape[-1])
    limits = tolerances("condition_number", atol, rtol, largest)
    if single:
        a, b = a[None], None if b is None else b[None]
    value = apply(ConditionNumber, a, b, *limits, flag("condition_number", "log", log), keeps=True)[0]
    return value[0] if single else value

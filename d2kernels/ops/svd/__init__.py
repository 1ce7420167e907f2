"""Singular value decomposition of batches of small matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2kernels.ops._library import apply, once, recorded
from d2kernels.ops.svd import schema

LARGEST = 128


class SVD(NamedTuple):
    """a = U diag(S) Vh with U (…, m, k), S (…, k) falling, Vh (…, k, n), k = min(m, n)."""

    U: Tensor
    S: Tensor
    Vh: Tensor


class _SVD(torch.autograd.Function):
    inputs = 1
    forward = staticmethod(schema.svd)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        if all(g is None for g in grads):
            return None
        return schema.svd_backward(*grads, *ctx.saved_tensors)


class _Values(torch.autograd.Function):
    """What needs no gradient needs no vectors."""

    op = "svdvals"

    inputs = 1
    forward = staticmethod(schema.svdvals)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass


def _batched(op: str, a: Tensor) -> Tensor:
    if not isinstance(a, Tensor):
        raise TypeError(f"{op}: a must be a tensor, got {type(a).__name__}")
    if a.dim() < 2 or not a.is_floating_point():
        raise ValueError(f"{op}: a must be float (…, m, n), got {a.dtype} {tuple(a.shape)}")
    if not (0 < a.shape[-2] <= LARGEST and 0 < a.shape[-1] <= LARGEST):
        raise ValueError(f"{op}: matrices must be 1 × 1 to {LARGEST} × {LARGEST}, got {tuple(a.shape)}")
    return a if a.dim() == 3 else a.reshape(-1, *a.shape[-2:])


def svd(a: Tensor) -> SVD:
    """Thin singular value decomposition of a batch of matrices up to 128 × 128.

    Gradients through S are exact. At repeated singular values those through U and V are undefined; there the
    undefined part is dropped, so functions of S, of U and V's spans, and of distinct singular vectors stay exact.

    Args:
        a: (…, m, n), float; 16-bit types are decomposed in float32.

    Returns:
        U (…, m, k), S (…, k) falling, Vh (…, k, n), k = min(m, n), in the dtype of a.

    Raises:
        ValueError, TypeError: not a float tensor of such matrices. On the CPU, NaN raises
            torch.linalg.LinAlgError, and infinity raises it too or leaves no finite singular value.
    """
    u, s, vh = apply(_SVD, _batched("svd", a))
    if a.dim() == 3:
        return SVD(u, s, vh)
    batch = a.shape[:-2]
    return SVD(u.reshape(*batch, *u.shape[1:]), s.reshape(*batch, s.shape[1]), vh.reshape(*batch, *vh.shape[1:]))


def svdvals(a: Tensor) -> Tensor:
    """Singular values of a batch of matrices up to 128 × 128, without vectors where no gradient is needed.

    Args:
        a: (…, m, n), float, as `svd` takes it.

    Returns:
        (…, min(m, n)), falling, in the dtype of a.

    Raises:
        ValueError, TypeError: as `svd`.
    """
    matrices = _batched("svdvals", a)
    s = apply(_SVD, matrices)[1] if recorded(matrices) else apply(_Values, matrices)
    return s if a.dim() == 3 else s.reshape(*a.shape[:-2], s.shape[1])

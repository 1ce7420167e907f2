"""Schema and fake kernels of svd."""

from __future__ import annotations

from torch import Tensor

from d2kernels.ops._library import define


def _fake(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, m, n = a.shape
    k = min(m, n)
    return a.new_empty((batch, m, k)), a.new_empty((batch, k)), a.new_empty((batch, k, n))


svdvals = define(
    "svd", "svdvals", "(Tensor a) -> Tensor", lambda a: a.new_empty((a.shape[0], min(a.shape[1:])))
)
svd = define("svd", "svd", "(Tensor a) -> (Tensor u, Tensor s, Tensor vh)", _fake)
svd_backward = define(
    "svd",
    "svd_backward",
    "(Tensor? grad_u, Tensor? grad_s, Tensor? grad_vh, Tensor u, Tensor s, Tensor vh) -> Tensor",
    lambda grad_u, grad_s, grad_vh, u, s, vh: u.new_empty((u.shape[0], u.shape[1], vh.shape[2])),
)

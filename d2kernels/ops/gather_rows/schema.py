"""Schema and fake kernel of gather_rows."""

from __future__ import annotations

from d2kernels.ops._library import define

gather_rows = define(
    "gather_rows",
    "gather_rows",
    "(Tensor source, Tensor first, Tensor offsets, Tensor lengths, Tensor(a!) out) -> ()",
    lambda *_: None,
)

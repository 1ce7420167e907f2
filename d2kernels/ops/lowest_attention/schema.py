"""Schema and fake kernel of lowest_attention."""

from __future__ import annotations

from d2kernels.ops._library import define

lowest_attention = define(
    "lowest_attention",
    "lowest_attention",
    "(Tensor attention, Tensor offsets, Tensor lengths) -> Tensor",
    lambda attention, offsets, lengths: lengths.new_empty(lengths.shape),
)

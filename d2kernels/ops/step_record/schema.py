"""Schema and fake kernel of step_record."""

from __future__ import annotations

from d2kernels.ops._library import define

step_record = define(
    "step_record",
    "step_record",
    "(Tensor total, Tensor classification, Tensor ds, Tensor dv, Tensor norm, Tensor? left_out, Tensor reference,"
    " Tensor(a!) kept, Tensor(b!) sums) -> Tensor",
    lambda total, *_: total.new_empty(()),
)

"""Whether an output is right: relative Frobenius error against a float64 oracle, or equality for whole numbers.

Imports nothing of d2kernels: the benchmarks load it as a file, whichever revision they time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What rounding of the result itself allows, relative, beside twice the reference's own error in that precision.
BANDS = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}


def tensors(output: Any) -> list[Tensor]:
    """Every tensor and array of a nested output, in order; floats as float64."""
    if isinstance(output, Tensor | np.ndarray) or not isinstance(output, Iterable):
        one = torch.as_tensor(output).detach()
        return [one.double() if one.is_floating_point() else one]
    return [one for part in output for one in tensors(part)]


def one_error(got: Tensor, want: Tensor) -> float:
    """The relative Frobenius error of one result; inf where a shape, a NaN, an infinity or a whole number differs."""
    if got.shape != want.shape:
        return float("inf")
    got = got.to(want.device)
    if not want.is_floating_point():
        return 0.0 if torch.equal(got.to(want.dtype), want) else float("inf")
    finite = want.isfinite()
    if not torch.allclose(got[~finite], want[~finite], equal_nan=True):
        return float("inf")
    got, want = got[finite], want[finite]
    difference, size = float((got - want).norm()), float(want.norm())
    ratio = difference / size if size else difference
    return ratio if ratio == ratio else float("inf")


def error(got: Any, want: Any) -> float:
    """The largest error over the parts of two outputs."""
    got, want = tensors(got), tensors(want)
    if len(got) != len(want):
        return float("inf")
    return max((one_error(g, w) for g, w in zip(got, want, strict=True)), default=0.0)


def bound(dtype: str, reference_error: float) -> float:
    """The largest error that counts as right."""
    return 2 * reference_error + BANDS[dtype]

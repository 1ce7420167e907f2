"""Whether an output is right: relative Frobenius error against a float64 oracle, or equality for whole numbers."""

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


def error(got: Any, want: Any) -> float:
    """The largest relative Frobenius error over the parts; inf where a shape, a NaN or a whole number differs."""
    got, want = tensors(got), tensors(want)
    if len(got) != len(want) or any(g.shape != w.shape for g, w in zip(got, want, strict=True)):
        return float("inf")
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        g = g.to(w.device)
        if not w.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(g.to(w.dtype), w) else float("inf"))
            continue
        difference, size = float((g - w).norm()), float(w.norm())
        if difference != 0:
            ratio = difference / size if size else float("inf")
            worst = max(worst, ratio if ratio == ratio else float("inf"))
    return worst


def bound(dtype: str, reference_error: float) -> float:
    """The largest error that counts as right."""
    return 2 * reference_error + BANDS[dtype]

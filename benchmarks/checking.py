"""Whether an output is right: relative Frobenius error against a float64 oracle, or equality for whole numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

# What rounding of the result itself allows, relative, beside twice the reference's own error in that precision.
BANDS = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}


def arrays(output: Any) -> list[np.ndarray]:
    """Every tensor and array of a nested output, in order; floats as float64."""
    if isinstance(output, torch.Tensor):
        output = output.detach().cpu()
        return [output.double().numpy() if output.is_floating_point() else output.numpy()]
    if isinstance(output, np.ndarray):
        return [output.astype(np.float64) if output.dtype.kind == "f" else output]
    if isinstance(output, Iterable):
        return [array for part in output for array in arrays(part)]
    return [np.asarray(output)]


def error(got: Any, want: Any) -> float:
    """The largest relative Frobenius error over the parts; inf where a shape, a NaN or a whole number differs."""
    got, want = arrays(got), arrays(want)
    if len(got) != len(want) or any(g.shape != w.shape for g, w in zip(got, want, strict=True)):
        return float("inf")
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        if w.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(g, w) else float("inf"))
            continue
        difference = float(np.linalg.norm(np.asarray(g, np.float64) - w))
        if difference == 0:
            continue
        size = float(np.linalg.norm(w))
        ratio = difference / size if size else float("inf")
        worst = max(worst, ratio if np.isfinite(ratio) else float("inf"))
    return worst


def bound(dtype: str, reference_error: float) -> float:
    """The largest error that counts as right."""
    return 2 * reference_error + BANDS[dtype]

"""One stored quantity against what this installation computes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from d2net.data.files import DataError, check_regular, reading

Status = Literal["pass", "fail", "not wanted", "skipped"]
Scale = Literal["absolute", "largest", "mixed"]


class Check(NamedTuple):
    """A quantity of a case, its largest error in the tolerance's scale, and the verdict.

    `not wanted`: the stored value comes from a bug or an arbitrary choice of the authors' code; `note` says which.
    """

    case: str
    quantity: str
    error: float
    tolerance: float
    status: Status
    note: str = ""


class Golden(dict):
    """The arrays of one golden file; a missing one is an error that names file and array."""

    def __init__(self, path: str | os.PathLike):
        self.path = path
        with reading(path, "an .npz of plain arrays"):
            check_regular(path)
            with np.load(path, allow_pickle=False) as file:
                super().__init__(file)
            if not self:
                raise DataError(f"{path} holds no arrays")

    def __missing__(self, key: str) -> np.ndarray:
        raise DataError(f"{self.path} holds no array {key!r}; is it a golden file of this layout?")


def as_array(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def largest_error(got: np.ndarray, want: np.ndarray, scale: Scale) -> float:
    """max |got - want|: absolute; over the largest |want|; or each over 1 + |want| (mixed). NaN counts as infinite."""
    if got.size == 0:
        return 0.0
    if want.dtype.kind in "biu":
        return float((got != want).sum())
    want = want.astype(np.float64)
    error = np.abs(got.astype(np.float64) - want)
    if scale == "mixed":
        error = error / (1 + np.abs(want))
    elif scale == "largest" and np.abs(want).max() > 0:
        error = error / np.abs(want).max()
    return float(np.where(np.isnan(error), np.inf, error).max())


class Case:
    """Collects the checks of one golden file.

    Args:
        unwanted: quantities whose stored values need not be matched, and why; a name covers its precisions.
    """

    def __init__(self, name: str, unwanted: dict[str, str] | None = None):
        self.name, self.unwanted = name, unwanted or {}
        self.checks: list[Check] = []

    def compare(
        self, quantity: str, got: Any, want: Any, tolerance: float, scale: Scale = "absolute", note: str = ""
    ) -> None:
        """Adds a check. Integers and booleans must be equal: their error counts the entries that differ."""
        got, want = as_array(got), as_array(want)
        status: Status
        if got.shape != want.shape:
            error, note = float("inf"), f"shape {got.shape} in place of {want.shape}"
        else:
            error = largest_error(got, want, scale)
        if want.dtype.kind in "biu":
            tolerance = 0.0
        why = self.unwanted.get(quantity.partition(" ")[0].removesuffix("_sums"))
        if why is not None:
            status, note = "not wanted", why
        else:
            status = "pass" if error <= tolerance else "fail"
        self.checks.append(Check(self.name, quantity, error, tolerance, status, note))

    def skip(self, quantities: Iterable[str], note: str) -> None:
        for quantity in quantities:
            self.checks.append(Check(self.name, quantity, float("nan"), float("nan"), "skipped", note))

    def fail(self, quantity: str, note: str) -> None:
        self.checks.append(Check(self.name, quantity, float("inf"), 0.0, "fail", note))


def preset_of(classes: int) -> str:
    """The golden files' convention: their 100-class cases are ActivityNet1.2, the others THUMOS14."""
    return "activitynet12" if classes == 100 else "thumos14"

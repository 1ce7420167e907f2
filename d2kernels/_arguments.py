"""The one check of arguments that are no tensors: whole numbers, numbers, flags and choices. Does not import torch.

NumPy's scalars, and its arrays without a dimension, are what they hold. A bool is no number, and a number no flag.
Each function returns the plain Python value, or raises one sentence that names the argument, its value and its range.
"""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any

import numpy as np

LARGEST = 2**63 - 1  # int64, in which every count travels
FEW = 24  # rows of a table that are checked one by one, in less time than an operation on all of them takes


def _plain(value: Any) -> Any:
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def listed(x: Any) -> list[Any]:
    """x.tolist() of an array or a tensor; torch itself lists no zeros without memory."""
    try:
        return x.tolist()
    except RuntimeError:
        return x.clone().tolist()


def _symbolic(value: Any, kind: str) -> bool:
    """Whether torch.compile or torch.export stands behind the value: its range is not known yet."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, kind))


def _shown(value: Any) -> str:
    if isinstance(value, (int, np.integer)):
        bits = int(value).bit_length()
        return repr(value) if bits < 128 else f"an integer of {bits} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole(op: str, name: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """A whole number in [least, most]; a float that is whole is taken as that number.

    Raises:
        TypeError: no number. ValueError: not whole, or out of range.
    """
    if type(value) is int and least <= value <= most:
        return value
    given, value = value, _plain(value)
    if _symbolic(value, "SymInt"):
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{op}: {name} must be a whole number, got {type(given).__name__} {_shown(given)}")
    if not isinstance(value, numbers.Integral) and (not math.isfinite(value) or value != math.floor(value)):
        raise ValueError(f"{op}: {name} must be a whole number, got {_shown(value)}")
    number = int(value)  # type: ignore[call-overload]
    if not least <= number <= most:
        limits = f"at least {least}" if number < least else f"at most {most}"
        raise ValueError(f"{op}: {name} must be {limits}, got {_shown(value)}")
    return number


def number(
    op: str,
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    finite: bool = True,
) -> float:
    """A float in the range that the bounds say, never NaN; infinite only where it need not be finite.

    Raises:
        TypeError: no number. ValueError: NaN, infinite or out of range.
    """
    if type(value) is not float:
        given, value = value, _plain(value)
        if _symbolic(value, "SymFloat") or _symbolic(value, "SymInt"):
            return value
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
            raise TypeError(f"{op}: {name} must be a number, got {type(given).__name__} {_shown(given)}")
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{op}: {name} must fit a float, got {_shown(value)}") from None
    if (
        value != value
        or (finite and (value == math.inf or value == -math.inf))
        or (least is not None and value < least)
        or (above is not None and value <= above)
        or (most is not None and value > most)
        or (below is not None and value >= below)
    ):
        bounds = (("at least", least), ("above", above), ("at most", most), ("below", below))
        said = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
        if finite and value in (math.inf, -math.inf):
            said.insert(0, "finite")
        raise ValueError(f"{op}: {name} must be {' and '.join(said) or 'a number'}, got {value}")
    return value


def flag(op: str, name: str, value: Any) -> bool:
    """True or False, NumPy's too.

    Raises:
        TypeError: anything else; "no" and None are not False.
    """
    if type(value) is bool:
        return value
    value = _plain(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if _symbolic(value, "SymBool"):
        return value
    raise TypeError(f"{op}: {name} must be True or False, got {type(value).__name__} {_shown(value)}")


def choice(op: str, name: str, value: Any, choices: tuple[str | None, ...]) -> Any:
    """One of the choices, strings or None.

    Raises:
        ValueError: anything else, with the list of them.
    """
    if (value is None or isinstance(value, str)) and value in choices:
        return value
    listed = " or ".join(map(repr, choices)) if len(choices) == 2 else f"one of {', '.join(map(repr, choices))}"
    raise ValueError(f"{op}: {name} must be {listed}, got {_shown(value)}")

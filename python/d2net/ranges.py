"""Ranges of numbers as text, "0.5", "0.3,0.5,0.7" or "0.1:0.7:0.1", and what range seconds have."""

from __future__ import annotations

import re
from decimal import Decimal, DecimalException
from typing import Any

import numpy as np

MOST = 10_000
LONGEST = 1e15  # seconds; further out float64 does not tell eighths of a second apart, and products overflow


def are_times(*seconds: float) -> bool:
    """Whether they can be computed with: not NaN, and of at most LONGEST seconds."""
    return all(-LONGEST <= s <= LONGEST for s in seconds)


_DECIMAL = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


def decimal(text: str) -> float:
    """A number with a decimal point, or none; ValueError for what else Python reads, as 1_000 and nan."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"not a number: {text[:80]!r}")
    return float(text)


def number(value: Any) -> float:
    """A number or its text as a float; TypeError or ValueError for anything else, true and false included."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, np.generic)):
        raise TypeError(f"not a number: {value!r:.80}")
    return decimal(value) if isinstance(value, str) else float(value)


def seconds(segment: Any) -> tuple[float, float]:
    """[start, end] as floats; TypeError or ValueError for anything but two numbers in a list."""
    if not isinstance(segment, (list, tuple, np.ndarray)):
        raise TypeError(f"not [start, end]: {segment!r:.80}")
    start, end = segment
    return number(start), number(end)


def usable(value: Any) -> float | None:
    """A positive number of at most LONGEST, as a number, its text or an array of one; None for anything else."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.item() if value.size == 1 else None
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = decimal(value) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 < number <= LONGEST else None


def parse_values(text: str) -> list[float]:
    """Numbers, comma-separated; ``start:stop:step`` is a range that includes stop. Decimals, so that none drifts.

    Raises:
        ValueError: not of these forms, not finite, or more than 10 000 values; does not name the field.
    """
    values: list[float] = []
    for part in text.split(","):
        try:
            numbers = [Decimal(n.strip()) for n in part.split(":")]
            if not all(n.is_finite() for n in numbers) or len(numbers) not in (1, 3):
                raise ValueError
            start, stop, step = numbers if len(numbers) == 3 else (*numbers, *numbers, Decimal(1))
            if step <= 0:
                raise ValueError
            steps = (stop - start) / step if stop >= start else Decimal(-1)
            if steps + len(values) >= MOST:
                raise ValueError(f"must be at most {MOST} values, got {text[:80]!r}")
            values += [float(start + k * step) for k in range(int(steps) + 1 if steps >= 0 else 0)]
        except (DecimalException, OverflowError, ValueError) as error:
            if str(error).startswith("must be"):
                raise
            raise ValueError(
                f"must be like 0.5, 0.3,0.5,0.7 or 0.1:0.7:0.1 (start:stop:step), got {text[:80]!r}"
            ) from None
    return values

"""One video's array as text, as BMN has it: a line of numbers a snippet, comma, semicolon or tab between them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2net.data.features.store import FeatureError
from d2net.data.files import shown


class _Form(NamedTuple):
    """separator; header: whether the first line is one; numbered: whether the first column is the rows'; width."""

    separator: str
    header: bool
    numbered: bool
    width: int


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _form(path: Path, first: str) -> _Form:
    """Told from the first line: names, or the columns' numbers 0, 1, ... as pandas writes them, are a header.

    A header whose first cell is empty is pandas' too: its column holds the rows' numbers.
    """
    separator = next((s for s in (";", "\t") if s in first), ",")
    cells = [cell.strip() for cell in first.split(separator)]
    numbered = len(cells) > 1 and not cells[0]
    names = cells[numbered:]
    numbers = [_is_number(cell) for cell in names]
    if any(numbers) and not all(numbers):
        odd = names[numbers.index(False)]
        raise FeatureError(f"{path}: line 1 mixes numbers and {shown(odd)}; it must be names or numbers throughout")
    counted = len(names) > 1 and names == [str(i) for i in range(len(names))]
    return _Form(separator, numbered or counted or not all(numbers), numbered, len(names))


def text_header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type; the lines are counted."""
    with open(path, encoding="utf-8-sig") as file:
        form = _form(path, file.readline())
        rows = sum(1 for line in file if line.strip()) + (not form.header)
    return (rows, form.width), np.dtype(np.float32)


def read_text_array(path: Path) -> np.ndarray:
    """(s, d) float32."""
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
        form = _form(path, first)
        lines = file if form.header else chain([first], file)
        columns = range(1, form.width + 1) if form.numbered else None
        return np.loadtxt(lines, np.float32, comments=None, delimiter=form.separator, usecols=columns, ndmin=2)

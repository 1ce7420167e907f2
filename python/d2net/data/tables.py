"""Tables as text: comma, semicolon or tab between cells, one line of names first, whatever their capitals."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from d2net.data.files import DataError, check_regular, read_text, shown

_NUMBER = re.compile(r"[-+]?(?:\d+(?P<mark>[.,])?\d*|(?P<first>[.,])\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:[.,' \u00a0\u2019\u202f]\d{3})+(?:[.,]\d*)?", re.ASCII)
_EITHER = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}", re.ASCII)
_SAYS_SEPARATOR = re.compile(r'sep=([^\w\s"]|\t)', re.ASCII)


def is_table(path: str | os.PathLike, needs: str) -> bool:
    """Whether a file is a table and not JSON: by its suffix, or because it names `needs` near its beginning."""
    check_regular(path)
    if os.fspath(path).lower().endswith((".csv", ".tsv")):
        return True
    with open(path, "rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return head[:1] not in (b"{", b"[", b"") and needs.encode() in head


@dataclass
class _Marks:
    """What separates cells, and the decimal mark that a table has used, with where."""

    separator: str
    used: str = ""
    where: str = ""


@dataclass
class Row:
    """where: "FILE, line N". cells: text by column, names in small letters; None where empty."""

    where: str
    cells: dict[str, str | None]
    _marks: _Marks = field(repr=False)

    def number(self, name: str) -> float | None:
        """The column's number; None where the cell is empty or missing.

        A point or a comma is the decimal mark, one of them in the whole table; thousands are not separated. 1,234 is
        refused unless semicolons separate the cells: it could be either.

        Raises:
            DataError: names file, line, column and what the cell holds.
        """
        text = self.cells.get(name)
        if text is None:
            return None
        at = f"{self.where}: {name} is {shown(text)}"
        found = _NUMBER.fullmatch(text)
        if found is None:
            if _THOUSANDS.fullmatch(text):
                raise DataError(f"{at}: thousands are not separated here; write 1234.5 for one thousand and more")
            raise DataError(f"{at}, which is not a number")
        mark = found["mark"] or found["first"]
        if mark:
            if self._marks.separator != ";" and _EITHER.fullmatch(text):
                plain, point = text.replace(",", ""), text.replace(",", ".")
                raise DataError(f"{at}, which may be {point} or {plain}; write the one that it is")
            if self._marks.used not in ("", mark):
                raise DataError(
                    f"{at}, but {self._marks.where} has a decimal {'comma' if mark == '.' else 'point'}; "
                    "keep one decimal mark in the table, and no mark of thousands"
                )
            self._marks.used, self._marks.where = mark, self.where.rpartition(", ")[2]
        return float(text.replace(",", "."))


def read_table(path: str | os.PathLike, needs: str) -> Iterator[Row]:
    """The rows that are not empty; what separates cells is told from the names, or by Excel's `sep=;` before them.

    Args:
        needs: a column that there must be.

    Raises:
        DataError: no such column, one named twice, or more cells than columns; names file and line.
    """
    lines = read_text(path, "CSV").split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip(" ,;\t")), len(lines))
    said = _SAYS_SEPARATOR.fullmatch(lines[first].strip(" ")) if first < len(lines) else None
    if said:
        first = next((i for i in range(first + 1, len(lines)) if lines[i].strip(" ,;\t")), len(lines))
    names = lines[first] if first < len(lines) else ""
    separator = said[1] if said else next((s for s in (";", "\t") if s in names), ",")
    table = csv.reader(io.StringIO("\n".join(lines[first:])), delimiter=separator, strict=True)
    header = [cell.strip().lower() for cell in next(table, [])]
    while header and not header[-1]:
        header.pop()  # spreadsheets leave columns without a name
    if needs not in header:
        raise DataError(f"{path}: a table needs a column `{needs}`, got {shown(', '.join(header))}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}: a column is named twice in {shown(', '.join(header))}")
    marks = _Marks(separator)
    for cells in table:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, line {first + table.line_num}"
        if any(cell.strip() for cell in cells[len(header) :]):
            more = "; decimal commas need semicolons between the cells" if separator == "," else ""
            raise DataError(f"{where}: {len(cells)} cells under {len(header)} columns{more}")
        yield Row(where, {k: v.strip() or None for k, v in zip(header, cells, strict=False)}, marks)

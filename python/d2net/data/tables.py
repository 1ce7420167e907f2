"""Tables as text: comma, semicolon or tab between cells, one line of names first."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from typing import NamedTuple

from d2net.data.files import DataError, read_text, shown


class Row(NamedTuple):
    """where: "FILE, line N". cells: by column; None where empty. Decimal commas are points."""

    where: str
    cells: dict[str, str | None]


def read_table(path: str | os.PathLike, needs: str) -> Iterator[Row]:
    """The rows that are not empty; what separates cells is told from the first line.

    Args:
        needs: a column that there must be.

    Raises:
        DataError: no such column, one named twice, or more cells than columns; names file and line.
    """
    text = read_text(path, "CSV")
    first = text.partition("\n")[0]
    separator = next((s for s in (";", "\t") if s in first), ",")
    table = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    header = [cell.strip() for cell in next(table, [])]
    if needs not in header:
        raise DataError(f"{path}: a table needs a column `{needs}`, got {shown(', '.join(header))}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}: a column is named twice in {shown(', '.join(header))}")
    for cells in table:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, line {table.line_num}"
        if len(cells) > len(header):
            more = "; decimal commas need semicolons between the cells" if separator == "," else ""
            raise DataError(f"{where}: {len(cells)} cells under {len(header)} columns{more}")
        yield Row(where, {k: v.strip() or None for k, v in zip(header, cells, strict=False)})


def number(text: str | None) -> float:
    """Decimal points, or a decimal comma; ValueError for anything else."""
    return float((text or "").replace(",", "."))

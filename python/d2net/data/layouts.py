"""Names of layouts, by which a user overrides what is told from the content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from d2net.data.files import DataError, shown

T = TypeVar("T")


class Layouts(NamedTuple):
    """The layout of each kind of data that the user named; None: as the content says.

    axis: of feature arrays: rows, (snippets, width), or transposed, (width, snippets).
    """

    features: str | None = None
    annotations: str | None = None
    detections: str | None = None
    axis: str | None = None


CONTENT = Layouts()  # nothing is named: all as their content tells

# In words, for help and errors; each package's LAYOUTS has the readers.
AXES = {"rows": "arrays are (snippets, width)", "transposed": "arrays are (width, snippets)"}


def named_reader(kind: str, path: object, name: str, layouts: Mapping[str, T]) -> T:
    """The reader of this name.

    Raises:
        DataError: no such layout; lists those there are.
    """
    if name not in layouts:
        raise DataError(f"{path}: {kind} have no layout {shown(name)}; there are {', '.join(layouts)}")
    return layouts[name]

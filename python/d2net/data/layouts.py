"""Names of layouts, by which a user overrides what is told from the content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def layout_names() -> dict[str, Mapping[str, object]]:
    """{kind: its layouts by name}."""
    from d2net.data import annotations, detections, features

    return {
        "features": features.LAYOUTS,
        "annotations": annotations.LAYOUTS,
        "detections": detections.LAYOUTS,
        "axis": AXES,
    }


def parse_layouts(names: Iterable[str], used: Iterable[str]) -> Layouts:
    """`hdf5`, or `annotations=wtalc` where one name is of several kinds of data.

    Args:
        used: the kinds that the command reads.

    Raises:
        DataError: no such layout, or two of one kind.
    """
    known = {kind: layouts for kind, layouts in layout_names().items() if kind in used}
    found: dict[str, str] = {}
    for text in names:
        given, equals, name = text.partition("=")
        kinds = [k for k in known if (name if equals else text) in known[k] and (not equals or k == given)]
        if not kinds:
            there = "; ".join(f"{k}: {', '.join(layouts)}" for k, layouts in known.items())
            raise DataError(f"--layout: there is no {shown(text)} here; there are, of {there}")
        for kind in kinds:
            if found.setdefault(kind, name if equals else text) != (name if equals else text):
                raise DataError(f"--layout: {found[kind]} and {text} exclude each other; give one of them")
    return Layouts(**found)


def named_reader(kind: str, path: object, name: str, layouts: Mapping[str, T]) -> T:
    """The reader of this name.

    Raises:
        DataError: no such layout; lists those there are.
    """
    if name not in layouts:
        raise DataError(f"{path}: {kind} have no layout {shown(name)}; there are {', '.join(layouts)}")
    return layouts[name]

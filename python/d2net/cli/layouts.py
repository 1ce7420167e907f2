"""--layout: names of layouts, of whichever kind of data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from d2net.data import annotations, detections, features
from d2net.data.files import DataError, shown
from d2net.data.layouts import AXES, Layouts


def layout_names() -> dict[str, Mapping[str, object]]:
    """{kind: its layouts by name}."""
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

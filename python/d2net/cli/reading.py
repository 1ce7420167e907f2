"""Opening a command's data: in the layouts that --layout names, with a line that says what was understood."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2net.cli.options import say

if TYPE_CHECKING:
    from d2net.data.annotations import Annotations
    from d2net.data.detections import Detections
    from d2net.data.detections.share import Part
    from d2net.data.features import FeatureStore

Layout = Annotated[
    list[str] | None,
    typer.Option(
        help="Read data as this and not as their content tells, such as hdf5, transposed or annotations=wtalc; a wrong "
        "name lists all. Repeatable.",
        metavar="NAME",
    ),
]


class Data:
    """Reads what a command is given.

    Args:
        layouts: of --layout; kinds: what the command reads: features, annotations, detections.
        quiet: say nothing of what was understood.

    Raises:
        DataError: a layout that there is not.
    """

    def __init__(self, layouts: Sequence[str] | None, kinds: Sequence[str], quiet: bool = False):
        from d2net.cli.layouts import parse_layouts
        from d2net.data.layouts import Layouts

        used = [*kinds, "axis"] if "features" in kinds else list(kinds)
        self.layouts = parse_layouts(layouts, used) if layouts else Layouts()
        self.quiet = quiet

    def features(self, path: str | os.PathLike, crops: str = "mean") -> FeatureStore:
        from d2net.data.features import open_features

        layouts: dict[str, Any] = {"layout": self.layouts.features, "axis": self.layouts.axis}
        return self._said("features", open_features(path, crops=crops, **layouts))  # type: ignore[arg-type]

    def annotations(self, path: str | os.PathLike, what: str = "annotations") -> Annotations:
        from d2net.data.annotations import load_annotations

        return self._said(what, load_annotations(path, layout=self.layouts.annotations))

    def detections(self, path: str | os.PathLike, part: Part | None = None) -> Detections:
        from d2net.data.detections import load_detections

        return self._said("detections", load_detections(path, layout=self.layouts.detections, part=part))

    def _said(self, what: str, found: Any) -> Any:
        if not self.quiet:
            say(f"{what}: {found.summary()}")
        return found

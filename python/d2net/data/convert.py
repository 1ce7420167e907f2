"""Features, annotations and detections from any format that is read into any that is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from d2net.data.annotations import load_annotations
from d2net.data.annotations.saving import save_annotations
from d2net.data.detections import load_detections
from d2net.data.detections.saving import named_classes, save_detections_as
from d2net.data.features import open_features
from d2net.data.features.store import Crops
from d2net.data.features.writing import write_features
from d2net.data.files import DataError, check_outputs
from d2net.data.kinds import KINDS, Kind, kind_of
from d2net.data.layouts import CONTENT, Layouts


def convert(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    kind: Kind | None = None,
    dtype: str | None = None,
    crops: Crops = "mean",
    layouts: Layouts = CONTENT,
    timing: Mapping[str, float] | None = None,
    classes: str | os.PathLike | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> list[str]:
    """Writes what is in `source` to `out`, whose name decides the format.

    Features: .npz, .h5, .safetensors, or a folder of .npy. Annotations and detections: .json, .csv, .tsv, or a folder
    of label tracks. Written in one step; features in bounded memory, and a stopped run goes on when called alike.

    Args:
        kind: of `source`; told by its content by default.
        dtype, crops, timing: of features; timing replaces what they state.
        layouts: of the source, in place of what its content tells.
        classes: annotations whose classes are the names of detections' numbers.

    Returns:
        What was written and what was changed, in lines.

    Raises:
        DataError: `source` cannot be read; `out` is what is read, is there (without overwrite) or cannot hold what is
            in `source`; an argument is for another kind of data.
    """
    if not Path(out).name:
        raise DataError(f"{out} is a folder that is there; give the name of what to write")
    if kind is not None and kind not in KINDS:
        raise DataError(f"kind must be {', '.join(KINDS)}, got {kind!r}")
    named = [k for k in KINDS if getattr(layouts, k) is not None]
    what = kind or (named[0] if len(named) == 1 else kind_of(source))
    _check_arguments(what, dtype=dtype, crops=crops if crops != "mean" else None, timing=timing, classes=classes)
    out = Path(out)
    if what == "features":
        store = open_features(source, crops=crops, layout=layouts.features, axis=layouts.axis)  # type: ignore[arg-type]
        written = write_features(out, store, dtype=dtype, timing=timing, overwrite=overwrite, progress=progress)
        lines = [f"read {store.summary()}"]
        if written.resumed:
            lines.append(f"{written.resumed} of {written.videos} videos were there from an earlier run")
        if timing is not None and store.stated and dict(timing) != dict(store.stated):
            lines.append(f"timing: {dict(timing)} replaces {dict(store.stated)}, which the features state")
        if lost := [name for name in ("durations", "streams", "identity") if getattr(store, name)]:
            lines.append(f"not in {out.name}: {', '.join(lost)} that {store.source} states")
        return lines + written.notes
    check_outputs([out if out.suffix else out.with_name(f"{out.name}.txt")], [source, classes])
    if out.resolve() == Path(source).resolve():
        raise DataError(f"{out} is what is read; give another name to write to")
    if out.is_file() and not overwrite:
        raise DataError(f"{out} is there; say --overwrite to replace it, or give another name")
    if what == "annotations":
        known = load_annotations(source, layout=layouts.annotations)
        return [f"read {known.summary()}", *(f"not in {out.name}: {lost}" for lost in save_annotations(out, known))]
    found = load_detections(source, layout=layouts.detections)
    if classes is not None:
        known = load_annotations(classes)
        found = named_classes(found, known.classes, known.ids)
    save_detections_as(out, found)
    return [f"read {found.summary()}"]


def _check_arguments(kind: Kind, **given: object) -> None:
    fits = {"dtype": "features", "crops": "features", "timing": "features", "classes": "detections"}
    for name, value in given.items():
        if value is not None and fits[name] != kind:
            raise DataError(f"{name} is for {fits[name]}, and these are {kind}")

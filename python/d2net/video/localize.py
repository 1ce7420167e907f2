"""Features of new videos by the backbone that a model was trained with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2net.data.detections import Detections
from d2net.data.files import DataError
from d2net.terminal import Bar
from d2net.video.backbones import Backbone, is_code, make_backbone
from d2net.video.extract import Extraction, extract
from d2net.video.render import Found, render

MADE_BY = {"fps", "stride", "snippet_frames", "size", "flow", "mean", "std", "decoder"}


def backbone_of(
    identity: Mapping[str, Any] | None, *, name: str | None = None, weights: Sequence[Path] = (), device: str = "auto"
) -> Backbone:
    """The backbone with the settings that features of this identity were made with.

    Args:
        identity: a model's `extraction`; name: the backbone where that is None, with its own settings.

    Raises:
        ValueError: nothing says which backbone, another one is named, or its weights differ.
    """
    if identity is None:
        if name is None:
            raise ValueError(
                "the model's features do not say what made them; give --backbone, and --weights if it has any"
            )
        return make_backbone(name, weights=weights, device=device)
    if not isinstance(identity, Mapping) or not isinstance(identity.get("backbone"), str):
        raise ValueError("the model does not say rightly what made its features; give --features extracted anew")
    trained = identity["backbone"]
    if name is None and is_code(trained):
        raise ValueError(
            f"the model was trained on features of {trained}, which is code or a folder: say --backbone too"
        )
    if name is not None and name != trained:
        raise ValueError(f"--backbone {name}: the model was trained on features of {trained}; leave --backbone out")
    # What is in a checkpoint names settings, and no more.
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in identity.items() if k in MADE_BY}
    size = fields.pop("size", None)
    sides = [size.get(k) for k in ("short", "crop")] if isinstance(size, dict) else []
    numbers = [sides[1] or 0, identity.get("fps"), sides[0]] if sides else [None]
    if not all(isinstance(x, (int, float)) for x in numbers):
        raise ValueError(f"the model's features do not say how {trained} was used; give --features extracted anew")
    made = make_backbone(trained, weights=weights, device=device, short=size["short"], crop=size["crop"] or 0, **fields)
    now = made.identity()
    if differ := [k for k in {**identity, **now} if identity.get(k) != now.get(k)]:
        k = differ[0]
        raise ValueError(
            f"backbone {trained}: its {k} is {now.get(k)!r}, but was {identity.get(k)!r} for the features that the "
            "model was trained on; give the same weights"
        )
    return made


def features_of(
    videos: Sequence[Path], folder: Path, backbone: Backbone, *, workers: int | None = None, progress: bool = True
) -> Extraction:
    """Extracts into `folder`.

    Raises:
        DataError: no video could be used; says why of the first.
    """
    result = extract(videos, folder, backbone, workers=workers, progress=progress)
    if not result.done and not result.kept:
        reasons = list(result.failed.values()) or ["no video was given"]
        more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        raise DataError(f"{reasons[0]}{more}")
    return result


def render_all(
    found: Detections,
    sources: Mapping[str, Path],
    durations: Mapping[str, float],
    folder: str | os.PathLike,
    kinds: Sequence[str],
    progress: bool = False,
) -> tuple[list[Path], dict[str, str]]:
    """Renders the detections of each video that has a source; the files, and why of videos that could not be."""
    made: list[Path] = []
    failed = {}
    names = [n for n in found.videos if n in sources]
    for name in Bar("render", len(names), unit="video", show=progress).over(names):
        rows = found.for_video(name)
        shown = [
            Found(found.classes[c], float(a), float(b), float(s))
            for c, a, b, s in zip(rows.label, rows.start, rows.end, rows.score, strict=True)
        ]
        try:
            made += render(sources[name], Path(folder), name, kinds, shown, found.classes, durations[name])
        except DataError as error:
            failed[name] = str(error)
    return made, failed

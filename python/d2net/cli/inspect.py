"""d2net inspect."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from d2net.cli.options import (
    Crops,
    Fps,
    Quiet,
    Resized,
    SnippetFrames,
    SnippetSeconds,
    Stride,
    say,
    timing_overrides,
)
from d2net.cli.reading import Data, Layout


def inspect(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FEATURES ANNOTATIONS",
            help="As for train; one of them alone, or further annotation files to compare with the first.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object in place of text.")] = False,
    train_subset: Annotated[str | None, typer.Option(help="Trained on; told from the names by default.")] = None,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="Recommend without looking at segments, as train --preset auto does.")
    ] = False,
    fps: Fps = None,
    stride: Stride = None,
    snippet_frames: SnippetFrames = None,
    snippet_seconds: SnippetSeconds = None,
    resized: Resized = False,
    crops: Crops = "mean",
    layout: Layout = None,
    quiet: Quiet = False,
) -> None:
    """Look data over before training: what they hold, what is odd, and the command to train with.

    Counts videos, lengths, classes, instances, durations and co-occurrence; finds features that are missing, surplus,
    NaN, zero or copied, timing that contradicts durations, and segments that are degenerate, duplicate, overlapping or
    too late. Features are read once, a video at a time. Exits with 1 where training or localization would fail or
    mislead.

    Example: d2net inspect features.npz annotations.json
    """
    from d2net.config import make_config
    from d2net.data.inspect import inspect_data
    from d2net.terminal import Bar
    from d2net.timing import Timing

    data = Data(layout, ("features", "annotations"), quiet=True)
    features, annotations, others = _told_apart(paths)
    given = timing_overrides(fps, stride, snippet_frames, snippet_seconds, resized)
    timing = Timing(**{k.removeprefix("timing."): v for k, v in given.items()}) if given else None  # type: ignore[arg-type]
    defaults = {
        f"{section}.{field}": value
        for section, fields in make_config().model_dump().items()
        if isinstance(fields, dict)
        for field, value in fields.items()
    }
    flags = [f"--layout {shlex.quote(name)}" for name in layout or []]
    if crops != "mean":
        flags.append(f"--crops {shlex.quote(crops)}")
    with Bar("features", unit="video", show=not quiet and features is not None) as bar:

        def step(_: int, total: int) -> None:
            bar.total = total
            bar.update()

        found = inspect_data(
            features,
            annotations,
            others,
            timing=timing,
            open_features=lambda path: data.features(path, crops),
            load_annotations=data.annotations,
            subsets=[train_subset] if train_subset else None,
            labels_only=labels_only,
            defaults=defaults,
            flags=flags,
            step=step,
        )
    if as_json:
        print(json.dumps(found.tree(), indent=1))
    else:
        say(found.text())
    if found.errors:
        raise typer.Exit(1)


def _told_apart(paths: list[Path]) -> tuple[Path | None, Path | None, list[Path]]:
    """(features, annotations, further annotations); a single path is annotations if it looks like them."""
    from d2net.data.files import DataError
    from d2net.data.kinds import kind_of

    if len(paths) > 1:
        return paths[0], paths[1], paths[2:]
    try:
        kind = kind_of(paths[0])
    except DataError:
        kind = "features" if paths[0].is_dir() else "annotations"  # whose reader says what is wrong
    if kind == "detections":
        raise DataError(
            f"{paths[0]} holds detections; d2net evaluate scores them, inspect takes features and annotations"
        )
    return (paths[0], None, []) if kind == "features" else (None, paths[0], [])

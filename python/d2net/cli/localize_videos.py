"""What d2net localize does with --video."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from d2net.cli.options import say
from d2net.data.files import DataError, check_outputs
from d2net.terminal import printable


@dataclass
class Videos:
    """Video files, what is rendered of them, and what went wrong with some."""

    files: list[Path] = field(default_factory=list)
    kinds: tuple[str, ...] = ()
    failed: list[str] = field(default_factory=list)
    names: list[str] | None = None
    sources: dict[str, Path] = field(default_factory=dict)

    def extract(
        self, model: Any, folder: Path | None, backbone: str | None, weights: Sequence[Path], device: str, quiet: bool
    ) -> Path:
        """Extracts features into `folder`, or one that goes away at the end."""
        if not self.files:
            raise DataError(self.failed[0])
        from d2net.video.extract import video_names
        from d2net.video.localize import backbone_of, features_of

        made = backbone_of(model.extraction, name=backbone, weights=weights, device=device)
        if made.width != model.network.width:
            raise ValueError(f"backbone {made.name} gives {made.width} features, the model takes {model.network.width}")
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="d2net-features-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        else:
            check_outputs([folder / "extraction.jsonl"], self.files)
        result = features_of(self.files, folder, made, progress=not quiet)
        self.failed += result.failed.values()
        self.names = sorted([*result.done, *result.kept])
        self.sources = {name: path for path, name in video_names(self.files)[0]}
        return folder

    def check_rendered(self, folder: Path) -> None:
        """Raises DataError where what would be rendered into the folder is one of the videos, or cannot be written."""
        if not self.kinds:
            return
        from d2net.video.extract import video_names

        try:
            names = [name for _, name in video_names(self.files)[0]]
            check_outputs([folder / f"{name}.{kind}" for name in names for kind in self.kinds], self.files)
        except DataError as error:
            raise DataError(f"--render: {error}; --render-to FOLDER says where to") from error

    def render(self, found: Any, durations: Mapping[str, float], folder: Path, quiet: bool) -> None:
        if not self.kinds:
            return
        from d2net.video.localize import render_all

        made, failed = render_all(found, self.sources, durations, folder, self.kinds, progress=not quiet)
        self.failed += failed.values()
        say("\n".join(map(str, made)))

    def end(self) -> None:
        """Lists what went wrong; exit status 1 where something did."""
        for text in self.failed:
            print(f"error: {printable(text)}", file=sys.stderr)
        if self.failed:
            raise typer.Exit(1)


def videos_and_kinds(
    video: Sequence[Path] | None,
    more: Sequence[Path] | None,
    render: str,
    activations: Path | None,
    others: Iterable[Any],
) -> Videos:
    """What was asked for of videos.

    Raises:
        ValueError: options that need --video without it, or unknown kinds.
    """
    if not video:
        if more:
            raise ValueError(f"what is {str(more[0])!r}? give videos as --video FILE, and features as --features")
        if render or any(others):
            raise ValueError("--render, --render-to, --backbone and --weights go with --video")
        return Videos()
    if activations is not None:
        raise ValueError("--video and --activations exclude each other")
    from d2net.video.decode import media_files
    from d2net.video.render import KINDS

    kinds = tuple(dict.fromkeys(kind.strip().lower() for kind in render.split(",") if kind.strip()))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"--render {unknown[0]}: it takes {', '.join(KINDS)}, with commas between them")
    files, failed = media_files([*video, *(more or [])])
    return Videos(files, kinds, list(failed.values()))

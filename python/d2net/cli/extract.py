"""d2net extract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from d2net.cli.options import BackboneName, Crop, Device, Flow, Quiet, Short, Weights, backbone_changes, say, stoppable
from d2net.terminal import printable


def extract(
    videos: Annotated[list[Path], typer.Argument(help="Video files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder of features: an .npy a video, and a log with their timing.")],
    backbone: BackboneName = "motion",
    weights: Weights = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second that videos are resampled to.")] = None,
    stride: Annotated[int | None, typer.Option(help="Frames from one snippet to the next.")] = None,
    snippet_frames: Annotated[int | None, typer.Option(help="Frames in a snippet.")] = None,
    short: Short = None,
    crop: Crop = None,
    flow: Flow = None,
    decoder: Annotated[str | None, typer.Option(help="av (PyAV), torchcodec or torchcodec-cuda (a GPU).")] = None,
    batch: Annotated[int | None, typer.Option(help="Snippets that the backbone takes at once.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that decode; by default one a processor.")] = None,
    device: Device = "auto",
    partial: Annotated[bool, typer.Option("--partial", help="Take what decodes of truncated videos.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the features in the folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Turn videos into features that train and localize read as they are.

    Goes on where it was stopped. Exit status 1 if a video could not be used, 2 if none could; they are listed.

    Example: d2net extract videos/ --out features
    """
    from d2net.data.files import check_outputs
    from d2net.video.backbones import make_backbone
    from d2net.video.decode import media_files
    from d2net.video.extract import extract as run

    changes = backbone_changes(fps, stride, snippet_frames, short, crop, flow, decoder)
    network = make_backbone(backbone, weights=weights or [], device=device, batch=batch, **changes)
    if workers is not None and not 1 <= workers <= 1024:
        raise ValueError(f"--workers must be 1 to 1024, got {workers}")
    files, unreadable = media_files(videos)
    check_outputs([out / "extraction.jsonl"], [*files, *(weights or [])])
    with stoppable():
        result = run(files, out, network, workers=workers, partial=partial, overwrite=overwrite, progress=not quiet)
    for text in [*unreadable.values(), *result.failed.values()]:
        print(f"error: {printable(text)}", file=sys.stderr)
    good, bad = len(result.done) + len(result.kept), len(unreadable) + len(result.failed)
    kept = f", of which {len(result.kept)} were there" if result.kept else ""
    say(f"{good} videos{kept}{f', {bad} failed' if bad else ''}: {out}")
    if bad:
        raise typer.Exit(1 if good else 2)

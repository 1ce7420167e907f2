"""d2net demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, run, detections, metrics and picture.")] = Path(
        "demo_output"
    ),
    video: Annotated[bool, typer.Option("--video", help="Begin with video files, which are made on the spot.")] = False,
    iterations: Annotated[int, typer.Option(help="Training iterations.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the made-up data.")] = 0,
) -> None:
    """Make data up, train, localize, evaluate, draw; exits 1 unless the trained model is far above chance."""
    if video:
        from d2net.video.demo import run_video_demo

        raise typer.Exit(run_video_demo(out, iterations, seed))
    from d2net.demo import run_demo

    raise typer.Exit(run_demo(out, iterations, seed))

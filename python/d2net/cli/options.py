"""Options that commands share."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2net.terminal import printable

if TYPE_CHECKING:
    from d2net.distributed.ranks import Ranks

Features = Annotated[
    Path, typer.Option(help="An .npz or .h5 keyed by video, or a folder of .npy arrays; each (snippets, width).")
]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="A configuration field, as loss.gamma=0.02 or gamma=0.02. Repeatable.", metavar="F=V"),
]

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]

Fps = Annotated[float | None, typer.Option(help="Video frames per second that the features were extracted at.")]

Stride = Annotated[float | None, typer.Option(help="Frames from one snippet to the next.")]

SnippetFrames = Annotated[float | None, typer.Option(help="Frames that a snippet covers.")]

SnippetSeconds = Annotated[float | None, typer.Option(help="Length of a snippet, where there are no frames.")]

Resized = Annotated[
    bool, typer.Option("--resized", help="Features were resized to a fixed length: stride is duration / snippets.")
]


def timing_overrides(
    fps: float | None, stride: float | None, snippet_frames: float | None, snippet_seconds: float | None, resized: bool
) -> dict[str, float | None]:
    """All timing fields where any is given, so that they replace what --config and --set say of it."""
    given = {"fps": fps, "stride": stride, "snippet_frames": snippet_frames, "snippet_seconds": snippet_seconds}
    if not resized and all(v is None for v in given.values()):
        return {}
    return {f"timing.{name}": value for name, value in {**given, "resized": resized}.items()}


Crops = Annotated[str, typer.Option(help="Of arrays (snippets, 10 crops, width): mean or first.")]

BackboneName = Annotated[
    str,
    typer.Option(
        help="motion (no weights needed), i3d, torchvision:NAME, timm:NAME, transformers:FOLDER, or module:function."
    ),
]

Weights = Annotated[
    list[Path] | None,
    typer.Option(help="The backbone's weights, a state dict. Twice for i3d: of RGB, then of flow."),
]

Short = Annotated[int | None, typer.Option(help="Pixels of the shorter side that frames are scaled to.")]

Crop = Annotated[int | None, typer.Option(help="Side of the square cut out of the middle; 0 for none.")]

Flow = Annotated[str | None, typer.Option(help="Optical flow: dis (fast), tv-l1 (OpenCV's), tv_l1 (the same, faster).")]


def backbone_changes(
    fps: float | None,
    stride: int | None,
    snippet_frames: int | None,
    short: int | None,
    crop: int | None,
    flow: str | None,
    decoder: str | None,
) -> dict[str, Any]:
    """What was given of how a backbone's snippets are made."""
    given = {
        "fps": fps, "stride": stride, "snippet_frames": snippet_frames, "short": short, "crop": crop, "flow": flow,
        "decoder": decoder,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, and nothing of what was understood.")]

SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out videos without features, and list them.")]


def say(text: str) -> None:
    """Prints lines in which names out of files may stand."""
    print("\n".join(map(printable, text.split("\n"))))


@contextmanager
def one_voice(device: str) -> Iterator[Ranks]:
    """Joins the processes that were started together with this one; within, rank 0 alone is heard."""
    from d2net.distributed.launch import joined

    with joined(device) as ranks:
        if ranks.main:
            yield ranks
            return
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield ranks


def together() -> AbstractContextManager[Ranks | None]:
    """As `one_voice` on the CPU, without torch where no launcher has started this process."""
    return one_voice("cpu") if "RANK" in os.environ else nullcontext()


@contextmanager
def stoppable() -> Iterator[None]:
    """Says where a run was stopped; Typer would say nothing."""
    try:
        yield
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        raise typer.Exit(130) from stop

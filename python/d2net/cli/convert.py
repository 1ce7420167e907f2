"""d2net convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2net.cli.options import Crops, Fps, Quiet, SnippetFrames, SnippetSeconds, Stride, say, stoppable
from d2net.cli.reading import Data, Layout


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Features, annotations or detections.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="What to write; its extension decides the format.")],
    kind: Annotated[
        str | None, typer.Option(help="features, annotations or detections, where the content does not tell.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of features: float16, bfloat16 (.safetensors) or float32; as is by default.")
    ] = None,
    crops: Crops = "mean",
    layout: Layout = None,
    fps: Fps = None,
    stride: Stride = None,
    snippet_frames: SnippetFrames = None,
    snippet_seconds: SnippetSeconds = None,
    classes: Annotated[
        Path | None, typer.Option(help="Annotations whose classes name the numbers in detections.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT, if it is a file.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write features, annotations or detections in another format.

    Features become .npz, .h5, .safetensors or, without an extension, a folder of <video>.npy, video by video: memory
    holds one at a time. A timing that they state goes along; --fps and the others state it anew. Stopped, the same
    command goes on where it was. Annotations and detections become .json (ActivityNet's), .csv (video, start, end,
    label), .tsv (DCASE's filename, onset, offset, event_label) or, without an extension, a folder of Audacity's label
    tracks. What is written takes its name when it is whole and has been read again; what a format cannot hold is said.

    Examples: d2net convert Thumos14reduced-I3D-JOINTFeatures.npy thumos14.safetensors --fps 25 --stride 16
    --snippet-frames 16; d2net convert results.pkl detections.json --classes thumos_14.json
    """
    from d2net.data.convert import convert as run
    from d2net.timing import Timing

    given = {"fps": fps, "stride": stride, "snippet_frames": snippet_frames, "snippet_seconds": snippet_seconds}
    timing = {k: v for k, v in given.items() if v is not None} or None
    if timing is not None:
        Timing(**timing)  # whole, and of one kind
    layouts = Data(layout, ("features", "annotations", "detections")).layouts
    with stoppable():
        lines = run(
            source,
            out,
            kind=kind,  # type: ignore[arg-type]
            dtype=dtype,
            crops=crops,  # type: ignore[arg-type]
            layouts=layouts,
            timing=timing,
            classes=classes,
            overwrite=overwrite,
            progress=not quiet,
        )
    if not quiet:
        say("\n".join(lines))
    say(f"written: {out}")

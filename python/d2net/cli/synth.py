"""d2net synth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2net.cli.options import Fps, Quiet, SnippetFrames, Stride, say, stoppable


def synth(
    out: Annotated[Path, typer.Option(help="Folder for features and annotations.json.")],
    like: Annotated[str, typer.Option(help="thumos14 or activitynet12: lengths, instances, classes.")] = "thumos14",
    given: Annotated[
        Path | None,
        typer.Option("--from", help="Annotations to resemble instead: lengths, instances, co-occurrence."),
    ] = None,
    videos: Annotated[int, typer.Option(help="How many.")] = 400,
    test_share: Annotated[float, typer.Option(help="Share of them in the subset test; the others are train.")] = 1 / 3,
    classes: Annotated[int | None, typer.Option(help="How many classes, in place of --like's.")] = None,
    duration: Annotated[float | None, typer.Option(help="Median seconds of a video, in place of --like's.")] = None,
    instances: Annotated[float | None, typer.Option(help="Median instances of such a video, likewise.")] = None,
    coverage: Annotated[float | None, typer.Option(help="Median share of a video that they fill, likewise.")] = None,
    second: Annotated[float | None, typer.Option(help="How likely a second class occurs too, likewise.")] = None,
    width: Annotated[int, typer.Option(help="Of the features, all streams together.")] = 2048,
    streams: Annotated[str, typer.Option(help="Their names, comma-separated.")] = "rgb,flow",
    stream_signal: Annotated[
        str | None, typer.Option(help="How strong actions are in each stream, comma-separated, as 1,0.5.")
    ] = None,
    signal: Annotated[float, typer.Option(help="How strong actions are; 1 is easy, 0 nothing to learn.")] = 1.0,
    noise: Annotated[float, typer.Option(help="How strong the noise is.")] = 0.9,
    fps: Fps = None,
    stride: Stride = None,
    snippet_frames: SnippetFrames = None,
    format: Annotated[str, typer.Option(help="Of the features: npz, h5, safetensors or folder.")] = "npz",
    dtype: Annotated[str | None, typer.Option(help="As for convert; float16 by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything; video i is the same however many there are.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files in OUT, but no folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make features and annotations up: any number of videos, that train, localize and evaluate take.

    Durations, numbers of instances, how much of a video they fill and how classes occur together are as in THUMOS14 or
    ActivityNet 1.2, with what you change of them, or as in annotations of your own (--from). Features are patterns of
    the classes on changing scenes under smooth noise. Videos are made one at a time, so memory does not grow with the
    set; stopped, the same command goes on.

    Examples: d2net synth --out data; d2net synth --from annotations.json --videos 5000 --format h5 --out data
    """
    from d2net.data.annotations import load_annotations
    from d2net.data.files import check_outputs
    from d2net.data.synth import FPS as RATE
    from d2net.data.synth import PROFILES, STRIDE, Donors, Look, SyntheticFeatures, write_synthetic_set

    changed = {"duration": duration, "instances": instances, "coverage": coverage, "second": second, "count": classes}
    changed = {k: v for k, v in changed.items() if v is not None}
    if given is not None and changed:
        raise ValueError(f"--from decides {', '.join(changed)}; leave one of them out")
    if like not in PROFILES:
        raise ValueError(f"--like must be {' or '.join(PROFILES)}, got {like!r}")
    check_outputs([out / "annotations.json"], [given])
    frames = stride if stride is not None else STRIDE
    look = Look(
        width=width,
        streams=tuple(name.strip() for name in streams.split(",")),
        stream_signal=_numbers("--stream-signal", stream_signal),
        signal=signal,
        noise=noise,
        fps=RATE if fps is None else fps,
        stride=frames,
        snippet_frames=frames if snippet_frames is None else snippet_frames,
    )
    timelines = Donors(load_annotations(given)) if given is not None else PROFILES[like].changed(**changed)
    store = SyntheticFeatures(timelines, look, videos, test_share=test_share, seed=seed)
    with stoppable():
        made = write_synthetic_set(out, store, format=format, dtype=dtype, overwrite=overwrite, progress=not quiet)
    say(f"features: {made.features.path} ({store.summary()})\nannotations: {made.annotations}")


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    from d2net.ranges import decimal

    try:
        return tuple(map(decimal, text.split(","))) if text else ()
    except ValueError as error:
        raise ValueError(f"{option} must be numbers with commas between, got {text!r}") from error

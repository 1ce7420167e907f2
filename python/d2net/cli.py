"""The command line: train, localize, evaluate, ablate, export, parity, demo."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="d2net",
    help="Weakly-supervised temporal action localization: train on video-level labels, get segments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

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


def _timing_overrides(
    fps: float | None, stride: float | None, snippet_frames: float | None, snippet_seconds: float | None, resized: bool
) -> dict[str, float | None]:
    """All timing fields where any is given, so that a preset's timing does not mix with the user's."""
    given = {"fps": fps, "stride": stride, "snippet_frames": snippet_frames, "snippet_seconds": snippet_seconds}
    if not resized and all(v is None for v in given.values()):
        return {}
    return {f"timing.{name}": value for name, value in {**given, "resized": resized}.items()}


@contextmanager
def _stoppable() -> Iterator[None]:
    """Says where a training run was stopped; Typer would say nothing."""
    try:
        yield
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        raise typer.Exit(130) from stop


@app.command()
def train(
    features: Features,
    annotations: Annotated[Path, typer.Option(help="ActivityNet-style JSON; only video-level labels are used.")],
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoint.pt, config.yaml, log.jsonl.")],
    preset: Annotated[
        str | None, typer.Option(help="thumos14, activitynet12 or hapt: what depends on the data.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="release (the authors' code, default) or paper (its text).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or TOML file of fields, over recipe and preset.")] = None,
    assignments: Set = None,
    streams: Annotated[
        int | None, typer.Option(help="Equal-width streams in the features, such as RGB and flow.")
    ] = None,
    fps: Fps = None,
    stride: Stride = None,
    snippet_frames: SnippetFrames = None,
    snippet_seconds: SnippetSeconds = None,
    resized: Resized = False,
    seed: Annotated[int | None, typer.Option(help="Of weights, batches and crops.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint, bit for bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train on pre-extracted features with video-level labels.

    Example: d2net train --features features.npz --annotations annotations.json --preset thumos14 --out run
    """
    from d2net import api
    from d2net.config import make_config, parse_assignments

    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    overrides = parse_assignments(assignments or [])
    overrides |= _timing_overrides(fps, stride, snippet_frames, snippet_seconds, resized)
    overrides |= {k: v for k, v in {"model.streams": streams, "train.seed": seed}.items() if v is not None}
    full = make_config(preset, recipe, overrides, config)
    with _stoppable():
        api.train(
            features, annotations, out, full, device=device, resume=resume, overwrite=overwrite, progress=not quiet
        )
    print(f"checkpoint: {out / 'checkpoint.pt'}")


@app.command()
def localize(
    checkpoint: Annotated[Path, typer.Option(help="A run's folder or a checkpoint file.")],
    out: Annotated[Path, typer.Option(help="Detections, ActivityNet results JSON.")],
    features: Annotated[Path | None, typer.Option(help="As for train.")] = None,
    activations: Annotated[
        Path | None, typer.Option(help="An .npz of activations (snippets, classes) by video, in place of features.")
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="Gives durations, and the subset's videos.")] = None,
    subset: Annotated[str | None, typer.Option(help="Only this subset of the annotations.")] = None,
    assignments: Set = None,
    fps: Fps = None,
    stride: Stride = None,
    snippet_frames: SnippetFrames = None,
    snippet_seconds: SnippetSeconds = None,
    resized: Resized = False,
    video_info: Annotated[Path | None, typer.Option(help="JSON or CSV of timing and duration per video.")] = None,
    save_activations: Annotated[Path | None, typer.Option(help="Also write the activations, .npz by video.")] = None,
    device: Device = "auto",
) -> None:
    """Find segments in videos, in seconds.

    Example: d2net localize --checkpoint run --features features.npz --out detections.json
    """
    from d2net import api
    from d2net.config import from_dict, make_config, parse_assignments
    from d2net.data.activations import load_activations
    from d2net.data.activations import save_activations as write_activations
    from d2net.data.annotations import load_annotations
    from d2net.data.detections import save_detections
    from d2net.data.files import check_destination
    from d2net.data.video_info import load_video_info
    from d2net.timing import Timing

    if (features is None) == (activations is None):
        raise ValueError("give exactly one of --features and --activations")
    if subset and annotations is None:
        raise ValueError("--subset names a subset of --annotations; give that file too")
    for path in filter(None, (out, save_activations)):
        check_destination(path)
    model = api.load(checkpoint, device)
    tree = model.config.model_dump()
    decoder = parse_assignments(assignments or [])
    if wrong := [name for name in decoder if not name.startswith("localize.")]:
        raise ValueError(f"--set {wrong[0]}: only fields of localize can be changed after training")
    config = make_config(overrides=_flat(tree) | decoder).localize if decoder else from_dict(tree).localize
    known = load_annotations(annotations, classes=model.classes) if annotations else None
    if known is not None and subset:
        known = known.subset(subset)
    info = load_video_info(video_info) if video_info else None
    timing = _timing_overrides(fps, stride, snippet_frames, snippet_seconds, resized)
    result = api.localize(
        model,
        load_activations(activations, classes=len(model.classes)) if activations else features,
        from_activations=activations is not None,
        annotations=known,
        names=list(known.videos) if known is not None and subset else None,
        timing=Timing(**{k.removeprefix("timing."): v for k, v in timing.items()}) if timing else None,
        durations=info.durations if info else None,
        video_timings=info.timings if info else None,
        config=config,
        keep_activations=save_activations is not None,
    )
    save_detections(out, result.detections)
    if save_activations:
        write_activations(save_activations, result.activations)
    print(f"{len(result.detections)} detections in {len(result.detections.videos)} videos: {out}")


def _flat(tree: dict) -> dict:
    return {
        f"{section}.{field}" if isinstance(fields, dict) else section: value
        for section, fields in tree.items()
        for field, value in (fields.items() if isinstance(fields, dict) else [("", fields)])
    }


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Option(help="Detections, ActivityNet results JSON.")],
    ground_truth: Annotated[Path, typer.Option(help="ActivityNet-style JSON with segments.")],
    protocol: Annotated[str, typer.Option(help="activitynet, thumos or release.")] = "activitynet",
    iou: Annotated[str, typer.Option(help="start:stop:step, or comma-separated.")] = "0.1:0.7:0.1",
    subset: Annotated[str | None, typer.Option(help="Evaluate against this subset of the ground truth.")] = None,
    ambiguous: Annotated[Path | None, typer.Option(help="THUMOS14's Ambiguous_test.txt.")] = None,
    fps: Fps = None,
    stride: Stride = None,
    snippet_seconds: SnippetSeconds = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print each class's AP.")] = False,
    out: Annotated[Path | None, typer.Option(help="Metrics as JSON.")] = None,
) -> None:
    """Score detections against a ground truth.

    Example: d2net evaluate --predictions detections.json --ground-truth annotations.json --subset test
    """
    from d2net.data.annotations import load_annotations
    from d2net.data.detections import load_detections
    from d2net.data.files import check_destination
    from d2net.evaluation import evaluate as run
    from d2net.evaluation import load_ambiguous
    from d2net.timing import Timing

    timing = None
    if any(v is not None for v in (fps, stride, snippet_seconds)):
        if protocol != "release":
            raise ValueError(f"--fps, --stride and --snippet-seconds are for --protocol release, not for {protocol}")
        if (fps is None) != (stride is None):
            raise ValueError("--fps and --stride go together")
        timing = Timing(fps=fps, stride=stride, snippet_frames=stride, snippet_seconds=snippet_seconds)
    if out:
        check_destination(out)
    report = run(
        load_detections(predictions),
        load_annotations(ground_truth),
        protocol=protocol,
        iou=iou,
        subset=subset,
        ambiguous=load_ambiguous(ambiguous) if ambiguous else None,
        timing=timing,
    )
    print(report.table(per_class=per_class))
    if out:
        report.save(out)
        print(f"metrics: {out}")


@app.command()
def ablate(
    features: Features,
    annotations: Annotated[Path, typer.Option(help="ActivityNet-style JSON with the segments of the test subset.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs, table.json and table.md.")],
    preset: Annotated[str | None, typer.Option(help="As for train.")] = None,
    recipe: Annotated[str | None, typer.Option(help="As for train.")] = None,
    rows: Annotated[str, typer.Option(help="Losses to compare, comma-separated.")] = "CE,F,Dis,Dis+D",
    seeds: Annotated[int, typer.Option(help="Seeds 0 .. N-1.", min=1)] = 3,
    assignments: Set = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the folder's runs.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder's runs.")] = False,
) -> None:
    """Train and score the rows of the paper's Table 3, over seeds, with the preset's and the recipe's decoder."""
    from d2net.ablation import run_ablation
    from d2net.config import make_config, parse_assignments

    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    config = make_config(preset, recipe, parse_assignments(assignments or []))
    names = [row.strip() for row in rows.split(",")]
    with _stoppable():
        print(run_ablation(features, annotations, out, config, names, seeds, device, resume, overwrite))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option(help="A run's folder or a checkpoint file.")],
    out: Annotated[Path, typer.Option(help="The .onnx file.")],
) -> None:
    """Write a trained network as ONNX, to run without this package.

    Input `features` (snippets, width) of one video; outputs `activations` (snippets, classes) and `foreground`
    (snippets,). Needs the packages onnx and onnxscript.

    Example: d2net export --checkpoint run --out model.onnx
    """
    from d2net import api
    from d2net.data.files import check_destination
    from d2net.export import export_onnx

    check_destination(out)
    print(f"written: {export_onnx(api.load(checkpoint, 'cpu'), out)}")


@app.command()
def parity(
    folder: Annotated[Path, typer.Argument(help="Folder of golden files (forward_*, losses_*, localize_*.npz).")],
    data: Annotated[Path | None, typer.Option(help="Annotation data; FOLDER/../data by default.")] = None,
    device: Device = "cpu",
) -> None:
    """Check this installation against stored outputs of the authors' code; exits 1 where one does not match."""
    from d2net.parity import main as check

    raise typer.Exit(check(folder, data=data, device=device))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, run, detections, metrics and picture.")] = Path(
        "demo_output"
    ),
    iterations: Annotated[int, typer.Option(help="Training iterations.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the made-up data.")] = 0,
) -> None:
    """Make data up, train, localize, evaluate, draw; exits 1 unless the trained model is far above chance."""
    from d2net.demo import run_demo

    raise typer.Exit(run_demo(out, iterations, seed))


def main() -> None:
    """Entry point: bad input is one line on standard error and exit status 2."""
    from d2kernels.backends import BackendUnavailable

    try:
        app()
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, TypeError, BackendUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

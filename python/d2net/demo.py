"""The main job on made-up data: train with weak labels, localize, evaluate, draw."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from d2net import api
from d2net.config import Config, make_config
from d2net.data.annotations import Annotations, load_annotations
from d2net.data.detections import Detections, save_detections
from d2net.data.features import FeatureStore, open_features
from d2net.data.files import check_destination
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.evaluation import evaluate
from d2net.methods.d2net.network import D2Net
from d2net.plots.shown import find, timelines
from d2net.plots.style import check_picture
from d2net.plots.timeline import draw_timelines
from d2net.report.collect import collect
from d2net.report.page import write_report

IOU = [i / 10 for i in range(1, 8)]


def demo_settings(iterations: int) -> dict[str, Any]:
    """The release recipe, shortened: a larger learning rate, and L_D entering halfway at a small weight."""
    return {
        "train.iterations": iterations,
        "train.learning_rate": 1e-3,
        "train.subsets": ["train"],
        "train.checkpoint_every": iterations,
        "loss.denoising_start": iterations // 2,
        "loss.ds_weight": 0.01,
        "loss.dv_weight": 0.01,
    }


def demo_config(iterations: int) -> Config:
    """With the timing of the made-up features."""
    timing = {"timing.fps": 25.0, "timing.stride": 16.0, "timing.snippet_frames": 16.0}
    return make_config(overrides=demo_settings(iterations) | timing)


def random_detections(truth: Annotations, lengths: dict[str, float], seed: int = 0) -> Detections:
    """Chance: 20 segments a video of random class, place, length and score."""
    rng = np.random.default_rng(seed)
    names, n = list(truth.videos), 20
    duration = np.repeat([lengths[v] for v in names], n)
    a, b = np.sort(rng.random((2, len(duration))), axis=0) * duration
    classes = rng.integers(len(truth.classes), size=len(duration))
    return Detections.from_arrays(
        names, truth.classes, np.repeat(np.arange(len(names)), n), classes, a, b, rng.random(len(duration))
    )


def run_demo(out: Path, iterations: int = 400, seed: int = 0) -> int:
    """Runs it all in `out`; returns 0 only if the trained mAP is far above chance and the untrained model.

    Raises:
        ValueError: `out` holds anything but an earlier demo, which is replaced.
    """
    began = time.perf_counter()
    check_folder(out)
    features_file, annotations_file = write_synthetic(out / "data", make_synthetic(seed=seed))
    print(f"data         {features_file} and {annotations_file}")
    store, annotations = open_features(features_file), load_annotations(annotations_file)
    config = demo_config(iterations)
    model = api.train(store, annotations, out / "run", config, overwrite=True, device="cpu")
    print(f"trained      {out / 'run'} ({iterations} iterations)")

    truth = annotations.subset("test")
    network = D2Net(store.width, len(truth.classes), model.network.streams, config.model)
    untrained = api.Model(network.eval(), config, model.classes, model.timing)
    scores = {"trained": _score(model, store, truth, out / "detections.json", out / "metrics.json")}
    scores["untrained"] = _score(untrained, store, truth)
    durations = {v: x.duration or 0.0 for v, x in truth.videos.items()}
    chance = evaluate(random_detections(truth, durations), truth, protocol="activitynet", iou=IOU)
    scores["chance"] = float(chance.average_mAP)
    print(f"detections   {out / 'detections.json'}\nmetrics      {out / 'metrics.json'}")
    picture = out / "video.png"
    try:
        check_picture(picture)
    except ImportError as error:  # the report needs no package of its own
        print(f"picture      left out: {error}")
    else:
        draw(model, store, truth, next(iter(truth.videos)), picture)
        print(f"picture      {picture}")
    page = out / "report.html"
    write_report(page, collect([out / "run"], store, annotations, iou="0.1:0.7:0.1", device="cpu"), "d2net demo")
    print(f"report       {page}")
    print("average mAP at IoU 0.1 to 0.7: " + ", ".join(f"{k} {100 * v:.1f}" for k, v in scores.items()))
    print(f"took {time.perf_counter() - began:.0f} s")
    print(f"see it all: open {page.resolve().as_uri()} in a browser")
    good = scores["trained"] > max(3 * scores["chance"], scores["chance"] + 0.2, scores["untrained"] + 0.1)
    if not good:
        print("FAILED: the trained model is not far above chance and the untrained one")
    return 0 if good else 1


def check_folder(out: Path) -> None:
    """Raises ValueError where `out` holds anything but an earlier demo."""
    check_destination(out / "metrics.json")
    held = sorted(p.name for p in out.iterdir())
    ours = out / "data" / "annotations.json"
    if held and not (ours.is_file() and b'"version": "synthetic"' in ours.read_bytes()[:100]):
        raise ValueError(f"demo: {out} already holds {held[0]!r}; give --out a folder of the demo's own")


def _score(
    model: api.Model,
    store: FeatureStore,
    truth: Annotations,
    detections_file: Path | None = None,
    metrics_file: Path | None = None,
) -> float:
    found = api.localize(model, store, annotations=truth, names=list(truth.videos))
    report = evaluate(found.detections, truth, protocol="activitynet", iou=IOU)
    if detections_file:
        save_detections(detections_file, found.detections)
    if metrics_file:
        report.save(metrics_file)
    return float(report.average_mAP)


def draw(model: api.Model, store: FeatureStore, truth: Annotations, name: str, path: Path) -> None:
    """Draws one video, as `d2net plot` does."""
    found = find([model], store, truth, [name], protocol="activitynet", at=0.5)
    durations = {v: x.duration for v, x in truth.videos.items() if x.duration is not None}
    draw_timelines(path, timelines(["the trained model"], found, truth, durations, [name], at=0.5))

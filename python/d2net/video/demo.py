"""The main job from videos on: make them, extract, train on their labels, localize, evaluate, render."""

from __future__ import annotations

import time
from pathlib import Path

from d2net import api
from d2net.config import Config, make_config
from d2net.data.annotations import Annotations, load_annotations
from d2net.data.detections import Detections, save_detections
from d2net.data.features import FeatureStore, open_features
from d2net.demo import check_folder, demo_settings
from d2net.evaluation import evaluate
from d2net.methods.d2net.network import D2Net
from d2net.report.collect import collect
from d2net.report.page import write_report
from d2net.video.backbones import make_backbone
from d2net.video.extract import extract
from d2net.video.render import KINDS, Found, render
from d2net.video.synth import write_videos

WANTED, CHANCE = 0.60, 0.10  # mAP at IoU 0.5 of the trained model at least, and of an untrained one at most


def video_demo_config(iterations: int) -> Config:
    """The demo's, without a timing: the features state theirs."""
    return make_config(overrides=demo_settings(iterations))


def run_video_demo(out: Path, iterations: int = 400, seed: int = 0, videos: int = 40) -> int:
    """Runs it all in `out`; returns 0 only if mAP at IoU 0.5 is at least 60 %, and of the untrained model below 10 %.

    Raises:
        ValueError: `out` holds anything but an earlier demo, which is replaced. ImportError: PyAV or OpenCV is missing.
    """
    began = time.perf_counter()
    check_folder(out)
    annotations_file = write_videos(out / "data" / "videos", videos, seed=seed)
    print(f"videos       {out / 'data' / 'videos'} ({videos} .mp4 files)", flush=True)
    files = sorted((out / "data" / "videos").glob("*.mp4"))
    result = extract(files, out / "features", make_backbone("motion"), overwrite=True)
    if result.failed:
        print("\n".join(result.failed.values()))
        return 1
    store, annotations = open_features(out / "features"), load_annotations(annotations_file)
    print(f"features     {out / 'features'} ({store.summary()})", flush=True)
    config = video_demo_config(iterations)
    model = api.train(store, annotations, out / "run", config, overwrite=True, device="cpu")
    print(f"trained      {out / 'run'} ({iterations} iterations)", flush=True)

    truth = annotations.subset("test")
    network = D2Net(store.width, len(truth.classes), model.network.streams, config.model)
    untrained = api.Model(network.eval(), config, model.classes, model.timing)
    found = _localize(model, store, truth)
    save_detections(out / "detections.json", found)
    trained, chance = (_score(d, truth) for d in (found, _localize(untrained, store, truth)))
    print(f"detections   {out / 'detections.json'}")
    first = next(iter(truth.videos))
    rows = found.for_video(first)
    shown = [
        Found(model.classes[c], float(a), float(b), float(s))
        for c, a, b, s in zip(rows.label, rows.start, rows.end, rows.score, strict=True)
    ]
    source = out / "data" / "videos" / f"{first}.mp4"
    for path in render(source, out / "shown", first, KINDS, shown, model.classes, store.durations[first]):
        print(f"shown        {path}")
    print(f"mAP at IoU 0.5: trained {100 * trained:.1f}, untrained {100 * chance:.1f}")
    page = out / "report.html"
    write_report(page, collect([out / "run"], store, annotations, iou="0.1:0.7:0.1", device="cpu"), "d2net demo")
    print(f"report       {page}")
    print(f"took {time.perf_counter() - began:.0f} s")
    print(f"see it all: open {page.resolve().as_uri()} in a browser")
    good = trained >= WANTED and chance < CHANCE
    if not good:
        print(f"FAILED: {100 * WANTED:.0f} or more was wanted, and less than {100 * CHANCE:.0f} of the untrained model")
    return 0 if good else 1


def _localize(model: api.Model, store: FeatureStore, truth: Annotations) -> Detections:
    return api.localize(model, store, annotations=truth, names=list(truth.videos)).detections


def _score(found: Detections, truth: Annotations) -> float:
    return float(evaluate(found, truth, protocol="activitynet", iou=[0.5]).average_mAP)

"""The small data set that all pages share, also in the dialects that pages name."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from d2net import load_annotations, open_features
from d2net.data.annotations import Annotations
from d2net.data.synth import PROFILES, Look, SyntheticFeatures, write_synthetic_set

WIDTH = 16


def shared(folder: Path) -> None:
    """features.npz, annotations.json, the same with users as annotations_12.json, and detections.json."""
    timelines = PROFILES["thumos14"].changed(count=4, duration=25.0, instances=4)
    write_synthetic_set(folder, SyntheticFeatures(timelines, Look(width=WIDTH), 24))
    tree = json.loads((folder / "annotations.json").read_text())
    results = {}
    for i, (name, video) in enumerate(tree["database"].items()):
        video["user"] = f"user_{i % 6}"
        results[name] = [{**a, "score": 0.5 + j / 100} for j, a in enumerate(video["annotations"])]
    (folder / "annotations_12.json").write_text(json.dumps(tree))
    (folder / "detections.json").write_text(json.dumps({"results": results}))


def objects(*items: Any) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def wtalc(folder: Path, prefix: str, truth: Annotations, arrays: dict[str, np.ndarray], *subsets: str) -> None:
    """W-TALC's feature file and its folder of annotations; subsets: what train and test are called."""
    named = truth.videos.values()
    names = dict(zip(("train", "test"), subsets, strict=True))
    own = folder / f"{prefix}-Annotations"
    own.mkdir()
    labels = objects(*[[s.label for s in v.segments] for v in named])
    columns = {
        "videoname": np.array([v.name.encode() for v in named]),
        "subset": np.array([names[v.subset].encode() for v in named]),
        "classlist": np.array([c.encode() for c in truth.classes]),
        "labels": labels,
        "labels_all": labels,
        "segments": objects(*[[[s.start, s.end] for s in v.segments] for v in named]),
        "duration": np.array([[v.duration] for v in named]),
    }
    for name, column in columns.items():
        np.save(own / f"{name}.npy", column, allow_pickle=True)
    (own / "Ambiguous_test.txt").write_text("".join(f"{v.name} 0.0 0.5\n" for v in named if v.subset == "test"))
    np.save(folder / f"{prefix}-I3D-JOINTFeatures.npy", objects(*arrays.values()), allow_pickle=True)


def dialects(folder: Path) -> None:
    """What the pages on THUMOS14, ActivityNet and conversion are given, by the names that they use."""
    store, annotations = open_features(folder / "features.npz"), load_annotations(folder / "annotations.json")
    arrays = {name: np.asarray(store[name], np.float32) for name in annotations.videos}
    wtalc(folder, "Thumos14reduced", annotations, arrays, "validation", "test")
    wtalc(folder, "ActivityNet1.2", annotations, arrays, "training", "validation")
    tree = json.loads((folder / "annotations.json").read_text())
    half = WIDTH // 2

    basnet = folder / "THUMOS14"
    for name, video in annotations.videos.items():
        for stream, columns in (("rgb", slice(0, half)), ("flow", slice(half, None))):
            where = basnet / "features" / str(video.subset) / stream
            where.mkdir(parents=True, exist_ok=True)
            np.save(where / f"{name}.npy", arrays[name][:, columns])
    for subset in ("train", "test"):
        named = [v.name for v in annotations.videos.values() if v.subset == subset]
        (basnet / f"split_{subset}.txt").write_text("\n".join(named) + "\n")
    gt = {v: {"annotations": e["annotations"], "subset": e["subset"]} for v, e in tree["database"].items()}
    (basnet / "gt.json").write_text(json.dumps({"database": gt}))

    former = folder / "thumos"
    (former / "i3d_features").mkdir(parents=True)
    (former / "annotations").mkdir()
    database = {}
    for name, entry in tree["database"].items():
        np.save(former / "i3d_features" / f"{name}.npy", arrays[name])
        of = [{**a, "label_id": annotations.classes.index(a["label"])} for a in entry["annotations"]]
        duration, subset = len(arrays[name]) * 4 / 30, {"train": "Validation", "test": "Test"}[entry["subset"]]
        database[name] = {"subset": subset, "duration": duration, "fps": 30.0, "annotations": of}
    (former / "annotations/thumos14.json").write_text(json.dumps({"version": "1", "database": database}))

    (folder / "csv_mean_100").mkdir()
    head = ",".join(map(str, range(WIDTH)))
    for name, array in arrays.items():
        np.savetxt(folder / f"csv_mean_100/{name}.csv", array, delimiter=",", header=head, comments="")
    found = [(v.name, s) for v in annotations.videos.values() for s in v.segments]
    columns = {
        "video-id": [name for name, _ in found],
        "t-start": np.array([s.start for _, s in found]),
        "t-end": np.array([s.end for _, s in found]),
        "label": np.array([annotations.classes.index(s.label) for _, s in found]),
        "score": np.full(len(found), 0.5),
    }
    (folder / "results.pkl").write_bytes(pickle.dumps(columns))
    shutil.copyfile(former / "annotations/thumos14.json", folder / "thumos_14.json")

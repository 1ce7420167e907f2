"""Real sensor recordings: the preset learns from weak labels alone."""

from __future__ import annotations

import json

import pytest

from d2net import api
from d2net.config import make_config
from d2net.data.annotations import load_annotations
from d2net.evaluation import evaluate


@pytest.fixture(scope="module")
def hapt(shared_dir):
    return shared_dir / "data" / "har"


def train(hapt, annotations, out, iterations):
    config = make_config("hapt", overrides={"train.iterations": iterations})
    return api.train(hapt / "features.npz", annotations, out, config, progress=False)


def test_three_hundred_iterations_localize_six_activities(hapt, tmp_path):
    annotations = load_annotations(hapt / "annotations_6.json")
    model = train(hapt, annotations, tmp_path / "run", 300)
    truth = annotations.subset("test")
    found = api.localize(model, hapt / "features.npz", annotations=truth, names=list(truth.videos))
    report = evaluate(found.detections, truth, iou="0.1:0.7:0.1")
    assert report.average_mAP > 0.6, report.table(per_class=True)
    limits = [truth.videos[v].duration for v in found.detections.videos]
    assert all(e <= limits[v] for v, e in zip(found.detections.video, found.detections.end, strict=True))


def test_training_never_looks_at_segments(hapt, tmp_path):
    tree = json.loads((hapt / "annotations_6.json").read_text())
    for video in tree["database"].values():
        video["video_labels"] = sorted({a["label"] for a in video.pop("annotations")})
    weak = tmp_path / "weak.json"
    weak.write_text(json.dumps(tree))
    a = train(hapt, hapt / "annotations_6.json", tmp_path / "a", 4).network.state_dict()
    b = train(hapt, weak, tmp_path / "b", 4).network.state_dict()
    assert all(a[k].equal(b[k]) for k in a)

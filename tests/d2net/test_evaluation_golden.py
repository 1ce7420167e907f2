"""Evaluation against published predictions and the released code's numbers."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest

from d2net.data.annotations import Annotations, load_annotations
from d2net.data.detections import Detections, load_detections
from d2net.evaluation import (
    PROTOCOLS,
    RELEASE_RATE,
    Spans,
    drop_ambiguous,
    evaluate,
    load_ambiguous,
    load_fractions,
    score,
    to_snippets,
)

SNIPPET = 16 / 25

pytestmark = pytest.mark.filterwarnings("ignore::d2net.data.annotations.AnnotationWarning")


@pytest.fixture(scope="module")
def autoloc(shared_dir):
    folder = shared_dir / "data/detections/autoloc_thumos14"
    return (
        load_detections(folder / "predictions.json"),
        load_annotations(folder / "ground_truth.json"),
        json.loads((folder / "expected_activitynet_eval.json").read_text()),
    )


def test_each_class_of_published_predictions(autoloc):
    found, truth, expected = autoloc
    report = evaluate(found, truth, protocol="activitynet", iou="0.1:0.9:0.1")
    assert report.ap.keys() == expected["ap_per_class"].keys()
    tied = 0
    for name, ap in expected["ap_per_class"].items():
        scores = found.score[found.label == found.classes.index(name)]
        ties = len(np.unique(scores)) < len(scores)
        tied += ties
        np.testing.assert_allclose(report.ap[name], ap, rtol=0, atol=1e-5 if ties else 1e-9, err_msg=name)
    assert 0 < tied < 10
    np.testing.assert_allclose(report.mAP, expected["mAP"], rtol=0, atol=1e-6)
    assert report.average_mAP == pytest.approx(expected["average_mAP"], abs=1e-6)
    assert np.round(report.mAP, 3).tolist() == expected["published_mAP"]
    assert (report.n_instances, report.n_videos, report.n_detections) == (3234, 210, 20763)
    assert report.ground_truth.endswith("ground_truth.json")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_twenty_thousand_predictions_are_quick_and_fall_with_iou(autoloc, protocol):
    found, truth, _ = autoloc
    started = time.perf_counter()
    report = evaluate(found, truth, protocol=protocol, iou="0.1:0.9:0.1")
    assert time.perf_counter() - started < 2
    assert (np.diff(report.mAP) < 0).all()
    assert report.mAP[0] > 0.25
    assert (np.diff(report.average_recall) >= 0).all()


def test_the_order_of_the_file_does_not_matter(autoloc):
    found, truth, _ = autoloc
    order = np.random.default_rng(0).permutation(len(found.score))
    turned = Detections.from_arrays(
        found.videos,
        found.classes,
        *(x[order] for x in (found.video, found.label, found.start, found.end, found.score)),
    )
    for protocol in PROTOCOLS:
        one, other = (evaluate(x, truth, protocol=protocol, iou="0.3:0.7:0.2") for x in (found, turned))
        for name, ap in one.ap.items():
            np.testing.assert_allclose(other.ap[name], ap, rtol=0, atol=1e-4, err_msg=name)


def golden(folder, name):
    with np.load(folder / f"localize_{name}.npz") as file:
        return dict(file)


def golden_spans(g):
    found = Spans(*(g[f"det_{key}"] for key in ("class", "video", "start", "end", "score")))
    return found, Spans(*g["gt"].T)


@pytest.mark.parametrize("name", ["thumos", "activitynet"])
def test_release_ap(golden_dir, name):
    g = golden(golden_dir, name)
    found, truth = golden_spans(g)
    classes = g["class_selected"].shape[1]
    iou = g["iou_thresholds"].tolist()
    result = score(found, truth, classes=classes, iou=iou, protocol=PROTOCOLS["release"])
    assert np.flatnonzero(np.isfinite(result.ap[0])).tolist() == sorted(g["eval_classes"])
    np.testing.assert_allclose(result.ap[:, g["eval_classes"]], g["ap"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(100 * np.nanmean(result.ap, 1), g["map_percent"], rtol=0, atol=1e-4)


def test_the_protocols_differ_on_real_data(golden_dir):
    found, truth = golden_spans(golden(golden_dir, "thumos"))
    ap = [score(found, truth, classes=20, iou=[0.1, 0.5], protocol=p).ap for p in PROTOCOLS.values()]
    for one, other in itertools.combinations(ap, 2):
        assert np.abs(one - other).max() > 1e-3


def test_an_empty_class_does_not_shift_the_others(golden_dir):
    g = golden(golden_dir, "thumos")
    found, truth = golden_spans(g)
    iou = g["iou_thresholds"].tolist()
    result = score(found[found.label != 4], truth, classes=20, iou=iou, protocol=PROTOCOLS["release"])
    assert (result.ap[:, 4] == 0).all()
    intended = g["class4_emptied_map_percent_intended"]
    np.testing.assert_allclose(100 * result.ap.mean(1), intended, rtol=0, atol=1e-4)


def exact_durations(folder):
    names = [str(v.decode() if isinstance(v, bytes) else v) for v in np.load(folder / "videoname.npy")]
    return dict(zip(names, np.load(folder / "duration.npy")[:, 0].tolist(), strict=True))


def sorted_rows(truth: Annotations, videos: list[str]):
    """(class, video, start, end) in snippets by class, then video, in file order."""
    rows = [
        (truth.classes.index(s.label), videos.index(v), *to_snippets([s.start, s.end]))
        for v in videos
        if v in truth.videos
        for s in truth.videos[v].segments
    ]
    return np.array(sorted(rows, key=lambda r: r[:2]), np.int64)


def golden_rows(g):
    return np.array(sorted(g["gt"].tolist(), key=lambda r: r[:2]))


def seconds(g, classes):
    """The golden detections in seconds, ends clipped to the duration as the localizer does."""
    duration = g["duration"][g["det_video"]]
    return Detections.from_arrays(
        [str(v) for v in g["video_name"]],
        classes,
        g["det_video"],
        g["det_class"],
        g["det_start"] * SNIPPET,
        np.minimum(g["det_end"] * SNIPPET, duration),
        g["det_score"],
    )


def test_release_ground_truth_and_map_on_thumos(shared_dir):
    g = golden(shared_dir / "golden", "thumos")
    folder = shared_dir / "data/thumos14_wtalc"
    truth = load_fractions(folder / "test_gt_segments_d2net.json", exact_durations(folder))
    videos = [str(v) for v in g["video_name"]]
    np.testing.assert_array_equal(sorted_rows(truth, videos), golden_rows(g))
    found = seconds(g, truth.classes)
    report = evaluate(found, truth, protocol="release", iou=g["iou_thresholds"])
    np.testing.assert_allclose(100 * np.array(report.mAP), g["map_percent"], rtol=0, atol=1e-4)
    assert (report.n_degenerate, report.n_instances, report.n_videos) == (16, 3234, 210)
    ambiguous = load_ambiguous(folder / "Ambiguous_test.txt")
    assert len(drop_ambiguous(found, ambiguous, rate=RELEASE_RATE).score) == len(found.score)
    again = evaluate(found, truth, protocol="release", iou=g["iou_thresholds"], ambiguous=ambiguous)
    assert (again.n_dropped, again.mAP) == (0, report.mAP)


def test_release_ground_truth_and_map_on_activitynet(shared_dir):
    g = golden(shared_dir / "golden", "activitynet")
    truth = load_annotations(shared_dir / "data/activitynet12_wtalc/annotations.json")
    videos = [str(v) for v in g["video_name"]]
    truth = truth.only(videos)
    np.testing.assert_array_equal(sorted_rows(truth, videos), golden_rows(g))
    report = evaluate(seconds(g, truth.classes), truth, protocol="release", iou=g["iou_thresholds"])
    np.testing.assert_allclose(100 * np.array(report.mAP), g["map_percent"], rtol=0, atol=1e-4)
    assert (report.n_degenerate, report.n_instances, report.n_videos) == (1, 113, 80)


@pytest.mark.parametrize(
    ("name", "subset", "instances"), [("thumos14", "test", 3358), ("activitynet12", "validation", 3582)]
)
def test_real_annotations_with_degenerate_and_overrunning_segments(shared_dir, name, subset, instances):
    truth = load_annotations(shared_dir / f"data/{name}_wtalc/annotations.json")
    rows = [
        (i, truth.classes.index(s.label), s.start, s.end, 0.5)
        for i, v in enumerate(truth.videos.values())
        if v.subset == subset
        for s in v.segments
    ]
    found = Detections.from_arrays(list(truth.videos), truth.classes, *map(np.array, zip(*rows, strict=True)))
    for protocol in PROTOCOLS:
        report = evaluate(found, truth, protocol=protocol, iou="0.9", subset=subset)
        assert report.n_instances == instances
        assert report.f1[0].tp == instances - report.n_degenerate
        assert report.f1[0].fp == report.n_degenerate
        assert report.f1[0].recall > 0.98
    assert report.n_overrunning > 0

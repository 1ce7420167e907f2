"""Reports on detections and annotations made by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from d2net.data.annotations import Annotations, Segment, Video
from d2net.data.detections import Detections
from d2net.evaluation import Rate, drop_ambiguous, evaluate, from_fractions, load_ambiguous, load_fractions
from d2net.timing import Timing


def video(name, *segments, subset="test", duration=100.0):
    return Video(
        name=name,
        subset=subset,
        duration=duration,
        fps=None,
        labels=tuple(sorted({label for label, _, _ in segments})),
        segments=tuple(Segment(*s) for s in segments),
        info={},
    )


def annotations(*videos, classes=("jump", "run")):
    return Annotations(
        classes=classes,
        videos={v.name: v for v in videos},
        streams=None,
        snippet_seconds=None,
        source="made.json",
    )


def detections(*rows, classes=("jump", "run")):
    """(video, label, start, end, score)"""
    videos = sorted({r[0] for r in rows})
    columns = [
        [videos.index(r[0]) for r in rows],
        [classes.index(r[1]) for r in rows],
        *([r[k] for r in rows] for k in (2, 3, 4)),
    ]
    return Detections.from_arrays(videos, classes, *(np.array(c) for c in columns))


TRUTH = annotations(video("a", ("jump", 0, 10), ("run", 20, 30)), video("b", ("jump", 5, 15)))
FOUND = detections(
    ("a", "jump", 0, 10, 0.9),
    ("b", "jump", 40, 50, 0.8),
    ("b", "jump", 5, 11, 0.7),
    ("a", "run", 20, 30, 0.6),
)


def test_what_a_report_holds():
    report = evaluate(FOUND, TRUTH, iou=[0.5, 0.75])
    out = report.to_dict()
    assert out["protocol"] == "activitynet"
    assert out["ground_truth"] == "made.json"
    assert out["iou"] == [0.5, 0.75]
    np.testing.assert_allclose(out["ap"]["jump"], [(1 + 2 / 3) / 2, 0.5])
    assert out["ap"]["run"] == [1.0, 1.0]
    np.testing.assert_allclose(out["mAP"], [(5 / 6 + 1) / 2, 0.75])
    assert out["average_mAP"] == pytest.approx(np.mean(out["mAP"]))
    assert (out["n_detections"], out["n_instances"], out["n_videos"]) == (4, 3, 2)
    assert out["f1"][0] == {
        "iou": 0.5,
        "f1": 6 / 7,
        "precision": 0.75,
        "recall": 1.0,
        "tp": 3,
        "fp": 1,
        "fn": 0,
    }
    assert len(out["average_recall"]) == 100
    assert (out["n_degenerate"], out["n_overrunning"], out["n_dropped"], out["warnings"]) == (0, 0, 0, [])
    assert "classification_mAP" not in out
    assert "made.json: 3 instances of 2 classes in 2 videos" in report.table()
    assert "jump" in report.table(per_class=True)


def test_a_report_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "metrics.json"
    report = evaluate(FOUND, TRUTH, iou="0.5")
    report.save(path)
    assert json.loads(path.read_text()) == report.to_dict()
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_no_detections_is_a_result():
    report = evaluate(detections(), TRUTH, iou="0.5")
    assert (report.mAP, report.average_mAP) == ([0.0], 0.0)
    assert report.f1[0][:6] == (0, 0, 0, 0, 0, 3)
    assert any("no detections" in w for w in report.warnings)
    assert "no detections" in report.table()


@pytest.mark.parametrize(("end", "ap"), [(1.0, 1.0), (0.7, 0.0)])
def test_release_snippets_are_the_ground_truths_own(end, ap):
    truth = dataclasses.replace(annotations(video("a", ("run", 0.0, 0.9))), snippet_seconds=0.32)
    assert evaluate(detections(("a", "run", 0.0, end, 1.0)), truth, protocol="release", iou=1.0).mAP == [ap]


def test_degenerate_and_overrunning_instances_are_counted():
    truth = annotations(video("a", ("jump", 7, 7), ("jump", 0, 10), ("jump", 95, 101), duration=100.0))
    report = evaluate(FOUND, truth, iou="0.5")
    assert (report.n_degenerate, report.n_overrunning, report.n_instances) == (1, 1, 3)
    assert report.ap == {"jump": [pytest.approx(1 / 3)]}
    assert any("1 instances have end <= start" in w for w in report.warnings)
    assert any("1 instances end after" in w for w in report.warnings)


def test_detections_outside_the_ground_truth():
    found = detections(
        ("z", "jump", 0, 10, 0.99),
        ("a", "jump", 0, 10, 0.9),
        ("a", "swim", 0, 10, 0.8),
        classes=("jump", "run", "swim"),
    )
    report = evaluate(found, annotations(video("a", ("jump", 0, 10))), iou="0.5")
    assert report.ap == {"jump": [0.5]}
    assert (report.f1[0].tp, report.f1[0].fp) == (1, 2)
    text = "\n".join(report.warnings)
    assert "1 detections are in videos that the ground truth does not list" in text
    assert "does not have (swim)" in text
    assert "left out of mAP (run)" in text


def test_class_indices_are_matched_by_name():
    turned = detections(("a", "jump", 0, 10, 0.9), ("a", "run", 20, 30, 0.6), classes=("run", "jump"))
    assert evaluate(turned, TRUTH, iou="0.5").ap == {"jump": [0.5], "run": [1.0]}


def test_a_subset_is_evaluated_alone():
    truth = annotations(video("a", ("jump", 0, 10)), video("b", ("jump", 5, 15), subset="train"))
    both = evaluate(FOUND, truth, iou="0.5")
    assert both.n_instances == 2
    assert any("evaluated together (test, train)" in w for w in both.warnings)
    one = evaluate(FOUND, truth, iou="0.5", subset="Test")
    assert (one.n_instances, one.n_videos, one.ap) == (1, 1, {"jump": [1.0]})
    assert "made.json [Test]" in one.table()
    with pytest.raises(ValueError, match="nosuch"):
        evaluate(FOUND, truth, iou="0.5", subset="nosuch")


AMBIGUOUS = {"b": [(49.0, 60.0)], "unheard-of": [(0.0, 1.0)]}


def test_thumos_ignores_and_release_drops_what_is_ambiguous():
    # the false positive [40, 50) lies on the ambiguous range; snippets of one second
    plain = evaluate(FOUND, TRUTH, protocol="thumos", iou="0.5")
    np.testing.assert_allclose(plain.ap["jump"], [(1 + 2 / 3) / 2])
    spared = evaluate(FOUND, TRUTH, protocol="thumos", iou="0.5", ambiguous=AMBIGUOUS)
    assert spared.ap["jump"] == [1.0]
    assert (spared.f1[0].fp, spared.n_detections) == (0, 4)
    dropped = evaluate(FOUND, TRUTH, protocol="release", iou="0.5", ambiguous=AMBIGUOUS, timing=Rate(1, 1))
    assert dropped.ap["jump"] == [1.0]
    assert (dropped.n_detections, dropped.n_dropped) == (3, 1)
    everywhere = {"a": [(0.0, 100.0)], "b": [(0.0, 100.0)]}
    assert evaluate(FOUND, TRUTH, protocol="thumos", iou="0.5", ambiguous=everywhere).ap["jump"] == [1.0]
    gone = evaluate(FOUND, TRUTH, protocol="release", iou="0.5", ambiguous=everywhere)
    assert (gone.ap["jump"], gone.n_dropped) == ([0.0], 4)


def test_drop_ambiguous_in_seconds_and_in_snippets():
    touching = {"b": [(50.2, 60.0)]}
    assert len(drop_ambiguous(FOUND, touching).score) == 4
    # with snippets of 16 / 25 s, [40, 50) is [62, 78) and the range [78, 94): still apart
    assert len(drop_ambiguous(FOUND, touching, rate=Rate(25, 16)).score) == 4
    # with snippets of 4 s, [40, 50) is [10, 12) and 47 s is snippet 12
    assert len(drop_ambiguous(FOUND, {"b": [(47.0, 60.0)]}, rate=Rate(1, 4)).score) == 4
    kept = drop_ambiguous(FOUND, {"b": [(47.0, 60.0)]})
    assert kept.score.tolist() == [0.9, 0.7, 0.6]
    assert kept.classes == FOUND.classes


def test_load_ambiguous(tmp_path):
    path = tmp_path / "ambiguous.txt"
    path.write_text("v1  0.0 1.4\nv1  95.7 97.2\n\nv2 3 4\n")
    assert load_ambiguous(path) == {"v1": [(0.0, 1.4), (95.7, 97.2)], "v2": [(3.0, 4.0)]}
    for bad in ("v1 1", "v1 a b", "v1 2 1", "v1 1 2 3", "v1 nan 2"):
        path.write_text("v1 0 1\n" + bad)
        with pytest.raises(ValueError, match=r"ambiguous.txt, line 2.*video start end"):
            load_ambiguous(path)


def test_release_rounds_to_whole_snippets():
    # in snippets of one second the instance is [0, 10) and the detection [0, 5): 0.5 exactly; in seconds 0.43
    truth = annotations(video("a", ("jump", 0.4, 10.4)), classes=("jump",))
    found = detections(("a", "jump", -0.4, 4.6, 0.9), classes=("jump",))
    assert evaluate(found, truth, protocol="release", iou="0.5", timing=Rate(1, 1)).ap == {"jump": [1.0]}
    assert evaluate(found, truth, protocol="activitynet", iou="0.5").ap == {"jump": [0.0]}
    # half to even: [0.5, 1.5) is [0, 2)
    half = annotations(video("a", ("jump", 0.5, 1.5)), classes=("jump",))
    two = detections(("a", "jump", 0, 2, 0.9), classes=("jump",))
    assert evaluate(two, half, protocol="release", iou="1", timing=Rate(1, 1)).ap == {"jump": [1.0]}
    # a short instance is empty after rounding
    short = annotations(video("a", ("jump", 0.6, 1.4), ("jump", 0, 5)), classes=("jump",))
    report = evaluate(two, short, protocol="release", iou="0.1", timing=Rate(1, 1))
    assert (report.n_degenerate, report.ap) == (1, {"jump": [0.5]})


def test_classification_map_of_a_report():
    scores = {"a": np.array([0.9, 0.1]), "b": np.array([0.8, 0.7]), "elsewhere": np.zeros(2)}
    report = evaluate(FOUND, TRUTH, iou="0.5", class_scores=scores)
    assert report.classification_mAP == pytest.approx((1 + 0.5) / 2)
    assert "classification mAP % 75.00" in report.table()
    with pytest.raises(ValueError, match=r"class_scores must hold 2 values"):
        evaluate(FOUND, TRUTH, iou="0.5", class_scores={"a": np.zeros(3)})


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"protocol must be one of activitynet, thumos, release, got 'coco'"):
        evaluate(FOUND, TRUTH, protocol="coco", iou="0.5")
    with pytest.raises(ValueError, match="not to activitynet"):
        evaluate(FOUND, TRUTH, iou="0.5", ambiguous=AMBIGUOUS)
    with pytest.raises(ValueError, match=r"made.json has no segments"):
        evaluate(FOUND, annotations(video("a")), iou="0.5")
    with pytest.raises(ValueError, match=r"iou"):
        evaluate(FOUND, TRUTH, iou="half")
    with pytest.raises(ValueError, match="snippets of one length"):
        evaluate(FOUND, TRUTH, protocol="release", iou="0.5", timing=Timing(resized=True))


def test_detections_that_are_not_finite_are_refused():
    spoiled = dataclasses.replace(FOUND, score=np.where(np.arange(4) == 2, np.nan, FOUND.score))
    with pytest.raises(ValueError, match=r"must be finite.*score nan in video 'b' \(1 such\)"):
        evaluate(spoiled, TRUTH, iou="0.5")


@pytest.mark.parametrize(
    "timing", [Timing(fps=25, stride=16, snippet_frames=16), Timing(snippet_seconds=0.64), None]
)
def test_the_release_protocol_takes_timings(timing):
    truth = annotations(video("a", ("jump", 0.0, 6.4)), classes=("jump",))
    found = detections(("a", "jump", 0.0, 3.2, 0.9), classes=("jump",))
    assert evaluate(found, truth, protocol="release", iou="0.5", timing=timing).ap == {"jump": [1.0]}


def test_fractions_of_the_duration(tmp_path):
    rows = [("b", "run", 0.1, 0.2), ("a", "jump", 0.5, 0.5), ("b", "jump", 0.0, 1.0)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": rows}))
    truth = load_fractions(path, {"a": 10.0, "b": 30.0})
    assert truth.source == str(path)
    assert truth.classes == ("jump", "run")
    assert [(s.label, s.start, s.end) for s in truth.videos["b"].segments] == [
        ("run", 3.0, 6.0),
        ("jump", 0.0, 30.0),
    ]
    assert from_fractions(rows, TRUTH).videos["b"].duration == 100.0
    with pytest.raises(ValueError, match="video 'a' has no duration"):
        load_fractions(path, {"b": 30.0})
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"rows.json: expected JSON with rows"):
        load_fractions(path, {})

"""Errors by kind, F1 of sound events and grids: cases made by hand, and plain readings of the definitions."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2net import cli
from d2net.data.annotations import Annotations, Segment, Video
from d2net.data.detections import Detections, save_detections
from d2net.evaluation import analyse_errors, bipartite, evaluate, evaluate_all, event_scores
from d2net.evaluation.bipartite import maximum_matching
from d2net.evaluation.errors import KINDS

CLASSES = ("jump", "run")


def video(name, *segments, duration=100.0):
    labels = tuple(sorted({label for label, _, _ in segments}))
    return Video(name, "test", duration, None, labels, tuple(Segment(*s) for s in segments))


def annotations(*videos, classes=CLASSES):
    return Annotations(classes, {v.name: v for v in videos}, source="made.json")


def detections(*rows, classes=CLASSES):
    """(video, label, start, end, score)"""
    videos = sorted({r[0] for r in rows})
    columns = [
        [videos.index(r[0]) for r in rows],
        [classes.index(r[1]) for r in rows],
        *([r[k] for r in rows] for k in (2, 3, 4)),
    ]
    return Detections.from_arrays(videos, classes, *(np.array(c) for c in columns))


def random_case(seed, most=12, grid=1.0):
    """Annotations and detections of 3 videos, times on a grid of seconds, some classes on one side only."""
    rng = np.random.default_rng(seed)

    def rows(n, classes):
        start = rng.integers(0, 20, n) * grid
        end = start + rng.integers(0, 8, n) * grid
        return [
            (f"v{rng.integers(3)}", str(rng.choice(classes)), float(a), float(b))
            for a, b in zip(start, end, strict=True)
        ]

    truth = [("v0", "jump", 0.0, 3 * grid), *rows(rng.integers(0, most), ["jump", "run", "swim"])]
    found = [("v0", "jump", 0.0, 2 * grid), *rows(rng.integers(0, most), ["jump", "run", "fly", "dig"])]
    own = {name: [(c, a, b) for v, c, a, b in truth if v == name] for name in ("v0", "v1", "v2")}
    videos = [video(name, *s, duration=30 * grid) for name, s in own.items()]
    known = annotations(*videos, classes=("jump", "run", "swim"))
    scores = rng.permutation(len(found)) / len(found)
    every = ("dig", "fly", "jump", "run")
    return known, detections(*((*row, s) for row, s in zip(found, scores, strict=True)), classes=every)


seeds = st.integers(0, 2**32 - 1)

# Against jump [0, 10) and run [20, 30): IoU 1, 0.8, 0.6, 0.25, 0.2 and 0.
TRUTH = annotations(video("a", ("jump", 0, 10), ("run", 20, 30)), video("b", ("jump", 50, 52)))
FOUND = detections(
    ("a", "jump", 0, 10, 0.9),  # true
    ("a", "jump", 0, 8, 0.8),  # double detection
    ("a", "run", 0, 10, 0.7),  # wrong label
    ("a", "jump", 6, 16, 0.6),  # IoU 4 / 16: localization
    ("a", "jump", 20, 22, 0.5),  # IoU 0.2 with run: confusion
    ("a", "run", 60, 70, 0.4),  # background
    ("a", "jump", 9.5, 19.5, 0.3),  # IoU 0.5 / 19.5 < 0.1: background
    ("c", "run", 0, 10, 0.2),  # a video that is not listed: background
)


def test_kinds_by_hand():
    report = analyse_errors(FOUND, TRUTH, iou="0.5")
    out = report.to_dict()
    assert out["true_positives"] == [1]
    assert {k: v[0] for k, v in out["false_positives"].items()} == {
        "double detection": 1, "wrong label": 1, "localization": 1, "confusion": 1, "background": 3,
    }  # fmt: skip
    jump, run = out["classes"]["jump"], out["classes"]["run"]
    assert (jump["instances"], jump["missed"], run["missed"]) == (2, [1], [1])
    assert {k: v[0] for k, v in jump["false_positives"].items()} == {
        "double detection": 1, "wrong label": 0, "localization": 1, "confusion": 1, "background": 1,
    }  # fmt: skip
    # A lower threshold makes the localization error a double detection, a higher one the double a localization error.
    assert analyse_errors(FOUND, TRUTH, iou="0.25").false_positives.tolist() == [[2, 1, 0, 1, 3]]
    assert analyse_errors(FOUND, TRUTH, iou="0.9").false_positives.tolist() == [[0, 1, 2, 1, 3]]
    assert "background" in report.table() and "jump" in report.table(per_class=True)
    json.dumps(out, allow_nan=False)


def test_gain_by_hand():
    truth = annotations(video("a", ("jump", 0, 10), ("jump", 20, 30)))
    found = detections(("a", "jump", 60, 70, 0.9), ("a", "jump", 0, 10, 0.8), ("a", "jump", 25, 40, 0.7),
                       ("a", "jump", 20, 30, 0.6))  # fmt: skip
    report = analyse_errors(found, truth, iou="0.5")
    # Precision at the two hits is 1/2 and 2/4; without the background 1 and 2/3; without the localization 1/2, 2/3.
    assert report.mAP.tolist() == [0.5]
    gain = dict(zip(KINDS, report.gain[0], strict=True))
    assert gain["background"] == pytest.approx((1 + 2 / 3) / 2 - 0.5)
    assert gain["localization"] == pytest.approx(2 / 3 - 0.5)
    assert gain["confusion"] == gain["wrong label"] == gain["double detection"] == 0


def test_missed_instances_by_hand():
    truth = annotations(
        video("a", ("jump", 0, 20), ("jump", 20, 60), ("run", 0, 61), duration=100.0),
        video("b", ("run", 0, 200), duration=200.0),
        video("c", ("run", 0, 10), duration=None),
    )
    missed = analyse_errors(detections(("a", "jump", 20, 60, 1.0)), truth, iou="0.5").missed
    cells = {k: {b.name: (b.instances, b.missed) for b in v} for k, v in missed.items()}
    assert cells["coverage"] == {
        "XS": (1, [1]), "S": (1, [0]), "M": (0, [0]), "L": (1, [1]), "XL": (1, [1]), "unknown": (1, [1]),
    }  # fmt: skip
    assert cells["length"] == {"XS": (2, [2]), "S": (1, [0]), "M": (1, [1]), "L": (0, [0]), "XL": (1, [1])}
    assert cells["instances"] == {"XS": (3, [3]), "S": (2, [1]), "M": (0, [0]), "L": (0, [0])}
    with pytest.raises(ValueError, match="buckets must be one of activitynet, thumos14, got 'long'"):
        analyse_errors(FOUND, TRUTH, buckets="long")


def _iou(a, b):
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return shared / ((a[1] - a[0]) + (b[1] - b[0]) - shared) if shared > 0 else 0.0


def _plain_kinds(found, truth, t, strict):
    """What each detection that is not a true positive may be called, read off the definitions."""
    names = []
    for i in range(len(found)):
        own = (found.start[i], found.end[i])
        video = truth.videos.get(found.videos[found.video[i]])
        overlaps = [(_iou(own, (s.start, s.end)), s.label) for s in (video.segments if video else ())]
        best = max((o[0] for o in overlaps), default=0.0)
        same = any(label == found.classes[found.label[i]] for iou, label in overlaps if iou == best)
        if best > t or (best == t and not strict):
            names.append("double detection" if same else "wrong label")
        elif best >= 0.1:
            names.append("localization" if same else "confusion")
        else:
            names.append("background")
    return np.array(names)


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from(["activitynet", "thumos"]), st.sampled_from([0.05, 0.25, 0.5, 0.75]))
def test_kinds_and_gains_are_the_definitions(seed, protocol, t):
    truth, found = random_case(seed)
    report = analyse_errors(found, truth, protocol=protocol, iou=[t])
    plain = evaluate(found, truth, protocol=protocol, iou=[t], proposals=None)
    assert report.mAP.tolist() == plain.mAP and report.true_positives[0] == plain.f1[0].tp
    names = _plain_kinds(found, truth, t, protocol == "thumos")
    hits = report.true_positives[0]
    assert report.false_positives.sum() + hits == len(found)
    # A true positive overlaps its own class by t or more, so that it can only be missing among these two names.
    for k, kind in enumerate(KINDS):
        count = int((names == kind).sum())
        assert report.false_positives[0, k] == count or kind in ("double detection", "wrong label")
    of_hits = int(np.isin(names, ["double detection", "wrong label"]).sum()) - hits
    assert report.false_positives[0, :2].sum() == of_hits
    lost = sum(b.missed[0] for b in report.missed["length"])
    assert lost == plain.f1[0].fn == report.class_missed.sum()
    for kind in ("localization", "confusion", "background"):
        left = found[names != kind]
        if not {found.classes[c] for c in left.label} & set(truth.classes):
            continue  # detections of unknown classes alone are refused
        rest = evaluate(left, truth, protocol=protocol, iou=[t], proposals=None)
        assert report.gain[0, KINDS.index(kind)] == pytest.approx(rest.mAP[0] - plain.mAP[0])


def test_the_best_of_each_class_by_rank():
    truth = annotations(video("a", ("jump", 0, 10), ("jump", 20, 30), ("run", 0, 10)))
    rows = [("a", "jump", 50 + i, 51 + i, 1 - i / 100) for i in range(25)]
    profile = analyse_errors(detections(*rows, ("a", "run", 0, 10, 0.5)), truth, iou="0.5").profile[0]
    assert profile[:, 4].tolist() == [2] * 10 and profile[:, 5].tolist() == [1] + [0] * 9
    assert profile[:, :4].sum() == 0


def test_more_unknown_classes_than_known_ones():
    many = ("a", *(f"unknown{i}" for i in range(5)))
    found = detections(*(("v", c, 0, 10, 0.9 - i / 10) for i, c in enumerate(many)), classes=many)
    report = analyse_errors(found, annotations(video("v", ("a", 0, 10)), classes=("a",)), iou=0.5)
    assert report.true_positives.tolist() == [1] and report.false_positives.tolist() == [[0, 5, 0, 0, 0]]
    assert report.profile[0].sum() == 1  # ranks are of classes that have instances


def test_ambiguous_detections_are_no_errors():
    report = analyse_errors(FOUND, TRUTH, iou="0.5", protocol="thumos", ambiguous={"a": [(60.0, 80.0)]})
    assert report.false_positives[0, 4] == 2


def test_a_grid_of_protocols_and_ground_truths():
    other = annotations(video("a", ("jump", 0, 9)), video("b"))
    grid = evaluate_all(FOUND, [TRUTH, other], iou="0.5", ambiguous={"a": [(60.0, 80.0)]})
    cells = [(r.n_instances, r.protocol) for r in grid.reports]
    assert cells == list(itertools.product([3, 1], ["activitynet", "thumos", "release"]))
    alone = evaluate(FOUND, other, protocol="thumos", iou="0.5", ambiguous={"a": [(60.0, 80.0)]})
    assert grid.reports[4].to_dict() == alone.to_dict()
    assert len(grid.to_dict()["grid"]) == 6 and grid.table().count("thumos") == 2


def _plain_matching(pairs, used_i=frozenset(), j=0, m=0):
    if j == m:
        return 0
    rest = _plain_matching(pairs, used_i, j + 1, m)
    options = [i for i, k in pairs if k == j and i not in used_i]
    return max([rest, *(1 + _plain_matching(pairs, used_i | {i}, j + 1, m) for i in options)])


@settings(max_examples=200, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=18), st.sampled_from([0, 64, 10**9]))
def test_a_matching_is_the_largest(pairs, few):
    i, j = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bipartite, "FEW", few)
        of_j = maximum_matching(i, j, 6, 6)
    matched = {(int(a), b) for b, a in enumerate(of_j) if a >= 0}
    assert matched <= pairs and len({a for a, _ in matched}) == len(matched)
    assert len(matched) == _plain_matching(sorted(pairs), m=6)


def test_a_long_chain_of_pairs_is_matched_whole():
    n = 3000
    i, j = np.concatenate([[np.arange(n), np.arange(n)], [np.arange(n - 1), np.arange(1, n)]], 1)
    order = np.random.default_rng(0).permutation(len(i))
    assert (maximum_matching(i[order], j[order], n, n) >= 0).all()


@pytest.mark.parametrize("n, m", [(1500, 1500), (50, 5000)])
def test_a_crowd_is_matched_without_a_wait(n, m):
    i, j = np.divmod(np.arange(n * m), m)
    began = time.process_time()
    assert (maximum_matching(i, j, n, m) >= 0).sum() == min(n, m)
    assert time.process_time() - began < 60  # a second; a round of sorting for each pair takes many minutes


def _cells(rows, resolution):
    return {
        (v, c, k) for v, c, a, b in rows for k in range(math.floor(a / resolution), math.ceil(b / resolution))
    }


def _rows(truth, found):
    of_truth = [(v.name, s.label, s.start, s.end) for v in truth.videos.values() for s in v.segments]
    of_found = [
        (found.videos[v], found.classes[c], a, b)
        for v, c, a, b in zip(found.video, found.label, found.start, found.end, strict=True)
    ]
    return of_truth, of_found


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([0.5, 1.0, 3.0]), st.booleans())
def test_event_scores_are_the_definitions(seed, resolution, onset_only):
    truth, found = random_case(seed, most=9, grid=0.5)
    report = event_scores(found, truth, resolution=resolution, collar=1.0, onset_only=onset_only)
    rows, seen = _rows(truth, found)
    a, b = _cells(rows, resolution), _cells(seen, resolution)
    assert report.segment_based.micro[3:] == (len(a & b), len(b - a), len(a - b))
    of_class = []
    for name in sorted({r[1] for r in rows}):
        x, y = ({k for k in side if k[1] == name} for side in (a, b))
        if any(s for s in rows if s[1] == name):
            of_class.append(2 * len(x & y) / max(len(x) + len(y), 1))
    assert report.segment_based.macro == pytest.approx(np.mean(of_class))

    def near(r, s):
        off = abs(r[3] - s[3]) <= max(1.0, 0.5 * (r[3] - r[2]))
        return r[:2] == s[:2] and abs(r[2] - s[2]) <= 1.0 and (onset_only or off)

    pairs = [(i, j) for j, r in enumerate(rows) for i, s in enumerate(seen) if near(r, s)]
    tp = _plain_matching(pairs, m=len(rows))
    assert report.event_based.micro[3:] == (tp, len(seen) - tp, len(rows) - tp)


@pytest.mark.parametrize("seed", range(12))
def test_event_scores_are_sed_evals(seed):
    sound_event = pytest.importorskip("sed_eval").sound_event
    truth, found = random_case(seed, most=12, grid=0.3)
    labels = sorted({*truth.classes, *found.classes})
    given = {"event_label_list": labels, "empty_system_output_handling": "zero_score"}
    by_event = sound_event.EventBasedMetrics(**given, t_collar=0.25, percentage_of_length=0.2)
    del given["empty_system_output_handling"]
    by_segment = sound_event.SegmentBasedMetrics(**given, time_resolution=0.7)
    rows, seen = _rows(truth, found)
    for name in sorted({*truth.videos, *found.videos}):
        own = [
            [
                {"filename": name, "event_label": c, "event_onset": a, "event_offset": b}
                for v, c, a, b in side
                if v == name
            ]
            for side in (rows, seen)
        ]
        for metric in (by_event, by_segment):
            if any(own):
                metric.evaluate(*own)
    report = event_scores(found, truth, resolution=0.7, collar=0.25, length_share=0.2)
    for ours, theirs in ((report.event_based, by_event), (report.segment_based, by_segment)):
        whole = theirs.results_overall_metrics()["f_measure"]
        assert ours.micro.precision == pytest.approx(whole["precision"])
        assert ours.micro.recall == pytest.approx(whole["recall"])
        for name, own in ours.classes.items():
            counts = theirs.class_wise_count(name)
            assert counts["Nref"] == own.tp + own.fn and counts["Nsys"] == own.tp + own.fp
            if own.tp + own.fp:
                assert own.f1 == pytest.approx(theirs.class_wise_f_measure(name)["f_measure"])
    macro = by_event.results_class_wise_average_metrics()["f_measure"]["f_measure"]
    assert report.event_based.macro == pytest.approx(macro)


def test_event_scores_leave_out_low_scores_and_say_what_is_wrong():
    assert event_scores(FOUND, TRUTH, min_score=0.75).event_based.micro[3:] == (1, 1, 2)
    with pytest.raises(ValueError, match="resolution must be a number from 1e-06 to 1e9, got 0"):
        event_scores(FOUND, TRUTH, resolution=0)
    for low in (math.nan, math.inf):
        with pytest.raises(ValueError, match="min_score must be finite"):
            event_scores(FOUND, TRUTH, min_score=low)


def test_long_detections_in_short_segments_are_counted():
    found = detections(("a", "run", 0.0, 1e15, 0.5))
    scores = event_scores(found, annotations(video("a", ("run", 0, 1))), resolution=1e-5).segment_based.micro
    assert scores.tp == 100_000 and scores.fp == pytest.approx(1e20) and scores.fn == 0 and 0 < scores.f1 < 1e-14


@pytest.mark.parametrize(
    "options, says",
    [
        ("--all-protocols --protocol thumos", "--protocol thumos and --all-protocols exclude each other"),
        ("--min-score 0.5", "--min-score and --onset-only are of --events"),
        ("--onset-only", "--min-score and --onset-only are of --events"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, capsys, monkeypatch, options, says):
    command = "d2net evaluate --predictions p.json --ground-truth a.json"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", f"{command} {options}".split())
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code and says in capsys.readouterr().err


def test_a_grid_of_nothing():
    for truths, protocols in (([], ["thumos"]), ([TRUTH], [])):
        with pytest.raises(ValueError, match="at least one ground truth and one protocol"):
            evaluate_all(FOUND, truths, protocols=protocols)


@pytest.mark.parametrize("where", ["last", "middle", "file"])
def test_errors_with_and_without_a_file(tmp_path, capsys, monkeypatch, where):
    database = {
        v.name: {
            "subset": "test", "duration": v.duration,
            "annotations": [{"label": s.label, "segment": [s.start, s.end]} for s in v.segments],
        }
        for v in TRUTH.videos.values()
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    save_detections(tmp_path / "p.json", FOUND)
    errors = {"last": ["--errors"], "middle": ["--errors", "--events"], "file": ["--errors", str(tmp_path / "e.json")]}
    command = ["d2net", "evaluate", "--predictions", tmp_path / "p.json", "--ground-truth", tmp_path / "a.json"]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--out", str(tmp_path / "m.json"), *errors[where]])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "double detection" in out and ("segment-based" in out) == (where == "middle")
    saved = json.loads((tmp_path / "m.json").read_text())
    assert saved["errors"] == analyse_errors(FOUND, TRUTH).to_dict() | {"ground_truth": str(tmp_path / "a.json")}
    assert (tmp_path / "e.json").exists() == (where == "file")
    if where == "file":
        assert json.loads((tmp_path / "e.json").read_text()) == saved["errors"]

"""Matching and average precision of the three protocols, on arrays."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2net.evaluation import (
    PROTOCOLS,
    Spans,
    average_precision,
    average_recall,
    classification_ap,
    classification_map,
    f1_score,
    parse_iou,
    score,
)
from d2net.evaluation.matching import by_falling_score, match, overlaps

ACTIVITYNET, THUMOS, RELEASE = (PROTOCOLS[name] for name in ("activitynet", "thumos", "release"))


def found(*rows):
    """(start, end, score[, video[, label]])"""
    table = np.array([(*r, *(0, 0)[len(r) - 3 :]) for r in rows], np.float64).reshape(-1, 5)
    return Spans(table[:, 4], table[:, 3], table[:, 0], table[:, 1], table[:, 2])


def truths(*rows):
    """(start, end[, video[, label]])"""
    table = np.array([(*r, *(0, 0)[len(r) - 2 :]) for r in rows], np.float64).reshape(-1, 4)
    return Spans(table[:, 3], table[:, 2], table[:, 0], table[:, 1])


def ap_of(detections, truth, t, protocol, **keywords):
    return float(score(detections, truth, classes=1, iou=[t], protocol=protocol, **keywords).ap[0, 0])


# IoU of the first detection with the two instances: 6/14 = 0.43 and 1; of the second: 8/10 and 4/14 = 0.29
TWO = truths((0, 10), (4, 14))
BEST_OR_FIRST = found((4, 14, 0.9), (0, 8, 0.8))


@pytest.mark.parametrize(("protocol", "expected"), [(ACTIVITYNET, 1.0), (RELEASE, 0.5), (THUMOS, 1.0)])
def test_best_partner_or_first_in_file_order(protocol, expected):
    assert ap_of(BEST_OR_FIRST, TWO, 0.4, protocol) == expected


@pytest.mark.parametrize(("protocol", "expected"), [(ACTIVITYNET, 1.0), (RELEASE, 1.0), (THUMOS, 0.5)])
def test_the_thumos_ground_truth_chooses_the_better_placed_detection(protocol, expected):
    detections = found((0, 6, 0.9), (0, 10, 0.8))
    assert ap_of(detections, truths((0, 10)), 0.5, protocol) == expected


@pytest.mark.parametrize(("protocol", "expected"), [(ACTIVITYNET, 1.0), (RELEASE, 1.0), (THUMOS, 0.0)])
def test_an_overlap_of_exactly_the_threshold(protocol, expected):
    assert ap_of(found((0, 5, 0.9)), truths((0, 10)), 0.5, protocol) == expected


def test_activitynet_rounds_the_overlap_as_its_own_code():
    detections, truth = found((0, 1.6, 0.9)), truths((0, 3.2))
    assert ap_of(detections, truth, 0.5, ACTIVITYNET) == 0.0
    assert ap_of(detections, truth, 0.5, RELEASE) == 1.0


def test_only_thumos_leaves_precision_as_it_is():
    detections, truth = found((50, 60, 0.9), (0, 10, 0.8), (20, 30, 0.7)), truths((0, 10), (20, 30))
    assert ap_of(detections, truth, 0.5, THUMOS) == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-15)
    for protocol in (ACTIVITYNET, RELEASE):
        assert ap_of(detections, truth, 0.5, protocol) == pytest.approx(2 / 3, abs=1e-15)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
def test_a_second_detection_of_a_found_instance_is_a_false_positive(protocol):
    detections = found((0, 10, 0.9), (0, 10, 0.8), (20, 30, 0.7))
    result = score(detections, truths((0, 10), (20, 30)), classes=1, iou=[0.5], protocol=protocol)
    assert result.partner.tolist() == [[0, -1, 1]]
    assert (result.tp[0], result.fp[0], result.fn[0]) == (2, 1, 0)
    assert result.ap[0, 0] == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)


@pytest.mark.parametrize("protocol", [ACTIVITYNET, RELEASE], ids=lambda p: p.name)
def test_equal_scores_keep_input_order(protocol):
    wrong, right = (50, 60, 0.9), (0, 10, 0.9)
    assert ap_of(found(wrong, right), truths((0, 10)), 0.5, protocol) == 0.5
    assert ap_of(found(right, wrong), truths((0, 10)), 0.5, protocol) == 1.0


def test_equal_scores_go_by_video_in_thumos():
    wrong, right = (0, 10, 0.9, 1), (0, 10, 0.9, 0)
    assert ap_of(found(wrong, right), truths((0, 10, 0)), 0.5, THUMOS) == 1.0
    assert ap_of(found(wrong, right), truths((0, 10, 0)), 0.5, ACTIVITYNET) == 0.5


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
def test_videos_and_classes_do_not_mix(protocol):
    truth = truths((0, 10, 0, 0), (0, 10, 1, 1))
    detections = found((0, 10, 0.9, 1, 0), (0, 10, 0.8, 0, 0), (0, 10, 0.7, 7, 1), (0, 10, 0.6, 1, 1))
    result = score(detections, truth, classes=2, iou=[0.5], protocol=protocol)
    assert result.partner.tolist() == [[-1, 0, -1, 1]]
    assert result.ap.tolist() == [[0.5, 0.5]]


def test_an_unknown_class_is_no_ap_but_a_false_positive():
    result = score(
        found((0, 10, 0.9, 0, -1), (0, 10, 0.8)), truths((0, 10)), classes=2, iou=[0.5], protocol=ACTIVITYNET
    )
    assert result.ap[0, 0] == 1.0
    assert np.isnan(result.ap[0, 1])
    assert (result.tp[0], result.fp[0]) == (1, 1)


def test_ignored_detections_count_only_when_they_match():
    detections = found((50, 60, 0.9), (0, 10, 0.8))
    everything = np.array([True, True])
    result = score(detections, truths((0, 10)), classes=1, iou=[0.5], protocol=THUMOS, ignore=everything)
    assert (result.ap[0, 0], result.tp[0], result.fp[0]) == (1.0, 1, 0)
    assert ap_of(detections, truths((0, 10)), 0.5, THUMOS) == 0.5


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("empty", [(5, 5), (7, 3)])
def test_an_empty_instance_is_an_unmatched_positive(protocol, empty):
    result = score(
        found((5, 5, 0.9), (0, 10, 0.8)), truths(empty, (0, 10)), classes=1, iou=[0.1], protocol=protocol
    )
    assert result.partner.tolist() == [[-1, 1]]
    assert result.fn[0] == 1
    assert result.ap[0, 0] == 0.25


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
def test_nothing_to_match(protocol):
    none = score(found(), truths((0, 10)), classes=1, iou=[0.1, 0.5], protocol=protocol)
    assert none.ap.tolist() == [[0.0], [0.0]]
    assert none.fn.tolist() == [1, 1]
    assert none.partner.shape == (2, 0)
    untrue = score(found((0, 10, 0.5)), truths(), classes=1, iou=[0.5], protocol=protocol)
    assert np.isnan(untrue.ap).all()
    assert untrue.fp.tolist() == [1]


def test_average_precision_by_hand():
    hits = np.array([True, False, False, True])
    assert average_precision(hits, 3) == average_precision(hits, 3, interpolate=False) == (1 + 0.5) / 3
    ignored = np.array([False, True, True, False])
    assert average_precision(hits, 3, ignored=ignored) == 2 / 3
    assert average_precision(np.zeros(0, bool), 3) == 0


def test_overlaps_in_small_chunks_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = (
        Spans(rng.integers(0, 2, n), rng.integers(0, 3, n), s := rng.random(n), s + 0.3) for n in (40, 30)
    )
    whole = overlaps(a, b)
    monkeypatch.setattr("d2net.evaluation.matching.PAIRS_AT_ONCE", 3)
    for x, y in zip(overlaps(a, b), whole, strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(whole.i) > 50


def intersection_over_union(a, b):
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return shared / (max(a[1], b[1]) - min(a[0], b[0])) if shared > 0 else 0.0


def matched_one_by_one(detections, truth, t, protocol):
    """detections and truth: lists of (group, start, end), detections by falling score."""
    reaches = (lambda x: x > t) if protocol.strict else (lambda x: x >= t)
    choosers, chosen = (detections, truth) if protocol.chooser == "detection" else (truth, detections)
    taken, pairs = set(), {}
    for i, (group, *own) in enumerate(choosers):
        options = {
            j: intersection_over_union(own, other)
            for j, (g, *other) in enumerate(chosen)
            if g == group and j not in taken
        }
        options = {j: x for j, x in options.items() if x > 0 and reaches(x)}
        if options:
            j = min(options) if protocol.prefer == "first" else max(options, key=lambda j: (options[j], -j))
            taken.add(j)
            pairs[i] = j
    if protocol.chooser == "truth":
        pairs = {j: i for i, j in pairs.items()}
    return [pairs.get(i, -1) for i in range(len(detections))]


def curve_area(hits, positives, interpolate):
    points, tp = [], 0
    for n, hit in enumerate(hits, 1):
        tp += hit
        points.append((tp / positives, tp / n))
    area, last = 0.0, 0.0
    for k, (recall, precision) in enumerate(points):
        if interpolate:
            precision = max(p for _, p in points[k:])
        area += (recall - last) * precision
        last = recall
    return area


segment = st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 12), st.integers(-1, 6))
some_detections = st.lists(st.tuples(segment, st.integers(0, 5)), max_size=14)
some_truths = st.lists(segment, max_size=10)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
@given(detections=some_detections, truth=some_truths, t=st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.75, 1.0]))
@settings(max_examples=150, deadline=None)
def test_against_one_by_one(protocol, detections, truth, t):
    d = found(*((s, s + n, sc, v, c) for (c, v, s, n), sc in detections))
    g = truths(*((s, s + n, v, c) for c, v, s, n in truth))
    result = score(d, g, classes=2, iou=[t], protocol=protocol)
    hits = 0
    for c in range(2):
        own = [i for i in range(len(d)) if d.label[i] == c]
        own.sort(key=lambda i: (-d.score[i], d.video[i] if protocol.ties == "video" else 0))
        real = [j for j in range(len(g)) if g.label[j] == c]
        expected = matched_one_by_one(
            [(d.video[i], d.start[i], d.end[i]) for i in own],
            [(g.video[j], g.start[j], g.end[j]) for j in real],
            t,
            protocol,
        )
        assert [result.partner[0, i] for i in own] == [real[j] if j >= 0 else -1 for j in expected]
        hits += sum(j >= 0 for j in expected)
        if real:
            area = curve_area([j >= 0 for j in expected], len(real), protocol.interpolate)
            assert result.ap[0, c] == pytest.approx(area, abs=1e-12)
        else:
            assert np.isnan(result.ap[0, c])
    assert (result.tp[0], result.fp[0], result.fn[0]) == (hits, len(d) - hits, len(g) - hits)


@given(detections=some_detections, truth=some_truths)
@settings(max_examples=100, deadline=None)
def test_a_lower_threshold_never_finds_less(detections, truth):
    d = found(*((s, s + n, sc, v, c) for (c, v, s, n), sc in detections))
    g = truths(*((s, s + n, v, c) for c, v, s, n in truth))
    d = d[by_falling_score(d)]
    cumulated = np.cumsum(match(d, g, [0.2, 0.4, 0.6, 0.8], ACTIVITYNET) >= 0, 1)
    assert (np.diff(cumulated, axis=0) <= 0).all()


def test_forty_thousand_detections_take_about_a_second():
    rng = np.random.default_rng(1)
    n, m = 40_000, 4_000
    begin, length = rng.random((2, n + m)) * [[200], [10]]
    label, video = rng.integers(0, 20, n + m), rng.integers(0, 210, n + m)
    every = Spans(label, video, begin, begin + length, rng.random(n + m))
    truth = Spans(label[n:], video[n:], begin[n:], (begin + length)[n:])
    for protocol in PROTOCOLS.values():
        started = time.perf_counter()
        result = score(every[:n], truth, classes=20, iou=parse_iou("0.1:0.9:0.1"), protocol=protocol)
        assert time.perf_counter() - started < 2
        assert np.isfinite(result.ap).all()
        assert result.tp[0] > 1000


def test_spans_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"start must have label's shape \(2,\), got \(1,\)"):
        Spans(np.zeros(2), np.zeros(2), np.zeros(1), np.zeros(2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", [0.5]),
        ("0.3, 0.5,0.7", [0.3, 0.5, 0.7]),
        ("0.1:0.7:0.1", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ("0.5:0.95:0.05", [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]),
        ("0.1:0.3:0.1,0.75", [0.1, 0.2, 0.3, 0.75]),
        ("0.2:0.5:0.2", [0.2, 0.4]),
        (0.5, [0.5]),
        ([0.3, 1], [0.3, 1.0]),
    ],
)
def test_parse_iou(text, expected):
    assert parse_iou(text) == expected


@pytest.mark.parametrize("text", ["", "high", "0", "1.5", "nan", "0.5,0.5", [], [0.5, 2.0]])
def test_parse_iou_refuses(text):
    with pytest.raises(ValueError, match="iou"):
        parse_iou(text)


@pytest.mark.parametrize("text", ["0.1:0.5", "0.1:0.5:0", "0.1:0.5:-0.1", "0.5:0.1:0.1", "0.1:inf:0.1"])
def test_parse_iou_refuses_ranges(text):
    with pytest.raises(ValueError, match="iou"):
        parse_iou(text)


def test_f1_by_hand():
    assert f1_score(6, 2, 4) == (12 / 18, 6 / 8, 6 / 10, 6, 2, 4)
    assert f1_score(0, 0, 0)[:3] == (0, 0, 0)


def test_classification_by_hand():
    p = np.array([[0.9, 0.2, 0.5], [0.8, 0.9, 0.5], [0.7, 0.1, 0.5], [0.1, 0.3, 0.5]])
    labels = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]])
    ap = classification_ap(p, labels)
    np.testing.assert_allclose(ap[:2], [(1 + 2 / 3) / 2, (1 / 3 + 2 / 4) / 2], rtol=1e-15)
    assert np.isnan(ap[2])
    assert classification_map(p, labels) == pytest.approx(ap[:2].mean(), rel=1e-15)
    assert classification_map(p, labels * 0) == 0
    assert classification_map(np.zeros((0, 3)), np.zeros((0, 3))) == 0


def test_classification_refuses():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        classification_ap(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="nan for video 1, class 2"):
        classification_ap(np.array([[0, 0, 0], [0, 0, np.nan]]), np.ones((2, 3)))


def test_average_recall_by_hand():
    truth = truths((0, 10), (20, 30), (0, 10, 1), (5, 5, 1))
    # the second detection, of another class, covers the first instance at IoU 0.6 only
    detections = found((20, 30, 0.9), (0, 6, 0.8, 0, 3), (50, 60, 0.7), (0, 10, 0.6), (0, 10, 0.5, 1))
    recall = average_recall(detections, truth, most=5, iou=[0.5, 0.75])
    np.testing.assert_allclose(recall, [2 / 4, (3 + 2) / 8, (3 + 2) / 8, 3 / 4, 3 / 4], rtol=1e-15)
    assert average_recall(found(), truth, most=2).tolist() == [0, 0]
    assert average_recall(detections, truths(), most=2).tolist() == [0, 0]


@given(detections=some_detections, truth=some_truths)
@settings(max_examples=60, deadline=None)
def test_average_recall_against_loops(detections, truth):
    d = found(*((s, s + n, sc, v, c) for (c, v, s, n), sc in detections))
    g = truths(*((s, s + n, v, c) for c, v, s, n in truth))
    recall = average_recall(d, g, most=6)
    for n in range(1, 7):
        covered = 0
        for v in range(2):
            best = sorted((i for i in range(len(d)) if d.video[i] == v), key=lambda i: -d.score[i])[:n]
            for j in (j for j in range(len(g)) if g.video[j] == v):
                overlap = [
                    intersection_over_union((d.start[i], d.end[i]), (g.start[j], g.end[j])) for i in best
                ]
                covered += sum(max(overlap, default=0) >= t for t in np.arange(50, 100, 5) / 100)
        assert recall[n - 1] == pytest.approx(covered / max(10 * len(g), 1), abs=1e-12)

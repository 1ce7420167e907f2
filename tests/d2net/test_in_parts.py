"""What is read and scored in parts is what it is in one piece."""

from __future__ import annotations

import json

import numpy as np
import pytest

from d2net.data import json_items as reader
from d2net.data.detections import load_detections
from d2net.data.files import DataError
from d2net.evaluation import proposals
from d2net.evaluation.in_parts import by_videos, runs, score_classes
from d2net.evaluation.matching import Spans, score
from d2net.evaluation.prepared import PROTOCOLS

TREE = {
    "version": "é [1]",
    "results": {
        'a "b" \\': [
            {"label": "x, {y", "score": -1.5e-7, "segment": [0, 12.25]},
            {"label": 7, "score": 1, "segment": [1, 2]},
        ],
        "ünï": [],
        "none": None,
        "v": [{"label": "x, {y", "score": 0.1, "segment": ["1.5", 2], "more": {"a": [1, {"b": None}]}}],
    },
    "external_data": {"used": True, "results": [1, 2]},
}  # fmt: skip


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_is_read_the_same_in_any_blocks(tmp_path, monkeypatch, block, indent):
    monkeypatch.setattr(reader, "_BLOCK", block)
    path = tmp_path / "d.json"
    path.write_text(
        json.dumps(TREE, indent=indent, ensure_ascii=block == 7), encoding="utf-8-sig" if indent else "utf-8"
    )
    items = dict(reader.json_items(path, "results", dict))
    assert items == TREE["results"] and list(items) == list(TREE["results"])
    found = load_detections(path)
    assert found.videos == list(TREE["results"]) and found.classes == ("x, {y", "7")
    assert found.video.tolist() == [0, 0, 3] and found.label.tolist() == [0, 1, 0]
    assert found.start.tolist() == [0, 1, 1.5] and found.score.tolist() == [-1.5e-7, 1, 0.1]


ROW = '{"label": "x", "score": 1, "segment": [0, 1]}'


@pytest.mark.parametrize("block", [3, 1 << 22])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"results": {"v": [ROW]}', "truncated or not JSON: expected , or } at character"),
        ('{"results": {"v": [ROW', "truncated or not JSON"),
        ('{"results": {"v": [{"label": "x', "truncated or not JSON: Unterminated string"),
        ('{"results": {"v": [ROW]}} 3', "extra data at character 68"),
        ('{"results": {"v": [], "v": []}}', "key 'v' occurs twice"),
        ('{"results": {}, "results": {}}', "key 'results' occurs twice"),
        ('{"results": {"v": [ROW, {"label": "x", "label": "y", "score": 1, "segment": [0, 1]}]}}', "'v', row 1"),
        ('{"results": {"v": [[["label", "x"], ["score", 1], ["segment", [0, 1]]]]}}', "'v', row 0"),
        ('{"results": {"v": {"label": "x"}}}', "video 'v': expected a list of detections, got {'label': 'x'}"),
        ('{"results": [1]}', "expected an object with `results`"),
        ("[1, 2]", "expected an object with `results`"),
        ("", "truncated or not JSON"),
        ('{"results": {v: []}}', "expected a key at character 13"),
        ('{"results": {"v": [ROW, nul]}}', "truncated or not JSON: Expecting value at character"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path, monkeypatch, block, text, says):
    monkeypatch.setattr(reader, "_BLOCK", block)
    (tmp_path / "d.json").write_text(text.replace("ROW", ROW))
    with pytest.raises(DataError, match=says):
        load_detections(tmp_path / "d.json", layout="activitynet")


def test_damage_is_found_before_the_rest_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_BLOCK", 100)
    (tmp_path / "d.json").write_text('{"results": {"v": [1 2], ' + ('"w": [],' * 10000) + "}}")
    read = []
    more = reader._Text.more
    monkeypatch.setattr(reader._Text, "more", lambda self: read.append(1) or more(self))
    with pytest.raises(DataError, match="not JSON"):
        list(reader.json_items(tmp_path / "d.json", "results", dict))
    assert len(read) < 4


def spans(n, rng, scores=True, labels=(0, 5)):
    start = rng.uniform(0, 50, n).round(1)
    score = rng.integers(9, size=n) / 9 if scores else None
    return Spans(
        rng.integers(*labels, n), rng.integers(12, size=n), start, start + rng.uniform(0, 20, n).round(1), score
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("at_once", [1, 60, 150])
def test_classes_at_a_time_give_the_same_scores(protocol, at_once):
    rng = np.random.default_rng(3)
    found, truth = spans(400, rng, labels=(-2, 7)), spans(90, rng, scores=False)  # 5 and 6 are no classes of the truth
    ignore = rng.random(400) < 0.2
    for flags in (None, ignore):
        settings = {"classes": 5, "iou": [0.1, 0.5], "protocol": PROTOCOLS[protocol], "ignore": flags}
        whole, parts = score(found, truth, **settings), score_classes(found, truth, **settings, at_once=at_once)
        for name in parts._fields:
            assert np.array_equal(getattr(parts, name), getattr(whole, name), equal_nan=True), name


def test_videos_at_a_time_give_the_same_recall(monkeypatch):
    rng = np.random.default_rng(4)
    found, truth = spans(400, rng), spans(90, rng, scores=False)
    found = found[found.video != 5]
    whole = proposals.average_recall(found, truth, most=30)
    parts = list(by_videos(found, truth, at_once=70))
    assert len(parts) > 4 and sum(len(t) for _, t in parts) == 90 and sum(len(d) for d, _ in parts) == len(found)
    monkeypatch.setattr(proposals, "by_videos", lambda d, t: by_videos(d, t, at_once=70))
    assert np.array_equal(proposals.average_recall(found, truth, most=30), whole) and whole[-1] > 0.1


def test_runs_are_whole_groups():
    assert list(runs(np.array([3, 9, 1, 1, 0, 5]), 5)) == [(0, 1), (1, 2), (2, 5), (5, 6)]
    assert list(runs(np.array([0, 0]), 5)) == [(0, 2)]

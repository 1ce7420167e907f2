"""Evaluation by several processes: the bits of one, whatever file, protocol and metric."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from d2net.data.annotations import Annotations, Segment, Video
from d2net.data.detections import Detections, load_detections
from d2net.data.detections.results import save_detections, write_parts
from d2net.data.detections.share import Part
from d2net.data.json_items import json_items
from d2net.evaluation import analyse_errors, evaluate, event_scores
from d2net.evaluation.prepared import PROTOCOLS

CLASSES = ("run", "jump", "fall", "rest", "none")
SETTINGS = {
    "activitynet": {},
    "thumos": {"iou": [0.3, 0.5, 0.7], "subset": "test"},
    "release": {"iou": "0.05:0.5:0.05"},
}


def made(seed=0, videos=23, most=40):
    """Detections, with many ties in score and place, and the instances of most of their videos and of others."""
    rng = np.random.default_rng(seed)
    names = [f"v{i}" for i in rng.permutation(videos)]
    rows = int(rng.integers(videos, most * videos))
    start = rng.integers(0, 40, rows) / 2
    columns = (rng.integers(0, videos, rows), rng.integers(0, 5, rows), start, start + rng.integers(0, 20, rows) / 2)
    found = Detections.from_arrays(
        names, ("fall", "run", "unknown", "jump", "rest"), *columns, rng.integers(0, 9, rows)
    )
    known = {}
    for name in [*names[2:], "w0", "w1", "w2"]:
        own = [(CLASSES[rng.integers(4)], rng.integers(0, 40) / 2) for _ in range(rng.integers(0, 6))]
        segments = tuple(Segment(c, a, a + rng.integers(0, 16) / 2) for c, a in own)
        duration = None if name == "w0" else 25.0
        known[name] = Video(name, ("test", "train")[rng.integers(2)], duration, None, (), segments)
    return found, Annotations(CLASSES, known)


def ambiguous(found):
    return {name: [(3.0, 4.0), (9.5, 10.0)] for name in found.videos[::3]}


def every_report(found, truth, ranks=None):
    """What evaluate, its errors and its events give, as text."""
    reports = []
    for name, settings in SETTINGS.items():
        given = {"protocol": name, **settings, "ranks": ranks}
        given["ambiguous"] = None if name == "activitynet" else ambiguous(found)
        reports += [evaluate(found, truth, **given), analyse_errors(found, truth, **given)]
    reports.append(event_scores(found, truth, min_score=3.0, ranks=ranks))
    reports.append(event_scores(found, truth, onset_only=True, subset="test", resolution=0.3, ranks=ranks))
    texts = [json.dumps(report.to_dict()) for report in reports]
    return texts + [report.table(per_class=True) for report in reports]


def shared_report(ranks, seed):
    found, truth = made(seed)
    return every_report(found.part(Part(ranks.rank, ranks.size)), truth, ranks)


@pytest.mark.parametrize(("seed", "size"), [(0, 2), (1, 4)])
def test_reports_are_those_of_one_process_to_the_bit(pool, seed, size):
    assert PROTOCOLS.keys() == SETTINGS.keys()
    assert pool.run(size, shared_report, seed) == [every_report(*made(seed))] * size


def scant(part=None, ranks=None):
    """Fewer videos than processes, and no detections."""
    found, truth = made(5, videos=3, most=4)
    whole = [found, found[:0]]
    given = [(x if part is None else x.part(part), truth) for x in whole]
    reports = [report(*x, ranks=ranks) for x in given for report in (evaluate, analyse_errors, event_scores)]
    return [json.dumps(report.to_dict()) for report in reports]


def shared_scant(ranks):
    return scant(Part(ranks.rank, ranks.size), ranks)


def test_fewer_videos_than_processes_and_no_detections(pool):
    assert pool.run(4, shared_scant) == [scant()] * 4


def differing(ranks, what):
    found, truth = made(ranks.rank if what == "detections" else 0)
    found = found.part(Part(ranks.rank, ranks.size))
    if what == "ground truth":
        truth = truth.only(list(truth.videos)[ranks.rank :])
    return evaluate(found, truth, ranks=ranks)


@pytest.mark.parametrize("what", ["detections", "ground truth"])
def test_processes_with_other_files_are_refused(pool, what):
    for error in pool.run(2, differing, what, errors=True):
        assert isinstance(error, ValueError) and f"has other {what}" in str(error), error


@pytest.mark.parametrize("kind", ["json", "npz", "csv"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_parts_of_a_file_are_all_of_it_once(tmp_path, kind, size):
    found, _ = made(1)
    path = tmp_path / f"d.{kind}"
    if kind == "csv":
        names = zip(found.video.tolist(), found.label.tolist(), found.start, found.end, found.score, strict=True)
        lines = [f"{found.videos[v]},{a},{b},{found.classes[c]},{s}" for v, c, a, b, s in names]
        path.write_text("\n".join(["video,start,end,label,score", *lines]) + "\n")
    elif kind == "json":
        save_detections(path, found)
    else:
        write_parts(path, found.videos, found.classes, [found])
    whole = load_detections(path)
    parts = [load_detections(path, part=Part(rank, size)) for rank in range(size)]
    rows = np.concatenate([part.share.rows for part in parts])
    assert np.sort(rows).tolist() == list(range(len(whole))) and {part.share.total for part in parts} == {len(whole)}
    assert all(part.videos == whole.videos and part.summary().split(",")[0] == whole.summary().split(",")[0]
               for part in parts)  # fmt: skip
    for part in parts:
        own = part.share.rows
        assert (part.score == whole.score[own]).all() and (part.video == whole.video[own]).all()
        assert [part.classes[c] for c in part.label] == [whole.classes[c] for c in whole.label[own]]
    assert kind != "json" or len(list(json_items(path, "results", dict))) == len(found.videos)


def torchrun(*words, cwd):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "d2net"]
    return subprocess.run([*launcher, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_the_command_prints_and_writes_what_one_process_does(tmp_path, command, monkeypatch):
    found, truth = made(7)
    save_detections(tmp_path / "d.json", found)
    database = {
        name: {"subset": v.subset, "duration_second": v.duration or 30.0,
               "annotations": [{"label": s.label, "segment": [s.start, s.end]} for s in v.segments]}
        for name, v in truth.videos.items()
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps({"classes": CLASSES, "database": database}))
    monkeypatch.chdir(tmp_path)
    words = ("evaluate", "--predictions", "d.json", "--ground-truth", "a.json", "--events", "--errors", "--per-class")
    status, said, _ = command(*words, "--out", "one.json")
    done = torchrun(*words, "--out", "two.json", cwd=tmp_path)
    assert status == done.returncode == 0, done.stderr
    assert done.stdout == said.replace("one.json", "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()

"""Annotations and detections in the dialects of sound events and of other projects: all say the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from d2net.data.annotations import AnnotationWarning, load_annotations
from d2net.data.detections import DetectionWarning, load_detections
from d2net.data.files import DataError

SEGMENTS = [("a", "run", 0.5, 2.25), ("a", "jump", 3.0, 4.0), ("b", "run", 1.0, 1.5)]


def lines(*rows, by="\t"):
    return "".join(by.join(map(str, row)) + "\n" for row in rows)


def tracks(folder, files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


ANNOTATIONS = {
    "DCASE's table": ("filename", "onset", "offset", "event_label"),
    "our table": ("video", "start", "end", "label"),
}


@pytest.mark.parametrize("by", ["\t", ",", ";"])
@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_tables(tmp_path, kind, by):
    rows = [ANNOTATIONS[kind], *((v, a, b, c) for v, c, a, b in SEGMENTS), ("c", "", "", ""), ("d", "", "", "jump")]
    (tmp_path / "x").write_text(lines(*rows, by=by))
    same(load_annotations(tmp_path / "x"), ["a", "b", "c", "d"])
    assert load_annotations(tmp_path / "x").videos["d"].labels == ("jump",)


@pytest.mark.parametrize("scene", [(), ("home",)])
def test_sed_eval_s_lists(tmp_path, scene):
    (tmp_path / "x.ann").write_text(lines(*((v, *scene, a, b, c) for v, c, a, b in SEGMENTS)))
    same(load_annotations(tmp_path / "x.ann"), ["a", "b"])


def test_label_tracks(tmp_path):
    files = {
        "a.txt": "0.500000\t2.250000\trun\n\\\t200.0\t4000.0\n3.000000\t4.000000\tjump\n",
        "b.txt": "1.0\t1.5\trun\n", "c.txt": "",
    }  # fmt: skip
    folder = tracks(tmp_path / "t", files)
    same(load_annotations(folder), ["a", "b", "c"])
    assert list(load_annotations(folder / "b.txt").videos) == ["b"]
    (folder / "videos.csv").write_text("video,subset,duration,fps,label\na,train,10,30,\nb,test,5.5,25,fly\n")
    known = load_annotations(folder)
    same(known, ["a", "b", "c"])
    a, b = known.videos["a"], known.videos["b"]
    assert (a.duration, b.subset, b.labels) == (10, "test", ("fly", "run"))


def same(known, videos):
    assert list(known.videos) == videos
    got = [(v.name, s.label, s.start, s.end) for v in known.videos.values() for s in v.segments]
    assert got == SEGMENTS


def test_weak_labels_and_durations_of_dcase(tmp_path):
    (tmp_path / "weak.tsv").write_text("filename\tevent_labels\tduration\na.wav\tSpeech,Dog\t9.5\nb.wav\tDog\t\n")
    known = load_annotations(tmp_path / "weak.tsv")
    assert known.classes == ("Dog", "Speech") and known.videos["a.wav"].labels == ("Speech", "Dog")
    assert known.videos["a.wav"].duration == 9.5 and known.videos["b.wav"].duration is None


def test_detections(tmp_path):
    scored = [(v, c, a, b, s) for (v, c, a, b), s in zip(SEGMENTS, (0.5, 0.25, 1e-3), strict=True)]
    head = ("filename", "onset", "offset", "event_label", "score")
    (tmp_path / "t.tsv").write_text(lines(head, *((v, a, b, c, s) for v, c, a, b, s in scored)))
    (tmp_path / "list").write_text(lines(*((v, a, b, c, s) for v, c, a, b, s in scored)))
    files = {f"{w}.txt": lines(*((a, b, f"{c} [{s}]") for v, c, a, b, s in scored if v == w)) for w in "abz"}
    places = (tmp_path / "t.tsv", tmp_path / "list", tracks(tmp_path / "tracks", files))
    for place in places:
        found = load_detections(place)
        columns = [getattr(found, name).tolist() for name in ("video", "label", "start", "end", "score")]
        got = [(found.videos[v], found.classes[c], *t) for v, c, *t in zip(*columns, strict=True)]
        assert got == scored, place
    assert found.videos == ["a", "b", "z"]


def test_detections_without_scores_count_as_one(tmp_path):
    (tmp_path / "x").write_text(lines(*((v, a, b, c) for v, c, a, b in SEGMENTS)))
    with pytest.warns(DetectionWarning, match="no scores; each counts as 1"):
        assert np.array_equal(load_detections(tmp_path / "x").score, np.ones(3))


def test_label_id_decides_the_order_of_classes(tmp_path):
    def entry(*labels):
        rows = [{"label": c, "label_id": i, "segment": [0, 1], "segment(frames)": [0, 30]} for c, i in labels]
        return {"subset": "training", "duration": 9.5, "fps": 30.0, "annotations": rows}

    def write(**database):
        (tmp_path / "x.json").write_text(json.dumps({"version": "v", "database": database}))
        return tmp_path / "x.json"

    known = load_annotations(write(v=entry(("run", 0), ("jump", 2)), w=entry(("fly", 1))))
    assert known.classes == ("run", "fly", "jump") and known.videos["v"].fps == 30
    with pytest.warns(AnnotationWarning, match="label_id 2 is 'run' in video 'w', and 'run' is 1 before"):
        known = load_annotations(write(v=entry(("run", 1), ("fly", 3)), w=entry(("run", 2))))
    assert known.classes == ("fly", "run")
    with pytest.warns(AnnotationWarning, match="label_id 0 is 'fly' in video 'w', and 'run' before"):
        known = load_annotations(write(v=entry(("run", 0)), w=entry(("fly", 0))))
    assert known.classes == ("fly", "run")
    nameless = entry(("run", 3))
    del nameless["annotations"][0]["label"]
    assert load_annotations(write(v=nameless)).classes == ("3",)


def test_a_folder_of_truth_and_splits(tmp_path):
    labelled = {"label": "run", "segment": ["0.5", "2.25"]}
    database = {name: {"subset": "Validation", "annotations": [labelled]} for name in ("a", "b", "c")}
    files = {
        "gt.json": json.dumps({"database": database}), "split_train.txt": "b\n", "split_test.txt": "a\n\n",
        "fps_dict.json": json.dumps({"a": 25}),
    }  # fmt: skip
    folder = tracks(tmp_path / "THUMOS14", files)
    videos = load_annotations(folder).videos
    assert {name: v.subset for name, v in videos.items()} == {"a": "test", "b": "train", "c": None}
    assert videos["a"].fps == 25 and videos["a"].segments[0].end == 2.25
    (folder / "split_test.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"split_train\.txt: video 'b' is in split_test\.txt too"):
        load_annotations(folder)
    (folder / "split_test.txt").write_text("z\n")
    with pytest.raises(DataError, match=r"split_test\.txt: .*gt\.json has no video 'z'"):
        load_annotations(folder)
    (folder / "split_test.txt").unlink()
    (folder / "split_train.txt").unlink()
    assert load_annotations(folder).videos["a"].subset == "Validation"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("video,start,end,label\nv,1,,run\n", "line 2: it has a start and no end"),
        ("video,start,end,label\nv,1,2,\n", "line 2: no label for 1 to 2"),
        ("video,onset,start,end,label\nv,1,1,2,run\n", "'start', 'onset' mean the same"),
        ("video,duration,label\nv,9,run\nv,8,jump\n", "line 3: duration of video 'v' is 8.0 here and 9.0 above"),
        ("video,duration,label\nv,long,run\n", "line 2: duration is 'long', which is not a number"),
        ("video,duration_second,label\nv,9,run\n", "line 2: a column cannot be called 'duration_second' here"),
        ("video,start,end\nv,1,2\n", "no column `label`"),
        ("1\t2\trun\n1\tx\trun\n", "line 2: start and end must be numbers, with tabs between"),
        ("1\t2\n", "line 1: no label for 1 to 2"),
        ("video,start,end,label\nv,3,2,run\n", r"\[3.0, 2.0\] of 'run' ends before it starts"),
    ],
)
def test_lists_that_are_refused(tmp_path, text, says):
    (tmp_path / "x").write_text(text)
    with pytest.raises(DataError, match=says):
        load_annotations(tmp_path / "x")


def test_some_scores_are_none(tmp_path):
    (tmp_path / "x").write_text("a\t1\t2\trun\t0.5\na\t1\t2\trun\n")
    with pytest.raises(DataError, match=r"line 2: no score, but .*line 1 has one"):
        load_detections(tmp_path / "x")
    (tmp_path / "z").write_text("video,start,end,label,points\na,1,2,run,0.5\n")
    with pytest.raises(DataError, match="no column `score` beside points"):
        load_detections(tmp_path / "z")
    (tmp_path / "y").write_text("video,label,score\na,run,0.5\n")
    with pytest.raises(DataError, match="line 2: a detection needs start, end, label and score"):
        load_detections(tmp_path / "y")


def test_a_folder_of_other_texts_is_no_tracks(tmp_path):
    with pytest.raises(DataError, match=r"without videoname\.npy, gt\.json or label tracks"):
        load_annotations(tracks(tmp_path / "t", {"readme.txt": "hello\n"}))
    with pytest.raises(DataError, match="no label tracks"):
        load_detections(tmp_path / "t")

"""Names of videos that differ between files: matched where that is sure, else counted and shown with the nearest."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2net import api
from d2net.config import make_config
from d2net.data.annotations import Annotations, Segment, Video, load_annotations
from d2net.data.detections import Detections
from d2net.data.features import FeatureError
from d2net.data.files import DataError
from d2net.data.names import NameWarning, aliases, match, normalized
from d2net.data.synth import make_synthetic
from d2net.evaluation import evaluate
from d2net.methods.d2net.network import D2Net
from d2net.timing import Timing, TimingWarning


@pytest.mark.parametrize(
    "name",
    ["v_abc.mp4", "abc", "ABC.avi", "abc-I3D.npy", "abc_rgb", "x/y/v_abc", "x\\abc.mkv", "abc-I3D-JOINTFeatures"],
)
def test_what_is_normalized(name):
    assert normalized(name) == "abc"


def test_what_is_not_normalized_away():
    for name in ("v_", ".mp4", "_rgb", "rgb", "a.b", "1.5"):
        assert normalized(name), name
    assert normalized("a.b") == "a.b" and normalized("1.5") == "1.5"


def test_aliases_are_one_to_one():
    assert aliases(["v1.mp4", "w"], ["v1", "w"]) == {"v1.mp4": "v1"}
    assert aliases(["v1.mp4", "v1.avi"], ["v1"]) == {}
    assert aliases(["v1.mp4"], ["v1", "V1"]) == {}
    assert aliases(["v1.mp4", "v1"], ["v1"]) == {}


@given(
    st.lists(st.text("aAv_.1mp4-/", max_size=6), max_size=6), st.lists(st.text("aAv_.1mp4-/", max_size=6), max_size=6)
)
def test_no_two_names_become_one(given_names, known):
    alias = aliases(given_names, known)
    out = [alias.get(n, n) for n in dict.fromkeys(given_names)]
    assert len(set(out)) == len(out) and set(alias.values()) <= set(known)
    assert not set(alias) & set(known)


def test_match_counts_and_names():
    got = match({"v1.mp4": 1, "zz": 2, "w": 3}, ["v1", "w", "u"], "durations", "the features")
    assert got.values == {"v1": 1, "zz": 2, "w": 3}
    assert got.notes[0] == "durations: 1 name was matched to the features: 'v1.mp4' to 'v1'"
    assert got.notes[1] == "durations: 1 of 3 names are not in the features ('zz')"
    with pytest.raises(DataError, match=r"durations: none of its 1 names is among the 2 of the features: 'video_01'"):
        match({"video_01": 1}, ["clip_7", "clip_8"], "durations", "the features")
    assert match({}, ["a"], "x", "y").values == {} and match({"a": 1}, [], "x", "y").values == {"a": 1}


@pytest.fixture
def model():
    config = make_config(overrides={"localize.thresholds": [0.1], "localize.min_length": 1, "localize.min_score": None})
    return api.Model(D2Net(4, 2, 1, config.model).eval(), config, ("a", "b"), Timing(snippet_seconds=1.0))


def features():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((20, 4)).astype(np.float32) for name in ("v1", "w2")}


def annotations(**durations):
    videos = {n: Video(n, "test", d, None, ("a",), (Segment("a", 0, 1),)) for n, d in durations.items()}
    return Annotations(("a",), videos, source="truth.json")


def test_durations_and_timings_of_other_names(model):
    with pytest.warns(NameWarning, match=r"durations: 2 names were matched .* 'v1.mp4' to 'v1'"):
        found = api.localize(model, features(), durations={"v1.mp4": 18.5, "w2.mp4": 19.0}).detections
    assert found.for_video("v1").end.max() == 18.5 and found.for_video("w2").end.max() == 19.0
    halved = {f"{v}.mp4": Timing(snippet_seconds=0.5) for v in features()}
    with pytest.warns(NameWarning, match="video_timings: 2 names were matched"):
        found = api.localize(model, features(), video_timings=halved).detections
    assert found.end.max() == 10.0
    for argument, values in (("durations", {"zz": 3.0}), ("video_timings", {"zz": Timing(snippet_seconds=0.5)})):
        with pytest.raises(DataError, match=f"{argument}: none of its 1 names is among the 2 of the features: 'zz'"):
            api.localize(model, features(), **{argument: values})
    with pytest.warns(NameWarning) as told:
        api.localize(model, features(), durations={"v1": 20.0, "zz": 3.0})
    text = " | ".join(str(w.message) for w in told)
    assert "1 of 2 names are not in the features ('zz')" in text and "1 of 2 videos have no duration" in text


def test_annotations_of_other_names(model):
    with pytest.warns(NameWarning, match=r"truth.json: 2 names were matched, such as 'v_v1' to 'v1'"):
        found = api.localize(model, features(), annotations=annotations(v_v1=18.5, v_w2=20.0)).detections
    assert found.for_video("v1").end.max() == 18.5
    with pytest.raises(DataError, match=r"truth.json: none of its 1 names is among the 2 of the features"):
        api.localize(model, features(), annotations=annotations(qq=18.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a file that holds more videos than are localized is no oddity
        api.localize(model, features(), annotations=annotations(v1=20.0, w2=20.0, other=3.0))


def test_one_warning_names_the_videos_whose_timing_is_odd(model):
    with pytest.warns(TimingWarning) as told:
        api.localize(model, features(), durations={"v1": 20.0, "w2": 60.0})
    (one,) = told
    assert str(one.message).startswith("1 of 2 videos have other numbers") and "'w2' has 20" in str(one.message)


@pytest.fixture
def files(tmp_path):
    """Features and annotations, whose names differ, of twelve made-up videos; two lack features."""
    made = make_synthetic(videos=12, classes=2, width=8)
    arrays = {f"v_{name}": x for name, x in made.features.items() if name not in ("video_000", "video_011")}
    np.savez(tmp_path / "features.npz", **arrays)
    (tmp_path / "annotations.json").write_text(json.dumps(made.annotations))
    return tmp_path / "features.npz", tmp_path / "annotations.json"


def test_training_on_other_names_and_on_what_is_there(files, tmp_path):
    config = make_config(overrides={"train.iterations": 2, "train.subsets": "train", "timing.snippet_seconds": 0.64})
    common = {"config": config, "device": "cpu", "progress": False}
    with pytest.warns(NameWarning), pytest.raises(FeatureError, match="no features of 1 annotated videos: 'video_011'"):
        api.train(*files, tmp_path / "run", **common)
    with pytest.warns(NameWarning) as told:
        model = api.train(*files, tmp_path / "run", **common, skip_missing=True)
    text = " | ".join(str(w.message) for w in told)
    assert "10 names were matched, such as 'video_001' to 'v_video_001'" in text
    assert "1 of 8 videos have no features and are skipped: 'video_011'" in text
    truth = load_annotations(files[1]).subset("test")
    with pytest.warns(NameWarning, match="1 of 4 videos have no features and are skipped: 'video_000'"):
        found = api.localize(model, files[0], annotations=truth, names=list(truth.videos), skip_missing=True)
    assert found.detections.videos == ["v_video_001", "v_video_002", "v_video_003"]
    report = evaluate(found.detections, truth)
    assert "detections: 3 names were matched" in report.warnings[0]
    named = ["video_004", "video_005"]
    with pytest.warns(NameWarning, match="10 names were matched"):
        api.train(*files, tmp_path / "two", **common, names=named)


def test_training_on_names_of_nothing(files, tmp_path):
    np.savez(files[0], clip=np.ones((9, 8), np.float32))
    with pytest.raises(DataError, match=r"annotations.json: none of its 12 names is among the 1 of the features"):
        api.train(*files, tmp_path / "run", device="cpu", skip_missing=True)


def detections(*names):
    n = len(names)
    return Detections.from_arrays(names, ("a",), np.arange(n), np.zeros(n), np.zeros(n), np.ones(n), np.full(n, 0.5))


def test_evaluation_of_other_names():
    truth = annotations(v1=9.0, w2=9.0)
    right = evaluate(detections("v1", "w2"), truth, iou="0.5")
    other = evaluate(detections("v_v1.mp4", "v_w2.mp4"), truth, iou="0.5")
    assert other.mAP == right.mAP == [1.0]
    assert other.warnings[0].startswith("detections: 2 names were matched to truth.json, such as 'v_v1.mp4' to 'v1'")
    with pytest.raises(DataError, match=r"detections: none of its 1 names is among the 2 of truth.json: 'zz'"):
        evaluate(detections("zz"), truth, iou="0.5")


@pytest.mark.parametrize("protocol", ["thumos", "release"])
def test_ambiguous_segments_of_other_names(protocol):
    truth = annotations(v1=9.0, w2=9.0)
    found = Detections.from_arrays(["v1", "w2"], ("a",), [0, 1, 0], [0, 0, 0], [0, 0, 3], [1, 1, 4], [0.5, 0.5, 0.9])
    right = evaluate(found, truth, protocol=protocol, iou="0.5", ambiguous={"v1": [(3, 4)]})
    other = evaluate(found, truth, protocol=protocol, iou="0.5", ambiguous={"v1.mp4": [(3, 4)]})
    assert other.mAP == right.mAP == [1.0]
    assert evaluate(found, truth, protocol=protocol, iou="0.5").mAP[0] < 1
    partly = evaluate(found, truth, protocol=protocol, iou="0.5", ambiguous={"v1": [(3, 4)], "zz": [(1, 2)]})
    assert partly.mAP == [1.0] and "ambiguous segments: 1 of 2 names are not in truth.json ('zz')" in partly.warnings
    with pytest.raises(DataError, match="ambiguous segments: none of its 1 names"):
        evaluate(found, truth, protocol=protocol, iou="0.5", ambiguous={"zz": [(3, 4)]})


def test_classes_of_other_names():
    other = Detections.from_arrays(["v1"], ("0",), [0], [0], [0.0], [1.0], [0.5])
    with pytest.raises(DataError, match=r"none of their 1 classes is among the 1 of truth.json: '0', against 'a'"):
        evaluate(other, annotations(v1=9.0), iou="0.5")

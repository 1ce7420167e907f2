"""Made-up data: as asked for, the same from the same seed, however many there are."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2net.data.annotations import Annotations, load_annotations
from d2net.data.annotations.model import Segment, Video
from d2net.data.features import open_features
from d2net.data.files import DataError
from d2net.data.synth import PROFILES, Donors, Look, SyntheticFeatures, make_synthetic, write_synthetic_set

SMALL = Look(width=8)
DEMO = "aa2f41df9d45908ce767dbc4c4e3b68797f34bce76ee458bb907f6042a4dbaea"


def test_the_demo_s_bits_stay():
    data = make_synthetic(videos=5, classes=3, width=16, seed=3)
    found = hashlib.sha256(json.dumps(data.annotations, sort_keys=True).encode())
    for name in sorted(data.features):
        found.update(name.encode() + data.features[name].tobytes())
    assert found.hexdigest() == DEMO


def drawn(timelines, n=1500):
    return [timelines.draw(np.random.default_rng([0, i])) for i in range(n)]


@pytest.mark.parametrize(
    ("name", "duration", "instances", "coverage", "two"),
    # Medians of duration and instances, mean coverage, share of videos of two or more classes, as the public
    # annotations have them: 150.5 and 161.7 s, 8 and 9, 0.29, 0.17; 109 and 111.2 s, 1, 0.65, 0.001.
    [
        ("thumos14", (145, 165), (7, 10), (0.22, 0.34), (0.1, 0.22)),
        ("activitynet12", (104, 116), (1, 1), (0.55, 0.72), (0, 0.01)),
    ],
)
def test_profiles_resemble_their_data(name, duration, instances, coverage, two):
    made = drawn(PROFILES[name])
    for value, (low, high) in (
        (np.median([t.duration for t in made]), duration),
        (np.median([len(t.segments) for t in made]), instances),
        (np.mean([sum(s.end - s.start for s in t.segments) / t.duration for t in made]), coverage),
        (np.mean([len({s.label for s in t.segments}) > 1 for t in made]), two),
    ):
        assert low <= value <= high
    assert {s.label for t in made for s in t.segments} == set(PROFILES[name].classes)


@settings(max_examples=60)
@given(st.data())
def test_any_profile_makes_sound_timelines(data):
    def positive(most):
        return data.draw(st.floats(0.01, most))

    profile = PROFILES["thumos14"].changed(
        count=data.draw(st.integers(1, 30)), duration=positive(5000), instances=positive(500),
        coverage=data.draw(st.floats(0.01, 1)), second=data.draw(st.floats(0, 1)), third=data.draw(st.floats(0, 1)),
        growth=data.draw(st.floats(0, 3)), duration_spread=data.draw(st.floats(0, 5)),
    )  # fmt: skip
    for timeline in drawn(profile, 5):
        assert timeline.duration > 0 and timeline.segments
        end = 0.0
        for s in timeline.segments:
            assert s.label in profile.classes and end - 2e-3 <= s.start <= s.end <= timeline.duration
            end = s.end


def donors():
    videos = {
        "a": Video("a", "train", 60.0, 25.0, ("run", "jump"), (
            Segment("run", 5.0, 9.0), Segment("jump", 7.0, 12.0), Segment("run", 30.0, 33.0))),
        "b": Video("b", "test", 20.0, 25.0, ("fly",), (Segment("fly", 1.0, 11.0),)),
        "c": Video("c", "test", 20.0, 25.0, ("run",), ()),
    }  # fmt: skip
    return Annotations(("fly", "jump", "run"), videos)


def test_annotations_are_resembled():
    made = drawn(Donors(donors()), 300)
    kinds = Counter(tuple(sorted(s.label for s in t.segments)) for t in made)
    assert set(kinds) == {("jump", "run", "run"), ("fly",)} and min(kinds.values()) > 100
    for t in made:
        stretch = t.duration / (20 if len(t.segments) == 1 else 60)
        assert 0.7 < stretch < 1.4
        lengths = sorted((s.end - s.start) / stretch for s in t.segments)
        assert np.allclose(lengths, [10] if len(t.segments) == 1 else [3, 4, 5], atol=5e-3)
        if len(t.segments) == 3:  # those that overlap stay together
            jump = next(s for s in t.segments if s.label == "jump")
            assert any(abs(jump.start - s.start - 2 * stretch) < 5e-3 for s in t.segments if s.label == "run")
    assert len({t.segments for t in made}) == 300
    with pytest.raises(DataError, match="no video has a segment"):
        Donors(donors().only(["c"]))


@pytest.mark.parametrize("name", ["thumos14_wtalc", "activitynet12_wtalc"])
@pytest.mark.filterwarnings("ignore::d2net.data.annotations.AnnotationWarning")
def test_real_annotations_are_resembled(shared_dir, name):
    known = load_annotations(shared_dir / "data" / name / "annotations.json")
    made = drawn(Donors(known), 2000)
    real = [v for v in known.videos.values() if v.segments]
    for measure in (
        lambda v: v.duration,
        lambda v: len(v.segments),
        lambda v: len({s.label for s in v.segments}),
        lambda v: np.mean([s.end - s.start for s in v.segments]),
    ):
        got, want = np.mean([measure(t) for t in made]), np.mean([measure(v) for v in real])
        assert got == pytest.approx(want, rel=0.12)

    def pairs(videos):
        return Counter(tuple(sorted({s.label for s in v.segments})) for v in videos)

    assert set(pairs(made)) <= set(pairs(real))


def test_a_video_does_not_depend_on_how_many_there_are():
    few, many = (SyntheticFeatures(PROFILES["thumos14"], SMALL, n, seed=7) for n in (3, 9))
    for i in range(3):
        name = few.name(i)
        assert few.timeline(i) == many.timeline(i) and np.array_equal(few[name], many[name])
    same = [SyntheticFeatures(Donors(donors()), SMALL, 2, seed=s).source for s in (7, 7, 8)]
    assert same[0] == same[1] != same[2]
    other = SyntheticFeatures(PROFILES["thumos14"], SMALL, 3, seed=8)
    assert other.lengths != few.lengths
    assert few[few.name(0)].dtype == few.dtype(few.name(0)) == np.float16


def test_actions_show_where_they_are_in_the_streams_that_have_them():
    look = Look(width=64, noise=0, background=0.2, stream_signal=(1, 0))
    store = SyntheticFeatures(PROFILES["thumos14"], look, 12)
    index = {c: k for k, c in enumerate(store.timelines.classes)}
    for i in range(12):
        x, timeline = store[store.name(i)].astype(float), store.timeline(i)[1]
        assert len(x) == look.snippets(timeline.duration)
        want = np.zeros((len(x), len(index)))
        step = look.stride / look.fps
        for s in timeline.segments:
            rows = np.arange(len(x)) * step
            covered = np.clip(np.minimum(rows + step, s.end) - np.maximum(rows, s.start), 0, None) / step
            want[:, index[s.label]] += covered
        patterns = store.patterns[:, :32]
        found = np.linalg.lstsq(np.vstack([patterns, store.scenes[:, :32]]).T, x[:, :32].T, rcond=None)[0][:20].T
        assert np.allclose(found, want, atol=0.01), i  # float16
        scenes = np.unique(store.scenes[:, 32:].astype(np.float16), axis=0)
        assert set(map(tuple, x[:, 32:])) <= set(map(tuple, scenes.astype(float)))


@pytest.mark.parametrize("format", ["npz", "h5", "safetensors", "folder"])
def test_a_set_is_read_as_it_was_made(tmp_path, format):
    pytest.importorskip({"h5": "h5py", "safetensors": "safetensors"}.get(format, "numpy"))
    store = SyntheticFeatures(PROFILES["activitynet12"], SMALL, 9, test_share=0.5, seed=1)
    made = write_synthetic_set(tmp_path, store, format=format)
    got, known = open_features(made.features.path), load_annotations(made.annotations)
    assert got.lengths == store.lengths and all(np.array_equal(got[v], store[v]) for v in store)
    assert got.stated == {"fps": 25, "stride": 16, "snippet_frames": 16} and known.frames == got.stated
    assert known.classes == store.timelines.classes and known.streams == [[0, 4, "rgb"], [4, 8, "flow"]]
    for i, video in enumerate(known.videos.values()):
        assert (video.subset, (video.duration, video.segments)) == (store.timeline(i)[0], tuple(store.timeline(i)[1]))
    assert known.report["overrunning"] == 0
    with pytest.raises(DataError, match="is there; say --overwrite"):
        write_synthetic_set(tmp_path, store, format=format)


def test_the_command(tmp_path, command):
    status, out, err = command(
        "synth", "--out", tmp_path / "a", "--videos", 8, "--width", 16, "--duration", 30, "--classes", 3, "--quiet"
    )
    assert status == 0, err
    assert "8 videos of width 16" in out
    (tmp_path / "donors.json").write_text((tmp_path / "a/annotations.json").read_text())
    status, out, err = command(
        "synth", "--out", tmp_path / "b", "--from", tmp_path / "donors.json", "--videos", 4, "--width", 6, "--streams",
        "x,y,z", "--stream-signal", "1,0,2", "--format", "folder", "--fps", 30, "--stride", 8, "--quiet",
    )  # fmt: skip
    assert status == 0, err
    assert open_features(tmp_path / "b/features").stated == {"fps": 30, "stride": 8, "snippet_frames": 8}
    status, _, err = command(
        "train", "--features", tmp_path / "a/features.npz", "--annotations", tmp_path / "a/annotations.json", "--out",
        tmp_path / "run", "--set", "iterations=3", "--set", "train.subsets=train", "--quiet",
    )  # fmt: skip
    assert status == 0, err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--like", "kinetics"], "--like must be thumos14 or activitynet12, got 'kinetics'"),
        (["--videos", 0], "videos must be 1 to 10000000, got 0"),
        (["--width", 7], "width must be a multiple of the 2 streams, got 7"),
        (["--streams", "a,a"], "streams must be different names, got a, a"),
        (["--stream-signal", "1"], "stream_signal must be 2 numbers, a stream each, got 1"),
        (["--stream-signal", "1,x"], "--stream-signal must be numbers with commas between, got '1,x'"),
        (["--noise", "nan"], "noise must be in [0, 100], got nan"),
        (["--signal", -1], "signal must be in [0, 100], got -1"),
        (["--coverage", 1.5], "coverage must be in [0, 1], got 1.5"),
        (["--duration", 0], "duration must be positive, got 0.0"),
        (["--classes", -3], "count must be positive, got -3"),
        (["--fps", 0], "fps must be in [1e-6, 1e6], got 0.0"),
        (["--test-share", 2], "test_share must be in [0, 1], got 2.0"),
        (["--seed", -1], "seed must not be negative, got -1"),
        (["--format", "zip"], "format must be npz, h5, safetensors, folder, got 'zip'"),
        (["--dtype", "int8"], "dtype must be float16, bfloat16, float32"),
        (["--from", "absent.json"], "no file absent.json"),
        (["--from", "x.json", "--classes", 3], "--from decides count; leave one of them out"),
    ],
)
def test_bad_input(tmp_path, command, arguments, says):
    status, _, err = command("synth", "--out", tmp_path / "a", "--videos", 3, "--quiet", *arguments)
    assert status == 2 and says in err and err.count("\n") == 1, err
    assert not (tmp_path / "a" / "annotations.json").exists()

"""Whose word on the timing counts: a flag, then the data, then the preset; contradictions are said with both values."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2net import api
from d2net.config import make_config, parse_assignments
from d2net.data.annotations import load_annotations
from d2net.data.features import FeatureError, open_features
from d2net.data.stated import compare_lengths, stated_timing
from d2net.timing import Statement, Timing, TimingWarning, resolve

NUMBER = st.sampled_from([0.2, 1.0, 4.0, 16.0, 25.0, 30.0])
FRAMES = st.fixed_dictionaries({"fps": NUMBER, "stride": NUMBER, "snippet_frames": NUMBER})
WHOLE = st.one_of(FRAMES, st.fixed_dictionaries({"snippet_seconds": NUMBER}), st.just({"resized": True}))


@given(st.one_of(st.none(), WHOLE), st.lists(WHOLE, max_size=2), st.one_of(st.none(), WHOLE))
def test_the_first_whole_statement_counts_and_others_are_compared(flag, data, preset):
    said = [Statement("the configuration", flag or {}, explicit=True)]
    said += [Statement(f"file {i}", fields) for i, fields in enumerate(data)]
    said += [Statement("preset x", preset or {})]
    found = resolve(said)
    first = next((s for s in said if s.fields), None)
    if first is None:
        assert found.timing is None
        return
    assert found.timing == Timing(**first.fields) and (found.source, found.explicit) == (first.source, first.explicit)
    others = [s for s in said if s.fields and s is not first and not (flag and s.source == "preset x")]
    differ = [Timing(**s.fields) for s in others if not found.timing.same_as(Timing(**s.fields))]
    assert len(found.contradictions) == len(differ)
    for text, other in zip(found.contradictions, differ, strict=True):
        assert str(found.timing) in text and str(other) in text and first.source in text


def test_parts_are_completed_by_later_statements_of_their_kind():
    preset = Statement("preset x", {"fps": 25.0, "stride": 16.0, "snippet_frames": 16.0})
    found = resolve([Statement("the configuration", {"fps": 30.0}, explicit=True), preset])
    assert found.timing == Timing(fps=30.0, stride=16.0, snippet_frames=16.0) and found.contradictions == []
    seconds = Statement("a.json", {"snippet_seconds": 0.5})
    assert resolve([Statement("f.h5", {"stride": 4.0}), seconds]).timing == Timing(snippet_seconds=0.5)
    with pytest.raises(
        ValueError, match=r"fps given without stride and snippet_frames \(by the configuration and a.json"
    ):
        resolve([Statement("the configuration", {"fps": 30.0}, explicit=True), seconds])


def write(folder, seconds=10.0, rows=50, entry=None, top=None, width=8, videos=6, spread=0.0):
    rng = np.random.default_rng(0)
    database, arrays = {}, {}
    for i in range(videos):
        factor = 1 + spread * i
        x = rng.standard_normal((round(rows * factor), width)).astype(np.float32)
        arrays[f"v{i}"] = x
        database[f"v{i}"] = {"subset": "train", "video_labels": ["ab"[i % 2]], **(entry or {})}
        if seconds:
            database[f"v{i}"]["duration_second"] = seconds * factor
    np.savez(folder / "f.npz", **arrays)
    (folder / "a.json").write_text(json.dumps({"classes": ["a", "b"], **(top or {}), "database": database}))
    return folder / "f.npz", folder / "a.json"


def train(folder, files, preset=None, **overrides):
    settings = {"train.iterations": 1, "train.subsets": ["train"], "model.streams": 1, "train.batch_size": 2}
    config = make_config(preset, overrides={**settings, **overrides})
    return api.train(*files, folder / "run", config, device="cpu", progress=False, overwrite=True)


@pytest.mark.parametrize("how", ["flag", "--set", "file"])
def test_a_flag_beats_the_data_and_the_data_beat_the_preset(tmp_path, how):
    files = write(tmp_path, top={"snippet_seconds": 0.2})
    with pytest.warns(
        TimingWarning, match=r"a\.json says snippets of 0\.2 s, and is followed; preset hapt says .*0\.32"
    ):
        model = train(tmp_path, files, "hapt")
    assert model.timing == Timing(snippet_seconds=0.2) and not model.explicit_timing
    with pytest.warns(
        TimingWarning, match=r"the configuration says snippets of 0\.32 s, and is followed; .*a\.json says"
    ):
        if how == "file":
            (tmp_path / "c.yaml").write_text("timing: {snippet_seconds: 0.32}")
            config = make_config("hapt", file=tmp_path / "c.yaml")
            model = train(tmp_path, files, "hapt", **{"timing.snippet_seconds": config.timing.snippet_seconds})
        else:
            given = {"timing.snippet_seconds": 0.32} if how == "flag" else parse_assignments(["snippet_seconds=0.32"])
            model = train(tmp_path, files, "hapt", **given)
    assert model.timing == Timing(snippet_seconds=0.32) and model.explicit_timing
    # What was said explicitly at training holds at localization too, and the contradiction is said there.
    with pytest.warns(TimingWarning, match=r"the model says snippets of 0\.32 s, and is followed"):
        api.localize(model, files[0], annotations=load_annotations(files[1]))


def test_data_without_a_word_leave_it_to_the_preset(tmp_path):
    files = write(tmp_path, rows=31)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = train(tmp_path, files, "hapt")
    assert model.timing == Timing(snippet_seconds=0.32) and not model.explicit_timing
    other = write(tmp_path, top={"snippet_seconds": 0.2})
    with pytest.warns(TimingWarning, match=r"snippets of 0\.2 s, and is followed; the model says snippets of 0\.32 s"):
        found = api.localize(model, other[0], annotations=load_annotations(other[1]), keep_activations=True).detections
    assert found.end.max() > 9.0 or len(found) == 0


def test_videos_of_another_rate_than_the_preset_are_said(tmp_path):
    files = write(tmp_path, seconds=60.0, rows=112, entry={"fps": 30})
    says = (
        r"6 of 6 videos have other numbers .* a snippet of 16 frames every 16 at 25 fps \(preset thumos14\): 'v0' has "
        r"112, 60 s make 93\.8; they fit the annotations' fps: say --fps 30 --stride 16 --snippet-frames 16"
    )
    with pytest.warns(TimingWarning, match=says) as caught:
        model = train(tmp_path, files, "thumos14", **{"model.streams": 1})
    assert len(caught) == 1 and model.timing == Timing(fps=25.0, stride=16.0, snippet_frames=16.0)
    with pytest.warns(TimingWarning, match=r"6 of 6 videos.*'v0' has 112") as caught:
        api.localize(model, files[0], annotations=load_annotations(files[1]))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path, files, "thumos14", **{"model.streams": 1, "timing.fps": 30.0})
        # Extracted at 25 fps from videos of 30: the preset is right and nothing is said.
        train(tmp_path, write(tmp_path, seconds=60.0, rows=94, entry={"fps": 30}), "thumos14", **{"model.streams": 1})


def test_rates_without_durations_are_said(tmp_path):
    files = write(tmp_path, seconds=None, entry={"fps": 30})
    with pytest.warns(
        TimingWarning, match=r"6 videos are of another fps .* at 25 fps \(preset thumos14\): 'v0' is of 30"
    ):
        train(tmp_path, files, "thumos14", **{"model.streams": 1})


def test_a_rate_beside_its_own_stride_and_frames_is_a_timing(tmp_path):
    frames = {"stride": 4, "snippet_frames": 16}
    for top, entry in (({}, {"fps": 30, **frames}), (frames, {"fps": 30}), ({"fps": 30, **frames}, {})):
        files = write(tmp_path, seconds=10.0, rows=75, entry=entry, top=top)
        with pytest.warns(TimingWarning, match=r"every 4 at 30 fps, and is followed; preset thumos14 says"):
            model = train(tmp_path, files, "thumos14", **{"model.streams": 1})
        assert model.timing == Timing(fps=30.0, stride=4.0, snippet_frames=16.0)
    files = write(tmp_path, rows=75, entry={"fps": 30, "stride": "broken", "snippet_frames": 16})
    assert stated_timing(load_annotations(files[1]), open_features(files[0]), ["v0"]).statements == []


def test_videos_may_each_have_their_own(tmp_path):
    files = write(tmp_path, seconds=10.0, rows=50)
    tree = json.loads(files[1].read_text())
    for i, video in enumerate(tree["database"].values()):
        video |= {"fps": 25 + 5 * (i % 2), "stride": 5 + i % 2, "snippet_frames": 5 + i % 2}
    files[1].write_text(json.dumps(tree))
    model = train(tmp_path, files)
    assert model.timing is None
    annotations = load_annotations(files[1])
    everything = {"localize.min_score": None, "localize.keep_ratio": None, "localize.min_length": 1}
    found = api.localize(model, files[0], annotations=annotations, config=make_config(overrides=everything).localize)
    step = np.where(np.array(found.detections.video) % 2, 6 / 30, 5 / 25)
    for seconds in (found.detections.start, found.detections.end):
        assert np.allclose(np.round(seconds / step), seconds / step)


def test_what_a_features_file_states(tmp_path):
    h5py = pytest.importorskip("h5py")
    files = write(tmp_path, rows=75, entry={"fps": 30})
    with h5py.File(tmp_path / "f.h5", "w") as file, np.load(files[0]) as arrays:
        for name in arrays.files:
            file[name] = arrays[name]
        file.attrs.update(stride=4, snippet_frames=np.array([16]), title="x")
    assert train(tmp_path, (tmp_path / "f.h5", files[1])).timing == Timing(fps=30.0, stride=4.0, snippet_frames=16.0)
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file.attrs["fps"] = 24.0
    with pytest.warns(TimingWarning, match="6 of 6 videos"):
        model = train(tmp_path, (tmp_path / "f.h5", files[1]))
    assert model.timing == Timing(fps=24.0, stride=4.0, snippet_frames=16.0)


def test_transposed_features_of_equal_length_are_refused(tmp_path):
    files = write(tmp_path, rows=128, width=50, seconds=10.0, top={"snippet_seconds": 0.2})
    with pytest.raises(FeatureError, match=r"all 6 arrays are \(128, 50\), but durations make about 50 .*transposed"):
        train(tmp_path, files)
    assert not (tmp_path / "run").exists()
    files = write(tmp_path, rows=50, width=128, seconds=10.0, top={"snippet_seconds": 0.2})
    train(tmp_path, files)


@given(st.lists(st.floats(5, 500), min_size=1, max_size=6), st.floats(0.1, 2), st.integers(-1, 1))
def test_rounding_and_a_cut_end_are_no_contradiction(durations, seconds, off):
    names = {f"v{i}": d for i, d in enumerate(durations)}
    lengths = {v: max(1, int(d / seconds) + off) for v, d in names.items()}
    assert compare_lengths(lengths, names, lambda v: Timing(snippet_seconds=seconds), "x", {}) == []
    wrong = {v: 2 * s + 5 for v, s in lengths.items()}
    assert (
        "videos have other numbers"
        in compare_lengths(wrong, names, lambda v: Timing(snippet_seconds=seconds), "x", {})[0]
    )


def test_equal_lengths_of_videos_that_differ_are_said():
    lengths, durations = {f"v{i}": 100 for i in range(4)}, {f"v{i}": 10.0 + 20 * i for i in range(4)}
    says = compare_lengths(lengths, durations, lambda v: None, "", {})
    assert len(says) == 1 and "all 4 videos have 100 snippets, though they last 10 to 70 s: say --resized" in says[0]
    assert compare_lengths(lengths, durations, lambda v: Timing(resized=True), "x", {}) == []

"""Whose word on the timing counts: a flag, then the data, then the preset; contradictions are said with both values."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2net import api
from d2net.config import make_config, parse_assignments
from d2net.data.annotations import AnnotationWarning, load_annotations
from d2net.data.features import FeatureError, open_features
from d2net.data.stated import compare_lengths, stated_timing
from d2net.timing import Statement, Timing, TimingWarning, UnknownTiming, resolve

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
    assert compare_lengths(lengths, names, lambda v: Timing(snippet_seconds=seconds), str, {}) == []
    wrong = {v: 2 * s + 5 for v, s in lengths.items()}
    assert (
        "videos have other numbers"
        in compare_lengths(wrong, names, lambda v: Timing(snippet_seconds=seconds), str, {})[0]
    )


def test_equal_lengths_of_videos_that_differ_are_said():
    lengths, durations = {f"v{i}": 100 for i in range(4)}, {f"v{i}": 10.0 + 20 * i for i in range(4)}
    says = compare_lengths(lengths, durations, lambda v: None, str, {})
    assert len(says) == 1 and "all 4 videos have 100 snippets, though they last 10 to 70 s: say --resized" in says[0]
    assert compare_lengths(lengths, durations, lambda v: Timing(resized=True), str, {}) == []


def in_hdf5(folder, files, **attrs):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "f.h5", "w") as file, np.load(files[0]) as arrays:
        for name in arrays.files:
            file[name] = arrays[name]
        file.attrs.update(attrs)
    return folder / "f.h5", files[1]


WHOLE_FRAMES = {"fps": 25, "stride": 5, "snippet_frames": 5}  # 0.2 s, as 50 rows of 10 s are


@pytest.mark.parametrize(
    ("attrs", "top", "entry", "preset", "wanted", "says"),
    [
        # A file that says it twice.
        (
            {**WHOLE_FRAMES, "snippet_seconds": 0.5}, {}, {}, None, Timing(fps=25.0, stride=5.0, snippet_frames=5.0),
            [r"f\.h5 says .* every 5 at 25 fps, and is followed; it also says snippets of 0\.5 s"],
        ),
        ({**WHOLE_FRAMES, "snippet_seconds": 0.2}, {}, {}, None, Timing(fps=25.0, stride=5.0, snippet_frames=5.0), []),
        (
            {}, {**WHOLE_FRAMES, "snippet_seconds": 0.2, "stride": 6}, {}, None, Timing(snippet_seconds=0.2),
            [r"a\.json says snippets of 0\.2 s, and is followed; it also says .* every 6 at 25 fps"],
        ),
        # Two files.
        (
            WHOLE_FRAMES, {"stride": 16}, {}, None, Timing(fps=25.0, stride=5.0, snippet_frames=5.0),
            [r"f\.h5 says .* every 5 at 25 fps, and is followed; .*a\.json says stride 16$"],
        ),
        (
            WHOLE_FRAMES, {}, {"fps": 30, "stride": 16, "snippet_frames": 16}, None,
            Timing(fps=25.0, stride=5.0, snippet_frames=5.0),
            [r"a\.json says .* every 16 at 30 fps of 'v0', but .* at 25 fps by .*f\.h5 is followed, so for 6 vid"],
        ),
        (
            {"snippet_seconds": 0.2}, {}, WHOLE_FRAMES | {"stride": 6}, None, Timing(snippet_seconds=0.2),
            [r"f\.h5 says snippets of 0\.2 s, and is followed; .*a\.json says .* every 6 at 25 fps"],
        ),
        # Parts.
        ({"fps": 25}, {}, {}, None, None, [r"f\.h5 says fps 25 and no more: it is not used"]),
        ({"stride": 4, "snippet_frames": 16}, {}, {}, None, None, [r"says stride 4 and snippet_frames 16 and no more"]),
        ({"stride": 16, "snippet_frames": 16, "fps": 0}, {}, {}, None, None, [r"stride 16 and .* 16 and no more"]),
        ({}, {"stride": 4}, {}, None, None, [r"a\.json says stride 4 and no more: it is not used"]),
        ({}, {}, {"stride": 4}, None, None, [r"a\.json says stride 4 of 'v0' and no more, .* the like of 6 videos"]),
        (
            {"fps": 30}, {}, {}, "hapt", Timing(snippet_seconds=0.32),
            [r"6 of 6 videos have other numbers"],  # a rate contradicts no seconds
        ),
        ({"snippet_seconds": "0.2"}, {}, {}, None, Timing(snippet_seconds=0.2), []),
        ({"snippet_seconds": np.array([0.2, 0.3])}, {}, {}, None, None, []),
        ({}, {}, {"snippet_seconds": 0.2}, None, Timing(snippet_seconds=0.2), []),
    ],
)  # fmt: skip
def test_contradictions_and_parts_are_said_with_their_values(tmp_path, attrs, top, entry, preset, wanted, says):
    files = write(tmp_path, top=top, entry=entry)
    files = in_hdf5(tmp_path, files, **attrs) if attrs else files
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = train(tmp_path, files, preset)
    assert model.timing == wanted
    texts = [str(w.message) for w in caught if issubclass(w.category, TimingWarning)]
    assert len(texts) == len(says), texts
    for text, pattern in zip(texts, says, strict=True):
        assert re.search(pattern, text), text


def test_single_videos_that_contradict_the_rest_are_said(tmp_path):
    files = write(tmp_path, top={"snippet_seconds": 0.2})
    tree = json.loads(files[1].read_text())
    tree["database"]["v3"] |= WHOLE_FRAMES | {"stride": 10}
    files[1].write_text(json.dumps(tree))
    with pytest.warns(TimingWarning, match=r"every 10 at 25 fps of 'v3', and is followed, so for 1 videos; .*0\.2"):
        train(tmp_path, files)
    with pytest.warns(TimingWarning, match=r"the configuration says .* 0\.2 s, and is followed; .*of 'v3', and"):
        model = train(tmp_path, files, **{"timing.snippet_seconds": 0.2})
    # A user's word on a video beside the data's word on all.
    model.timing, model.explicit_timing = Timing(snippet_seconds=0.2), False
    with pytest.warns(TimingWarning, match=r"the video info says .* 0\.5 s of 'v1', and is followed, so for 1"):
        api.localize(
            model, files[0], annotations=load_annotations(files[1]), video_timings={"v1": Timing(snippet_seconds=0.5)}
        )


def test_a_part_is_told_where_nothing_says_when_snippets_are(tmp_path):
    files = in_hdf5(tmp_path, write(tmp_path), fps=25)
    with pytest.warns(TimingWarning):
        model = train(tmp_path, files)
    with pytest.raises(UnknownTiming, match=r"give --fps.*; timing: .*f\.h5 says fps 25 and no more"):
        api.localize(model, files[0])


def test_durations_that_contradict_a_video_info_are_said(tmp_path):
    files = write(tmp_path, top={"snippet_seconds": 0.2})
    model = train(tmp_path, files)
    own = {"v0": Timing(fps=30.0, stride=16.0, snippet_frames=16.0)}
    with pytest.warns(TimingWarning, match=r"1 of 1 videos .*every 16 at 30 fps \(the video info\): 'v0' has"):
        api.localize(model, files[0], video_timings=own, durations={"v0": 10.0})


def test_two_durations_of_a_video_are_said_with_both_values(tmp_path):
    files = write(tmp_path, seconds=10.0, entry={"duration": 12.5}, top={"snippet_seconds": 0.2})
    with pytest.warns(AnnotationWarning, match=r"6 videos have .*'v0' lasts 10 s by duration_second and 12\.5 by dur"):
        assert load_annotations(files[1]).videos["v0"].duration == 10.0
    files = write(tmp_path, seconds=10.0, entry={"duration": 10.0004})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_annotations(files[1])


def test_two_sources_of_durations_are_said_with_both_values(tmp_path):
    files = write(tmp_path, top={"snippet_seconds": 0.2})
    model, annotations = train(tmp_path, files), load_annotations(files[1])
    says = r"of another duration in .*a\.json than in the given durations, .* 'v0' lasts 13 s there, and 10"
    with pytest.warns(TimingWarning, match=says):
        api.localize(model, files[0], annotations=annotations, durations={"v0": 13.0, "v1": 10.4})
    store = open_features(files[0])
    store.durations = {v: 10.1 for v in store} | {"v2": 20.0}
    with pytest.warns(TimingWarning, match=r"duration in .*f\.npz than in .*a\.json, .*: 'v2' lasts 10 s"):
        train(tmp_path, (store, files[1]))

"""Features, annotations, detections, activations and video info: formats and errors."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2net.data.activations import VideoActivations, load_activations, save_activations
from d2net.data.annotations import AnnotationWarning, load_annotations
from d2net.data.detections import Detections, load_detections, save_detections
from d2net.data.features import FeatureError, check_streams, open_features
from d2net.data.files import DataError
from d2net.data.video_info import load_video_info
from d2net.timing import Timing, TimingWarning


def arrays(width=4, dtype=np.float16):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((s, width)).astype(dtype) for name, s in (("b", 5), ("a", 9))}


def write_npz(folder, **content):
    np.savez(folder / "features.npz", **content)
    return folder / "features.npz"


def write_json(folder, tree):
    path = folder / "file.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


def write_layout(folder, layout, content):
    if layout == "npz":
        return write_npz(folder, **content)
    if layout == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(folder / "f.h5", "w") as file:
            for name, x in content.items():
                file[name] = x
        return folder / "f.h5"
    for i, (name, x) in enumerate(content.items()):
        half = x.shape[1] // 2
        if layout == "folder":
            np.save(folder / f"{name}.npy", x)
        elif layout == "two files":
            np.save(folder / f"{name}_rgb.npy", x[:, :half])
            np.save(folder / f"{name}_flow.npy", x[:, half:])
        else:
            for stream, part in (("rgb", x[:, :half]), ("flow", x[:, half:])):
                place = folder / ("train", "test")[i % 2] / stream
                place.mkdir(parents=True, exist_ok=True)
                np.save(place / f"{name}.npy", part)
    return folder


@pytest.mark.parametrize("layout", ["npz", "h5", "folder", "two files", "nested"])
def test_every_layout_reads_the_same(tmp_path, layout):
    content = arrays()
    store = open_features(write_layout(tmp_path, layout, content))
    assert store.names == ["a", "b"] and store.width == 4 and store.lengths == {"a": 9, "b": 5}
    again = pickle.loads(pickle.dumps(store))
    for s in (store, again):
        for name, x in content.items():
            assert np.array_equal(s[name], x) and s[name].dtype == np.float16


def test_float64_becomes_float32(tmp_path):
    assert open_features(write_npz(tmp_path, **arrays(dtype=np.float64)))["a"].dtype == np.float32


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"c": np.zeros((3, 5), np.float32)}, "'c' has width 5, but 'a' has 4"),
        ({"c": np.zeros((0, 4), np.float32)}, "'c' has no rows"),
        ({"c": np.zeros((4,), np.float32)}, r"'c' must be float \(snippets, width\)"),
        ({"c": np.zeros((4, 4), np.int64)}, "'c' must be float.*int64"),
        ({"c": np.array([None, {}], dtype=object)}, "'c' is an object array, a pickle"),
    ],
)
def test_unusable_arrays_are_refused_on_opening(tmp_path, extra, says):
    with pytest.raises(FeatureError, match=says):
        open_features(write_npz(tmp_path, **arrays(), **extra))


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["D2K_EVIL"],)


def test_pickles_are_not_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("D2K_EVIL", str(tmp_path / "executed"))
    np.save(tmp_path / "v.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(FeatureError, match=r"v\.npy|'v'"):
        open_features(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_nan_names_the_row_when_read(tmp_path):
    content = arrays()
    content["a"][6, 1] = np.inf
    store = open_features(write_npz(tmp_path, **content))
    store["b"]
    with pytest.raises(FeatureError, match="'a' holds NaN or infinity in row 6"):
        store["a"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_truncated_npz(tmp_path, share):
    path = write_npz(tmp_path, **arrays())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(FeatureError, match=r"features\.npz is truncated"):
        open_features(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_npz_is_always_a_feature_error(tmp_path, compressed):
    path = tmp_path / "features.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        raw = bytearray(whole)
        at = int(rng.integers(len(raw) - 8))
        raw[at : at + 8] = rng.bytes(8)
        path.write_bytes(raw)
        try:
            store = open_features(path)
            for name in store:
                store[name]
        except FeatureError:
            refused += 1
    assert refused > 50


def test_missing_features_and_partners(tmp_path):
    store = open_features(write_npz(tmp_path, **arrays()))
    with pytest.raises(FeatureError, match="no features of 2 annotated videos: 'x', 'y'"):
        store.require(["a", "x", "y"])
    with pytest.raises(FeatureError, match="no features at"):
        open_features(tmp_path / "absent.npz")
    (tmp_path / "two").mkdir()
    folder = write_layout(tmp_path / "two", "two files", arrays())
    (folder / "a_flow.npy").unlink()
    with pytest.raises(FeatureError, match=r"'a' lacks its stream a_flow\.npy"):
        open_features(folder)
    np.save(folder / "a_flow.npy", np.zeros((3, 2), np.float16))
    with pytest.raises(FeatureError, match=r"differ in rows: a_rgb\.npy has 9 and a_flow\.npy has 3"):
        open_features(folder)


@pytest.mark.parametrize(
    ("streams", "says"),
    [
        ([(0, 2, "x"), (2, 5, "y")], "widths must be equal"),
        ([(0, 2, "x")], "cover 2 features, but the features have width 4"),
        ([(0, 2, "x"), (3, 4, "y")], "must begin at 2"),
    ],
)
def test_streams(streams, says):
    check_streams([(0, 2, "x"), (2, 4, "y")], 4)
    with pytest.raises(FeatureError, match=says):
        check_streams(streams, 4)


def annotation(**video):
    return {"database": {"v": {"subset": "train", "annotations": [], **video}}}


def test_annotations_of_both_variants_and_weak_ones(tmp_path):
    segment = {"label": "run", "segment": [1, 2.5], "label_id": 3}
    a = load_annotations(write_json(tmp_path, annotation(annotations=[segment], duration=9, fps=30.0, user=7)))
    video = a.videos["v"]
    assert (video.duration, video.fps, video.labels, video.info) == (9.0, 30.0, ("run",), {"user": 7})
    assert (video.segments[0].start, video.segments[0].end) == (1, 2.5)
    weak = {"classes": ["jump", "run"], "database": {"v": {"subset": "Train", "video_labels": ["run"]}}}
    a = load_annotations(write_json(tmp_path, weak))
    assert a.label_matrix(["v"]).tolist() == [[0, 1]] and list(a.subset("train").videos) == ["v"]


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ("{", "truncated or not JSON"),
        ({"videos": {}}, "expected an object with `database`"),
        ('{"database": {"v": {}, "v": {}}}', "key 'v' occurs twice"),
        ({"classes": ["a"], **annotation(video_labels=["b"])}, "label 'b' of video 'v' is not in the list"),
        (annotation(annotations=[{"label": "a", "segment": [1]}]), "video 'v'.*expected label and segment"),
        (annotation(annotations=[{"label": "a", "segment": [1, float("nan")]}]), "not finite"),
        (annotation(annotations=[{"label": "a", "segment": [3, 2]}]), r"video 'v': segment \[3.0, 2.0\].*ends before"),
        (annotation(annotations=3), "video 'v': annotations must be a list, got 3"),
        (annotation(video_labels="run"), "video_labels must be a list, got 'run'"),
        (annotation(video_labels=[["run"]]), "a label must be the name of a class"),
        (annotation(subset=["train"]), "subset must be a name"),
        ({"classes": "run", **annotation()}, "classes must be a list of names, got 'run'"),
        ({"classes": 3, **annotation()}, "classes must be a list of names, got 3"),
        (annotation(duration_second=-2), "duration_second must be a positive number, got -2"),
    ],
)
def test_annotation_errors(tmp_path, tree, says):
    with pytest.raises(DataError, match=says):
        load_annotations(write_json(tmp_path, tree))


def test_degenerate_segments_are_counted_and_subsets_listed(tmp_path):
    rows = [{"label": "a", "segment": s} for s in ([1, 1], [3, 3], [5, 12])]
    path = write_json(tmp_path, annotation(annotations=rows, duration_second=10))
    with pytest.warns(AnnotationWarning, match=r"2 degenerate and 1 overrunning.*\[1.0, 1.0\] of 'a' in video 'v'"):
        a = load_annotations(path)
    assert len(a.videos["v"].segments) == 3
    with pytest.raises(DataError, match="no video of subset test; its subsets are train"):
        a.subset("test")
    none = load_annotations(write_json(tmp_path, {"database": {"v": {"video_labels": ["a"]}}}))
    with pytest.raises(DataError, match="its videos name no subset"):
        none.subset("train")


@pytest.mark.filterwarnings("ignore::d2net.data.annotations.AnnotationWarning")
@pytest.mark.parametrize(
    ("file", "videos", "segments", "classes"),
    [
        ("thumos14_wtalc/annotations.json", 412, 6365, 20),
        ("activitynet12_wtalc/annotations.json", 7202, 10733, 100),
        ("har/annotations_12.json", 448, 1200, 12),
        ("detections/autoloc_thumos14/ground_truth.json", 210, 3234, 20),
    ],
)
def test_real_annotations(shared_dir, file, videos, segments, classes):
    a = load_annotations(shared_dir / "data" / file)
    assert (len(a.videos), a.report["segments"], len(a.classes)) == (videos, segments, classes)


def test_real_features(shared_dir):
    store = open_features(shared_dir / "data" / "har" / "features.npz")
    assert (len(store), store.width, sum(store.lengths.values())) == (448, 128, 58237)
    sample = open_features(shared_dir / "data" / "i3d_sample")
    assert sample.names == ["women_long_jump"] and sample["women_long_jump"].shape == (14, 2048)


def detections():
    return Detections.from_arrays(["x", "y"], ("a", "b"), [0, 1, 1], [0, 1, 0], [0, 1, 2], [1, 3, 4], [0.2, 0.9, 0.2])


def test_detections_round_trip(tmp_path):
    save_detections(tmp_path / "d.json", detections())
    d = load_detections(tmp_path / "d.json")
    assert d.videos == ["x", "y"] and [d.classes[c] for c in d.label] == ["a", "b", "a"]
    assert d.start.tolist() == [0, 1, 2] and d.score.tolist() == [0.2, 0.9, 0.2]
    assert d.sorted_by_score().start.tolist() == [1, 0, 2] and len(d.for_video("y")) == 2
    empty = d[:0]
    save_detections(tmp_path / "e.json", empty)
    assert len(load_detections(tmp_path / "e.json")) == 0


def test_an_interrupted_write_keeps_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "d.json"
    save_detections(path, detections())
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_detections(path, detections()[:0])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_written_files_can_be_read_by_those_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        save_detections(tmp_path / "d.json", detections())
        assert (tmp_path / "d.json").stat().st_mode & 0o777 == 0o644
        (tmp_path / "d.json").chmod(0o600)
        save_detections(tmp_path / "d.json", detections())
        assert (tmp_path / "d.json").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({}, "expected an object with `results`"),
        ({"results": {"v": 3}}, "video 'v': expected a list of detections, got 3"),
        ({"results": {"v": [{"label": "a", "segment": [0, 1]}]}}, "video 'v', row 0: expected label, score"),
        ({"results": {"v": [{"label": "a", "score": float("nan"), "segment": [0, 1]}]}}, "score nan"),
        ({"results": {"v": [{"label": "a", "score": 1, "segment": [2, 1]}]}}, "the end not before the start"),
    ],
)
def test_detection_errors(tmp_path, tree, says):
    with pytest.raises(DataError, match=says):
        load_detections(write_json(tmp_path, tree))


def test_activations_round_trip_and_errors(tmp_path):
    path = tmp_path / "a.npz"
    a = {
        "v": VideoActivations(np.ones((3, 2), np.float32), np.zeros(3, np.float32)),
        "w": VideoActivations(np.ones((1, 2)), None),
    }
    save_activations(path, a)
    got = load_activations(path, 2)
    assert np.array_equal(got["v"].foreground, np.zeros(3)) and got["w"].foreground is None
    with pytest.raises(DataError, match=r"'v' must be \(snippets, 3\), got \(3, 2\)"):
        load_activations(path, 3)
    save_activations(path, {"v": VideoActivations(np.full((3, 2), np.nan), None)})
    with pytest.raises(DataError, match="'v' holds NaN"):
        load_activations(path, 2)


def test_video_info(tmp_path):
    path = write_json(
        tmp_path, {"v": {"fps": 30, "stride": 8, "snippet_frames": 16, "duration": 12}, "w": {"duration": 3}}
    )
    info = load_video_info(path)
    assert info.durations == {"v": 12, "w": 3} and info.timings["v"].fps == 30 and "w" not in info.timings
    table = tmp_path / "info.csv"
    table.write_text("video,snippet_seconds,duration\nv,0.5,\nw,,7\n")
    info = load_video_info(table)
    assert info.timings["v"].snippet_seconds == 0.5 and info.durations == {"w": 7}
    for tree, says in (({"v": {"fsp": 3}}, "unknown field 'fsp'"), ({"v": {"fps": 30}}, "'v'.*without stride")):
        with pytest.raises(DataError, match=says):
            load_video_info(write_json(tmp_path, tree))


def test_fields_that_are_not_used_may_hold_anything(tmp_path):
    for fps in (0, "29.97", "fast", -1, [], True, 10**400):
        a = load_annotations(write_json(tmp_path, annotation(fps=fps, video_labels=["a"], frames={"x": []}, url=None)))
        assert a.videos["v"].fps == (29.97 if fps == "29.97" else None)
    a = load_annotations(write_json(tmp_path, {"streams": [[0, float("inf"), "x"]], **annotation(video_labels=["a"])}))
    with pytest.raises(FeatureError, match=r"streams must be rows of \[first, end, name\], got \[\[0, inf, 'x'\]\]"):
        check_streams(a.streams, 4)


def test_rounded_durations_are_no_overruns(tmp_path, recwarn):
    rows = [{"label": "a", "segment": [5, end]} for end in (10 + 1e-7, 10.0005)]
    a = load_annotations(write_json(tmp_path, annotation(annotations=rows, duration_second=10)))
    assert a.report["overrunning"] == 0 and not recwarn.list
    rows[0]["segment"][1] = 12
    with pytest.warns(AnnotationWarning, match=r"1 overrunning .*\[5.0, 12.0\] of 'a' in video 'v', which lasts"):
        load_annotations(write_json(tmp_path, annotation(annotations=rows, duration_second=10)))


def test_detection_rows_are_counted_in_their_video(tmp_path):
    row = {"label": "a", "score": 1, "segment": [0, 1]}
    tree = {"results": {"v": [row] * 5, "zz": [{**row, "segment": [2, 1]}]}}
    with pytest.raises(DataError, match="row 0 of video 'zz'"):
        load_detections(write_json(tmp_path, tree))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("video;duration\nv;1,5\n", None),
        ("video\tduration\nv\t1.5\n", None),
        (" video , duration \n v , 1.5 \n\n", None),
        ('video,duration\n"v",1.5\n', None),
        ("video,duration\nv,1,5\n", "line 2: 3 cells under 2 columns; decimal commas need semicolons"),
        ("video,duration\nv,1\nv,2\n", "line 3: video 'v' is listed twice"),
        ("video,duration\n,1\n", "line 2: the cell of `video` is empty"),
        ("video,fps,fps\nv,1,2\n", "a column is named twice"),
        ("name,duration\nv,1\n", "needs a column `video`, got 'name, duration'"),
        ("video,duration\nv,long\n", "line 2: duration is 'long', which is not a number"),
        ("", "needs a column `video`"),
        ("Video,Duration\nv,1.5\n", None),
        ("sep=;\nVIDEO;Duration\nv;1,5\n", None),
        ("sep=,\nvideo,duration\nv,1.5\n", None),
        ("sep=|\nvideo|duration\nv|1.5\n", None),
        ("\n\n  \nvideo,duration\n\n,,\nv,1.5\n\n", None),
        ("video,duration,,\nv,1.5,,\n", None),
        ("video,duration\nv,1.5,\n", None),
        ("\ufeffsep=;\r\nvideo;duration\r\nv;1.5\r\n", None),
        ("sep=;\n\nvideo;duration\n\nv;1;2\n", "line 5: 3 cells under 2 columns"),
        ("sep=;\n", "needs a column `video`"),
        ("video,Video\nv,1\n", "a column is named twice"),
        ('video,duration\nv,"1,234.5"\n', r"line 2: duration is '1,234.5': thousands are not separated"),
        ('video,duration\nv,"1.234,5"\n', "thousands are not separated here; write 1234.5"),
        ('video,duration\nv,"1,234"\n', "duration is '1,234', which may be 1.234 or 1234"),
        ("video\tduration\nv\t12,345\n", "which may be 12.345 or 12345"),
        ("video;duration\nv;1.234,5\n", "thousands are not separated"),
        ("video;duration\nv;1 234,5\n", "thousands are not separated"),
        ("video;duration\nv;1'234.5\n", "thousands are not separated"),
        ("video;duration\nv;1,234,567\n", "thousands are not separated"),
        ("video;duration\nv;1,5\nw;2.5\n", "line 3: duration is '2.5', but line 2 has a decimal comma"),
        ("video;duration\nv;1.234\nw;2,5\n", "line 3: duration is '2,5', but line 2 has a decimal point"),
        ("video,duration\nv,1_5\n", "duration is '1_5', which is not a number"),
        ("video,duration\nv,nan\n", "duration is 'nan', which is not a number"),
        ("video,duration\nv,\u0661\n", "which is not a number"),
        ("video,duration\n", "no video in it has a duration or a timing"),
        ("video,duration\nv,\n", "no video in it has a duration or a timing"),
    ],
)
def test_video_info_tables(tmp_path, text, says):
    path = tmp_path / "i.csv"
    path.write_bytes(text.encode())
    if says is None:
        assert load_video_info(path).durations == {"v": 1.5}
    else:
        with pytest.raises(DataError, match=says) as error:
            load_video_info(path)
        assert "i.csv" in str(error.value)


@given(
    st.floats(-1e6, 1e6).map(lambda x: round(x, 4)), st.sampled_from(["", ".", ",", "e"]), st.sampled_from(",;\t"),
    st.sampled_from(["", ",", ".", " ", "'"]),
)  # fmt: skip
def test_a_number_in_a_table_is_read_as_written_or_refused(tmp_path_factory, value, how, separator, thousands):
    """Never another number: whatever mark of thousands and decimals it is written with."""
    mark = how if how in (".", ",") else "."
    text = f"{value:,.4f}".replace(",", "T").replace(".", mark).replace("T", thousands)
    if how == "":
        value = float(round(value))
        text = f"{value:,.0f}".replace(",", thousands)
    elif how == "e":
        text = repr(value)
    path = tmp_path_factory.mktemp("t") / "d.csv"
    path.write_text(separator.join(["video", "start", "end", "label", "score"]) + "\n"
                    + separator.join(["v", "0", "1", "a", f'"{text}"']) + "\n")  # fmt: skip
    try:
        found = load_detections(path).score[0]
    except DataError as error:
        assert "line 2: score is" in str(error) and (thousands or mark == ",")
        return
    if how == "" and (thousands == "." or (thousands == "," and separator == ";")):
        return  # a decimal mark by the rule
    assert found == value


def test_video_info_values_that_say_nothing_or_contradict(tmp_path):
    def info(**fields):
        return load_video_info(write_json(tmp_path, {"v": fields, "w": {"duration": 1}}))

    for no in (0, False, "0", "false", None):
        found = info(resized=no, snippet_seconds=0.5, duration=2)
        assert found.timings == {"v": Timing(snippet_seconds=0.5)}
        assert info(resized=no, duration=2).timings == {}
    for yes in (1, True, "1", "True", 1.0):
        assert info(resized=yes, duration=2).timings == {"v": Timing(resized=True)}
    for fps in (0, 25, -1, "fast", "29.97"):
        with pytest.warns(TimingWarning, match=r"fps of 1 videos is not used, for want of stride and .*: 'v'"):
            assert info(fps=fps, duration=2).timings == {}
        assert info(fps=fps, snippet_seconds=0.5).timings == {"v": Timing(snippet_seconds=0.5)}
    for fields, says in (
        ({"fps": 0, "stride": 8, "snippet_frames": 8}, "fps must be a positive number, .*got 0"),
        ({"fps": 25, "stride": 8}, "without snippet_frames"),
        ({"fps": 25}, "without stride"),
        ({"resized": 2}, "resized must be true, false, 1 or 0, got 2"),
        ({"resized": "maybe"}, "resized must be true"),
        ({"duration": True}, "duration must be a number, got True"),
        ({"duration": "1_0"}, "duration must be a number"),
        (
            {"fps": 25, "stride": 8, "snippet_frames": 16, "snippet_seconds": 0.5},
            "fps 25, stride 8, snippet_frames 16, snippet_seconds 0.5 exclude each other",
        ),
    ):
        with pytest.raises(DataError, match=f"video 'v': .*{says}"):
            info(**fields)
    for nothing in ({}, {"v": {}}, {"v": {"duration": None}}, {"v": {"resized": 0}}):
        with pytest.raises(DataError, match="no video in it has a duration or a timing"):
            load_video_info(write_json(tmp_path, nothing))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize("read", [load_video_info, load_detections, load_annotations])
def test_text_of_other_encodings_is_one_line(tmp_path, read, encoding):
    (tmp_path / "i.csv").write_bytes("video,duration\nv\u00e9,1\n".encode(encoding))
    with pytest.raises(DataError, match=r"i\.csv") as error:
        read(tmp_path / "i.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("time", [1e16, -1e300, float("inf"), float("nan")])
def test_times_that_cannot_be_computed_with_are_refused(tmp_path, time):
    segment = sorted([0.0, time]) if time == time else [0.0, time]
    tree = annotation(annotations=[{"label": "a", "segment": segment}])
    with pytest.raises(DataError, match=r"video 'v': segment .* is not finite or no time"):
        load_annotations(write_json(tmp_path, tree))
    tree = {"results": {"v": [{"label": "a", "score": 1, "segment": segment}]}}
    with pytest.raises(DataError, match=r"row 0 of video 'v'.*must be finite, times of at most"):
        load_detections(write_json(tmp_path, tree))
    if time > 0:
        with pytest.raises(DataError, match="duration must be a positive number"):
            load_video_info(write_json(tmp_path, {"v": {"duration": time}}))


def test_detections_of_every_dialect_read_the_same(tmp_path):
    want = detections()
    save_detections(tmp_path / "d.json", want)
    rows = [("x", 0, 1, "a", 0.2), ("y", 1, 3, "b", 0.9), ("y", 2, 4, "a", 0.2)]
    (tmp_path / "d.csv").write_text(
        "label,video,start,end,score\n" + "".join(f"{c},{v},{a},{b},{s}\n" for v, a, b, c, s in rows)
    )
    (tmp_path / "d.tsv").write_text(
        "video\tstart\tend\tlabel\tscore\n" + "".join("\t".join(map(str, r)) + "\n" for r in rows)
    )
    names = ("video-id", "t-start", "t-end", "label", "score")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    for protocol in (2, 4):
        (tmp_path / f"d{protocol}.pkl").write_bytes(
            pickle.dumps({k: np.array(v) for k, v in columns.items()}, protocol)
        )
    for name in ("d.json", "d.csv", "d.tsv", "d2.pkl", "d4.pkl"):
        got = load_detections(tmp_path / name)
        assert got.videos == want.videos and [got.classes[c] for c in got.label] == ["a", "b", "a"], name
        for column in ("video", "start", "end", "score"):
            assert np.array_equal(getattr(got, column), getattr(want, column)), (name, column)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("video,start,end,score\nv,1,2,3\n", "no column `label`; a list of events has video, start"),
        ("video,start,end,label,score\nv,x,2,a,3\n", "line 2: start is 'x', which is not a number"),
        ("video,start,end,label,score\n,1,2,a,3\n", "line 2: the cell of `video` is empty"),
        (pickle.dumps({"video-id": ["v"]}), "lacks t-start, t-end, label, score; a pickle of detections is a dict"),
        (pickle.dumps([1]), "is a list; a pickle of detections is a dict"),
        (pickle.dumps(detections), "nothing was executed"),
    ],
)
def test_detections_of_other_dialects_that_are_refused(tmp_path, content, says):
    (tmp_path / "d").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=says):
        load_detections(tmp_path / "d")


ODD = ["12", [1], [1, 2, 3], {"a": 1, "b": 2}, [True, 2], [[1], [2]], None, 5, ["1_0", 2], ["x", 2], ["nan", "inf"]]


@pytest.mark.parametrize("segment", ODD)
def test_segments_that_are_not_two_numbers(tmp_path, segment):
    says = r"video 'v'.*expected label.* segment \[start, end\], got"
    with pytest.raises(DataError, match=says):
        load_annotations(write_json(tmp_path, annotation(annotations=[{"label": "a", "segment": segment}])))
    with pytest.raises(DataError, match=says):
        row = {"label": "a", "score": 1, "segment": segment}
        load_detections(write_json(tmp_path, {"results": {"v": [row]}}))
    for score in (True, [1], "high", None):
        with pytest.raises(DataError, match="expected label, score and segment"):
            row = {"label": "a", "score": score, "segment": [1, 2]}
            load_detections(write_json(tmp_path, {"results": {"v": [row]}}))


@pytest.mark.parametrize("label", ["", " ", "\t"])
def test_labels_without_a_name(tmp_path, label):
    rows = [{"label": label, "segment": [1, 2], "score": 1}]
    for entry in ({"video_labels": [label]}, {"annotations": rows}):
        with pytest.raises(DataError, match="video 'v': a label is empty; name its class"):
            load_annotations(write_json(tmp_path, annotation(**entry)))
    with pytest.raises(DataError, match="a class without a name is listed"):
        load_annotations(write_json(tmp_path, {"classes": ["a", label], **annotation(video_labels=["a"])}))
    with pytest.raises(DataError, match="video 'v', row 0"):
        load_detections(write_json(tmp_path, {"results": {"v": rows}}))


def test_features_of_no_width(tmp_path):
    np.savez(tmp_path / "f.npz", v=np.zeros((5, 0), np.float32), w=np.zeros((5, 0), np.float32))
    with pytest.raises(FeatureError, match="'v' has width 0; extract it again"):
        open_features(tmp_path / "f.npz")

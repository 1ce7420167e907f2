"""--layout: data read as the user says, what there is by name, and the line that says what was understood."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from d2net.cli.layouts import layout_names, parse_layouts
from d2net.data import annotations, detections, features
from d2net.data.annotations import load_annotations
from d2net.data.detections import load_detections
from d2net.data.features import FeatureError, open_features
from d2net.data.files import DataError
from d2net.data.layouts import Layouts
from d2net.data.synth import make_synthetic, write_synthetic

KINDS = ("features", "annotations", "detections", "axis")


def rows(s, d=4):
    return np.random.default_rng(s).standard_normal((s, d)).astype(np.float32)


def test_names_are_of_the_kinds_that_a_command_reads():
    assert parse_layouts(["hdf5", "transposed"], KINDS) == Layouts(features="hdf5", axis="transposed")
    assert parse_layouts(["wtalc"], KINDS) == Layouts(features="wtalc", annotations="wtalc")
    assert parse_layouts(["annotations=wtalc"], KINDS) == Layouts(annotations="wtalc")
    assert parse_layouts(["events"], ("detections",)) == Layouts(detections="events")
    assert parse_layouts([], KINDS) == Layouts()
    for wrong, says in (("hdf", r"no 'hdf' here.*hdf5"), ("features=events", "no 'features=events'"), ("=", "no '='")):
        with pytest.raises(DataError, match=says):
            parse_layouts([wrong], KINDS)
    with pytest.raises(DataError, match="exclude each other"):
        parse_layouts(["rows", "transposed"], KINDS)
    with pytest.raises(DataError, match="no 'hdf5' here"):
        parse_layouts(["hdf5"], ("annotations",))


def test_every_layout_refuses_what_it_is_not_in_one_line(tmp_path):
    np.savez(tmp_path / "f.npz", v=rows(5), w=rows(6))
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "v.npy", rows(5))
    (tmp_path / "text.json").write_text('{"a": 1}')
    (tmp_path / "raw.bin").write_bytes(bytes(range(256)))
    readers = {
        "features": lambda path, name: open_features(path, layout=name),
        "annotations": lambda path, name: load_annotations(path, layout=name),
        "detections": lambda path, name: load_detections(path, layout=name),
    }
    for kind, read in readers.items():
        for name in layout_names()[kind]:
            for place in ("f.npz", "folder", "text.json", "raw.bin", "nothing"):
                if (kind, name, place) in (("features", "npz", "f.npz"), ("features", "folder", "folder")):
                    assert read(tmp_path / place, name).width == 4
                    continue
                with pytest.raises(DataError) as error:
                    read(tmp_path / place, name)
                assert "\n" not in str(error.value) and str(tmp_path) in str(error.value), (kind, name, place)
        with pytest.raises(DataError, match="no layout 'other'"):
            read(tmp_path / "f.npz", "other")


def test_a_name_overrides_the_suffix(tmp_path):
    np.savez(tmp_path / "f.npz", v=rows(5), w=rows(6))
    shutil.move(tmp_path / "f.npz", tmp_path / "features.bin")
    with pytest.raises(FeatureError, match="say --layout"):
        open_features(tmp_path / "features.bin")
    assert open_features(tmp_path / "features.bin", layout="npz").lengths == {"v": 5, "w": 6}


def test_a_folder_whose_videos_are_called_as_streams_are(tmp_path):
    for name in ("a_rgb", "b_flow"):
        np.save(tmp_path / f"{name}.npy", rows(5))
    with pytest.raises(FeatureError, match="lacks its stream"):
        open_features(tmp_path)
    assert open_features(tmp_path, layout="folder").names == ["a_rgb", "b_flow"]
    with pytest.raises(FeatureError, match="lacks its stream"):
        open_features(tmp_path, layout="streams")
    np.save(tmp_path / "a_flow.npy", rows(5, 3))
    np.save(tmp_path / "b_rgb.npy", rows(5, 3))
    assert open_features(tmp_path).lengths == open_features(tmp_path, layout="streams").lengths == {"a": 5, "b": 5}
    np.save(tmp_path / "c.npy", rows(5, 7))
    with pytest.raises(FeatureError, match="layout streams, but 'c'"):
        open_features(tmp_path, layout="streams")


@pytest.mark.parametrize("batch", [False, True])
def test_arrays_are_turned_where_the_user_says_so(tmp_path, batch):
    arrays = {name: rows(s) for name, s in (("v", 5), ("w", 5), ("x", 9))}
    held = {name: x.T[None] if batch else x.T for name, x in arrays.items()}
    np.savez(tmp_path / "f.npz", **held)
    with pytest.raises(FeatureError, match="width"):
        open_features(tmp_path / "f.npz")
    store = open_features(tmp_path / "f.npz", axis="transposed")
    assert store.lengths == {"v": 5, "w": 5, "x": 9} and store.width == 4
    assert all((store[name] == x).all() and store.dtype(name) == x.dtype for name, x in arrays.items())
    # All of one width by chance: what was taken for (width, snippets) is kept as it is.
    np.savez(tmp_path / "g.npz", a=rows(4, 6), b=rows(4, 7), c=rows(4, 8))
    with pytest.warns(features.LayoutWarning):
        assert open_features(tmp_path / "g.npz").width == 4
    with pytest.raises(FeatureError, match="has width 7"):
        open_features(tmp_path / "g.npz", axis="rows")
    np.savez(tmp_path / "h.npz", a=np.zeros((3, 10, 4), np.float32))
    with pytest.raises(FeatureError, match="ten crops"):
        open_features(tmp_path / "h.npz", axis="transposed")
    with pytest.raises(FeatureError, match="axis must be"):
        open_features(tmp_path / "h.npz", axis="other")


def test_what_was_understood_is_said_by_every_command(command, tmp_path):
    data = write_synthetic(tmp_path, make_synthetic(videos=12, classes=2, width=8))
    renamed = tmp_path / "features.data", tmp_path / "truth.data"
    for old, new in zip(data, renamed, strict=True):
        shutil.move(old, new)
    inputs = ["--features", renamed[0], "--annotations", renamed[1], "--layout", "npz", "--layout", "activitynet"]
    timing = ["--fps", 25, "--stride", 16, "--snippet-frames", 16]
    status, out, err = command("train", *inputs, *timing, "--out", tmp_path / "run", "--set", "iterations=2",
                           "--set", "train.subsets=[train]")  # fmt: skip
    assert status == 0, err
    assert "features: an .npz keyed by video: 12 videos" in out and "annotations: ActivityNet's JSON: 12 videos" in out
    status, out, err = command("localize", "--checkpoint", tmp_path / "run", *inputs, "--out", tmp_path / "d.json")
    assert status == 0 and "features: an .npz" in out and "annotations: ActivityNet's JSON" in out, err
    scored = ["--predictions", tmp_path / "d.json", "--ground-truth", renamed[1]]
    status, out, err = command("evaluate", *scored)
    assert status == 0 and "detections: ActivityNet's results: " in out and "ground truth: ActivityNet's JSON" in out, (
        err
    )
    status, _, err = command("evaluate", *scored, "--layout", "columns")
    assert status == 2 and len(err.splitlines()) == 1 and "d.json" in err
    status, _, err = command("evaluate", *scored, "--layout", "npz")
    assert status == 2 and "no 'npz' here; there are, of annotations: activitynet" in err
    status, out, err = command("convert", renamed[0], tmp_path / "c.safetensors", "--layout", "npz")
    assert status == 0 and "read an .npz keyed by video" in out, err
    status, out, err = command("convert", renamed[1], tmp_path / "c.csv", "--layout", "annotations=activitynet")
    assert status == 0 and "read ActivityNet's JSON" in out, err
    status, out, err = command("inspect", *renamed, "--layout", "npz", "--json", "--quiet", *timing)
    assert status == 0 and json.loads(out)["features"]["videos"] == 12, out


def test_every_package_names_its_layouts_in_words():
    assert layout_names()["features"] is features.LAYOUTS
    assert {d.words for d in annotations.LAYOUTS.values()} and detections._WORDS.keys() == detections.LAYOUTS.keys()

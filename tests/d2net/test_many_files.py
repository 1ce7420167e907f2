"""Folders of many files: what opening costs for each, and what else may lie in them."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from d2net.api.inputs import named_as
from d2net.data.annotations import load_annotations
from d2net.data.features import FeatureError, index, open_features
from d2net.data.features.index import places
from d2net.data.features.listing import Paths

KINDS = 7  # of arrays that the links are of


@pytest.fixture(autouse=True)
def settled(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_SETTLED", -1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def linked(path: Path, files: int) -> Path:
    """A folder of links to a few arrays."""
    path.mkdir()
    for k in range(KINDS):
        np.save(path / f"v{k:06}.npy", np.ones((3 + k, 4), np.float16))
    for i in range(KINDS, files):
        os.link(path / f"v{i % KINDS:06}.npy", path / f"v{i:06}.npy")
    return path


def calls(names: tuple[str, ...], do: Callable[[], object]) -> dict[str, int]:
    """How often do() calls these functions of os with a name or descriptor."""
    counted = dict.fromkeys(names, 0)

    def counting(name: str) -> Callable:
        own = getattr(os, name)

        def call(*arguments, **keywords):
            counted[name] += 1
            return own(*arguments, **keywords)

        return call

    with mock.patch.multiple(os, **{name: counting(name) for name in names}):
        do()
    return counted


SYSTEM = ("open", "fstat", "read", "close", "stat", "lstat", "scandir")


def test_a_file_costs_four_system_calls_when_a_folder_is_first_opened_and_none_later(tmp_path):
    path = linked(tmp_path / "f", 1200)
    first = calls(SYSTEM, lambda: open_features(path))
    later = calls(SYSTEM, lambda: open_features(path))
    few = 64 + 60  # the files that are compared, and what is done for the folder and its index
    assert all(1200 <= first[name] <= 1200 + few for name in SYSTEM[:4]), first
    assert all(later[name] <= few for name in SYSTEM), later
    assert first["stat"] <= few and first["scandir"] == later["scandir"] == 1


def peak(path: Path) -> int:
    tracemalloc.start()
    store = open_features(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.lengths["v000001"] == 4
    return most


def test_a_file_more_takes_as_little_memory_as_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "LEAST", 500)
    few, many = (linked(tmp_path / str(n), n) for n in (500, 2000))
    open_features(few)  # what is imported with it
    for _ in range(2):  # without an index, and with it
        assert (peak(many) - peak(few)) / 1500 < 320


def test_columns_are_what_mappings_of_each_video_were(tmp_path):
    store = open_features(linked(tmp_path / "f", 20))
    want = {f"v{i:06}": 3 + i % KINDS for i in range(20)}
    assert store.lengths == want and dict(store.lengths) == want and list(store.lengths.values()) == list(want.values())
    assert dict(store.held.items()) == {v: (n, 4) for v, n in want.items()} and "w" not in store.lengths
    assert set(store.dtypes.values()) == {np.dtype(np.float16)} and store.lengths.get("w") is None
    files = store.sources()
    assert isinstance(files, Paths) and list(files) == [files[i] for i in range(20)] == files[:]
    assert files[-1] == tmp_path / "f" / "v000019.npy"
    with pytest.raises(IndexError):
        files[20]


def test_streams_in_folders_of_their_own_have_an_index_too(tmp_path):
    for place in ("train", "test"):
        for k, kind in enumerate(("rgb", "flow")):
            (tmp_path / "f" / place / kind).mkdir(parents=True)
            for i in range(300):
                np.save(tmp_path / "f" / place / kind / f"{place}{i}.npy", np.full((2 + i % 5, 2 + k), i, np.float16))
    first, later = (open_features(tmp_path / "f") for _ in range(2))
    assert places(tmp_path / "f")[0].exists()
    assert first.lengths == later.lengths and later.lengths["test7"] == 4 and first.width == 5
    assert (later["test7"] == np.full((4, 5), 7)).all() and (later.rows("train8", 1, 3) == np.full((2, 5), 8)).all()
    np.save(tmp_path / "f" / "train" / "rgb" / "train9.npy", np.ones((9, 2), np.float16))
    shutil.copystat(tmp_path / "f" / "train" / "flow" / "train9.npy", tmp_path / "f" / "train" / "rgb" / "train9.npy")
    with pytest.raises(FeatureError, match=r"train9.npy changed while it was in use: it was \(6, 2\)"):
        open_features(tmp_path / "f")["train9"]
    with pytest.raises(FeatureError, match=r"'train9' differ in rows: train/rgb/train9.npy has 9 and train/flow"):
        open_features(tmp_path / "f")


def test_links_are_followed_and_other_things_beside_the_arrays_are_no_videos(tmp_path):
    path = linked(tmp_path / "f", 10)
    (path / ".v.npy").write_bytes(b"macOS")
    (path / "notes.md").write_text("notes")
    (path / "sub").mkdir()
    np.save(path / "sub" / "w.npy", np.ones((3, 4)))
    np.save(tmp_path / "away.npy", np.ones((8, 4), np.float32))
    (path / "linked.npy").symlink_to(tmp_path / "away.npy")
    store = open_features(path)
    assert len(store) == 11 and (store["linked"] == 1).all() and store.lengths["linked"] == 8


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.write_bytes(b""), r"x.npy is truncated or not a NumPy array"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x76\x00{"), r"x.npy is truncated or not a NumPy array"),
        (lambda p: p.mkdir(), r"x.npy is a folder, not a file"),
        (lambda p: os.mkfifo(p), r"x.npy is a pipe, device or socket"),
        (lambda p: p.symlink_to("nowhere"), r"no file .*x.npy"),
        (lambda p: p.symlink_to(p.name), r"cannot read .*x.npy: Too many levels of symbolic links"),
        (lambda p: np.save(p, np.array([{}])), r"'x' is an object array, a pickle"),
        (lambda p: p.write_bytes((p.parent / "v000001.npy").read_bytes()[:-1]), r"x.npy .*it states float16 \(4, 4\)"),
    ],
)
def test_a_file_that_is_no_array_is_named_in_one_line(tmp_path, make, says):
    path = linked(tmp_path / "f", 10)
    make(path / "x.npy")
    with pytest.raises(FeatureError, match=says) as error:
        open_features(path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_of_any_bytes_are_indexed(tmp_path):
    path = linked(tmp_path / "f", 1100)
    odd = [b"\xff\xfe", "ünï\n".encode(), b"a b\t", b"%s%00", b"-" * 200]
    for name in odd:
        os.link(path / "v000000.npy", os.fsencode(path) + b"/" + name + b".npy")
    first, later = (open_features(path) for _ in range(2))
    assert places(path)[0].exists() and first.names == later.names == sorted(first.names)
    assert all(later.lengths[os.fsdecode(name)] == 3 and later[os.fsdecode(name)].shape == (3, 4) for name in odd)


def test_what_is_added_while_a_store_is_open_is_no_part_of_it_and_what_goes_is_named(tmp_path):
    path = linked(tmp_path / "f", 1100)
    store = open_features(path)
    np.save(path / "w.npy", np.ones((3, 4), np.float16))
    (path / "v000002.npy").unlink()
    assert "w" not in store and len(store) == 1100 and store["v000003"].shape == (6, 4)
    with pytest.raises(FeatureError, match=r"no file .*v000002.npy"):
        store["v000002"]
    again = open_features(path)
    assert "w" in again and "v000002" not in again


def test_opened_by_many_at_once_all_see_the_same_and_leave_a_whole_index(tmp_path):
    path = linked(tmp_path / "f", 1100)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: open_features(path), range(8)))
    assert all(store.lengths == stores[0].lengths for store in stores)
    assert calls(SYSTEM, lambda: open_features(path))["open"] < 100
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".f")] == [places(path)[0].name]


def test_two_files_of_one_video_are_named_in_a_large_folder_too(tmp_path):
    path = linked(tmp_path / "f", 1100)
    np.savez(path / "v000700.npz", np.ones((3, 4)))
    with pytest.raises(FeatureError, match=r"video 'v000700' is there as v000700.npy and as v000700.npz"):
        open_features(path)


def test_a_layout_or_another_reading_of_the_same_folder_does_not_take_its_index(tmp_path):
    path = tmp_path / "f"
    path.mkdir()
    for i in range(600):
        np.save(path / f"a{i}_rgb.npy", np.full((2 + i % 3, 2), 1, np.float16))
        np.save(path / f"a{i}_flow.npy", np.full((2 + i % 3, 2), 2, np.float16))
    for _ in range(2):
        assert len(open_features(path)) == 600
        single = open_features(path, layout="folder")
        assert len(single) == 1200 and single.width == 2 and (single["a1_flow"] == 2).all()


def annotations(path: Path, videos: int) -> Path:
    database = {
        f"v{i:06}": {
            "subset": "train",
            "duration_second": 30.0,
            "annotations": [{"segment": [a, a + 5.5], "label": f"c{(i + a) % 5}"} for a in range(0, 30, 10)],
        }
        for i in range(videos)
    }
    path.write_text(json.dumps({"database": database}))
    return path


def test_annotations_of_a_video_more_keep_their_segments_and_nothing_beside(tmp_path):
    few, many = (annotations(tmp_path / f"{n}.json", n) for n in (500, 2000))
    load_annotations(few)  # what is imported with it
    kept = []
    for place in (few, many):
        tracemalloc.start()
        found = load_annotations(place)
        kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert (kept[1] - kept[0]) / 1500 < 900
    segments = [s for v in found.videos.values() for s in v.segments]
    assert len({id(s.label) for s in segments}) == 5 and gc.isenabled()
    named, alias = named_as(found, [*found.videos])
    assert named is found and not alias

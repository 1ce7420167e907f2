"""The index of features: the same store with it and without, read instead of headers, and never believed when stale."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import time
import zipfile
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2net.data.features import FeatureError, folder, hdf5, listing, npz, open_features
from d2net.data.features.headers import Headers
from d2net.data.features.index import Kept, file_state, load, places, save
from d2net.data.files import DataError


@pytest.fixture(autouse=True)
def few_are_many(tmp_path, monkeypatch):
    """Four arrays are enough for an index, and what is made in a test has settled."""
    monkeypatch.setattr("d2net.data.features.index.LEAST", 4)
    monkeypatch.setattr("d2net.data.features.index._SETTLED", -1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows(n, width=4):
    return np.random.default_rng(n).standard_normal((n, width)).astype(np.float16)


def write_folder(path):
    path.mkdir()
    for i in range(6):
        np.save(path / f"v{i}.npy", rows(3 + i))


def write_streams(path):
    for kind in ("rgb", "flow"):
        (path / kind).mkdir(parents=True)
        for i in range(6):
            np.save(path / kind / f"v{i}.npy", rows(3 + i, 2))


def write_npz(path):
    np.savez(path, **{f"v{i}": rows(3 + i) for i in range(6)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("timing.json", json.dumps({"snippet_seconds": 0.5}))


def write_hdf5(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["snippet_seconds"] = 0.5
        for i in range(6):
            file[f"v{i}/feats"] = rows(3 + i)


KINDS = [(write_folder, "f"), (write_streams, "s"), (write_npz, "f.npz"), (write_hdf5, "f.h5")]


def headers_read(open_it):
    """What open_it() gives, and how many headers were read for it."""
    count = mock.Mock()

    def counted(function):
        def call(*arguments):
            count()
            return function(*arguments)

        return call

    with (
        mock.patch.object(folder.HeaderReader, "read", counted(folder.HeaderReader.read)),
        mock.patch.object(npz, "header", counted(npz.header)),
        mock.patch.object(hdf5, "_check_own_data", counted(hdf5._check_own_data)),
    ):
        return open_it(), count.call_count


@pytest.mark.parametrize(("write", "name"), KINDS)
def test_a_second_start_reads_no_header_and_gives_the_same_store(tmp_path, write, name):
    path = tmp_path / name
    write(path)
    first, before = headers_read(lambda: open_features(path))
    assert before >= 6 and places(path)[0].exists() and places(path)[0].parent == tmp_path
    second, after = headers_read(lambda: open_features(path))
    assert after == 0
    assert (first.names, first.lengths, first.width, first.held) == (
        second.names, second.lengths, second.width, second.held,
    )  # fmt: skip
    assert (first.layout, first.notes, dict(first.stated)) == (second.layout, second.notes, dict(second.stated))
    assert all((first[v] == pickle.loads(pickle.dumps(second))[v]).all() for v in first)


@pytest.mark.parametrize(("write", "name"), KINDS)
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "folder", "other", "json"])
def test_a_damaged_index_is_made_again(tmp_path, write, name, damage):
    path = tmp_path / name
    write(path)
    lengths = open_features(path).lengths
    place = places(path)[0]
    raw = place.read_bytes()
    rng = random.Random(damage)
    for _ in range(1 if damage == "folder" else 10):
        if damage == "cut":
            place.write_bytes(raw[: rng.randrange(len(raw))])
        elif damage == "flip":
            at = rng.randrange(len(raw))
            place.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :])
        elif damage == "empty":
            place.write_bytes(b"")
        elif damage == "json":
            place.write_bytes(b"d2net-index 3 0\n" + b'{"state": [], "arrays": {"v": [0, -1]}}')
        elif damage == "folder":
            place.unlink()
            place.mkdir()
        else:
            place.write_bytes(raw.partition(b"\n")[2])
        store, read = headers_read(lambda: open_features(path))
        assert read >= 6 and store.lengths == lengths
        if damage != "folder":
            assert headers_read(lambda: open_features(path))[1] == 0


def grow(path):
    if path.is_dir():
        np.save(path / "w.npy", rows(20))
    elif path.suffix == ".npz":
        np.savez(path, **{f"v{i}": rows(3 + i) for i in range(6)}, w=rows(20))
    else:
        import h5py

        with h5py.File(path, "a") as file:
            file["w/feats"] = rows(20)


@pytest.mark.parametrize(("write", "name"), [k for k in KINDS if k[1] != "s"])
def test_what_was_added_removed_or_replaced_is_seen(tmp_path, write, name):
    path = tmp_path / name
    write(path)
    open_features(path)
    grow(path)
    assert open_features(path).lengths["w"] == 20
    if path.is_dir():
        (path / "v3.npy").unlink()
        assert "v3" not in open_features(path)
        np.save(tmp_path / "new.npy", rows(50))
        os.replace(tmp_path / "new.npy", path / "v4.npy")
        assert open_features(path).lengths["v4"] == 50
    else:
        path.unlink()
        write(path)
        assert "w" not in open_features(path)


def test_a_file_rewritten_in_place_is_seen_at_once_or_when_it_is_read_and_then_at_the_next_start(tmp_path):
    path = tmp_path / "f"
    write_folder(path)
    open_features(path)
    with mock.patch.object(folder, "folder_state", _no_sample):
        open_features(path)
        number = (path / "v2.npy").stat().st_ino
        np.save(path / "v2.npy", rows(33))
        assert (path / "v2.npy").stat().st_ino == number
        stale = open_features(path)
        assert stale.lengths["v2"] == 5
        with pytest.raises(FeatureError, match=r"'v2' changed while it was in use.*\(33, 4\)"):
            stale["v2"]
        assert open_features(path).lengths["v2"] == 33
    os.utime(path / "v2.npy", ns=(1, 1))
    np.save(path / "v2.npy", rows(34))
    assert open_features(path).lengths["v2"] == 34


def _no_sample(*arguments):
    return [*listing.folder_state(*arguments)[:2], []]


def test_where_nothing_can_be_written_beside_the_features_the_cache_holds_the_index(tmp_path):
    path = tmp_path / "f.npz"
    write_npz(path)
    beside, cached = places(path)

    def refuse(place, write):
        if place == beside:
            raise DataError("read-only")
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(place, "wb") as file:
            write(file)

    with mock.patch("d2net.data.features.index.write_atomically", refuse):
        open_features(path)
    assert cached.exists() and not beside.exists()
    assert headers_read(lambda: open_features(path))[1] == 0
    shutil.rmtree(cached.parent)
    with mock.patch("d2net.data.features.index.write_atomically", mock.Mock(side_effect=DataError("no room"))):
        assert headers_read(lambda: open_features(path))[1] == 6
        assert headers_read(lambda: open_features(path))[1] == 6


def test_what_is_still_changing_is_not_indexed(tmp_path, monkeypatch):
    monkeypatch.setattr("d2net.data.features.index._SETTLED", 60.0)
    path = tmp_path / "f.npz"
    write_npz(path)
    open_features(path)
    assert not places(path)[0].exists()
    past = time.time() - 1000
    os.utime(path, (past, past))
    open_features(path)
    assert places(path)[0].exists()


def test_no_more_files_than_a_few_are_asked_for_their_size(tmp_path):
    path = tmp_path / "f"
    path.mkdir()
    for i in range(300):
        np.save(path / f"v{i:03d}.npy", rows(3))
    open_features(path)
    asked = []
    stat = os.stat

    def counted(name, *arguments, **keywords):
        asked.append(name)
        return stat(name, *arguments, **keywords)

    with mock.patch.object(os, "stat", counted):
        _, read = headers_read(lambda: open_features(path))
    assert read == 0 and sum(str(name).endswith(".npy") for name in asked) <= 64


SHAPES = st.tuples(st.lists(st.integers(0, 2**40), max_size=4), st.sampled_from(["<f2", "<f4", "|O"]))


@settings(max_examples=30)
@given(st.dictionaries(st.text(min_size=1), SHAPES, min_size=4, max_size=20))
def test_any_names_and_shapes_come_back(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("any") / "f.npz"
    path.write_bytes(b"")
    headers = Headers.of({key: (tuple(shape), np.dtype(kind)) for key, (shape, kind) in arrays.items()})
    places = np.array([[len(name), 2**62] for name in headers.names])
    save(path, file_state(path), Kept(headers.code, headers.kinds, headers.names, places, {"fps": 25.0}))
    again = load(path, file_state(path))
    assert (again.names, again.kinds, again.stated) == (headers.names, headers.kinds, {"fps": 25.0})
    assert again.code.tolist() == headers.code.tolist() and again.places.tolist() == places.tolist()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("before", [b"", b"#!/bin/sh\n"])
def test_entries_are_read_at_their_places(tmp_path, method, before):
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for i in range(6):
            with archive.open(f"ünï{i}.npy", "w", force_zip64=i % 2 == 0) as entry:
                np.lib.format.write_array(entry, rows(3 + i))
    path.write_bytes(before + path.read_bytes())
    for _ in range(2):
        store = open_features(path)
        assert all((store[f"ünï{i}"] == rows(3 + i)).all() for i in range(6))
    whole = path.read_bytes()
    opened = open_features(path)
    at = (len(before) + 60 + whole.index(b"PK\3\4", len(before) + 4)) // 2  # amid the first entry's data
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(FeatureError, match=r"f\.npz"):
        opened["ünï0"]

"""Rows of an array, read without the others."""

from __future__ import annotations

import os
from contextlib import nullcontext

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from d2net.data.features import FeatureError, open_features

RNG = np.random.default_rng(0)
LONG = RNG.standard_normal((1000, 16)).astype(np.float16)
SHORT = RNG.standard_normal((3, 16)).astype(np.float16)


def folder(tmp_path, save, suffix):
    for name, x in (("long", LONG), ("short", SHORT)):
        save(tmp_path / f"{name}{suffix}", x)
    return tmp_path


def npz(tmp_path, save=np.savez):
    save(tmp_path / "f.npz", long=LONG, short=SHORT)
    return tmp_path / "f.npz"


def hdf5(tmp_path, batch=False, **options):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, x in (("long", LONG), ("short", SHORT)):
            file.create_dataset(name, data=x[None] if batch else x, **options)
    return tmp_path / "f.h5"


def streams(tmp_path):
    for name, x in (("long", LONG), ("short", SHORT)):
        np.save(tmp_path / f"{name}_rgb.npy", x[:, :10])
        np.save(tmp_path / f"{name}_flow.npy", x[:, 10:])
    return tmp_path


def safetensors(tmp_path):
    save_file({"long": LONG, "short": SHORT}, tmp_path / "f.safetensors")
    return tmp_path / "f.safetensors"


ALONE = {
    "npz": npz,
    "hdf5": hdf5,
    "hdf5, compressed": lambda p: hdf5(p, chunks=(2, 16), compression="gzip"),
    "hdf5, a batch of one": lambda p: hdf5(p, batch=True),
    "safetensors": safetensors,
    "npy": lambda p: folder(p, np.save, ".npy"),
    "npy, a batch of one": lambda p: folder(p, lambda f, x: np.save(f, x[None]), ".npy"),
    "safetensors, a file a video": lambda p: folder(p, lambda f, x: save_file({"x": x}, f), ".safetensors"),
    "torch": lambda p: folder(p, lambda f, x: torch.save(torch.from_numpy(x), f), ".pt"),
    "streams": streams,
}
WHOLE = {
    "npz, compressed": lambda p: npz(p, np.savez_compressed),
    "npz, a file a video": lambda p: folder(p, lambda f, x: np.savez(f, x=x), ".npz"),
    "npy by columns": lambda p: folder(p, lambda f, x: np.save(f, np.asfortranarray(x)), ".npy"),
    "text": lambda p: folder(p, lambda f, x: np.savetxt(f, x, delimiter=",", header="a" + ",a" * 15, comments=""),
                             ".csv"),
}  # fmt: skip


def read_bytes(work):
    """What `work` gives, and the bytes that this process has read for it."""

    def count():
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])

    before = count()
    return work(), count() - before


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="nothing counts what is read here")
@pytest.mark.parametrize("layout", ALONE)
def test_no_other_rows_are_read(tmp_path, layout):
    store = open_features(ALONE[layout](tmp_path))
    store.rows("long", 0, 2), store["long"]  # what is imported when first needed
    whole, of_all = read_bytes(lambda: store["long"])
    part, of_part = read_bytes(lambda: store.rows("long", 990, 996))
    assert store.reads_rows("long") and part.dtype == whole.dtype and np.array_equal(part, whole[990:996])
    if layout != "torch":  # which is mapped
        assert of_part < of_all - LONG.nbytes / 2


@pytest.mark.parametrize("layout", [*ALONE, *WHOLE])
def test_rows_are_those_of_the_whole(tmp_path, layout):
    store = open_features((ALONE | WHOLE)[layout](tmp_path))
    for first, end in ((0, 1000), (0, 5), (7, 8), (999, 1000), (5, 5)):
        part = store.rows("long", first, end)
        assert part.shape == (end - first, 16) and np.array_equal(part, store["long"][first:end])
    with pytest.raises(FeatureError, match="rows 998 to 1001 of 'long'"):
        store.rows("long", 998, 1001)
    with pytest.raises(FeatureError, match="no features of video 'other'"):
        store.rows("other", 0, 1)


@pytest.mark.parametrize("crops", ["mean", "first"])
def test_ten_crops_turned_arrays_and_bfloat16(tmp_path, crops):
    ten = RNG.standard_normal((50, 10, 4)).astype(np.float16)
    np.savez(tmp_path / "ten.npz", a=ten, b=ten[:20])
    np.savez(tmp_path / "turned.npz", **{f"v{i}": LONG[: 100 + i].T for i in range(4)})
    save_torch({"a": torch.from_numpy(LONG).bfloat16(), "b": torch.ones(2, 16).bfloat16()}, tmp_path / "b.safetensors")
    for name, video in (("ten.npz", "a"), ("turned.npz", "v2"), ("b.safetensors", "a")):
        with pytest.warns() if "safetensors" not in name else nullcontext():
            store = open_features(tmp_path / name, crops=crops)
        whole, part = store[video], store.rows(video, 31, 40)
        assert part.dtype == whole.dtype == store.dtype(video) and np.array_equal(part, whole[31:40])
        assert store.reads_rows(video) == (name != "turned.npz")


def test_the_row_that_is_not_finite_is_named_by_its_place_in_the_video(tmp_path):
    x = LONG.copy()
    x[700, 3] = np.nan
    np.savez(tmp_path / "f.npz", v=x)
    store = open_features(tmp_path / "f.npz")
    assert len(store.rows("v", 0, 700)) == 700
    with pytest.raises(FeatureError, match="'v' holds NaN or infinity in row 700"):
        store.rows("v", 650, 900)


@pytest.mark.parametrize("layout", ["npz", "hdf5", "safetensors", "npy", "streams", "safetensors, a file a video"])
def test_what_changes_while_it_is_in_use_is_an_error(tmp_path, layout):
    (tmp_path / "a").mkdir()
    place = ALONE[layout](tmp_path / "a")
    store = open_features(place)
    for path in [place] if place.is_file() else place.iterdir():
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(FeatureError, match=str(place)):
        store.rows("long", 900, 990)


@pytest.mark.parametrize("layout", ["npz", "hdf5", "npy", "torch"])
def test_an_array_of_another_shape_is_said(tmp_path, layout, monkeypatch):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    store = open_features(ALONE[layout](tmp_path / "a"))
    monkeypatch.setitem(globals(), "LONG", LONG[:990])
    other = ALONE[layout](tmp_path / "b")
    for path in [other] if other.is_file() else list(other.iterdir()):
        os.replace(path, tmp_path / "a" / path.name)
    with pytest.raises(FeatureError, match="changed while it was in use"):
        store.rows("long", 3, 9)

"""Many videos in each of many files."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from d2net.data.features import FeatureError, FolderFeatures, ShardedFeatures, open_features
from d2net.data.kinds import kind_of

RNG = np.random.default_rng(0)
VIDEOS = {f"v{i}": RNG.standard_normal((10 + i, 6)).astype(np.float16) for i in range(7)}
PARTS = [dict(list(VIDEOS.items())[a:b]) for a, b in ((0, 3), (3, 6), (6, 7))]


def save_hdf5(path, arrays, **stated):
    with h5py.File(path, "w") as file:
        file.attrs.update(stated)
        for name, x in arrays.items():
            file[name] = x


def save_npz(path, arrays):
    np.savez(path, **arrays)


def save_tensors(path, arrays):
    save_file(arrays, path)


SAVE = {".npz": save_npz, ".h5": save_hdf5, ".safetensors": save_tensors}


def shards(folder, suffix, parts=PARTS):
    for i, part in enumerate(parts):
        SAVE[suffix](folder / f"part-{i:05}{suffix}", part)
    return folder


def index(folder, places=None):
    """As Hugging Face's save_pretrained writes it."""
    shards(folder, ".safetensors")
    known = {v: f"part-{i:05}.safetensors" for i, part in enumerate(PARTS) for v in part}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 9}, "weight_map": known if places is None else places}))
    return path


def same(store):
    assert isinstance(store, ShardedFeatures) and store.names == sorted(VIDEOS) and store.width == 6
    for name, x in VIDEOS.items():
        assert np.array_equal(store[name], x) and store[name].dtype == np.float16 == store.dtype(name)
        assert store.reads_rows(name) and np.array_equal(store.rows(name, 3, 8), x[3:8])


@pytest.mark.parametrize("suffix", SAVE)
def test_a_folder_of_shards_is_one_store(tmp_path, suffix):
    store = open_features(shards(tmp_path, suffix))
    same(store)
    assert store.summary().startswith(f"3 shards ({suffix[1:]}): 7 videos of width 6, 10 to 16 snippets")
    assert [p.name for p in store.sources()] == [f"part-{i:05}{suffix}" for i in range(3)]
    assert kind_of(tmp_path) == "features"


def test_formats_may_be_mixed(tmp_path):
    for (suffix, save), part in zip(SAVE.items(), PARTS, strict=True):
        save(tmp_path / f"f{suffix}", part)
    same(open_features(tmp_path))


def test_hugging_faces_index_names_the_shards(tmp_path):
    path = index(tmp_path)
    save_tensors(tmp_path / "other.safetensors", {"else": np.zeros((3, 9), np.float32)})  # not of the index
    same(open_features(path))
    same(open_features(tmp_path))
    assert kind_of(path) == "features"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_a_video_is_none(tmp_path, suffix):
    for name, x in VIDEOS.items():
        SAVE[suffix](tmp_path / f"{name}{suffix}", {"feats": x, "times": np.zeros(3, np.float32)})
    assert isinstance(open_features(tmp_path), FolderFeatures)
    with pytest.raises(FeatureError):
        open_features(tmp_path, layout="shards")


def test_a_shard_of_one_video_by_name_of_the_layout(tmp_path):
    for i, (name, x) in enumerate(VIDEOS.items()):
        save_npz(tmp_path / f"part{i}.npz", {name: x})
    assert open_features(tmp_path).names == [f"part{i}" for i in range(7)]
    same(open_features(tmp_path, layout="shards"))


def test_timing_bfloat16_and_shapes_are_those_of_all(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    for i, part in enumerate(PARTS):
        save_hdf5(tmp_path / "a" / f"{i}.h5", part, fps=25.0, stride=16)
        tensors = {v: torch.from_numpy(x).bfloat16() for v, x in part.items()}
        save_torch(tensors, tmp_path / "b" / f"{i}.safetensors")
        save_npz(tmp_path / "c" / f"{i}.npz", {v: x.T for v, x in part.items()})
    assert open_features(tmp_path / "a").stated == {"fps": 25.0, "stride": 16.0}
    assert open_features(tmp_path / "b").precision == "bfloat16"
    with pytest.warns(UserWarning, match="all 7 arrays have 6 rows"):
        turned = open_features(tmp_path / "c")
    assert all(np.array_equal(turned[v], x) and len(turned.rows(v, 2, 5)) == 3 for v, x in VIDEOS.items())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: shards(p, ".npz", [PARTS[0], PARTS[0]]), "video 'v0' is in part-00000.npz and in part-00001.npz"),
        (lambda p: shards(p, ".npz", [PARTS[0], {"w": np.zeros((3, 5)), "x": np.zeros((3, 5))}]), "'w' has width 5"),
        (lambda p: index(p, {"v0": "part-00000.safetensors"}), "does not name 'v1', which part-00000.safetensors"),
        (lambda p: index(p, {"w": "part-00000.safetensors"}), "names 'w' in part-00000.safetensors, which is not"),
        (lambda p: index(p, {"v0": "gone.safetensors"}), "gone.safetensors"),
        (lambda p: index(p, {"v0": "../f.safetensors"}), "files of the weight_map are .safetensors beside it"),
        (lambda p: index(p, {}), "no weight_map"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(tmp_path, make, says):
    with pytest.raises(FeatureError, match=says):
        open_features(make(tmp_path))


def test_timings_that_differ_are_an_error(tmp_path):
    for i, part in enumerate(PARTS[:2]):
        save_hdf5(tmp_path / f"{i}.h5", part, fps=25.0 + i)
    with pytest.raises(FeatureError, match=r"the timing is \{'fps': 25.0\} in 0.h5 and \{'fps': 26.0\} in 1.h5"):
        open_features(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    shards(tmp_path, ".npz")
    os.truncate(tmp_path / "part-00001.npz", 50)
    with pytest.raises(FeatureError, match=r"part-00001.npz is truncated or not an .npz"):
        open_features(tmp_path)


def test_shards_are_converted_and_trained_on_as_one_file(tmp_path):
    from d2net.data.convert import convert

    (tmp_path / "shards").mkdir()
    convert(shards(tmp_path / "shards", ".safetensors"), tmp_path / "all.npz")
    whole = open_features(tmp_path / "all.npz")
    assert all(np.array_equal(whole[v], x) for v, x in VIDEOS.items())

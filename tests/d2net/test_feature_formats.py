"""BMN's text, safetensors, ActivityNet's C3D file, and what files say of their timing."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import torch

from d2net.data.features import FeatureError, open_features

X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


@pytest.mark.parametrize("by", [",", ";", "\t"])
@pytest.mark.parametrize("head", ["", "rgb_0,rgb_1,flow_0", "0,1,2", ",0,1,2"])
def test_text(tmp_path, head, by):
    rows = [[str(i)] * head.startswith(",") + [f"{v:.9g}" for v in row] for i, row in enumerate(X)]
    text = "\n".join([*([head.replace(",", by)] if head else []), *(by.join(row) for row in rows), ""])
    (tmp_path / "v.1.csv").write_text(text)
    store = open_features(tmp_path)
    assert store.lengths == {"v.1": 5} and np.array_equal(store["v.1"], X)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,1,2\n", r"v\.csv: line 1 mixes numbers and 'a'"),
        ("a,b\n1,2\n3\n", "v.csv"),
        ("a,b\n1,x\n", "could not convert string 'x'"),
        ("a,b\n", "has no rows"),
        ("1,nan\n", "NaN or infinity in row 0"),
        ("", "no rows"),
    ],
)
def test_text_that_is_refused(tmp_path, text, says):
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(FeatureError, match=says):
        open_features(tmp_path)["v"]


def test_text_beside_arrays_is_a_table(tmp_path):
    np.save(tmp_path / "v.npy", X)
    (tmp_path / "labels.csv").write_text("video,label\nv,run\n")
    assert open_features(tmp_path).names == ["v"]


def test_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    half = X.astype(np.float16)
    numpy.save_file({"v": X, "w": half, "a/b": X[:2]}, tmp_path / "f.safetensors", {"fps": "25", "stride": "16"})
    store = open_features(tmp_path / "f.safetensors")
    assert store.names == ["a/b", "v", "w"] and store.stated == {"fps": 25, "stride": 16}
    assert np.array_equal(store["v"], X) and store["w"].dtype == np.float16 and np.array_equal(store["w"], half)
    assert [store.dtype(v) for v in store] == [store[v].dtype for v in store]
    numpy.save_file({"v": np.ones((2, 3), np.int32)}, tmp_path / "i.safetensors")
    with pytest.raises(FeatureError, match=r"'v' must be float.*int32"):
        open_features(tmp_path / "i.safetensors")
    raw = (tmp_path / "f.safetensors").read_bytes()
    (tmp_path / "f.safetensors").write_bytes(raw[:-1])
    with pytest.raises(FeatureError, match=r"f\.safetensors is truncated or not safetensors"):
        open_features(tmp_path / "f.safetensors")
    with pytest.raises(FeatureError, match="truncated or not a whole array of 'w'"):
        [store[v] for v in store]


def test_bfloat16_is_read_exactly(tmp_path):
    save = pytest.importorskip("safetensors.torch").save_file
    x = torch.from_numpy(X).bfloat16()
    save({"v": x}, tmp_path / "f.safetensors")
    (tmp_path / "folder").mkdir()
    save({"feats": x, "mask": torch.ones(3, dtype=torch.int8)}, tmp_path / "folder" / "v.safetensors")
    for place in ("f.safetensors", "folder"):
        store = open_features(tmp_path / place)
        assert np.array_equal(store["v"], x.float().numpy())
        assert store.precision == ("bfloat16" if place == "f.safetensors" else None)


def test_activitynet_s_c3d_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "sub_activitynet_v1-3.c3d.hdf5", "w") as file:
        for i, name in enumerate(("v_abc", "v_def")):
            file.create_group(name).create_dataset("c3d_features", data=X[i:])
    store = open_features(tmp_path / "sub_activitynet_v1-3.c3d.hdf5")
    assert store.lengths == {"v_abc": 5, "v_def": 4} and np.array_equal(store["v_def"], X[1:])


def test_a_data_set_s_folder_beside_its_truth(tmp_path):
    for split, name in (("train", "v"), ("test", "w")):
        for kind in ("rgb", "flow"):
            place = tmp_path / "features" / split / kind
            place.mkdir(parents=True)
            np.save(place / f"{name}.npy", X)
    (tmp_path / "gt.json").write_text("{}")
    assert open_features(tmp_path).names == ["v", "w"] and open_features(tmp_path).width == 6


def test_what_files_say_of_their_timing(tmp_path):
    folder, archive = tmp_path / "folder", tmp_path / "f.npz"
    folder.mkdir()
    np.save(folder / "v.npy", X)
    said = {"fps": 25, "stride": 16, "snippet_frames": 16.0, "of": "a comment"}
    (folder / "timing.json").write_text(json.dumps(said))
    np.savez(archive, v=X)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("timing.json", json.dumps(said))
    for place in (folder, archive):
        assert open_features(place).stated == {"fps": 25, "stride": 16, "snippet_frames": 16}
    for wrong, says in (
        ([], "is an object of fps"),
        ({"fps": -1}, "fps must be a positive"),
        ({"fps": True}, "True"),
        ({"of": 3}, "none of fps"),
    ):
        (folder / "timing.json").write_text(json.dumps(wrong))
        with pytest.raises(FeatureError, match=rf"timing\.json.*{says}"):
            open_features(folder)


def test_types_are_known_before_data_are_read(tmp_path):
    arrays = {"h": X.astype(np.float16), "d": X.astype(np.float64), "big": X.astype(">f2"), "one": X[None]}
    for crops, dtype in (("mean", np.float32), ("first", np.float16)):
        np.savez(tmp_path / "f.npz", **arrays, ten=np.ones((4, 10, 3), np.float16))
        store = open_features(tmp_path / "f.npz", crops=crops)
        assert {v: store.dtype(v) for v in store} == {v: store[v].dtype for v in store}
        assert store.dtype("ten") == dtype
    folder = tmp_path / "streams"
    folder.mkdir()
    np.save(folder / "v_rgb.npy", X.astype(np.float16))
    np.save(folder / "v_flow.npy", X)
    assert open_features(folder).dtype("v") == open_features(folder)["v"].dtype == np.float32


def test_a_stored_array_cannot_be_an_archive_s_bomb(tmp_path):
    pytest.importorskip("safetensors")
    head = json.dumps({"v": {"dtype": "F16", "shape": [10**12, 2048], "data_offsets": [0, 10**15]}}).encode()
    file = io.BytesIO(len(head).to_bytes(8, "little") + head + bytes(100))
    (tmp_path / "f.safetensors").write_bytes(file.getvalue())
    with pytest.raises(FeatureError, match="truncated or not safetensors"):
        open_features(tmp_path / "f.safetensors")

"""No video of a feature file or folder is lost or mixed up: each is read rightly, or refused by name."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2net.data.activations import VideoActivations, load_activations, save_activations
from d2net.data.features import FeatureError, open_features
from d2net.data.features.shapes import LayoutWarning
from d2net.data.files import DataError


def rows(n, width=4, value=1.0):
    return np.full((n, width), value, np.float32)


def save(folder, **arrays):
    for name, array in arrays.items():
        path = folder / f"{name.replace('__', '/')}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return folder


def test_a_whole_video_beside_pairs_of_streams(tmp_path):
    save(tmp_path, v1_rgb=rows(3, 2), v1_flow=rows(3, 2), v2=rows(5))
    assert open_features(tmp_path).lengths == {"v1": 3, "v2": 5}
    save(tmp_path, v1=rows(3))
    with pytest.raises(FeatureError, match=r"'v1' is there as v1\.npy and as v1_rgb"):
        open_features(tmp_path)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["train/rgb/v", "train/flow/v", "test/rgb/v", "test/flow/v"], "video 'v' is in .*train/rgb and in .*test/rgb"),
        (["train/rgb/v", "train/flow/v", "test/flow/w"], "video 'w' lacks its stream test/rgb/w.npy"),
        (["rgb/v", "flow/v", "rgb/w"], "video 'w' lacks its stream flow/w.npy"),
        (["rgb/v", "flow/v", "u"], r"holds 1 arrays \('u'\) beside the folders"),
        (["flow/v"], "video 'v' lacks its stream rgb/v.npy"),
    ],
)
def test_folders_of_streams(tmp_path, files, says):
    save(tmp_path, **{f.replace("/", "__"): rows(3, 2) for f in files})
    with pytest.raises(FeatureError, match=says):
        open_features(tmp_path)


def test_unequal_streams_are_told_apart(tmp_path):
    save(tmp_path, train__rgb__v=rows(3, 2), train__flow__v=rows(4, 2))
    with pytest.raises(FeatureError, match=r"train/rgb/v\.npy has 3 and train/flow/v\.npy has 4"):
        open_features(tmp_path)
    np.save(tmp_path / "train/flow/v.npy", np.ones((3, 2), np.int64))
    with pytest.raises(FeatureError, match=r"'v' must be float.*int64"):
        open_features(tmp_path)


def test_shadows_of_macos_are_no_videos(tmp_path):
    save(tmp_path, v=rows(3))
    (tmp_path / "._v.npy").write_bytes(b"\0\5\x16\7")
    assert open_features(tmp_path).names == ["v"]
    np.savez(tmp_path / "f.npz", v=rows(3))
    with zipfile.ZipFile(tmp_path / "f.npz", "a") as archive:
        archive.writestr("__MACOSX/._v.npy", b"\0\5\x16\7")
    assert open_features(tmp_path / "f.npz").names == ["v"]


@pytest.mark.parametrize("suffix", [".txt", ".pkl"])
def test_a_folder_of_other_files_says_what_it_holds(tmp_path, suffix):
    for name in "ab":
        (tmp_path / f"{name}{suffix}").write_bytes(b"x")
    with pytest.raises(FeatureError, match=rf"no feature arrays in it: it holds 2 \{suffix}; save each"):
        open_features(tmp_path)


def write_as(path, kind, array):
    if kind == "npz":
        np.savez(path.with_suffix(".npz"), feats=array, fps=np.ones(1))
    elif kind == "npz of one":
        np.savez_compressed(path.with_suffix(".npz"), array)
    elif kind == "pt":
        torch.save(torch.from_numpy(array), path.with_suffix(".pt"))
    else:
        torch.save({"features": torch.from_numpy(array), "fps": 25, "mask": torch.ones(2)}, path.with_suffix(".pth"))


@pytest.mark.parametrize("kind", ["npz", "npz of one", "pt", "pth"])
def test_folders_of_npz_and_of_tensors(tmp_path, kind):
    rng = np.random.default_rng(0)
    made = {name: rng.standard_normal((n, 4)).astype(np.float32) for name, n in (("v", 3), ("w", 5))}
    for name, array in made.items():
        write_as(tmp_path / name, kind, array)
    store = open_features(tmp_path)
    assert store.lengths == {"v": 3, "w": 5} and all(np.array_equal(store[n], x) for n, x in made.items())
    np.save(tmp_path / "v.npy", made["v"])
    with pytest.raises(FeatureError, match="video 'v' is there as"):
        open_features(tmp_path)


def test_files_of_several_arrays(tmp_path):
    np.savez(tmp_path / "v.npz", a=rows(3), b=rows(4))
    assert open_features(tmp_path).lengths == {"a": 3, "b": 4}


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["D2K_EVIL"],)


def test_tensors_execute_nothing_and_have_checksums(tmp_path, monkeypatch):
    monkeypatch.setenv("D2K_EVIL", str(tmp_path / "executed"))
    torch.save({"features": Evil()}, tmp_path / "v.pt")
    with pytest.raises(FeatureError, match=r"v\.pt is truncated or not"):
        open_features(tmp_path)
    assert not (tmp_path / "executed").exists()
    torch.save(torch.arange(12.0).reshape(3, 4), tmp_path / "v.pt")
    raw = bytearray((tmp_path / "v.pt").read_bytes())
    at = raw.index(np.arange(12, dtype=np.float32).tobytes())
    raw[at + 5] ^= 1
    (tmp_path / "v.pt").write_bytes(raw)
    with pytest.raises(FeatureError, match=r"v\.pt: the checksum of .* does not match"):
        open_features(tmp_path)["v"]


def test_batch_axes_crops_and_turned_arrays(tmp_path):
    rng = np.random.default_rng(0)
    made = {name: rng.standard_normal((n, 6)).astype(np.float32) for name, n in (("v", 3), ("w", 5), ("x", 9))}

    def opened(name, change):
        np.savez(tmp_path / name, **{name: change(array) for name, array in made.items()})
        return open_features(tmp_path / name)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stores = [opened("batch.npz", lambda x: x[None])]
    with pytest.warns(LayoutWarning, match=r"3 arrays are .*10 crops, width\), such as 'v'; of each ten the mean"):
        offsets = np.linspace(-1, 1, 10, dtype=np.float32)[:, None]
        stores.append(opened("crops.npz", lambda x: x[:, None] + offsets))
    with pytest.warns(LayoutWarning, match="of each ten the first is used"):
        first = open_features(tmp_path / "crops.npz", crops="first")
    assert np.allclose(first["v"], made["v"] - 1, atol=1e-6)
    for store in stores:
        assert store.lengths == {"v": 3, "w": 5, "x": 9} and store.width == 6
        assert all(np.allclose(store[name], x, atol=1e-6) for name, x in made.items())
    with pytest.warns(LayoutWarning, match=r"all 3 arrays have 6 rows and differ in width: read as \(width"):
        store = opened("turned.npz", lambda x: x.T)
    assert store.lengths == {"v": 3, "w": 5, "x": 9} and all(np.array_equal(store[name], x) for name, x in made.items())


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.sampled_from(["mean", "first"]))
def test_crops_of_videos_of_any_length(tmp_path_factory, lengths, crops):
    """One snippet of ten crops, (1, 10, d), is a batch of one only where nothing tells otherwise."""
    path = tmp_path_factory.mktemp("crops") / "f.npz"
    rng = np.random.default_rng(0)
    made = {f"v{i}": rng.standard_normal((n, 10, 3)).astype(np.float32) for i, n in enumerate(lengths)}
    np.savez(path, **made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LayoutWarning)
        store = open_features(path, crops=crops)
    for name, x in made.items():
        want = x[0] if max(lengths) == 1 else x[:, 0] if crops == "first" else x.mean(1)
        assert store.lengths[name] == len(want) and np.allclose(store[name], want, atol=1e-6)


def test_one_odd_width_is_an_error_and_turns_nothing(tmp_path):
    np.savez(tmp_path / "f.npz", a=rows(6, 4), b=rows(6, 4), c=rows(6, 5))
    with pytest.raises(FeatureError, match="'c' has width 5, but 'a' has 4"):
        open_features(tmp_path / "f.npz")


def test_streams_have_two_axes(tmp_path):
    save(tmp_path, v_rgb=rows(3)[None], v_flow=rows(3)[None])
    with pytest.raises(FeatureError, match=r"v_rgb\.npy: a stream must be \(snippets, width\), got \(1, 3, 4\)"):
        open_features(tmp_path)


def test_keys_that_end_in_npy(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, **{"v": rows(3, value=1), "v.npy": rows(5, value=2)})
    store = open_features(path)
    assert store.lengths == {"v": 3, "v.npy": 5}
    assert store["v"][0, 0] == 1 and store["v.npy"].shape == (5, 4) and store["v.npy"][0, 0] == 2
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("v.npy", archive.read("v.npy"))
    with pytest.raises(FeatureError, match="'v' is in it twice"):
        open_features(path)


def test_upper_case_suffixes(tmp_path):
    np.savez(tmp_path / "f.npz", v=rows(3))
    assert open_features(shutil.move(tmp_path / "f.npz", tmp_path / "F.NPZ")).names == ["v"]


def test_features_that_change_on_disk_name_the_file(tmp_path):
    for changed in (rows(3, 5), rows(4), rows(0), np.ones(3, np.float32), np.ones((3, 4), np.int64), rows(3)[:, :0]):
        save(tmp_path, v=rows(3))
        store = open_features(tmp_path)
        save(tmp_path, v=changed)
        with pytest.raises(FeatureError, match=r"'v' changed while it was in use") as error:
            store["v"]
        assert str(tmp_path) in str(error.value)
        (tmp_path / "v.npy").unlink()
        with pytest.raises(FeatureError, match=r"no file .*v\.npy"):
            store["v"]


def test_missing_features_are_shown_with_the_nearest(tmp_path):
    np.savez(tmp_path / "f.npz", **{"v_abc": rows(3), "clip.avi": rows(3), "group/x": rows(3)})
    store = open_features(tmp_path / "f.npz")
    with pytest.raises(
        FeatureError, match=r"'abc' is like 'v_abc', 'clip' is like 'clip\.avi', 'x' is like 'group/x'; rename"
    ):
        store.require(["abc", "clip", "x"])
    with pytest.raises(FeatureError, match="'qqqqqq'; extract them"):
        store.require(["qqqqqq"])


def hdf5(path):
    h5py = pytest.importorskip("h5py")
    return h5py, h5py.File(path, "w")


def test_hdf5_links_within_the_file_are_videos(tmp_path):
    h5py, file = hdf5(tmp_path / "f.h5")
    with file:
        file["a"] = rows(3)
        file["hard"] = file["a"]
        file["soft"] = h5py.SoftLink("/deep/er/b")
        file["deep/er/b"] = rows(5)
    assert open_features(tmp_path / "f.h5").lengths == {"a": 3, "hard": 3, "soft": 5, "deep/er/b": 5}


def test_hdf5_groups_of_one_array_are_videos(tmp_path):
    _, file = hdf5(tmp_path / "f.h5")
    with file:
        file["v_1/c3d_features"], file["v_2/c3d_features"] = rows(3), rows(5)
    store = open_features(tmp_path / "f.h5")
    assert store.lengths == {"v_1": 3, "v_2": 5} and store["v_2"].shape == (5, 4)


def external(h5py, file, folder):
    file["b"] = h5py.ExternalLink("other.h5", "a")


def dangling(h5py, file, folder):
    file["b"] = h5py.SoftLink("/nothing")


def cycle(h5py, file, folder):
    file.create_group("g")["b"] = file["/"]


def two_names(h5py, file, folder):
    file["g/b"] = rows(3)
    file["h"] = file["g"]


def stored_elsewhere(h5py, file, folder):
    (folder / "secret").write_bytes(bytes(48))
    file.create_dataset("b", (3, 4), np.float32, external=[(str(folder / "secret"), 0, 48)])


def virtual(h5py, file, folder):
    layout = h5py.VirtualLayout((3, 4), np.float32)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "a", (3, 4))
    file.create_virtual_dataset("b", layout)


def never_written(h5py, file, folder):
    file.create_dataset("b", (10**12, 4), np.float32, chunks=(1024, 4))


def deep(h5py, file, folder):
    group = file
    for name in "bcdefghijklmnopqrstu":
        group = group.create_group(name)
    group["v"] = rows(3)


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (external, "'b' is a link to another file, 'other.h5'"),
        (dangling, "'b' is damaged or a link to nothing"),
        (cycle, "the group 'g/b' is '/' by another name"),
        (two_names, "the group 'h' is 'g' by another name"),
        (stored_elsewhere, "the data of 'b' are in other files"),
        (virtual, "the data of 'b' are in other files"),
        (never_written, "the data of 'b' were never written"),
        (deep, "more than 16 deep"),
    ],
)
def test_hdf5_that_is_refused(tmp_path, plant, says):
    h5py, file = hdf5(tmp_path / "f.h5")
    with file:
        file["a"] = rows(3)
        plant(h5py, file, tmp_path)
    with pytest.raises(FeatureError, match=says):
        open_features(tmp_path / "f.h5")


NAMES = ["file", "allow_pickle", "self", "x", "a/b", "v.npy", "arr_0", "ü", "x.y"]


def test_activations_of_videos_by_any_name(tmp_path):
    made = {name: VideoActivations(rows(i + 1, 2, i), rows(i + 1, 1, i)[:, 0]) for i, name in enumerate(NAMES)}
    save_activations(tmp_path / "a.npz", made)
    got = load_activations(tmp_path / "a.npz", 2)
    assert got.keys() == made.keys()
    for name, a in made.items():
        assert np.array_equal(got[name].classes, a.classes) and np.array_equal(got[name].foreground, a.foreground)
    with np.load(tmp_path / "a.npz") as archive:
        assert np.array_equal(archive["x"], made["x"].classes)
    made["x.foreground"] = made["x"]
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(
        DataError, match=r"foreground scores of video 'x' are stored as 'x\.foreground', which is a video"
    ):
        save_activations(tmp_path / "a.npz", made)
    assert (tmp_path / "a.npz").read_bytes() == before


@pytest.mark.parametrize("part", ["v", "v.foreground"])
def test_activations_beyond_float32_are_refused(tmp_path, part):
    made = {"v": np.zeros((3, 2)), "v.foreground": np.zeros(3)}
    made[part].flat[-1] = 1e300
    np.savez(tmp_path / "a.npz", **made)
    with pytest.raises(DataError, match=f"'{part}' holds NaN, infinity, or more than float32 holds"):
        load_activations(tmp_path / "a.npz", 2)


def test_a_pipe_in_a_folder_is_refused(tmp_path):
    save(tmp_path, v=rows(3))
    os.mkfifo(tmp_path / "w.npy")
    with pytest.raises(FeatureError, match=r"w\.npy is a pipe"):
        open_features(tmp_path)


def test_what_was_understood_is_one_line(tmp_path):
    np.savez(tmp_path / "f.npz", v=rows(3), w=rows(5))
    assert open_features(tmp_path / "f.npz").summary() == "an .npz keyed by video: 2 videos of width 4, 3 to 5 snippets"
    save(tmp_path / "two", v_rgb=rows(3, 2), v_flow=rows(3, 2))
    assert open_features(tmp_path / "two").summary().startswith("a folder, a file a stream, joined along the width: 1 ")
    with pytest.raises(FeatureError, match="crops must be mean or first, got 'last'"):
        open_features(tmp_path / "f.npz", crops="last")


def _read_all(store, times):
    for _ in range(times):
        for name, length in store.lengths.items():
            assert np.array_equal(store[name], np.full((length, 4), length, np.float32))


def test_forked_processes_do_not_move_each_other_s_place_in_an_npz(tmp_path):
    np.savez(tmp_path / "f.npz", **{f"v{i}": np.full((i + 1, 4), i + 1, np.float32) for i in range(40)})
    store = open_features(tmp_path / "f.npz")
    _read_all(store, 1)  # the file is open before the processes begin
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_read_all, args=(store, 30)) for _ in range(3)]
    for worker in workers:
        worker.start()
    _read_all(store, 30)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.eye(4).to_sparse(), r"sparse or nested tensor \(torch.sparse_coo\); save it dense"),
        (torch.eye(4).to_sparse_csr(), r"sparse or nested tensor \(torch.sparse_csr\)"),
        (torch.zeros(4, 4, dtype=torch.float8_e4m3fn), r"holds float8_e4m3fn; save it as float32, float16 or bfloat16"),
        (torch.zeros(4, 4, dtype=torch.float8_e5m2), "holds float8_e5m2"),
        (torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.qint8), "holds qint8"),
        (torch.zeros(4, 4, dtype=torch.int64), r"must be float \(snippets, width\), got int64"),
        (torch.zeros(4, 4, dtype=torch.complex64), r"must be float \(snippets, width\), got complex64"),
        (torch.zeros(4, 4, dtype=torch.bool), r"must be float \(snippets, width\), got bool"),
        (torch.zeros(4, 4, device="meta"), "a tensor without data"),
    ],
)
def test_tensors_of_other_kinds_are_named(tmp_path, tensor, says):
    torch.save(tensor, tmp_path / "v.pt")
    with pytest.raises(FeatureError, match=rf"v.* {says}") as error:
        open_features(tmp_path)
    assert "truncated" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "video"),
    [
        ("v7/c3d", "v7"), ("v7/c3d_features", "v7"), ("v7/features", "v7"), ("v7/I3D", "v7"), ("a/v7/data", "a/v7"),
        ("features/v7", "features/v7"), ("v7", "v7"), ("c3d", "c3d"),
    ],
)  # fmt: skip
def test_an_hdf5_of_one_video_is_named_as_one_of_many(tmp_path, place, video):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file[place] = np.ones((5, 4), np.float32)
    assert list(open_features(tmp_path / "f.h5")) == [video]


@pytest.mark.parametrize(
    ("stray", "save"),
    [
        ("model.pt", lambda p: torch.save({"a": torch.zeros(3), "b": torch.zeros(4)}, p)),
        ("stats.npz", lambda p: np.savez(p, mean=np.zeros(4), std=np.ones(4))),
        ("aaa_stats.npz", lambda p: np.savez(p, mean=np.zeros(4, np.float32))),
        ("aaa_mean.npy", lambda p: np.save(p, np.zeros((1, 3), np.float32))),
        ("labels.npy", lambda p: np.save(p, np.zeros(7, np.int64))),
        ("names.npy", lambda p: np.save(p, np.array(["a"]))),
        ("notes.pt", lambda p: p.write_text("not a tensor")),
    ],
)
def test_a_file_that_is_no_video_is_named_with_what_to_do(tmp_path, stray, save):
    for i in range(6):
        np.save(tmp_path / f"v{i}.npy", np.ones((5, 4), np.float32))
    save(tmp_path / stray)
    with pytest.raises(FeatureError, match=r"unlike the 6 files beside it; if it is no video's") as error:
        open_features(tmp_path)
    assert stray in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_all_alike_get_no_hint(tmp_path):
    for i in range(6):
        np.save(tmp_path / f"v{i}.npy", np.ones(5, np.int64))
    with pytest.raises(FeatureError, match="must be float") as error:
        open_features(tmp_path)
    assert "move it" not in str(error.value)

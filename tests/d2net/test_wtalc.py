"""W-TALC's files: pickled object arrays, Python 2's included, read without executing anything."""

from __future__ import annotations

import io
import os
import pickle
import random

import numpy as np
import pytest

from d2net import api
from d2net.config import make_config
from d2net.data.annotations import load_annotations
from d2net.data.features import FeatureError, open_features
from d2net.data.files import DataError, reading
from d2net.data.pickles import load_npy, load_pickle

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def objects(*items):
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def write_annotations(folder, n=6):
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "videoname": np.array([f"video_{i}".encode() for i in range(n)]),
        "subset": np.array([b"validation"] * (n - 2) + [b"test"] * 2),
        "classlist": np.array([b"jump", b"run"]),
        "labels": objects(*[["run", "jump"] if i % 2 else ["jump"] for i in range(n)]),
        "labels_all": objects(*[["run", "jump"] if i % 2 else ["jump"] for i in range(n)]),
        "segments": objects(*[[[1.0, 2.5], [3.0, 4.0]] if i % 2 else [[0.5, 2.0]] for i in range(n)]),
        "duration": np.full((n, 1), 9.6),
        "original_fps": np.full(n, 30.0),
    }
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column, allow_pickle=True)
    return columns


@pytest.fixture
def wtalc(tmp_path):
    """(features, annotations)"""
    write_annotations(tmp_path / "Thumos14reduced-Annotations")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((15 + i, 8)).astype(np.float32) for i in range(6)]
    np.save(tmp_path / "Thumos14reduced-I3D-JOINTFeatures.npy", objects(*arrays), allow_pickle=True)
    return tmp_path / "Thumos14reduced-I3D-JOINTFeatures.npy", tmp_path / "Thumos14reduced-Annotations"


def test_features_and_annotations(wtalc):
    store, truth = open_features(wtalc[0]), load_annotations(wtalc[1])
    assert store.names == list(truth.videos) and store.width == 8 and store.lengths["video_5"] == 20
    assert store["video_3"].shape == (18, 8) and store["video_3"].dtype == np.float32
    video = truth.videos["video_1"]
    assert truth.classes == ("jump", "run") and video.labels == ("run", "jump") and video.subset == "validation"
    assert [(s.label, s.start, s.end) for s in video.segments] == [("run", 1.0, 2.5), ("jump", 3.0, 4.0)]
    assert (video.duration, video.fps) == (9.6, 30.0)


def test_training_from_them_starts_and_ends(wtalc, tmp_path):
    config = make_config(overrides={"train.iterations": 2, "timing.snippet_seconds": 0.64})
    model = api.train(*wtalc, tmp_path / "run", config, device="cpu", progress=False)
    truth = load_annotations(wtalc[1]).subset("test")
    found = api.localize(model, wtalc[0], annotations=truth, names=list(truth.videos))
    assert found.detections.videos == ["video_4", "video_5"]


@pytest.mark.parametrize("name", ["thumos14_wtalc", "activitynet12_wtalc"])
def test_real_annotations_equal_their_conversion(shared_dir, name):
    folder = shared_dir / "data" / name
    got, want = load_annotations(folder), load_annotations(folder / "annotations.json")
    assert got.classes == want.classes and list(got.videos) == list(want.videos)
    for video, other in zip(got.videos.values(), want.videos.values(), strict=True):
        assert (video.subset, set(video.labels)) == (other.subset, set(other.labels))
        assert [s.label for s in video.segments] == [s.label for s in other.segments]
    durations = [[v.duration for v in a.videos.values()] for a in (got, want)]
    assert np.allclose(*durations, rtol=0, atol=1e-3)
    times = [[(s.start, s.end) for v in a.videos.values() for s in v.segments] for a in (got, want)]
    assert np.allclose(*times, rtol=0, atol=1e-3)


def test_what_is_refused(wtalc, tmp_path):
    np.save(wtalc[1] / "videoname.npy", np.array([b"a", b"a", b"b", b"c", b"d", b"e"]))
    with pytest.raises(FeatureError, match=r"videoname\.npy: video 'a' is in it twice"):
        open_features(wtalc[0])
    np.save(wtalc[1] / "videoname.npy", np.array([b"a", b"b"]))
    with pytest.raises(FeatureError, match=r"holds 6 arrays, but .*videoname\.npy names 2 videos"):
        open_features(wtalc[0])
    with pytest.raises(DataError, match=r"subset\.npy has 6 entries, but videoname\.npy 2"):
        load_annotations(wtalc[1])
    (wtalc[1] / "videoname.npy").unlink()
    with pytest.raises(FeatureError, match=r"no file .*videoname\.npy"):
        open_features(wtalc[0])
    with pytest.raises(DataError, match=r"is a folder without videoname\.npy, gt\.json or label tracks"):
        load_annotations(wtalc[1])
    np.save(tmp_path / "one.npy", np.ones((3, 4), np.float32))
    with pytest.raises(FeatureError, match=r"is one array of float32 \(3, 4\); name the folder"):
        open_features(tmp_path / "one.npy")


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_executed(wtalc, tmp_path, protocol):
    made = tmp_path / "executed"
    for call in ((os.mkdir, str(made)), (eval, f"__import__('os').mkdir({str(made)!r})"), (os.system, f"mkdir {made}")):
        with open(wtalc[0], "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (6,)})
            pickle.dump(objects(*[Evil(*call)] * 6), file, protocol)
        with pytest.raises(FeatureError, match=r"nothing was executed|not an array"):
            open_features(wtalc[0])
        assert not made.exists()


HOSTILE = {
    "attribute of a function": b"cnumpy.core.multiarray\nscalar\n}(X\x01\x00\x00\x00aK\x01ub.",
    "attribute of a class": b"cnumpy\nndarray\n(N}(X\x0c\x00\x00\x00__setstate__K\x01utb.",
    "a shape that is not there": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01"
    b"(\x8a\x06\x00\x00\x00\x00\x00\x01tcnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNK\xffK\xffK\x00tbK\x00U\x01atb.",
    "itself": b"]q\x00h\x00a.",
    "an extension": b"\x82\x01.",
    "a persistent id": b"P1\n.",
    "an odd type": b"cnumpy\ndtype\n(U\x03V80K\x00K\x01tR.",
    "an odd codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00rotztR.",
    "a class": b"cnumpy\nndarray\n.",
    "a reference of a large number": b"]r\xff\xff\xff\x7f0j\xff\xff\xff\x7e.",
    "more bytes than there are": b"\x80\x04\x8e\xff\xff\xff\xff\x0f\x00\x00\x00ab.",
    "a frame without end": b"\x80\x04\x95\xff\xff\xff\xff\x0f\x00\x00\x00ab.",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles(kind, tmp_path):
    for _ in range(2), (1,):
        with pytest.raises(DataError), reading(tmp_path, "a pickle"):
            load_pickle(io.BytesIO(HOSTILE[kind]))
    # What was tried has changed nothing.
    want = {"a": np.arange(6.0).reshape(2, 3), "b": ["x", np.float32(1.5), 3]}
    got = load_pickle(io.BytesIO(pickle.dumps(want)))
    assert np.array_equal(got["a"], want["a"]) and got["b"] == ["x", 1.5, 3]


def test_references_that_double(tmp_path):
    value = [1]
    for _ in range(40):
        value = [value, value]
    got = load_pickle(io.BytesIO(pickle.dumps(value)))
    for _ in range(40):
        got = got[0]
    assert got == [1]


def test_damage(tmp_path):
    file = io.BytesIO()
    np.save(file, objects(["run", b"x"], np.ones((3, 2), np.float16), {"k": 1.5}), allow_pickle=True)
    whole, rng, refused = file.getvalue(), random.Random(0), 0
    for _ in range(1500):
        raw, at = bytearray(whole), rng.randrange(len(whole))
        if rng.random() < 0.2:
            del raw[at:]
        else:
            raw[at : at + rng.choice([1, 4])] = rng.randbytes(4)
        try:
            with reading(tmp_path, "a NumPy array"):
                load_npy(io.BytesIO(raw))
        except DataError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    ("name", "preset", "subset"),
    [("thumos14_wtalc", "thumos14", "validation"), ("activitynet12_wtalc", "activitynet12", "training")],
)
def test_training_from_real_annotations_starts_and_ends(shared_dir, tmp_path, name, preset, subset):
    folder = shared_dir / "data" / name
    known = load_annotations(folder).subset(subset)
    rng, features = np.random.default_rng(0), tmp_path / "features.npz"
    lengths = {v.name: max(1, min(60, int((v.duration or 0) * 25 / 16))) for v in known.videos.values()}
    np.savez(features, **{v: rng.standard_normal((s, 8)).astype(np.float16) for v, s in lengths.items()})
    config = make_config(preset, overrides={"train.iterations": 2, "train.subsets": subset})
    model = api.train(features, folder, tmp_path / "run", config, device="cpu", progress=False)
    assert model.classes == known.classes and (tmp_path / "run" / "checkpoint.pt").exists()

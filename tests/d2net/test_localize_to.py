"""Localizing many videos into a file: the same bytes whatever was interrupted and whoever shared the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from d2net import api
from d2net.api import localizing_to
from d2net.cli import app
from d2net.config import make_config
from d2net.data.activations import StoredActivations, load_activations
from d2net.data.detections import Detections, load_detections
from d2net.data.detections.binary import write_npz
from d2net.data.detections.results import pieces, save_detections, write_parts
from d2net.data.features import open_features
from d2net.data.files import DataError
from d2net.localization import activations
from d2net.localization.parts import Parts, shares
from d2net.methods.d2net.network import D2Net
from d2net.timing import Timing
from d2net.training.lock import FolderInUse, FolderLock

LENGTHS = (20, 31, 9, 14, 25, 60, 7, 8, 33)
CLASSES = ("a", "b", "c")


def make_model(width=16, **overrides):
    config = make_config(overrides={"model.init_std": 0.3, "localize.min_length": 1, **overrides})
    torch.manual_seed(0)
    network = D2Net(width, len(CLASSES), 1, config.model).eval()
    with torch.no_grad():
        network.reference.normal_()
    return api.Model(network, config, CLASSES, Timing(snippet_seconds=0.64))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "f.npz"
    np.savez(path, **{f"v{i}": rng.standard_normal((s, 16)).astype(np.float32) for i, s in enumerate(LENGTHS)})
    return path


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Several parts of few videos."""
    monkeypatch.setattr(activations.batches_of, "__defaults__", (40,))


def left(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def as_json(d):
    """As json.dumps of the whole has it."""
    results = {v: [] for v in d.videos}
    for v, c, a, b, s in zip(*(x.tolist() for x in (d.video, d.label, d.start, d.end, d.score)), strict=True):
        results[d.videos[v]].append({"label": d.classes[c], "score": s, "segment": [a, b]})
    return json.dumps({"version": "1.3", "results": results, "external_data": {}}).encode()


@pytest.mark.parametrize("top", [None, 2])
def test_files_hold_what_localize_gives(model, features, tmp_path, top):
    found = api.localize(model, features, top=top, keep_activations=True)
    assert len(found.detections) > 30
    for name in ("d.json", "d.npz"):
        written = api.localize_to(tmp_path / name, model, features, top=top, save_activations=tmp_path / f"a{name}.npz")
        assert written == (len(found.detections), len(LENGTHS))
        got = load_detections(tmp_path / name)
        assert got.videos == found.detections.videos
        for column in ("video", "start", "end", "score"):
            assert np.array_equal(getattr(got, column), getattr(found.detections, column)), column
        kept = load_activations(tmp_path / f"a{name}.npz", 3)
        assert list(kept) == list(found.activations)
        assert all(np.array_equal(kept[v].classes, x.classes) for v, x in found.activations.items())
    assert (tmp_path / "d.json").read_bytes() == as_json(found.detections) and not left(tmp_path)
    stored = StoredActivations(tmp_path / "ad.npz.npz", 3)
    api.localize_to(tmp_path / "again.json", model, stored, from_activations=True, top=top)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "d.json").read_bytes()


def test_what_was_done_before_a_kill_is_not_done_again(model, features, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.json", tmp_path / "d.json"
    api.localize_to(whole, model, features, save_activations=tmp_path / "whole.npz")
    real, done = localizing_to.Localization.part, []

    def part(self, i):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(i)
        return real(self, i)

    monkeypatch.setattr(localizing_to.Localization, "part", part)
    with pytest.raises(KeyboardInterrupt):
        api.localize_to(out, model, features, save_activations=tmp_path / "a.npz")
    assert left(tmp_path) == [".d.json.d2net-parts"] and not out.exists()
    (tmp_path / ".d.json.d2net-parts" / ".x.tmp").write_bytes(b"cut short")
    first = list(done)
    monkeypatch.setattr(localizing_to.Localization, "part", lambda self, i: done.append(i) or real(self, i))
    api.localize_to(out, model, features, save_activations=tmp_path / "a.npz")
    assert sorted(done) == list(range(6)) and first == done[:2]
    assert out.read_bytes() == whole.read_bytes() and not left(tmp_path)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def interrupted(out, model, features, monkeypatch, after=3, **arguments):
    real, done = localizing_to.Localization.part, []

    def part(self, i):
        if len(done) == after:
            raise DataError("damaged")
        done.append(i)
        return real(self, i)

    with monkeypatch.context() as patch, pytest.raises(DataError, match="damaged"):
        patch.setattr(localizing_to.Localization, "part", part)
        api.localize_to(out, model, features, **arguments)


@pytest.mark.parametrize("change", ["top", "decoder", "weights", "features", "videos", "activations"])
def test_parts_of_something_else_are_not_used(features, tmp_path, monkeypatch, change):
    model, out, own = make_model(), tmp_path / "d.json", tmp_path / "f.npz"
    own.write_bytes(features.read_bytes())
    interrupted(out, model, open_features(own), monkeypatch)
    arguments = {}
    if change == "top":
        arguments = {"top": 1}
    elif change == "decoder":
        arguments = {"config": model.config.localize.model_copy(update={"margin": 0.5})}
    elif change == "weights":
        with torch.no_grad():
            next(model.network.parameters()).mul_(1.01)
    elif change == "features":
        os.utime(own, (1, 1))
    elif change == "videos":
        arguments = {"names": ["v3", "v0"]}
    else:
        arguments = {"save_activations": tmp_path / "a.npz"}
    made = []
    real = localizing_to.Localization.part
    monkeypatch.setattr(localizing_to.Localization, "part", lambda self, i: made.append(i) or real(self, i))
    api.localize_to(out, model, open_features(own), **arguments)
    assert made[0] == 0 and len(made) == (1 if change == "videos" else 6)


def test_nothing_is_left_where_nothing_was_done(model, features, tmp_path, monkeypatch):
    interrupted(tmp_path / "d.json", model, features, monkeypatch, after=0)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_make_one_file(model, features, tmp_path):
    folder = tmp_path / ".d.json.d2net-parts"
    folder.mkdir()
    with FolderLock(folder), pytest.raises(FolderInUse, match="localizing in"):
        api.localize_to(tmp_path / "d.json", model, features)


def test_a_part_that_is_missing_is_said(tmp_path):
    parts = Parts(tmp_path / "d.json", 2, {}, False)
    parts.begin()
    parts.save(0, Detections.from_arrays(["v"], ["a"], *[np.zeros(1)] * 5), {})
    with pytest.raises(DataError, match="lacks part 1 of 2"):
        list(parts.detections())
    with pytest.raises(DataError, match="not what the first process made"):
        Parts(tmp_path / "d.json", 3, {}, False).check_shared()


def test_shares_are_even():
    sizes = [9, 1, 1, 7, 3, 3, 5, 1]
    own = shares(sizes, 3)
    assert sorted(i for k in own for i in k) == list(range(8)) and all(k == sorted(k) for k in own)
    assert max(sum(sizes[i] for i in k) for k in own) == 10


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import test_localize_to as t
t.activations.batches_of.__defaults__ = (40,)
t.api.localize_to(sys.argv[3], t.make_model(), sys.argv[2], top=3, save_activations=sys.argv[3] + ".npz")
"""


def test_processes_share_the_videos_and_write_the_same_bytes(model, features, tmp_path):
    out = tmp_path / "d.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "worker.py").write_text(WORKER)
    done = subprocess.run(
        [*command, tmp_path / "worker.py", os.path.dirname(__file__), features, out],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    api.localize_to(tmp_path / "alone.json", model, features, top=3, save_activations=tmp_path / "alone.npz")
    assert out.read_bytes() == (tmp_path / "alone.json").read_bytes()
    assert (tmp_path / "d.json.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()
    assert not left(tmp_path)


def test_what_several_processes_cannot_do_is_said_once(model, features, tmp_path):
    given = ["--checkpoint", tmp_path, "--features", features, "--out", tmp_path / "d.json", "--device", "cuda:0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "d2net"]
    done = subprocess.run([*command, "localize", *given], capture_output=True, text=True, timeout=300)
    assert done.returncode and done.stderr.count("device: cuda:0 cannot serve 2 processes") == 1, done.stderr


def test_videos_are_extracted_by_one_process(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    given = ["localize", "--checkpoint", tmp_path, "--video", tmp_path / "v.mp4", "--out", tmp_path / "d.json"]
    error = CliRunner().invoke(app, [*map(str, given)]).exception
    assert isinstance(error, ValueError) and "localize --video is done by one process, and 2 were started" in str(error)


def test_the_best_of_each_video_and_class():
    rng = np.random.default_rng(0)
    n = 200
    video, label, score = rng.integers(4, size=n), rng.integers(3, size=n), rng.integers(9, size=n).astype(float)
    found = Detections.from_arrays(list("wxyz"), CLASSES, video, label, np.arange(n), np.arange(n) + 1, score)
    kept = found.best(5)
    expected = []
    for v in range(4):
        for c in range(3):
            rows = [i for i in range(n) if video[i] == v and label[i] == c]
            expected += sorted(rows, key=lambda i: (-score[i], i))[:5]
    assert kept.start.tolist() == sorted(expected)
    assert len(found[:0].best(1)) == 0 and len(found.best(n)) == n
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        api.localize(make_model(), np.zeros((3, 16), np.float32), top=0)


def test_columns_keep_every_bit_and_say_what_is_wrong(tmp_path):
    rng = np.random.default_rng(0)
    names = ["v", "ünï", "without", "a/b"]
    found = Detections.from_arrays(
        names, CLASSES, [0, 3, 1, 1], [2, 0, 1, 1], [0.1, 0, 0, 1 / 3], [1e8, 1, 0, 2 / 3], [5e-324, -1e300, 0.1, -0.0]
    )
    write_npz(tmp_path / "d.npz", names, CLASSES, pieces(found, 2))
    got = load_detections(tmp_path / "d.npz")
    assert got.videos == names and got.classes == CLASSES and got.layout == "an .npz of columns"
    rows = np.argsort(found.video, kind="stable")
    for column in ("video", "label", "start", "end", "score"):
        assert getattr(got, column).tobytes() == getattr(found, column)[rows].tobytes()
    save_detections(tmp_path / "d.json", found)
    assert (tmp_path / "d.json").read_bytes() == as_json(found)
    arrays = dict(np.load(tmp_path / "d.npz"))
    for change, says in (
        ({"score": np.full(4, np.nan)}, "all must be finite"),
        ({"video": np.full(4, 9)}, r"video must be in \[0, 4\), got 9..9"),
        ({"label": rng.random(4)}, "label must be int32, got float64"),
        ({"videos": np.array(["v"] * 4)}, "a video is in it twice"),
        ({"classes": np.array(["a", " ", "c"])}, "' ' is no name of a class"),
        ({"start": arrays["start"][:2]}, "columns must be of one length"),
        ({"videos": np.arange(4)}, "videos must be text"),
    ):
        np.savez(tmp_path / "bad.npz", **{**arrays, **change})
        with pytest.raises(DataError, match=says):
            load_detections(tmp_path / "bad.npz")
    arrays.pop("end")
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match="lacks end"):
        load_detections(tmp_path / "bad.npz")


@pytest.mark.parametrize("preset", ["thumos14", "activitynet12"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_windows_give_the_bits_of_one_piece(preset, precision):
    torch.manual_seed(0)
    config = make_config(preset, overrides={"model.init_std": 0.2})
    network = D2Net(32, 5, 2, config.model).eval()
    with torch.no_grad():
        network.reference.normal_()
    x = np.random.default_rng(0).standard_normal((997, 32)).astype(np.float16)
    whole = activations.network_activations(network, [x], precision)
    for window in (1, 7, 64, 100, 996, 997, 2000) if precision == "fp32" else (100,):
        read = []

        def rows(first, end, read=read):
            read.append(end - first)
            return x[first:end]

        got = activations.windowed_activations(network, rows, len(x), precision, window=window)
        assert got.classes.values.equal(whole.classes.values) and got.foreground.equal(whole.foreground), window
        assert max(read) <= window + 2 * 256 + 2 * activations.reach(network)


def test_a_long_video_is_localized_in_windows(model, tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float16)
    np.savez(tmp_path / "f.npz", long=x, short=x[:20])
    whole = api.localize(model, {"long": x, "short": x[:20]}, keep_activations=True)
    monkeypatch.setattr(api.inputs, "WINDOW", 64)
    store = open_features(tmp_path / "f.npz")
    monkeypatch.setattr(type(store), "_read", None)  # whole arrays are never read
    monkeypatch.setattr(store, "_read", lambda name: {"short": x[:20]}[name], raising=False)
    got = api.localize(model, store, keep_activations=True)
    for column in ("video", "label", "start", "end", "score"):
        assert np.array_equal(getattr(got.detections, column), getattr(whole.detections, column))
    assert np.array_equal(got.activations["long"].classes, whole.activations["long"].classes) and got.p.any()


def test_parquet_keeps_every_bit(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    found = Detections.from_arrays(
        ["v", "ünï", "without"], CLASSES, [0, 1, 1], [2, 0, 1], [0.1, 0, 1 / 3], [1e8, 1, 2 / 3], [5e-324, -1e300, 0.1]
    )
    write_parts(tmp_path / "d.parquet", found.videos, CLASSES, pieces(found, 1))
    got = load_detections(tmp_path / "d.parquet")
    assert (got.videos, got.classes, got.layout) == (found.videos, CLASSES, "Parquet")
    for column in ("video", "label", "start", "end", "score"):
        assert getattr(got, column).tobytes() == getattr(found, column).tobytes()
    plain = {"video": ["w", "v"], "label": ["x", "y"], "start": [0.0, 1.0], "end": [1.0, 2.0], "score": [0.5, None]}
    pyarrow.parquet.write_table(pa.table(plain), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="score is empty in 1 rows"):
        load_detections(tmp_path / "p.parquet")
    pyarrow.parquet.write_table(pa.table(plain | {"score": [1, 2]}), tmp_path / "p.parquet")
    assert load_detections(tmp_path / "p.parquet").videos == ["w", "v"]
    pyarrow.parquet.write_table(pa.table({"video": ["w"]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="lacks label, start, end, score"):
        load_detections(tmp_path / "p.parquet")


def test_parquet_without_pyarrow_is_refused_before_the_work(model, features, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs the package pyarrow"):
        api.localize_to(tmp_path / "d.parquet", model, features)
    assert not list(tmp_path.iterdir())

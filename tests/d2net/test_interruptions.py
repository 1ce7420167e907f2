"""Signals, kills, two runs in one folder, and features that change under a run: nothing is lost or mixed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from d2net.data.features import FeatureError, open_features
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.training import lock
from d2net.training.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from d2net.training.lock import FolderInUse, FolderLock

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups and locks of POSIX")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data"), make_synthetic(videos=18, classes=3, width=16))


def start(data, out, *settings):
    command = [sys.executable, "-m", "d2net", "train", "--features", data[0], "--annotations", data[1], "--out", out]
    for setting in ("train.subsets=train", "log_every=1", "cache_gigabytes=0", *settings):
        command += ["--set", setting]
    process = subprocess.Popen(
        [*map(str, command), "--quiet"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log, deadline = out / "log.jsonl", time.monotonic() + 300
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_the_run_saves(data, tmp_path, number):
    process = start(data, tmp_path / "run", "train.workers=2")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "stopped at iteration" in err and "--resume" in err
    assert read_checkpoint(tmp_path / "run")["iteration"] >= 1


def test_a_reading_process_that_is_killed_ends_the_run_in_one_line(data, tmp_path):
    process = start(data, tmp_path / "run", "train.workers=1")
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    for child in children.stdout.split():
        os.kill(int(child), signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and err.count("\n") == 1, err
    assert "a process that reads features was killed" in err and "--resume" in err


def test_a_kill_loses_no_line_of_the_log_and_leaves_no_lock(data, tmp_path):
    out = tmp_path / "run"
    settings = ["train.workers=1", "train.holdout=0.3", "train.selection=cls_mAP", "train.evaluate_every=1"]
    process = start(data, out, *settings)
    with pytest.raises(FolderInUse, match=rf"process {process.pid} is training in .*; wait for it to end"):
        FolderLock(out)
    deadline = time.monotonic() + 300
    while not (out / "best.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    best = read_checkpoint(out / "best.pt")
    assert any(row.get("cls_mAP") == best["best"] for row in rows if row["iteration"] == best["iteration"])
    FolderLock(out).release()


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(data, tmp_path):
    out = tmp_path / "run"
    process = start(data, out, "checkpoint_every=1")
    again = subprocess.run([*map(str, process.args), "--resume"], capture_output=True, text=True, timeout=300)
    assert again.returncode == 2 and f"process {process.pid} is training in" in again.stderr
    assert process.poll() is None
    read_checkpoint(out)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 130


def test_a_place_without_locks_is_said(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\): do not train there twice"):
        FolderLock(tmp_path).release()


class Windows:
    """msvcrt's locks: of bytes, by handle, until it is closed."""

    LK_NBLCK = 2

    def __init__(self):
        self.held = {}

    def locking(self, file, mode, count):
        place = os.fstat(file).st_ino, os.lseek(file, 0, os.SEEK_CUR)
        assert mode == self.LK_NBLCK and count == 1 and place[1] > os.fstat(file).st_size
        holder = self.held.get(place)
        if holder not in (None, file) and os.path.exists(f"/proc/self/fd/{holder}"):
            raise PermissionError(errno.EACCES, "Permission denied")
        self.held[place] = file


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the stand-in asks /proc which files are open")
def test_a_folder_is_locked_on_windows_too(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "msvcrt", Windows())
    with lock.FolderLock(tmp_path), pytest.raises(lock.FolderInUse, match=f"process {os.getpid()} is training in"):
        lock.FolderLock(tmp_path)
    lock.FolderLock(tmp_path).release()
    assert (tmp_path / lock.FILE).read_bytes() == f"{os.getpid()}\n".encode()
    monkeypatch.setattr(lock, "msvcrt", None)
    with pytest.warns(UserWarning, match="cannot be locked .this system has no locks.: do not train there twice"):
        lock.FolderLock(tmp_path).release()


def test_saves_by_two_processes_never_tear_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"x": torch.zeros(5000)})
    code = (
        "import sys, torch\nfrom d2net.training.checkpoint import save_checkpoint\n"
        "for i in range(60): save_checkpoint(sys.argv[1], {'x': torch.full((5000,), float(sys.argv[2]))})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(i)]) for i in range(2)]
    while any(w.poll() is None for w in writers):
        assert read_checkpoint(path)["x"].unique().numel() == 1
    assert [w.returncode for w in writers] == [0, 0] and list(tmp_path.iterdir()) == [path]


def test_any_flipped_bit_is_refused_or_harmless(tmp_path):
    path = tmp_path / "checkpoint.pt"
    tensor = torch.arange(200, dtype=torch.float32)
    save_checkpoint(path, {"iteration": 3, "x": tensor, "names": ["a", "b"]})
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for at in rng.integers(len(whole), size=400):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            got = read_checkpoint(path)
        except CheckpointError as error:
            assert "checkpoint.pt" in str(error)
            refused += 1
        else:
            assert got["iteration"] == 3 and got["x"].equal(tensor) and got["names"] == ["a", "b"]
    assert refused > 200


@pytest.mark.parametrize("layout", ["folder", "npz", "h5"])
@pytest.mark.parametrize(
    "changed",
    [np.zeros((9, 5), np.float32), np.zeros(9, np.float32), np.zeros((0, 4), np.float32), np.zeros((9, 4), np.int64),
     np.zeros((3, 4), np.float32), np.full((9, 4), 1j, np.complex64), np.zeros((), np.float32)],
    ids=["width", "1-D", "no-rows", "int", "cut", "complex", "scalar"],
)  # fmt: skip
def test_features_that_change_under_a_run_are_named(tmp_path, layout, changed):
    def write(array):
        arrays = {"v0": np.ones((7, 4), np.float32), "v1": array}
        if layout == "folder":
            (tmp_path / "f").mkdir(exist_ok=True)
            for name, x in arrays.items():
                np.save(tmp_path / "f" / f"{name}.npy", x)
            return tmp_path / "f"
        if layout == "npz":
            np.savez(tmp_path / "f.npz", **arrays)
            return tmp_path / "f.npz"
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "f.h5", "w") as file:
            for name, x in arrays.items():
                file[name] = x
        return tmp_path / "f.h5"

    store = open_features(write(np.ones((9, 4), np.float32)))
    assert store["v1"].shape == (9, 4)
    store = open_features(tmp_path / f"f{'' if layout == 'folder' else '.' + layout}")
    write(changed)
    with pytest.raises(FeatureError, match=r"f(\.npz|\.h5)?: 'v1' changed while it was in use: it was float \(9, 4\)"):
        store["v1"]

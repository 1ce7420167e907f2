"""Checkpoints: atomic, and nothing in them is executed."""

from __future__ import annotations

import errno
import os
import pickle

import pytest
import torch

from d2net import api
from d2net.config import make_config
from d2net.methods.d2net.network import D2Net
from d2net.training.checkpoint import CheckpointError, read_checkpoint, save_checkpoint


def test_round_trip_and_folder(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"iteration": 3, "x": torch.arange(4)})
    for path in (tmp_path, tmp_path / "checkpoint.pt"):
        got = read_checkpoint(path)
        assert got["iteration"] == 3 and torch.equal(got["x"], torch.arange(4))


def test_an_interrupted_save_leaves_the_previous_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"iteration": 1})

    def dies(content, file):
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"iteration": 2})
    assert read_checkpoint(path)["iteration"] == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("writer failed")])
def test_a_full_disk_is_said_and_leaves_the_previous_one_whole(tmp_path, monkeypatch, error):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"iteration": 1})

    def fails(content, file):
        raise error

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(CheckpointError, match=r"cannot write .*checkpoint\.pt: (No space left|writer failed)"):
        save_checkpoint(path, {"iteration": 2})
    assert read_checkpoint(path)["iteration"] == 1 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated(tmp_path, share):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"x": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt .*truncated"):
        read_checkpoint(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["D2K_EVIL"],)


def test_code_is_refused_unexecuted(tmp_path, monkeypatch):
    monkeypatch.setenv("D2K_EVIL", str(tmp_path / "executed"))
    torch.save({"format": "d2net-checkpoint-1", "x": Evil()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_missing_and_foreign(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a d2net checkpoint"):
        read_checkpoint(tmp_path / "other.pt")


def whole():
    config = make_config()
    return {
        "config": config.model_dump(), "classes": ["a", "b"], "width": 8, "streams": 2, "timing": None,
        "model": D2Net(8, 2, 2, config.model).state_dict(),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": None}, "lacks 'classes': it is not a whole"),
        ({"model": None}, "lacks 'model'"),
        ({"width": 16}, "does not fit.*state_dict"),
        ({"config": {"loss": {"gama": 1}}}, "does not fit.*unknown field 'loss.gama'"),
        ({"timing": {"fps": -1}}, "does not fit.*fps must be a positive number"),
        ({"classes": 3}, "does not fit"),
        ({"extraction": "i3d"}, "its extraction must be what made the features"),
        ({"extraction": {"fps": 25.0}}, "its extraction must be what made the features"),
    ],
)
def test_content_that_does_not_fit(tmp_path, change, says):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, whole())
    assert api.load(path, "cpu").classes == ("a", "b")
    save_checkpoint(path, {k: v for k, v in (whole() | change).items() if v is not None or k == "timing"})
    with pytest.raises(CheckpointError, match=rf"checkpoint\.pt .*{says}"):
        api.load(path, "cpu")


@pytest.mark.parametrize("name", ["meta", "mps", "foo"])
def test_devices_that_do_not_serve(name):
    with pytest.raises(ValueError, match=f"device '{name}'.*use auto, cpu, cuda"):
        api.pick_device(name)

"""Checkpoints: atomic, and nothing in them is executed."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from d2net.checkpoint import CheckpointError, read_checkpoint, save_checkpoint


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

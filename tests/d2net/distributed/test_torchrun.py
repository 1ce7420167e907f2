"""The command of docs/distributed.md, as torchrun starts it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d2net.data.synth import make_synthetic, write_synthetic
from d2net.distributed import launch
from d2net.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
PAGE = Path(__file__).parents[3] / "docs/distributed.md"
SETTINGS = ("train.subsets=train", "batch_size=6", "log_every=1", "iterations=100000", "workers=1")


def documented():
    """The words of the page's first command after torchrun."""
    block = re.search(r"```sh\n(torchrun .*?)```", PAGE.read_text(), re.DOTALL)
    return shlex.split(block[1].replace("\\\n", " "))[1:]


def test_the_documented_command_stops_as_one_and_goes_on_alone(tmp_path, command):
    features, annotations = write_synthetic(tmp_path, make_synthetic(videos=18, classes=3, width=16))
    words = ["2" if word == "8" else word for word in documented()]
    given = [*words, "--set", "timing.fps=25", "--quiet"]
    for setting in SETTINGS:
        given += ["--set", setting]
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *given], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    log, deadline = out / "log.jsonl", time.monotonic() + 300
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert err.count("stopped at iteration") == 1, err
    assert features.name == "features.npz" and annotations.name == "annotations.json"
    saved = read_checkpoint(out)
    reached = saved["iteration"]
    assert reached >= 1 and saved["environment"]["processes"] == "2"
    arguments = [str(tmp_path / w) if w in ("features.npz", "annotations.json", "run") else w for w in given]
    arguments = arguments[arguments.index("train") :]
    status, _, err = command(*arguments, "--set", f"iterations={reached + 1}", "--resume")
    assert status == 0 and "processes was 2 and is 1" in err, err
    assert read_checkpoint(out)["iteration"] == reached + 1


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"WORLD_SIZE": "many", "RANK": "0"}, "WORLD_SIZE must be a number of processes, got 'many'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK must be below WORLD_SIZE = 2, got '2'"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": ""}, "is 2, but MASTER_PORT is not set"),
    ],
)
def test_variables_of_no_launcher(monkeypatch, variables, text):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=text), launch.joined("cpu"):
        pass


def test_devices_of_the_ranks_of_a_machine(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launch.local_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="cuda:0 cannot serve 2 processes; give cuda"):
        launch.local_device("cuda:0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert launch.local_device("auto") == launch.local_device("cuda") == "cuda:1"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes on this machine have 1 GPUs"):
        launch.local_device("cuda")


def test_what_one_process_does_is_refused(monkeypatch, command, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    features, annotations = write_synthetic(tmp_path, make_synthetic(videos=6, classes=2, width=8))
    given = ("--features", features, "--annotations", annotations, "--out", tmp_path / "out")
    trained = ("ablate", *given, "--set", "train.subsets=train")
    for name, *options in (trained, ("inspect", features, annotations)):
        status, _, err = command(name, *options)
        assert status == 2 and f"{name} is done by one process, and 2 were started; start it without torchrun" in err
    monkeypatch.setenv("RANK", "1")
    assert command("inspect", features, annotations) == (2, "", "")
    monkeypatch.setenv("RANK", "0")
    from d2net import api

    with pytest.raises(ValueError, match="train with restarts is done by one process"):
        api.train(features, annotations, tmp_path / "out", restarts=3)

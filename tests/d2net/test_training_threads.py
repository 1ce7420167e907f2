"""Narrow trainings take one thread, and the command line lets waiting threads sleep."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from d2net.config import make_config
from d2net.training.threads import NARROW, step_work, threads, training_threads


def data(width, rows=100, **settings):
    config = make_config(overrides=settings)

    names = [f"v{i}" for i in range(4)]
    store = SimpleNamespace(width=width, lengths=dict.fromkeys(names, rows))
    return config, store, names, 4


@pytest.fixture
def many(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with threads(3):
        yield


def test_narrow_and_wide(many, monkeypatch):
    assert training_threads(*data(32), streams=2) == 1
    assert training_threads(*data(2048), streams=2) == 3
    assert training_threads(*data(32, rows=20_000, **{"train.max_snippets": None}), streams=2) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user has chosen
    assert training_threads(*data(32), streams=2) == 3


def test_the_work_is_that_of_three_convolutions_and_their_gradients():
    config, store, names, classes = data(8, rows=10, **{"train.batch_size": 2})
    weights = 2 * 3 * 8 * 4 + 8 * 4  # both layers of kernel 3 in two groups, the classifier of kernel 1
    assert step_work(config, store, names, classes, streams=2) == 3 * 2 * 20 * weights < NARROW


@pytest.mark.parametrize("fails", [False, True])
def test_the_number_is_put_back(fails):
    before = torch.get_num_threads()
    try:
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "5"}, "None")],
)
def test_the_command_line_chooses_a_wait_policy_before_torch_is_loaded(given, wanted):
    code = """
import os, sys
from d2net import cli
assert "torch" not in sys.modules
sys.argv = ["d2net", "--version"]
try:
    cli.main()
except SystemExit:
    pass
print(os.environ.get("OMP_WAIT_POLICY"))
"""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == wanted, done.stderr

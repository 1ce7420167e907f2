"""Processes that are killed: the others end, and any number goes on from what was saved."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
import torch
from pool import Pool, loaded

from d2net.data.synth import make_synthetic, write_synthetic
from d2net.distributed.ranks import LostPeer
from d2net.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forked processes of POSIX")
TRAIN = Path(__file__).with_name("test_joint_training.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data"), make_synthetic(videos=18, classes=3, width=16))


def test_killed_at_random_moments_and_resumed_by_any_number(data, tmp_path):
    choose = random.Random(5)
    settings = {"iterations": 400, "checkpoint_every": 3, "log_every": 400}
    out, sizes, resume = tmp_path / "run", [2, 4, 1], False
    for size in sizes:
        processes = Pool()
        try:
            for pipe in processes.pipes:
                pipe.send((str(TRAIN), "train", size, (data, out, settings, resume)))
            deadline = time.monotonic() + 900
            before = read_checkpoint(out)["iteration"] if resume else -1
            while not ((out / "checkpoint.pt").exists() and read_checkpoint(out)["iteration"] > before):
                assert time.monotonic() < deadline, "nothing was saved"
                time.sleep(0.02)
            time.sleep(choose.random() / 10)
            victim = choose.randrange(size)
            processes.processes[victim].kill()
            for rank in range(size):
                if rank != victim:
                    assert processes.pipes[rank].poll(300), "a rank goes on without another"
                    error, _ = processes.pipes[rank].recv()
                    assert isinstance(error, LostPeer) and "go on with --resume" in str(error), error
        finally:
            for process in processes.processes:
                process.kill()
        assert read_checkpoint(out)["iteration"] > before
        resume = True
    reached = read_checkpoint(out)["iteration"]
    processes = Pool()
    try:
        settings |= {"iterations": reached + 2}
        found = processes.run(4, loaded(TRAIN, "train"), data, out, settings, True)
        (alone,) = processes.run(1, loaded(TRAIN, "train"), data, tmp_path / "alone", settings)
    finally:
        processes.close()
    assert all(loaded(TRAIN, "same")(found[0], other) for other in found[1:])
    assert read_checkpoint(out)["iteration"] == reached + 2
    a, b = (torch.cat([torch.from_numpy(x[n]).flatten() for n in alone]) for x in (found[0], alone))
    assert (a - b).norm() <= 0.02 * b.norm()

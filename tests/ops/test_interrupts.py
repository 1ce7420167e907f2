"""Ctrl-C ends what runs in compiled code for long; nothing else is disturbed."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
import torch

import d2kernels as d2k
from d2kernels import _average_precision
from d2kernels.ops.losses import PAIRS, Options
from d2kernels.ops.losses import losses as d2k_losses

pytestmark = pytest.mark.skipif(not d2k.backends.can_run("nms", "native"), reason="no compiled extension")


def crowd(count):
    """Segments that all overlap: every pair has to be looked at."""
    start = torch.arange(count, dtype=torch.float64) / count
    return torch.stack([start, start + 2 + start.flip(0)], 1), torch.linspace(1, 0.5, count, dtype=torch.float64)


def soft_nms():
    d2k.soft_nms(*crowd(200_000), 0.5)


def nms():
    d2k.nms(*crowd(200_000), 1.0)


def nms_of_arrays():
    d2k.nms(*(x.numpy() for x in crowd(200_000)), 1.0)


def localize():
    """One class alone, whose runs are nested to any depth: one thread works, and it need not be the caller's."""
    x = torch.linspace(0, 1, 60_000, dtype=torch.float64)
    rows = torch.minimum(x, x.flip(0))[:, None].expand(-1, 4)
    levels = torch.linspace(0, 0.5, 30_000, dtype=torch.float64)
    d2k.localize(rows, thresholds=levels, iou_threshold=1.0, sigma=0.5, offsets=[0, len(rows)])


def localize_upsampled():
    d2k.localize(torch.rand(400_000, 50), thresholds=[0.5], iou_threshold=0.5, upsample=1024, offsets=[0, 400_000])


def matching():
    count = 60_000
    zeros, start = np.zeros(count, np.int64), np.arange(count) / count
    instances = _average_precision.Instances(zeros, zeros, start, start + 2)
    rules = _average_precision.Rules(False, False, False, True, False, True)
    _average_precision.average_precision(instances, 1 - start, None, instances, 1, np.array([0.3, 0.5]), rules)


def decompositions():
    d2k.svd(torch.rand(60_000, 32, 32))


def losses():
    """Every pair of 1 500 videos, whose embeddings are wide."""
    n, d = 1500, 2048
    options = Options(pairs=PAIRS.index("all"))
    offsets = torch.arange(n + 1)
    d2k_losses(
        torch.rand(n, 2), torch.rand(n, 2, d), torch.ones(n, 2), torch.ones(n, 2, dtype=torch.bool), options,
        iteration=torch.tensor(1), offsets=offsets, lengths=torch.ones(n, dtype=torch.int64),
    )  # fmt: skip


def flow():
    frames = torch.rand(300, 120, 160)
    d2k.tv_l1(frames[:-1], frames[1:])


class Rung(Exception):
    pass


LONG = [soft_nms, nms, nms_of_arrays, localize, localize_upsampled, matching, decompositions, losses, flow]


@pytest.mark.parametrize("call", LONG, ids=lambda f: f.__name__)
def test_a_signal_ends_a_long_call(call):
    def ring(*_):
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        began = time.process_time()
        with pytest.raises(Rung):
            call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # Left alone, each would go on for longer.
    assert time.process_time() - began < 6


def test_a_signal_that_raises_nothing_changes_nothing():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    segments = crowd(4000)
    want = d2k.soft_nms(*segments, 0.5)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        got = d2k.soft_nms(*segments, 0.5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(map(torch.equal, got, want))


def test_other_threads_finish_while_the_main_one_is_interrupted():
    segments, found = crowd(3000), []
    want = d2k.soft_nms(*segments, 0.5)[0]
    worker = threading.Thread(target=lambda: found.append(d2k.soft_nms(*segments, 0.5)[0]))
    worker.start()
    test_a_signal_ends_a_long_call(soft_nms)
    worker.join()
    assert torch.equal(found[0], want)

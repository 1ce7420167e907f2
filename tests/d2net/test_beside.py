"""Restarts side by side: the same bits, what is said in order, and how they end."""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import warnings
from multiprocessing.connection import Pipe
from types import SimpleNamespace

import numpy as np
import pytest

from d2net import api
from d2net.config import make_config
from d2net.data.cache import CachedFeatures
from d2net.data.features import open_features
from d2net.data.shared import attached, shared
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.training import beside, beside_process
from d2net.training.beside import WORTH, side_by_side, train_beside
from d2net.training.errors import TrainingError
from d2net.training.restarts import read_restarts

SETTINGS = {
    "train.subsets": ["train"], "train.iterations": 8, "train.learning_rate": 3e-3, "train.batch_size": 4,
    "timing.snippet_seconds": 1.0, "loss.denoising": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data"), make_synthetic(videos=12, classes=3, width=8))


def test_the_same_as_one_after_another(files, tmp_path, capfd, monkeypatch):
    real = beside.start

    def start(seed, work, descriptors):
        """A process takes seconds to import torch: one of the two is this one."""
        if seed:
            return real(seed, work, descriptors)
        heard, spoken = Pipe(duplex=False)
        with monkeypatch.context() as inner, warnings.catch_warnings():
            inner.setattr(sys, "stdout", sys.stdout)
            given = io.BytesIO(pickle.dumps(os.dup(spoken.fileno())) + work)
            inner.setattr(sys, "stdin", SimpleNamespace(buffer=given))
            beside_process.main()
        spoken.close()
        return beside._Training(seed, SimpleNamespace(wait=lambda: 0, poll=lambda: 0), heard)

    monkeypatch.setattr(beside, "start", start)
    config = make_config(overrides=SETTINGS)
    for jobs in (1, 2):
        api.train(*files, tmp_path / str(jobs), config, restarts=2, criterion="entropy", jobs=jobs, progress=jobs == 2)
    for seed in ("seed-0", "seed-1"):
        one, two = (api.load(tmp_path / str(jobs) / seed).network.state_dict() for jobs in (1, 2))
        assert all(one[k].equal(two[k]) for k in one)
    assert read_restarts(tmp_path / "1") == read_restarts(tmp_path / "2")
    assert "no segments were looked at" in capfd.readouterr().out


@pytest.fixture
def scripts(monkeypatch):
    """Processes that run a text with `line` to say things on, in place of a training."""
    start = (
        "import os, pickle, signal, sys, time; sys.path[:] = pickle.load(sys.stdin.buffer); "
        "from multiprocessing.connection import Connection; "
        "line = Connection(pickle.load(sys.stdin.buffer), readable=False); exec(pickle.load(sys.stdin.buffer))"
    )
    monkeypatch.setattr(beside, "_START", start)
    return lambda *texts, jobs=2: train_beside([(i, pickle.dumps(t)) for i, t in enumerate(texts)], jobs, [], False)


DONE = "line.send(('done',))"
WAITS = """
def stop(*_):
    line.send(('stopped', 'stopped at iteration 7')); os._exit(0)
signal.signal(signal.SIGTERM, stop); line.send(('bar', 'train', 0, 1, 9, 'it', '')); time.sleep(60)
"""


def test_what_is_said_is_in_the_order_of_seeds(scripts, capsys):
    later = "line.send(('said', 'second')); line.send(('warned', 'odd', UserWarning)); line.send(('done',))"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scripts("time.sleep(0.3); line.send(('said', 'first ')); line.send(('done',))", later, DONE)
    assert capsys.readouterr().out == "first second" and [str(w.message) for w in caught] == ["odd"]


def test_an_error_stops_the_others(scripts):
    with pytest.raises(ValueError, match="no such thing"):
        scripts(WAITS, "line.send(('failed', ValueError('no such thing')))", DONE)
    with pytest.raises(TrainingError, match=r"seed 1 was killed \(SIGKILL\).*--jobs 1"):
        scripts(WAITS, "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(TrainingError, match="seed 0 ended with 3"):
        scripts("sys.exit(3)", jobs=1)


def test_a_signal_stops_all_and_leaves_nothing_running(scripts, monkeypatch):
    started, real = [], beside.start
    monkeypatch.setattr(beside, "start", lambda *given: started.append(real(*given)) or started[-1])
    signalled = f"os.kill({os.getpid()}, signal.SIGTERM)"
    with pytest.raises(KeyboardInterrupt, match=r"seed 0 .*stopped .*, seed 1 stopped at iteration 7; go on with"):
        scripts(WAITS, WAITS.replace("time.sleep", f"{signalled}; time.sleep"), WAITS)
    assert len(started) == 2 and all(t.process.poll() is not None for t in started)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_how_many(monkeypatch):
    monkeypatch.setattr(beside, "cores", lambda: 8)
    assert [side_by_side(None, 5, n, WORTH, "cpu") for n in (1, 2, 3, 8, 9)] == [5, 4, 2, 1, 1]
    assert side_by_side(None, 5, 1, WORTH - 1, "cpu") == 1 and side_by_side(None, 5, 1, WORTH, "cuda") == 1
    assert side_by_side(3, 5, 8, 1, "cuda") == 3 and side_by_side(9, 5, 1, 1, "cpu") == 5


@pytest.mark.parametrize("kind", ["on", "off"])
def test_features_are_in_memory_once(files, kind):
    store = open_features(files[0])
    names = list(store)[1:]
    config = make_config(overrides={"train.resident": kind}).train
    cache = CachedFeatures(store, 1.0)
    with shared(cache, names, config, 2) as memory:
        assert memory.descriptor is not None and memory.names == names
        other = attached(store, memory, config)
        assert all(np.array_equal(other[v], store[v]) and other[v].dtype == store[v].dtype for v in store)
        assert (other.resident is not None) == (kind == "on")
        cache.kept[names[1]][0, 0] = 5  # what one of them reads is what the other has written
        assert other[names[1]][0, 0] == 5
        assert other.left == other.room - sum(map(other.size, store))


def test_features_that_do_not_fit_share_the_room(files):
    store = open_features(files[0])
    config = make_config(overrides={"train.cache_gigabytes": 1e-6}).train
    with shared(CachedFeatures(store, config.cache_gigabytes), list(store), config, 2) as memory:
        assert memory.descriptor is None
        assert attached(store, memory, config).left == int(1e-6 * 2**30) // 2


def test_what_fails_before_a_step_leaves_nothing(files, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        api.train(*files, tmp_path / "new" / "run", make_config(overrides=SETTINGS), restarts=3, jobs=0)
    monkeypatch.setattr(beside, "_START", "raise SystemExit(3)")
    with pytest.raises(TrainingError, match="ended with 3"):
        api.train(*files, tmp_path / "new" / "run", make_config(overrides=SETTINGS), restarts=3, jobs=2, progress=False)
    assert not (tmp_path / "new").exists()

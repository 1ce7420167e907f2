"""Several processes train one network: the same weights on all, on every run, and after every interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import warnings

import numpy as np
import pytest

from d2net import api
from d2net.config import make_config
from d2net.data.dataset import TrainingBatches
from d2net.data.files import DataError
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.distributed import launch
from d2net.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and forked processes of POSIX")
SETTINGS = {"iterations": 8, "batch_size": 6, "log_every": 2, "subsets": ["train"], "gradient_clip": 0.5}
SELECTED = {"holdout": 0.3, "selection": "cls_mAP", "evaluate_every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data"), make_synthetic(videos=18, classes=3, width=16))


def train(ranks, data, out, settings, resume=False, act=None):
    """The model's weights; act: (rank, iteration, what) to be done to that batch, or to happen when it is read."""
    overrides = {f"train.{name}": value for name, value in {**SETTINGS, **settings}.items()}
    overrides |= {"model.dropout": 0.5, "loss.denoising_start": 2, "loss.denoising_every": 1}
    if act:  # which happens where batches are read
        overrides["train.resident"] = "off"
    launch._joined = ranks if ranks.size > 1 else None
    read = TrainingBatches.__getitem__

    def acting(self, iteration):
        batch = read(self, iteration)
        if act and act[:2] == (ranks.rank, iteration):
            act[2](batch)
        return batch

    TrainingBatches.__getitem__ = acting
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = api.train(*data, out, make_config(None, "release", overrides), progress=False, resume=resume)
        return {name: x.numpy() for name, x in model.network.state_dict().items()}
    except KeyboardInterrupt as stop:
        return str(stop)
    finally:
        TrainingBatches.__getitem__ = read
        launch._joined = None


def told(ranks, data, out, settings, rank, iteration, number):
    return train(ranks, data, out, settings, act=(rank, iteration, lambda _: os.kill(os.getpid(), number)))


def unreadable(ranks, data, out, settings, rank, iteration):
    def fail(_):
        raise DataError("features of 'v' cannot be read")

    return train(ranks, data, out, settings, act=(rank, iteration, fail))


def spoilt(ranks, data, out, settings, rank, iteration):
    def spoil(batch):
        batch.features[int(batch.offsets[-2]) :] = float("nan")  # the last video's

    return train(ranks, data, out, settings, act=(rank, iteration, spoil))


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


def near(a, b):
    return all(np.abs(a[name] - b[name]).max() <= 1e-4 * max(np.abs(b[name]).max(), 1e-3) for name in a)


@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_end_with_the_weights_of_one_process(pool, data, tmp_path, size):
    (alone,) = pool.run(1, train, data, tmp_path / "alone", {})
    found = pool.run(size, train, data, tmp_path / "joint", {})
    assert all(same(found[0], other) for other in found[1:]) and near(found[0], alone)
    (again, *_) = pool.run(size, train, data, tmp_path / "again", {})
    assert same(again, found[0])
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("alone", "joint")]
    assert len(logs[0]) == len(logs[1]) == 4
    saved = read_checkpoint(tmp_path / "joint")
    assert saved["environment"]["processes"] == str(size) and saved["iteration"] == 8


@pytest.mark.parametrize(("ranks", "number"), [(2, signal.SIGTERM), (4, signal.SIGINT)])
def test_a_signal_to_one_rank_stops_all_and_any_number_goes_on(pool, data, tmp_path, ranks, number):
    (whole, *_) = pool.run(ranks, train, data, tmp_path / "whole", {})
    for size in (2, 1, 4):
        out = tmp_path / f"run{size}"
        said = pool.run(ranks, told, data, out, {}, 1, 4, number)
        # The signal comes where a batch is read, which may be two iterations ahead.
        assert len(set(said)) == 1 and re.search("stopped at iteration [1-4];", said[0]), said
        found = pool.run(size, train, data, out, {}, True)
        assert same(found[0], whole) if size == ranks else near(found[0], whole)


def test_a_batch_that_one_rank_cannot_read_ends_all_after_saving(pool, data, tmp_path):
    found = pool.run(2, unreadable, data, tmp_path / "run", SELECTED, 1, 5, errors=True)
    for error in found:
        assert isinstance(error, DataError) and str(error) == "process 1 of 2: features of 'v' cannot be read"
    saved = read_checkpoint(tmp_path / "run")
    assert saved["iteration"] == 5 and saved["best"] == read_checkpoint(tmp_path / "run" / "best.pt")["best"] > 0


def test_a_rank_with_features_that_are_not_numbers_skips_the_step_on_all(pool, data, tmp_path):
    (alone,) = pool.run(1, spoilt, data, tmp_path / "alone", {}, 0, 4)
    found = pool.run(2, spoilt, data, tmp_path / "joint", {}, 1, 4)
    assert same(*found) and near(found[0], alone)
    for name in ("alone", "joint"):
        rows = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert [row["skipped_steps"] for row in rows] == [0, 0, 1, 0]


def test_what_does_not_fit_is_an_error_on_all_ranks(pool, data, tmp_path):
    for error in pool.run(4, train, data, tmp_path / "run", {"batch_size": 3}, errors=True):
        assert "3 videos cannot be shared by 4 processes" in str(error)
    assert not (tmp_path / "run").exists()
    pool.run(2, train, data, tmp_path / "run", {"iterations": 1})
    for error in pool.run(2, train, data, tmp_path / "run", {}, errors=True):
        assert "already holds a run" in str(error)


def other_data(ranks, data, more, out):
    return train(ranks, (more, data[1]) if ranks.rank else data, out, {})


def test_other_features_on_one_rank(pool, data, tmp_path):
    with np.load(data[0]) as archive:
        changed = {name: archive[name] + 1 for name in archive.files}
    np.savez(tmp_path / "more.npz", **changed)
    for error in pool.run(2, other_data, data, tmp_path / "more.npz", tmp_path / "run", errors=True):
        assert "process 1 of 2 has other features than process 0" in str(error), error

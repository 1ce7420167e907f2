"""Batches made ahead by a thread."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from d2net.config import make_config
from d2net.data.dataset import TrainingBatches
from d2net.data.features import open_features
from d2net.data.read_ahead import ReadAhead
from d2net.training.survey import training_facts


def threads():
    return [t for t in threading.enumerate() if t.name == "read ahead"]


def test_items_come_in_their_order_and_before_they_are_asked_for():
    made = []

    def source():
        for i in range(9):
            made.append(i)
            yield i

    ahead = ReadAhead(source(), ahead=2)
    while len(made) < 3:
        time.sleep(0.001)
    time.sleep(0.02)
    assert made == [0, 1, 2]  # two are ready, and one waits for its place
    assert list(ahead) == list(range(9)) and list(ahead) == []


def test_an_error_comes_where_its_item_would_have():
    def source():
        yield 1
        raise ValueError("row 3")

    ahead = ReadAhead(source())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="row 3"):
        next(ahead)


def test_closing_ends_the_thread_wherever_it_is():
    for taken in range(4):
        ahead = ReadAhead(iter(range(10**9)), ahead=1)
        for _ in range(taken):
            next(ahead)
        ahead.close()
        assert not threads() and list(ahead) == []


@pytest.mark.parametrize(
    ("save", "gigabytes", "said"), [(np.savez, 0, 0), (np.savez_compressed, 0, 2), (np.savez_compressed, 1, 0)]
)
def test_crops_that_read_whole_videos_are_said(tmp_path, save, gigabytes, said):
    save(tmp_path / "f.npz", **{f"v{i}": np.ones((n, 4), np.float16) for i, n in enumerate((30, 50, 8))})
    config = make_config(overrides={"train.max_snippets": 10, "train.cache_gigabytes": gigabytes})
    store = open_features(tmp_path / "f.npz")
    facts = training_facts(TrainingBatches(store, store.names, np.ones((3, 1)), config.train), ["a"], config)
    assert len(facts) == (said > 0)
    assert not said or "2 of 3 training videos are longer than train.max_snippets = 10, and each crop reads" in facts[0]
    assert not said or "(4.0 times as much)" in facts[0]

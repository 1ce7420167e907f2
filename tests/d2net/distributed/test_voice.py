"""Of processes that end by one error, one tells the user."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch.distributed as dist

from d2net.distributed import voice
from d2net.distributed.ranks import LostPeer
from d2net.distributed.voice import Voice


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(voice, "WAIT", timedelta(milliseconds=50))
    return dist.HashStore()


def test_the_first_of_equal_errors_is_told(store):
    voices = [Voice(ValueError("no file a"), process, store) for process in (2, 0, 1)]
    assert voices[0].wanted()
    voices[0].told()
    assert not voices[1].wanted() and not voices[2].wanted()


def test_other_errors_are_told_too_and_what_follows_is_not(store):
    first, second = Voice(ValueError("no file a"), 1, store), Voice(ValueError("no file b"), 0, store)
    after = Voice(LostPeer("another process has ended"), 2, store)
    assert first.wanted() and second.wanted()
    first.told()
    assert not after.wanted()


def test_one_survivor_tells_of_a_process_that_said_nothing(store):
    voices = [Voice(LostPeer("another process has ended"), process, store) for process in range(3)]
    assert sum(v.wanted() for v in voices) == 1


def test_a_store_that_is_gone_and_none_at_all(monkeypatch):
    class Gone:
        def compare_set(self, *_):
            raise RuntimeError("Broken pipe")

    monkeypatch.setattr(voice, "WAIT", timedelta(0))
    alone = Voice(ValueError("no file a"), 1, Gone())
    assert alone.wanted()
    alone.told()
    assert Voice(ValueError("refused"), 0).wanted() and not Voice(ValueError("refused"), 1).wanted()

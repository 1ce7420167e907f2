"""What the harness must catch: a wrong result, a peer that breaks, and who is faster."""

from __future__ import annotations

import time

import checking
import numpy as np
import pytest
import timing
import torch
from harness import Contest, Side, Skipped, steps

X = torch.linspace(-1, 1, 101)
EXACT = X.double().exp()


class Benchmark:
    """Of pytest-benchmark's fixture, what a contest uses."""

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, target, setup=None, rounds=1):
        for _ in range(rounds):
            if setup:
                setup()
            target()


def hold(*peers, ours=None, oracle=lambda: EXACT, budget=0.05, **settings):
    """The contest's row, and what it raised."""
    contest = Contest(Benchmark(), torch.device("cpu"), budget)
    try:
        contest(
            op="exp",
            work="planted",
            ours=ours or Side("native", lambda: X.exp()),
            peers=peers,
            oracle=oracle,
            **settings,
        )
        raised = None
    except AssertionError as error:
        raised = str(error)
    return contest.benchmark.extra_info["row"], raised


def test_a_wrong_peer_gets_no_figure_and_fails_after_the_others_are_timed():
    wrong, right = Side("wrong", lambda: X.exp() * (1 + 1e-4)), Side("right", lambda: X.exp())
    row, raised = hold(wrong, right)
    assert "wrong (relative error 0.0001" in raised
    of_wrong, of_right = row["peers"]
    assert of_wrong["status"] == "wrong" and "seconds" not in of_wrong and "ratio" not in of_wrong
    assert of_right["status"] == "ok" and of_right["ratio"]["median"] > 0 and row["seconds"]["median"] > 0


@pytest.mark.parametrize(
    "planted", [lambda: X.exp() + 1e-3, lambda: X.exp()[:-1], lambda: torch.full_like(X, float("nan")), lambda: 1 / 0]
)
def test_a_wrong_result_of_ours_gets_no_figure(planted):
    row, raised = hold(Side("peer", lambda: X.exp()), ours=Side("native", planted))
    assert raised and "seconds" not in row and all("seconds" not in p for p in row["peers"])


def test_a_peer_that_breaks_or_is_not_there_says_why():
    def breaks():
        raise RuntimeError("no such kernel\nand more")

    row, raised = hold(Side("broken", breaks), Skipped("absent", "not installed"), Side("good", lambda: X.exp()))
    assert raised is None
    assert [p["status"] for p in row["peers"]] == ["failed", "skipped", "ok"]
    assert [p.get("reason") for p in row["peers"]] == ["RuntimeError: no such kernel", "not installed", None]


def test_what_is_allowed_comes_from_the_reference_in_the_same_precision():
    rough = lambda: X.half().exp().float()  # noqa: E731
    _, raised = hold(ours=Side("native", rough))
    assert raised
    row, raised = hold(ours=Side("native", rough), reference=rough)
    assert raised is None and row["error"] <= row["allowed"] < 2e-3


def test_the_ratio_is_the_peers_time_over_ours():
    def sleeps(seconds):
        def run():
            time.sleep(seconds)
            return X.exp()

        return run

    row, _ = hold(Side("slow", sleeps(0.12)), ours=Side("native", sleeps(0.04)), budget=0.1)
    ratio = row["peers"][0]["ratio"]
    assert 2 < ratio["median"] < 4 and ratio["q1"] <= ratio["median"] <= ratio["q3"] and ratio["rounds"] >= 3


def test_a_yardstick_is_timed_unchecked():
    row, raised = hold(Side("empty_like", lambda: torch.empty_like(X), checked=False))
    assert raised is None and row["peers"][0]["status"] == "yardstick" and row["peers"][0]["ratio"]["median"] > 0


def test_short_calls_are_repeated_and_slow_ones_measured_less():
    short, slow = timing.clocks([lambda: None, lambda: time.sleep(0.05)], budget=0.2)
    assert short.loops > 100 and slow.loops == 1 and slow.rounds == 3 <= short.rounds


def test_gradients_are_part_of_what_is_checked():
    seeds = [torch.ones_like(X)]
    out = steps(torch.exp, [X], seeds)()
    assert len(out) == 2 and torch.allclose(out[1], X.exp())
    detached = steps(lambda x: x.detach().exp() + 0 * x, [X], seeds)()
    assert checking.error(detached, (EXACT, EXACT)) > 0.5


def test_errors_of_each_kind():
    a = np.arange(4.0)
    assert checking.error((a, [1, 2]), (a, [1, 2])) == 0
    assert checking.error(a * 1.01, a) == pytest.approx(0.01)
    assert checking.error(np.array([1, 2]), np.array([1, 3])) == np.inf
    assert checking.error(a[:3], a) == checking.error((a, a), a) == np.inf
    assert checking.error(a * np.nan, a) == np.inf
    assert checking.error(a, a * 0) == pytest.approx(np.linalg.norm(a))  # nothing to be relative to
    assert checking.bound("bfloat16", 0.01) > checking.bound("float32", 0.01) > 0.02


def test_peak_memory_counts_what_is_alive_at_once():
    def twice():
        for _ in range(2):
            torch.empty(1_000_000)

    assert 4e6 <= timing.peak_memory(twice, torch.device("cpu")) < 6e6
    assert timing.peak_memory(lambda: [torch.empty(1_000_000) for _ in range(2)], torch.device("cpu")) >= 8e6

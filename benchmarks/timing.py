"""Times of several callables in one process: interleaved on the CPU, events and graph replay on a GPU."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Run = Callable[[], Any]
SEGMENT = 3e-3  # seconds of one timed stretch: shorter calls are repeated until it is full
SLOW = 3.0
FLUSH = 256 << 20  # bytes, beyond every GPU's L2


@dataclass
class Clock:
    """One callable's times: seconds a call, one entry a round."""

    run: Run
    loops: int = 1
    rounds: int = 1
    seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        start = time.perf_counter()
        for _ in range(self.loops):
            self.run()
        self.seconds.append((time.perf_counter() - start) / self.loops)


def once(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def clocks(runs: list[Run], budget: float, least: int = 5, most: int = 60) -> list[Clock]:
    """Warms each callable up and plans its loops and rounds, so that all together take about `budget` seconds.

    The first callable sets the number of rounds, at least `least`; one too slow for its part of the budget gets
    fewer of them, but three unless it takes over SLOW seconds a call.
    """
    planned = []
    for run in runs:
        run()
        guess = once(run)
        if guess < SEGMENT / 10:
            guess = min(guess, *(once(run) for _ in range(5)))
        planned.append(Clock(run, loops=max(1, min(2000, int(SEGMENT / max(guess, 1e-7))))))
        rounds = int(budget / len(runs) / (guess * planned[-1].loops + 1e-9))
        planned[-1].rounds = max(3 if guess < SLOW else 1, min(most, rounds))
    planned[0].rounds = max(least, planned[0].rounds)
    for clock in planned[1:]:
        clock.rounds = min(clock.rounds, planned[0].rounds)
    return planned


def round_of(others: list[Clock], index: int, order: random.Random) -> None:
    """Measures, in shuffled order, those whose turn this round is."""
    turn = [clock for clock in others if index < clock.rounds]
    order.shuffle(turn)
    for clock in turn:
        clock.measure()


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": middle, "q1": low, "q3": high, "rounds": len(values)}


def ratios(ours: Clock, other: Clock) -> dict[str, float]:
    """other / ours, round by round."""
    return quartiles([b / a for a, b in zip(ours.seconds, other.seconds, strict=False)])


class Events:
    """GPU times by events, the L2 flushed before each call."""

    def __init__(self, budget: float, least: int = 3, most: int = 25):
        self.budget, self.least, self.most = budget, least, most
        self.flush = torch.empty(FLUSH // 4, dtype=torch.int32, device="cuda")

    def _rounds(self, run: Run, part: float) -> int:
        run()
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        took = time.perf_counter() - start
        return 1 if took > SLOW else max(self.least, min(self.most, int(part / (took + 1e-9))))

    def interleaved(self, runs: list[Run]) -> list[list[float]]:
        """Seconds of each callable, one entry a round."""
        rounds = [self._rounds(run, self.budget / len(runs)) for run in runs]
        pairs: list[list[tuple[Any, Any]]] = [[] for _ in runs]
        for i in range(max(rounds)):
            for mine, run, most in zip(pairs, runs, rounds, strict=True):
                if i >= most:
                    continue
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self.flush.zero_()
                start.record()
                run()
                end.record()
                mine.append((start, end))
        torch.cuda.synchronize()
        return [[start.elapsed_time(end) / 1e3 for start, end in mine] for mine in pairs]


def graphed(run: Run) -> Run:
    """`run` captured once, to be replayed.

    Raises:
        RuntimeError: it synchronises or allocates by what it computes, or nothing of it runs on the GPU.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with torch.cuda.graph(graph):
            kept = run()
    if any("empty" in str(w.message) for w in said):
        raise RuntimeError("nothing of it runs on the GPU")

    def replay() -> Any:
        graph.replay()
        return kept

    return replay


def peak_memory(run: Run, device: torch.device) -> int:
    """Bytes that one call has allocated at once, beyond what was there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activity = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activity, profile_memory=True) as profile:
        kept = run()
    del kept
    events = profile.profiler.kineto_results.events()
    sizes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return int(max(np.cumsum([size for _, size in sizes]), default=0))

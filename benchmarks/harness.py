"""One contest: an op of ours beside its peers, each checked against a float64 oracle before it is timed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checking
import timing
import torch
from torch import Tensor


@dataclass
class Side:
    """A contestant.

    run: no arguments; returns what is checked.
    result: from run's output to the oracle's structure, not timed; None where they are the same.
    checked: False for a yardstick that computes something else.
    graph: False for what is not captured once more on a GPU, as it replays graphs itself.
    """

    name: str
    run: Callable[[], Any]
    result: Callable[[Any], Any] | None = None
    checked: bool = True
    note: str = ""
    graph: bool = True


@dataclass
class Skipped:
    """A peer that cannot run here."""

    name: str
    reason: str


def steps(
    call: Callable[..., Any], inputs: Sequence[Tensor], seeds: Sequence[Tensor] | None = None
) -> Callable[[], tuple[Tensor, ...]]:
    """A run of call(*inputs): its outputs; with seeds (one an output) also the gradients of the float inputs."""

    def outputs(made: Any) -> tuple[Tensor, ...]:
        return (made,) if isinstance(made, Tensor) else tuple(made)

    if seeds is None:

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return outputs(call(*inputs))

        return forward
    leaves = [x.detach().requires_grad_() for x in inputs]

    def forward_backward() -> tuple[Tensor, ...]:
        made = outputs(call(*leaves))
        return (*(m.detach() for m in made), *torch.autograd.grad(made, leaves, seeds))

    return forward_backward


@dataclass
class Contest:
    """Runs contests with pytest-benchmark's fixture, and keeps each one's row in its extra_info.

    budget: seconds of one contest's timing. peers: False times ours alone. rows: a file to which each row is added at
    once, so that a run that is cut short keeps what it has.
    """

    benchmark: Any
    device: torch.device
    budget: float = 1.5
    peers: bool = True
    rows: Path | None = None

    def __call__(
        self,
        *,
        op: str,
        work: str,
        ours: Side,
        peers: Sequence[Side | Skipped] = (),
        oracle: Callable[[], Any] | None,
        reference: Callable[[], Any] | None = None,
        direction: str = "forward",
        dtype: str = "float32",
        cost: tuple[float, float] | None = None,
        axis: tuple[str, float] | None = None,
        memory: bool = True,
    ) -> dict[str, Any]:
        """Checks, times and records one contest.

        Args:
            op, work, direction, dtype: what the row is called.
            ours: named after its backend.
            peers: whom it runs against.
            oracle: the float64 result; None where every side is a yardstick.
            reference: the reference backend's result in dtype: its error, doubled, is what is allowed beside rounding.
            cost: minimal bytes and FLOPs, of minimal.py.
            axis: name and value of what grows, for a scaling plot.
            memory: measure the peak of one call.

        Raises:
            AssertionError: a side is wrong, after everything is recorded.
        """
        row: dict[str, Any] = {
            **{"op": op, "work": work, "direction": direction, "dtype": dtype, "backend": ours.name},
            **{"device": self.device.type, "axis": axis, "peers": []},
        }
        if cost:
            row["bytes"], row["flops"] = cost
        self.benchmark.extra_info["row"] = row
        try:
            self._hold(row, ours, peers, oracle, reference, memory)
        finally:
            if self.rows:
                with self.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        return row

    def _hold(
        self,
        row: dict[str, Any],
        ours: Side,
        peers: Sequence[Side | Skipped],
        oracle: Callable[[], Any] | None,
        reference: Callable[[], Any] | None,
        memory: bool,
    ) -> None:
        op, work, dtype = row["op"], row["work"], row["dtype"]
        want = oracle() if oracle else None
        allowed = checking.bound(dtype, checking.error(reference(), want) if oracle and reference else 0.0)
        row["allowed"] = allowed
        right = []
        for side in (ours, *(peers if self.peers else ())):
            entry = self._checked(side, want, allowed)
            if side is ours:
                row |= entry | {"name": op}
            else:
                row["peers"].append(entry)
            if entry["status"] in ("ok", "yardstick"):
                right.append((entry if side is not ours else row, side))
        if row["status"] not in ("ok", "yardstick"):
            self.benchmark.pedantic(lambda: None, rounds=1)
            raise AssertionError(f"{op} on {work}, {row['backend']}: {row['status']}, {row.get('reason')}")
        if memory:
            row["peak_memory"] = timing.peak_memory(ours.run, self.device)
        (self._on_gpu if self.device.type == "cuda" else self._on_cpu)(right)
        wrong = [f"{p['name']} ({p['reason']})" for p in row["peers"] if p["status"] == "wrong"]
        assert not wrong, f"{op} on {work}: wrong: {', '.join(wrong)}"

    @staticmethod
    def _checked(side: Side | Skipped, want: Any, allowed: float) -> dict[str, Any]:
        if isinstance(side, Skipped):
            return {"name": side.name, "status": "skipped", "reason": side.reason}
        entry: dict[str, Any] = {"name": side.name, "status": "yardstick", "note": side.note}
        if not side.checked:
            return entry
        try:
            made = side.run()
            made = side.result(made) if side.result else made
        except Exception as error:  # one peer that breaks must not lose the others
            return entry | {"status": "failed", "reason": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        entry["error"] = checking.error(made, want)
        if entry["error"] <= allowed:
            return entry | {"status": "ok"}
        return entry | {"status": "wrong", "reason": f"relative error {entry['error']:.2g}, allowed {allowed:.2g}"}

    def _on_cpu(self, sides: list[tuple[dict[str, Any], Side]]) -> None:
        """pytest-benchmark times ours; the setup of each of its rounds times the peers."""
        clocks = timing.clocks([side.run for _, side in sides], self.budget)
        ours, others = clocks[0], clocks[1:]
        order, index = random.Random(0), iter(range(ours.rounds))
        self.benchmark.pedantic(
            ours.measure, setup=lambda: timing.round_of(others, next(index), order), rounds=ours.rounds
        )
        for (entry, _), clock in zip(sides, clocks, strict=True):
            entry["seconds"] = timing.quartiles(clock.seconds)
            if clock is not ours:
                entry["ratio"] = timing.ratios(ours, clock)
        self.benchmark.extra_info["calls_per_round"] = ours.loops

    def _on_gpu(self, sides: list[tuple[dict[str, Any], Side]]) -> None:
        """Events, eager and replayed as graphs; each side's ratio is of its better figure to our better one."""
        events = timing.Events(self.budget)
        runs, owners = [], []
        for entry, side in sides:
            runs.append(side.run)
            owners.append((entry, "seconds"))
            if not side.graph:
                continue
            try:
                runs.append(timing.graphed(side.run))
                owners.append((entry, "graph_seconds"))
            except Exception as error:  # what synchronises cannot be captured, and its row says so
                torch.cuda.synchronize()
                entry["graph_reason"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        for (entry, key), seconds in zip(owners, events.interleaved(runs), strict=True):
            entry[key] = timing.quartiles(seconds)
        best = [min(e[k]["median"] for k in ("seconds", "graph_seconds") if k in e) for e, _ in sides]
        for (entry, _), seconds in zip(sides[1:], best[1:], strict=True):
            entry["ratio"] = {"median": seconds / best[0]}
        self.benchmark.pedantic(lambda: (sides[0][1].run(), torch.cuda.synchronize()), rounds=5)

"""What a training run tells while it goes on: log.jsonl always, and trackers where the user wants them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from d2net.data.files import DataError, read_json, reading
from d2net.training.errors import TrainingWarning
from d2net.training.folder import TRACKERS as FILE
from d2net.training.logs import services, tensorboard


class Tracker(Protocol):
    """A place that shows curves. Whatever it raises while training goes on costs its curves alone."""

    identity: str  # of the run there, by which another process goes on with it; "" where nothing is kept

    def log(self, iteration: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


Open = Callable[[Path, str | None, Mapping[str, Any]], Tracker]  # run's folder, identity or None, configuration
TRACKERS: dict[str, tuple[Callable[[], object], Open]] = {
    "tensorboard": (tensorboard.load, tensorboard.TensorBoard),
    "trackio": (services.load_trackio, services.Trackio),
    "wandb": (services.load_wandb, services.WandB),
}


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError for an unknown tracker or one given twice, ImportError where its package is absent."""
    for i, name in enumerate(names):
        if name not in TRACKERS:
            raise ValueError(f"--log {name}: it takes {', '.join(TRACKERS)}; log.jsonl is always written")
        if name in names[:i]:
            raise ValueError(f"--log {name} is given twice; keep one")
        TRACKERS[name][0]()


@dataclass
class _Followed:
    """A tracker, and what it has been told: all before `iteration`, and of that one these terms."""

    name: str
    tracker: Tracker
    iteration: int = 0
    terms: set[str] = field(default_factory=set)

    def lacks(self, iteration: int, terms: set[str]) -> bool:
        return iteration > self.iteration or (iteration == self.iteration and not terms <= self.terms)

    def told(self, iteration: int, terms: set[str]) -> None:
        self.terms = terms | (self.terms if iteration == self.iteration else set())
        self.iteration = iteration


class Log:
    """The log of a run in the folder `out`, which its lock's holder opens.

    A resumed run computes again, to the bit, what the checkpoint does not hold. Of that a tracker is told only what it
    does not know, and first what it has missed of log.jsonl; so no step is there twice.

    Args:
        names: of TRACKERS. config: what the trackers show of the run. resume: go on with the runs that they have.

    Raises:
        ValueError, ImportError: as check_trackers. DataError: a tracker cannot be reached; nothing has changed then.
    """

    def __init__(self, out: Path, names: Sequence[str], config: Mapping[str, Any], resume: bool):
        check_trackers(names)
        self.out, self.lines = out, out / "log.jsonl"
        known = _read_state(out) if resume else {}
        self.others = {name: state for name, state in known.items() if name not in names}
        self.followed: list[_Followed] = []
        self.file: IO[str] | None = None
        for name in names:
            state = known.get(name, {})
            try:
                tracker = TRACKERS[name][1](out, state.get("identity"), config)
            except BaseException as error:
                self.close()
                if not isinstance(error, Exception):
                    raise
                raise DataError(f"--log {name} cannot start: {_first_line(error)}; mend it, or leave it out") from error
            same = bool(tracker.identity) and tracker.identity == state.get("identity")
            reached = (int(state["iteration"]), set(state["terms"])) if same else (0, set())
            self.followed.append(_Followed(name, tracker, *reached))

    def begin(self) -> None:
        """Opens log.jsonl, which holds what came before, and tells trackers what they lack of it."""
        # Line by line, so that a kill loses none.
        self.file = open(self.lines, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        if self.followed:
            for line in self.lines.read_text(encoding="utf-8").splitlines():
                self._tell(json.loads(line))

    def write(self, entry: Mapping[str, Any]) -> None:
        """One line; its numbers go to the trackers. entry: {"iteration": n, term: value, ...}."""
        assert self.file is not None
        self.file.write(json.dumps(entry) + "\n")
        self._tell(entry)

    def close(self) -> None:
        """Ends the trackers, which send what they still hold."""
        if self.file is not None:
            self.file.close()
        for each in self.followed:
            self._guarded(each, each.tracker.close)
        self.followed = []

    def _tell(self, entry: Mapping[str, Any]) -> None:
        values = {k: float(v) for k, v in entry.items() if k != "iteration" and type(v) in (int, float)}
        values = {k: v for k, v in values.items() if math.isfinite(v)}
        iteration = entry["iteration"]
        told = [each for each in self.followed if values and each.lacks(iteration, set(values))]
        for each in told:
            each.told(iteration, set(values))
        if any(each.tracker.identity for each in told):
            # First: a kill in between costs a tracker one entry, and never gives it one twice.
            self._save_state()
        for each in told:
            self._guarded(each, lambda each=each: each.tracker.log(iteration, values))  # type: ignore[misc]

    def _guarded(self, each: _Followed, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            self.followed = [other for other in self.followed if other is not each]
            text = f"{each.name} is told no more: {_first_line(error)}; training and log.jsonl go on"
            warnings.warn(text, TrainingWarning, stacklevel=2)
            with suppress(Exception):
                each.tracker.close()

    def _save_state(self) -> None:
        state = {
            each.name: {"identity": each.tracker.identity, "iteration": each.iteration, "terms": sorted(each.terms)}
            for each in self.followed
            if each.tracker.identity
        }
        temporary = self.out / f"{FILE}.tmp"
        temporary.write_text(json.dumps({**self.others, **state}, indent=1), encoding="utf-8")
        temporary.replace(self.out / FILE)


def _read_state(out: Path) -> dict[str, Any]:
    if not (out / FILE).exists():
        return {}
    with reading(out / FILE, "a record of trackers"):
        tree: Any = read_json(out / FILE)
        for state in tree.values():
            if not (isinstance(state["identity"], str) and type(state["iteration"]) is int and set(state["terms"])):
                raise DataError(f"{out / FILE}: damaged; remove it, and the trackers begin new runs")
        return dict(tree)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

"""Trainings of several seeds side by side: each in a process of its own, which this one starts, hears and stops."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from d2net.terminal import Bar
from d2net.training.errors import TrainingError
from d2net.training.signals import StopOnSignal

LOOK = 0.2  # seconds between looks for a signal
WORTH = 500  # iterations of a training, below which a process of its own takes longer to start than it saves

# The process is not multiprocessing's: that would run the user's script again.
_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from d2net.training.beside_process import main; "
    "main()"
)
# Where this d2net lies comes first: a folder of that name without an __init__.py would go before an editable install.
_HERE = str(Path(__file__).resolve().parents[2])


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(asked: int | None, runs: int, threads: int, iterations: int, device: str) -> int:
    """How many trainings go on at a time: those asked for, else as many as cores allow.

    Args:
        threads: of each training; device: its type. A GPU is one training's unless more are asked for.
    """
    if asked is not None:
        if asked > 1 and os.name != "posix":
            raise ValueError(f"jobs: {asked} trainings side by side need a POSIX system; give 1")
        return min(asked, runs)
    if device != "cpu" or os.name != "posix" or iterations < WORTH:
        return 1
    return max(1, min(runs, cores() // threads))


@dataclass
class _Training:
    """A process, what it says, and how it ended: done, stopped (in words) or failed (an error)."""

    seed: int
    process: subprocess.Popen[bytes]
    heard: Connection
    held: list[tuple[Any, ...]] = field(default_factory=list)
    stopped: str | None = None
    failed: BaseException | None = None
    done: bool = False
    bar: Bar | None = None

    def ask_to_stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)


def start(seed: int, work: bytes, descriptors: Sequence[int]) -> _Training:
    """work: pickled, as `beside_process` reads it; descriptors: that the process inherits."""
    heard, spoken = Pipe(duplex=False)
    with spoken:
        process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            pass_fds=[spoken.fileno(), *descriptors],
            process_group=0,  # Ctrl-C reaches this process, which tells the others
        )
        assert process.stdin is not None
        try:
            with process.stdin as stdin, suppress(BrokenPipeError):  # how it ended is seen by its silence
                stdin.write(pickle.dumps([_HERE, *sys.path]) + pickle.dumps(spoken.fileno()) + work)
        except BaseException:
            process.kill()
            process.wait()
            raise
    return _Training(seed, process, heard)


def train_beside(works: Sequence[tuple[int, bytes]], jobs: int, descriptors: Sequence[int], show: bool) -> None:
    """Runs (seed, pickled training) each in a process, `jobs` of them at a time.

    What they print and warn of appears in the order of seeds. A signal stops all of them after a step and a checkpoint,
    and so does an error of one: of several, that of the first seed is raised.

    Raises:
        KeyboardInterrupt: a signal stopped them.
        TrainingError: a process was killed.
    """
    waiting, all_of = deque(works), list[_Training]()
    with StopOnSignal() as stop, Bar("restarts", len(works), unit="run", show=show) as bar:
        try:
            asked = False
            while running := [t for t in all_of if not t.heard.closed] or (waiting and not asked):
                while waiting and not asked and len([t for t in all_of if not t.heard.closed]) < jobs:
                    all_of.append(start(*waiting.popleft(), descriptors))
                running = [t for t in all_of if not t.heard.closed]
                ready = wait([t.heard for t in running], LOOK)
                for training in running:
                    if training.heard in ready:
                        _hear(training, show)
                _say_in_order(all_of)
                bar.set(sum(t.done for t in all_of))
                if not asked and (stop.asked or any(t.failed or t.stopped for t in all_of)):
                    asked = True
                    for training in all_of:
                        if not training.heard.closed:
                            training.ask_to_stop()
        finally:
            for training in all_of:
                _end(training)
        for training in all_of:
            if training.failed:
                raise training.failed
        if stopped := [f"seed {t.seed} {t.stopped}" for t in all_of if t.stopped]:
            raise KeyboardInterrupt(f"{', '.join(stopped)}; go on with --resume")
        if waiting:
            raise KeyboardInterrupt(f"stopped before seed {waiting[0][0]}; go on with --resume")


def _hear(training: _Training, show: bool) -> None:
    """One message, or the silence of a process that has ended."""
    try:
        kind, *said = training.heard.recv()
    except (EOFError, OSError, pickle.UnpicklingError):
        training.heard.close()
        code = training.process.wait()
        if not (training.done or training.failed or training.stopped):
            training.stopped = "was stopped before its first step" if code == -signal.SIGTERM else None
            training.failed = None if training.stopped else _killed(training.seed, code)
        _close(training)
        return
    if kind == "bar":
        _show(training, show, *said)
    elif kind == "done":
        training.done = True
    elif kind == "stopped":
        training.stopped = said[0]
    elif kind == "failed":
        training.failed = said[0]
    else:
        training.held.append((kind, *said))


def _killed(seed: int, code: int) -> TrainingError:
    how = f"was killed ({signal.Signals(-code).name}), for want of memory perhaps" if code < 0 else f"ended with {code}"
    return TrainingError(f"the process that trained seed {seed} {how}; go on with --resume, and with --jobs 1")


def _say_in_order(all_of: Sequence[_Training]) -> None:
    """What was said by the first seed that is not done, and by those before it."""
    for training in all_of:
        held, training.held = training.held, []
        for kind, said, *more in held:
            if kind == "said":
                sys.stdout.write(said)
                sys.stdout.flush()
            else:
                warnings.warn(said, more[0], stacklevel=5)
        if not training.heard.closed:
            return


def _show(
    training: _Training, show: bool, what: str, first: float, done: float, total: float | None, unit: str, note: str
) -> None:
    name = f"{what}, seed {training.seed}"
    if training.bar is None or training.bar.what != name:
        _close(training)
        training.bar = Bar(name, total, unit=unit, done=first, show=show)
    training.bar.note = note
    training.bar.set(done)


def _close(training: _Training) -> None:
    if training.bar is not None:
        training.bar.close(whole=training.done)
        training.bar = None


def _end(training: _Training) -> None:
    """No process outlives this one's error."""
    _close(training)
    if training.process.poll() is None:
        training.process.kill()
        training.process.wait()
    if not training.heard.closed:
        training.heard.close()

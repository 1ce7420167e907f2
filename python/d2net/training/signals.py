"""Ctrl-C, SIGTERM and SIGHUP while training, in the training process and in those that read for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# What a terminal, Slurm, systemd or a closing session sends, to every process of the run at once.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopOnSignal:
    """Lets the current iteration finish on the first of these signals; a second Ctrl-C interrupts at once.

    Args:
        patient: no second one does: a launcher passes on what the terminal has sent already.
    """

    def __init__(self, patient: bool = False):
        self.patient = patient

    def __enter__(self) -> StopOnSignal:
        self.asked = False
        self._before = {}
        try:
            for number in ENDING:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                    self._before[number] = signal.signal(number, self._ask)
        except ValueError:  # not in the main thread: nobody sends us signals
            pass
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT and not self.patient:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Processes started within have the signals blocked until they call `leave_to_parent`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent(worker: int = 0) -> None:
    """For processes that serve another one: it is told of the signals too, and ends them when it is done."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

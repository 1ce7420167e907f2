"""Ctrl-C and SIGTERM while training."""

from __future__ import annotations

import signal
from types import FrameType


class StopOnSignal:
    """Lets the current iteration finish on the first Ctrl-C or SIGTERM; a second Ctrl-C interrupts at once."""

    def __enter__(self) -> StopOnSignal:
        self.asked = False
        self._before = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        except ValueError:  # not in the main thread: nobody sends us signals
            pass
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

"""Batches made while the one before is worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_AHEAD = 2
_DONE = object()


class ReadAhead(Generic[T], Iterator[T]):
    """The items of `source` in their order, up to `ahead` of them made before they are asked for, by one thread.

    What `source` raises is raised where its item would have come. `close` ends the thread.
    """

    def __init__(self, source: Iterable[T], ahead: int = _AHEAD):
        self._ready: queue.Queue = queue.Queue(ahead)
        self._stopped = threading.Event()
        # A daemon: a read that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=self._work, args=(source,), name="read ahead", daemon=True)
        self._thread.start()

    def _work(self, source: Iterable[T]) -> None:
        try:
            for item in source:
                self._ready.put((item, None))
                if self._stopped.is_set():
                    return
            self._ready.put((_DONE, None))
        except BaseException as error:
            self._ready.put((_DONE, error))

    def __next__(self) -> T:
        if self._stopped.is_set():
            raise StopIteration
        item, error = self._ready.get()
        if item is _DONE:
            self._stopped.set()
            raise error or StopIteration
        return item

    def close(self) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                self._thread.join(0.01)

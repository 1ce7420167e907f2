"""Batches that every rank has, and a stop at the same iteration on all of them."""

from __future__ import annotations

from collections.abc import Iterator

from d2net.data.batch import Batch
from d2net.data.files import DataError
from d2net.distributed.ranks import Ranks
from d2net.training.errors import TrainingError
from d2net.training.signals import StopOnSignal

_GO, _STOP, _FAILED = 0, 1, 2


class Together:
    """Iterates over a rank's batches. `stopped` is to be called after each step, on every rank.

    A rank whose next batch cannot be read ends all of them between two steps, by the same error.
    """

    def __init__(self, batches: Iterator[Batch], stop: StopOnSignal, ranks: Ranks):
        self.batches, self.stop, self.ranks = batches, stop, ranks
        self.next: Batch | None = None
        self.asked = False

    def __iter__(self) -> Iterator[Batch]:
        if self.ranks.size == 1:
            yield from self.batches
            return
        self._fetch()
        while self.next is not None and not self.asked:
            yield self.next

    def stopped(self) -> bool:
        """Whether a rank was told to stop; several ranks fetch their next batches here."""
        if self.ranks.size == 1:
            return self.stop.asked
        self._fetch()
        return self.asked

    def _fetch(self) -> None:
        error: Exception | None = None
        try:
            self.next = next(self.batches, None)
        except Exception as found:
            error = found
        worst = self.ranks.worst(_FAILED if error else _STOP if self.stop.asked else _GO)
        if worst == _FAILED:
            self._fail(error)
        self.asked = worst == _STOP

    def _fail(self, error: Exception | None) -> None:
        """Raises what the first rank that failed has met."""
        texts = self.ranks.all_of(None if error is None else str(readable(error)))
        rank = next(r for r, text in enumerate(texts) if text is not None)
        raise DataError(f"process {rank} of {self.ranks.size}: {texts[rank]}") from error


def readable(error: Exception) -> Exception:
    """What a user is told where the next batch cannot be read."""
    if isinstance(error, DataError):
        # A worker's error arrives as its traceback; the last line is what it says.
        text = str(error).splitlines()[-1].removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
        return type(error)(text)
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
        return type(error)(lines[0])
    said = lines[0].rstrip(". ")
    return TrainingError(
        f"a process that reads features was killed ({said}), for want of memory perhaps; go on with "
        "--resume, and with train.workers=0 if it happens again"
    )

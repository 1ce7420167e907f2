"""Which of several processes that end by the same error tells the user."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from d2net.distributed.ranks import LostPeer

WAIT = timedelta(seconds=5)
_CAUSE, _TOLD, _CLAIM = "d2net/cause", "d2net/told", "d2net/claim"


class Voice:
    """An error's way to the user, in its attribute `voice`: a process prints it if `wanted`, and calls `told` then.

    The first process whose error is not that another one is gone speaks, and so do those whose error is another. The
    rest wait for it: a launcher ends all as soon as one has ended.

    Args:
        store: of all processes, None where they have none; then rank 0 speaks.
    """

    def __init__(self, error: Exception, process: int, store: dist.Store | None = None):
        self.process, self.store, self.first = process, store, process == 0
        if store is None:
            return
        mine = f"{process} {error}"
        try:
            first = "" if isinstance(error, LostPeer) else store.compare_set(_CAUSE, "", mine).decode()
            self.first = bool(first) and (first == mine or first.partition(" ")[2] != str(error))
        except (RuntimeError, ValueError):  # its host is gone
            self.first, self.store = True, None

    def wanted(self) -> bool:
        if self.first:
            return True
        if self.store is None:
            time.sleep(WAIT.total_seconds())
            return False
        try:
            if self.store.check([_CAUSE]):  # what another one says before it ends, and its connections with it
                self.store.wait([_TOLD], WAIT)
                return False
        except (RuntimeError, ValueError):
            pass
        try:
            return self.store.compare_set(_CLAIM, "", str(self.process)).decode() == str(self.process)
        except (RuntimeError, ValueError):
            return True

    def told(self) -> None:
        if self.store is not None:
            with suppress(RuntimeError, ValueError):
                self.store.set(_TOLD, "yes")

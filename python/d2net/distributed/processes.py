"""The processes that torchrun starts, for work of which each does its share and only files are exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from d2net.distributed.launch import joined
from d2net.distributed.ranks import LostPeer

_LONGEST = timedelta(days=30)  # that one may wait for another; torchrun itself ends all when one fails


@dataclass(frozen=True)
class Processes:
    """This process's place among `count`; alone it is 0 of 1."""

    rank: int = 0
    count: int = 1
    group: dist.ProcessGroup | None = None

    def wait(self) -> None:
        """Until all have come here.

        Raises:
            LostPeer: one has died.
        """
        if self.count == 1:
            return
        try:
            dist.barrier(group=self.group)
        except RuntimeError as error:
            raise LostPeer(
                f"process {self.rank} of {self.count}: another process of the run has ended or does not answer; what "
                "is done is kept, and the same command goes on after it"
            ) from error


@contextmanager
def processes() -> Iterator[Processes]:
    """Those of torchrun, connected through gloo whatever their devices, or this one alone; errors as `joined`."""
    with joined("cpu") as ranks:
        group = dist.new_group(backend="gloo", timeout=_LONGEST) if ranks.size > 1 else None
        yield Processes(ranks.rank, ranks.size, group)

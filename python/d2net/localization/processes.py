"""The processes that torchrun starts, for work of which each does its share and only files are exchanged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

_LONGEST = timedelta(days=30)  # that one may wait for another; torchrun itself ends all when one fails


@dataclass(frozen=True)
class Processes:
    """This process's place among `count`; alone it is 0 of 1."""

    rank: int = 0
    count: int = 1

    def wait(self) -> None:
        """Until all have come here; an error where one has died."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()


@contextmanager
def processes() -> Iterator[Processes]:
    """Those of torchrun, connected through gloo, or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        yield Processes()
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_LONGEST)
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()

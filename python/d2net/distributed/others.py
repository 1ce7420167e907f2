"""What a rank's share of a batch needs of the other ranks'."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from d2net.data.batch import Batch, Whole
from d2net.distributed.ranks import Ranks


@dataclass(frozen=True)
class Others:
    """The batch that all ranks share, and the way to their rows."""

    whole: Whole
    ranks: Ranks

    def gather(self, x: Tensor) -> Tensor:
        """(n, ...) of all videos of (n of the rank's own, ...); see `Ranks.gather`."""
        return self.ranks.gather(x, self.whole.counts)


def others_of(batch: Batch, ranks: Ranks) -> Others | None:
    """None where the batch is whole."""
    return None if batch.whole is None else Others(batch.whole, ranks)

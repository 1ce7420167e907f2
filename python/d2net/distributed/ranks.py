"""The processes of one training, as torchrun starts them: what they gather, what they agree on, and what one does."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from d2net.training.errors import TrainingError

T = TypeVar("T")


class LostPeer(TrainingError):
    """Another process of the run has ended, or does not answer."""


class _Gather(torch.autograd.Function):
    """Rows of all ranks. Every rank computes the whole loss of them, so that a rank's gradient is that of its own rows:
    nothing is sent back, and the ranks' gradients of weights add up to that of the whole batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], ranks: Ranks) -> Tensor:
        start = sum(counts[: ranks.rank])
        ctx.own = start, start + counts[ranks.rank]
        most = max(counts)
        # All ranks send as much: gloo has no uneven gather.
        sent = x.new_zeros((most, *x.shape[1:]))
        sent[: len(x)] = x
        found = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(found, sent, group=ranks.group)
        return torch.cat([part[:n] for part, n in zip(found, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        start, end = ctx.own
        return grad[start:end], None, None


@dataclass(frozen=True)
class Ranks:
    """One process of `size`, of which rank 0 writes and speaks; a training of one process by default.

    Args:
        group: of tensors on the training's device, None where there is one process; control: of what hosts tell each
            other.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def gather(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all ranks, in their order; differentiable for a loss that every rank computes.

        Args:
            x: (counts[rank], ...), counts: of each rank's rows, the same on all.
        """
        if self.size == 1:
            return x
        return _Gather.apply(x, counts, self)

    def worst(self, code: int) -> int:
        """The largest of the ranks' codes."""
        if self.size == 1:
            return code
        codes = torch.tensor([code])
        dist.all_reduce(codes, dist.ReduceOp.MAX, group=self.control)
        return int(codes)

    def all_of(self, value: T) -> list[T]:
        """Every rank's value; it is pickled."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def on_main(self, do: Callable[[], T]) -> T:
        """What rank 0 gets of do(), pickled for the others; its exception is raised on all of them."""
        if self.size == 1:
            return do()
        said: list[Any] = [None, None]
        if self.main:
            try:
                said[0] = do()
            except Exception as error:
                dist.broadcast_object_list([None, portable(error)], group=self.control, group_src=0)
                raise
        dist.broadcast_object_list(said, group=self.control, group_src=0)
        if said[1] is not None:
            raise said[1]
        return said[0]

    @contextmanager
    def watched(self, kept: Callable[[], str]) -> Iterator[None]:
        """Turns what torch raises where another process is gone into a LostPeer; kept(): what of the run is saved."""
        try:
            yield
        except RuntimeError as error:
            text = " ".join(str(error).split())
            if self.size == 1 or not (isinstance(error, dist.DistError) or any(w in text for w in ("gloo", "NCCL"))):
                raise
            raise LostPeer(
                f"process {self.rank} of {self.size}: another process of the run has ended or does not answer "
                f"({text[:120]}); {kept()}; go on with --resume"
            ) from error

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raises ValueError, on all ranks, where one's facts, named by what they are of, are not those of rank 0."""
        first, *rest = self.all_of(dict(facts))
        for rank, others in enumerate(rest, 1):
            if other := [name for name, value in first.items() if others[name] != value]:
                raise ValueError(
                    f"process {rank} of {self.size} has other {' and '.join(other)} than process 0; give all of them "
                    "the same files and settings"
                )


def portable(error: Exception) -> Exception:
    """The error, or another with its text where it cannot be pickled."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        return kind(str(error))


ALONE = Ranks()

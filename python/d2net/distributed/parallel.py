"""A step whose gradients are summed over ranks, by torch's DistributedDataParallel."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2net.distributed.ranks import Ranks


class _Call(nn.Module):
    """A network as the argument of whatever is computed by it, so that the losses are part of the forward pass."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.network, *arguments)


def _summed(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    # Each rank has the gradient of the whole loss by its own rows: a sum, where the built-in hook takes the mean.
    buffer = bucket.buffer()
    return dist.all_reduce(buffer, group=group, async_op=True).get_future().then(lambda _: buffer)


def in_parallel(network: nn.Module, ranks: Ranks) -> nn.Module | None:
    """module(function, *arguments) is function(network, *arguments), and its backward leaves the sum over the ranks in
    the network's gradients; rank 0's weights are everyone's from now on. None where there is one process."""
    if ranks.size == 1:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # its new name is torch 2.13's
        made = DistributedDataParallel(
            _Call(network),
            process_group=ranks.group,
            broadcast_buffers=False,  # x_ref is made of what all ranks have gathered
            gradient_as_bucket_view=True,
        )
    made.register_comm_hook(ranks.group, _summed)
    # After its first backward the library deals gradients to other buckets, which changes the order of their sums: with
    # that behind it, a resumed run is the same to the bit.
    made(lambda network: sum(p.sum() for p in network.parameters())).backward()
    return made

"""What the host reads of a device some time later: copies are queued behind what makes it, and nothing waits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def deferred(device: torch.device) -> bool:
    """Whether reading at once would wait for steps that are still queued."""
    return device.type == "cuda"


class Later:
    """Tensors as they are when all that is queued so far has run, by name; they may be overwritten after that."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._copies = {name: self._copied(x) for name, x in tensors.items()}
        self._ended: list[torch.cuda.Event] = []
        for device in {x.device for x in tensors.values() if x.is_cuda}:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._ended.append(event)

    @staticmethod
    def _copied(x: Tensor) -> Tensor:
        if not x.is_cuda:
            return x.detach().clone()
        return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x.detach(), non_blocking=True)

    def read(self) -> dict[str, Tensor]:
        """On the host; waits until the copies have ended."""
        for event in self._ended:
            event.synchronize()
        return self._copies

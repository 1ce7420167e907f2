"""Stands in for the capture of a stream: refuses what a CUDA graph cannot hold, and replays operations as one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# What waits for the device, or copies from memory that a graph cannot keep: illegal while a stream is captured.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "lift_fresh", "item")


class Captured(TorchDispatchMode):
    """Refuses what a captured stream would."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.partition("::")[2]
        by_mask = name == "index" and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
        assert not by_mask and not name.startswith(WAITS), f"{name} cannot be captured"
        return function(*args, **(kwargs or {}))


class Traced(Captured):
    """Notes each operation with its numbers and the shapes of its tensors: all that a graph would keep of it."""

    def __init__(self):
        super().__init__()
        self.trace: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(function, types, args, kwargs)
        if function.namespace != "profiler":  # a name for the host's eyes
            self.trace.append((str(function), repr(tree_map(_kept, (args, kwargs, out)))))
        return out


def _kept(x: Any) -> Any:
    if isinstance(x, Tensor):
        return tuple(x.shape), x.dtype
    return "generator" if isinstance(x, torch.Generator) else x


class OnOneDevice(Captured):
    """Refuses what touches a tensor of another device; counts operations."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(function, types, args, kwargs)
        given = [x for x in tree_flatten((args, kwargs or {}, out))[0] if isinstance(x, Tensor)]
        assert all(x.device.type == self.device for x in given), f"{function} of {[x.device.type for x in given]}"
        self.count += 1
        return out


class _Tape(TorchDispatchMode):
    """Operations in their order, with the very tensors that they read and wrote."""

    def __init__(self):
        super().__init__()
        self.done: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.namespace != "profiler":
            self.done.append((function, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, out in self.done:
            again = function(*args, **kwargs)
            for to, made in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                # What is a view, or was changed in place, lies where it lay.
                if isinstance(to, Tensor) and to.numel() and to.data_ptr() != made.data_ptr():
                    to.copy_(made)


class CpuRecorder:
    """A `training.graph.Recorder` without a GPU.

    Like a graph's, a replay does the captured operations with the captured numbers on the captured memory, and runs no
    Python of the step; random numbers go on from where the generators are. Capturing leaves the state as it was.
    """

    def __init__(self, state: Any):
        self.state, self.replays, self.warmed = state, 0, 0

    @contextmanager
    def warm(self) -> Iterator[None]:
        self.warmed += 1
        yield

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        from d2net.training.graph import changed_by_steps  # what other tests of this file do without

        state = self.state
        kept = [(x, x.detach().clone()) for x in changed_by_steps(state)]
        random = self.random()
        tape = _Tape()
        with tape:
            work()
        with torch.no_grad():
            for x, before in kept:
                x.copy_(before)
        self.set_random(random)

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return replay

    def random(self) -> list[Tensor]:
        return [torch.get_rng_state(), self.state.generator.get_state()]

    def set_random(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        self.state.generator.set_state(states[1])

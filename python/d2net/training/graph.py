"""The training step as CUDA graphs: one for each number of rows and each kind of iteration."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from d2kernels import backends
from d2net.config import Config
from d2net.data.batch import Batch
from d2net.methods.base import method_named
from d2net.training.errors import TrainingError, TrainingWarning
from d2net.training.state import State
from d2net.training.step import compute_step

OPS = ("temporal_conv", "topk_pool", "head", "losses", "step_record")


def why_not(config: Config, device: torch.device, processes: int, classes: int) -> str | None:
    """Why a step of this training cannot be captured, or None."""
    if config.train.graph == "off":
        return "train.graph is off"
    if device.type != "cuda":
        return f"training is on the {device.type.upper()}"
    if processes > 1:
        return f"{processes} processes share each batch"
    if os.environ.get("D2K_CHECK") == "1":
        return "D2K_CHECK=1 reads values back from the device"
    if reason := method_named(config.method).not_graphed(config, classes):
        return reason
    for op in OPS:
        if backends.select(op, device.type, torch.float32, device.index) is backends.module(op, "reference"):
            return f"{op} is served by its reference, which may wait for the device"
    return None


class Recorder(Protocol):
    """Takes a function's work on the device once and does it again."""

    def warm(self) -> AbstractContextManager[None]:
        """Around work that is done as it comes, before the same work is captured."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does `work` again, on the same memory; work is not done by capturing it."""

    def random(self) -> list[Tensor]:
        """The generators' states."""

    def set_random(self, states: Sequence[Tensor]) -> None:
        """Puts them back."""


class CudaRecorder:
    """torch.cuda.graphs' documented way: warm-up on a side stream, one memory pool, generators that are registered.

    The graphs share their pool, since nothing that one leaves there is read after another has run.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]):
        self.device, self.generators = device, generators
        self.side = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def warm(self) -> Iterator[None]:
        self.side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.side):
            yield
        torch.cuda.current_stream(self.device).wait_stream(self.side)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        # The thread that reads ahead pins memory meanwhile, which no capture of all threads allows.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.side, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def random(self) -> list[Tensor]:
        return [torch.cuda.get_rng_state(self.device), *(g.get_state() for g in self.generators)]

    def set_random(self, states: Sequence[Tensor]) -> None:
        torch.cuda.set_rng_state(states[0], self.device)
        for generator, state in zip(self.generators, states[1:], strict=True):
            generator.set_state(state)


class _Captured(NamedTuple):
    """A graph, the batch that it reads, and the gradients that it leaves."""

    replay: Callable[[], None]
    batch: Batch
    grads: list[Tensor | None]


class GraphedSteps:
    """`train_step` by graphs, in the same bits. An iteration of new size or kind is done as it comes; the second one of
    its size and kind is captured, and replayed like all later ones. The first replay of each kind is compared with the
    step as it comes, bit for bit; where they differ, or nothing can be captured, train.graph = on is an error, and auto
    warns and goes on without graphs, as if there had been none.

    Args:
        record: of the device; a test's own where there is none.
    """

    def __init__(self, state: State, config: Config, record: Recorder):
        self.state, self.config, self.record = state, config, record
        self.entered = method_named(config.method).entered
        self._graphs: dict[tuple, _Captured | None] = {}
        self._rooms: dict[tuple[int, int, torch.dtype], Tensor] = {}
        self._good: set[tuple] = set()  # kinds that were compared
        self.given_up = False

    def room(self, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """(rows, width) where a batch's features may be written for the next step, which then copies none."""
        if (rows, width, dtype) not in self._rooms:
            # Batches come one after the other, so that fewer rows lie where more of them do.
            larger = [x for (n, *other), x in self._rooms.items() if other == [width, dtype] and n > rows]
            made = larger[0] if larger else torch.zeros(rows, width, dtype=dtype, device=self.state.sums.device)
            self._rooms[rows, width, dtype] = made[:rows]
        return self._rooms[rows, width, dtype]

    def __call__(self, batch: Batch) -> None:
        """One iteration; the batch lies on the device, its rows rounded up as `data.rounding` says."""
        state = self.state
        state.tick()
        terms = tuple(self.entered(self.config, state.iteration)) if self.entered else ()
        key = (*batch.features.shape, batch.features.dtype, len(batch.lengths), batch.gap, terms)
        if key not in self._graphs or self.given_up:
            self._graphs[key] = None
            with self.record.warm():
                compute_step(state, batch, self.config)
            return
        found = self._graphs[key]
        if found is None:
            try:
                found = self._graphs[key] = self._captured(batch)
            except RuntimeError as error:
                self._give_up(f"a step cannot be captured ({str(error).splitlines()[0]})", error)
                compute_step(state, batch, self.config)
                return
        if terms in self._good:
            self._replay(found, batch)
        else:
            self._compare(found, batch, terms)

    def _replay(self, found: _Captured, batch: Batch) -> None:
        for to, given in zip(found.batch[:4], batch[:4], strict=True):
            if to.data_ptr() != given.data_ptr():
                to.copy_(given, non_blocking=True)
        found.replay()
        for weight, grad in zip(self.state.parameters, found.grads, strict=True):
            weight.grad = grad

    def _compare(self, found: _Captured, batch: Batch, terms: tuple) -> None:
        """One iteration both ways."""
        changed = changed_by_steps(self.state)
        before, random = [x.detach().clone() for x in changed], self.record.random()
        compute_step(self.state, batch, self.config)
        want, wanted = [x.detach().clone() for x in changed], self.record.random()
        _put(changed, before)
        self.record.set_random(random)
        self._replay(found, batch)
        pairs = zip([*changed, *self.record.random()], [*want, *wanted], strict=True)
        if all(torch.equal(_bits(a), _bits(b)) for a, b in pairs):
            self._good.add(terms)
            return
        _put(changed, want)
        self.record.set_random(wanted)
        self._give_up("a captured step gives other results than the step as it comes")

    def _give_up(self, why: str, error: Exception | None = None) -> None:
        """No more graphs."""
        self.given_up = True
        self._graphs.clear()
        if self.config.train.graph == "on":
            raise TrainingError(f"train.graph is on, but {why}; set it to off") from error
        text = f"train.graph: {why}; training goes on without graphs, with the same results; set it to off"
        warnings.warn(text, TrainingWarning, stacklevel=4)

    def _captured(self, batch: Batch) -> _Captured:
        features = self.room(*batch.features.shape, batch.features.dtype)
        own = Batch(features, *(t.clone() for t in batch[1:4]), gap=batch.gap)
        replay = self.record.capture(lambda: compute_step(self.state, own, self.config))
        return _Captured(replay, own, [weight.grad for weight in self.state.parameters])


def changed_by_steps(state: State) -> list[Tensor]:
    """All tensors that a step changes."""
    moments = [x for of in state.optimizer.state.values() for x in of.values() if isinstance(x, Tensor)]
    return [*state.parameters, *state.network.buffers(), *moments, state.sums, state.clock]


def _bits(x: Tensor) -> Tensor:
    """What memory holds of it: NaN is itself, and nothing else."""
    return x.detach().reshape(-1).view(torch.uint8)


@torch.no_grad()
def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for x, value in zip(tensors, values, strict=True):
        x.copy_(value)


def cuda_steps(state: State, config: Config) -> GraphedSteps:
    """Of a state on a GPU."""
    return GraphedSteps(state, config, CudaRecorder(state.sums.device, [state.generator]))

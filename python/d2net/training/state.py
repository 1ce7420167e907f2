"""What a training step changes, and how a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from d2net.config import Config
from d2net.methods.base import MOST_TERMS, Network, method_named
from d2net.training.adam import FusedAdam
from d2net.training.memory import keep_freed

ROOM = MOST_TERMS + 4  # of a step's record


def log_terms(config: Config) -> list[str]:
    """What the sums of the log hold, in their order; "" where the method has no such term."""
    own = list(method_named(config.method).terms)
    last = "skipped_video_terms" if config.method == "d2net" else ""
    return ["total", *own, *[""] * (MOST_TERMS - len(own)), "gradient_norm", "skipped_steps", last]


@dataclass
class State:
    """What a step changes: the network, the optimiser, the iteration, and the log's running sums on the device."""

    network: Network
    optimizer: FusedAdam
    generator: torch.Generator
    iteration: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(ROOM, dtype=torch.float32))
    counted: int = 0  # steps in the sums
    clock: Tensor = field(init=False)  # the iteration on the device, for schedules there
    joint: torch.nn.Module | None = None  # of `in_parallel`
    parameters: list[torch.nn.Parameter] = field(init=False)
    _ticked: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.parameters = list(self.network.parameters())
        self.clock = torch.zeros((), dtype=torch.int64, device=self.sums.device)

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(network, *arguments), whose backward sums the gradients over the ranks where there are several."""
        if self.joint is None:
            return function(self.network, *arguments)
        return self.joint(function, *arguments)

    def tick(self) -> None:
        """Begins the next iteration, on the host; `compute_step` moves the clock on."""
        if self._ticked != self.iteration:
            self.clock.fill_(self.iteration)
        self.iteration += 1
        self.counted += 1
        self._ticked = self.iteration


def new_state(config: Config, width: int, streams: int, classes: int, device: torch.device) -> State:
    """A seeded network and optimiser, before the first iteration."""
    if device.type == "cpu":
        keep_freed()
    torch.manual_seed(config.train.seed)
    network = method_named(config.method).network(width, classes, streams, config).to(device)
    optimizer = FusedAdam(network.parameters(), config.train.learning_rate, config.train.weight_decay)
    generator = torch.Generator(device).manual_seed(config.train.seed)
    return State(network, optimizer, generator, sums=torch.zeros(ROOM, dtype=torch.float32, device=device))


def content(state: State, config: Config, meta: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds."""
    rng = {"torch": torch.get_rng_state(), "pairs": state.generator.get_state()}
    if state.sums.is_cuda:
        rng["cuda"] = torch.cuda.get_rng_state(state.sums.device)
    return {
        "config": config.model_dump(),
        "model": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "iteration": state.iteration,
        "sums": state.sums,
        "counted": state.counted,
        "rng": rng,
        **meta,
    }


def restore(state: State, saved: dict[str, Any]) -> None:
    """Puts a checkpoint's weights, moments, iteration and random states back.

    Raises:
        ValueError: moments of other shapes than the weights, which the optimiser would take as they are.
    """
    state.network.load_state_dict(saved["model"])
    _restore_optimizer(state.optimizer, saved["optimizer"])
    state.iteration = saved["iteration"]
    state.sums.copy_(saved["sums"])
    state.counted = saved["counted"]
    torch.set_rng_state(saved["rng"]["torch"].cpu())
    state.generator.set_state(saved["rng"]["pairs"].cpu())
    if "cuda" in saved["rng"] and state.sums.is_cuda:
        torch.cuda.set_rng_state(saved["rng"]["cuda"].cpu(), state.sums.device)


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Moments and step counts alone: everything else about the optimiser is the configuration's to say."""
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
        for weight in group["params"]:
            for name, x in optimizer.state.get(weight, {}).items():
                if name != "step" and (x.shape != weight.shape or x.stride() != weight.stride()):
                    raise ValueError(f"the optimizer's {name} is {tuple(x.shape)} for weights {tuple(weight.shape)}")

"""What a method is to the trainer: its network, its losses, and what they need of a batch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

import d2kernels as d2k
from d2net.config import Config
from d2net.data.batch import Batch
from d2net.methods import METHODS
from d2net.sections import ModelConfig

if TYPE_CHECKING:
    from d2net.distributed.others import Others

MOST_TERMS = 3  # beside the total, which a step's record has room for


class Output(NamedTuple):
    """A network's outputs, all Ragged: T (total, C) in (0, 1), x (total, D), each stream's logits (total, S, C).

    foreground: λ' (total,), or None where the network makes it of x.
    """

    activations: d2k.Ragged
    embeddings: d2k.Ragged
    logits: d2k.Ragged
    foreground: Tensor | None = None


class Network(nn.Module):
    """What training, localization and export ask of a network.

    Attributes:
        width, classes, streams: features per snippet, C, and S of the logits.
    """

    width: int
    classes: int
    streams: int

    def forward(self, features: d2k.Ragged) -> Output:
        """features: rows (total, width)."""
        raise NotImplementedError

    def foreground(self, embeddings: d2k.Ragged) -> Tensor:
        """λ' (total,) of x; asked where `Output.foreground` is None."""
        raise NotImplementedError


def foreground_of(network: Network, out: Output) -> Tensor:
    """λ' (total,) float32."""
    if out.foreground is not None:
        return out.foreground.to(torch.float32)
    return network.foreground(out.embeddings.with_values(out.embeddings.values.to(torch.float32)))


class Objective(NamedTuple):
    """A batch's losses.

    Args:
        total: what is minimised, 0-d; terms: its unweighted parts, as many as the method names, without gradients.
        updated, kept: a buffer of the network (1-D float32), and what it becomes after the step.
        left_out: 0-d int64, terms left out for want of data, or None.
    """

    total: Tensor
    terms: Sequence[Tensor]
    updated: Tensor | None = None
    kept: Tensor | None = None
    left_out: Tensor | None = None


class Step(NamedTuple):
    """Where a training is: the iteration (from 1), the same on the device, and the source of random pairs there.

    others: the way to other ranks' videos where they share the batch.
    """

    iteration: int
    clock: Tensor
    generator: torch.Generator
    others: Others | None = None


@dataclass(frozen=True)
class Method:
    """A way to learn from video-level labels.

    Args:
        network: of (width, classes, streams of the data, configuration); buffers are float32.
        objective: of (network, batch, configuration, step), with gradients.
        terms: names of the objective's terms in the log, with what the progress bar calls them.
        entered: of (configuration, iteration), the terms that enter that iteration; all by default.
        pairs: of the configuration, how many pairs of videos with a shared class begin a batch.
        shared: whether several processes can share a batch (`Step.others`).
        counts: of the configuration, where `Batch.counts` come from: none, field or segments.
        casts: whether features enter by layers alone that autocast casts, so that bf16 training has them in bfloat16.
        not_graphed: of (configuration, classes), why no CUDA graph can hold a step of it, or None; what differs between
            iterations beside `entered` must lie on the device.
    """

    network: Callable[[int, int, int, Config], Network]
    objective: Callable[[Any, Batch, Config, Step], Objective]
    terms: Mapping[str, str]
    entered: Callable[[Config, int], Sequence[str]] | None = None
    pairs: Callable[[Config], int] = lambda config: 0
    counts: Callable[[Config], str] = lambda config: "none"
    shared: bool = False
    casts: bool = False
    not_graphed: Callable[[Config, int], str | None] = lambda config, classes: (
        f"steps of method {config.method} are not made to be captured"
    )


@cache
def method_named(name: str) -> Method:
    """The method, with its network and losses.

    Raises:
        ValueError: no method of that name.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    return importlib.import_module(f"d2net.methods.{METHODS[name]}.method").METHOD


def initialise(network: nn.Module, config: ModelConfig) -> None:
    """Weights as model.init says; biases of normal and xavier are 0."""
    if config.init == "pytorch":
        return
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif config.init == "normal":
            nn.init.normal_(parameter, std=config.init_std)
        else:
            nn.init.xavier_uniform_(parameter)


_AS_IT_IS: AbstractContextManager[Any] = nullcontext()


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """torch.autocast to bfloat16 where train.precision is bf16, else none, whatever is on outside."""
    if precision != "bf16" and not torch.is_autocast_enabled(device):
        return _AS_IT_IS
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def check_features(network: Network, features: d2k.Ragged) -> None:
    """Raises ValueError where rows are not (total, width)."""
    if features.values.dim() != 2 or features.values.shape[1] != network.width:
        name = type(network).__name__
        raise ValueError(
            f"{name}: features must have width {network.width}, got rows of shape {tuple(features.shape[1:])}"
        )

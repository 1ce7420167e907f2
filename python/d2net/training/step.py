"""One training step."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops.step_record import step_record
from d2net.config import Config
from d2net.data.batch import Batch
from d2net.distributed.others import others_of
from d2net.distributed.ranks import ALONE, Ranks
from d2net.methods.base import MOST_TERMS, Objective, Step, method_named
from d2net.sections import TrainConfig
from d2net.training.state import State


def train_step(state: State, batch: Batch, config: Config, ranks: Ranks = ALONE) -> None:
    """One iteration of the method, and Adam. A total loss of 0 or a gradient that is not finite leaves the weights
    alone.

    Where the ranks share the batch, all of them see the same losses, and their weights stay the same.
    """
    state.tick()
    compute_step(state, batch, config, ranks)


def compute_step(state: State, batch: Batch, config: Config, ranks: Ranks = ALONE) -> None:
    """What of `train_step` the device does: all that a graph of it captures, nothing that the host must do again."""
    state.clock.add_(1)
    if not state.network.training:
        state.network.train()
    step = Step(state.iteration, state.clock, state.generator, others_of(batch, ranks))
    found = state.compute(method_named(config.method).objective, batch, config, step)
    for parameter in state.parameters:
        parameter.grad = None
    found.total.backward()
    norm = _gradient_norm(state.parameters, config.train.gradient_clip)
    # The fused optimiser reads this on the device: it leaves weights and moments alone, without a synchronisation.
    state.optimizer.update(_recorded(found, norm, state.sums), learning_rate(config.train, state.clock))


def learning_rate(config: TrainConfig, clock: Tensor) -> Tensor | None:
    """Of iteration `clock`, 0-d float32 on its device; None where it is the same in all."""
    if not config.decay_share:
        return None
    left = (config.iterations + 1 - clock).to(torch.float32)
    return (left / (config.decay_share * config.iterations)).clamp(0, 1) * config.learning_rate


def _recorded(found: Objective, norm: Tensor, sums: Tensor) -> Tensor:
    """1 where the optimiser must leave the weights alone, else 0; adds to the sums and keeps what the step updates."""
    terms = (found.total, *found.terms)
    if missing := MOST_TERMS + 1 - len(terms):
        terms += (sums.new_zeros(()),) * missing
    updated, kept = found.updated, found.kept
    if updated is None or kept is None:
        updated = kept = sums.new_empty(0)
    return step_record(terms, norm, found.left_out, updated, kept, sums)  # type: ignore[arg-type]


def _gradient_norm(parameters: list[torch.nn.Parameter], limit: float | None) -> Tensor:
    """The norm of the whole gradient, which is scaled down to `limit` where there is one."""
    if limit is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    # As torch.nn.utils.get_total_norm, of tensors on one device.
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

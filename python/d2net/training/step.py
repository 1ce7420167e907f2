"""One training step."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops.step_record import step_record
from d2kernels.ops.temporal_conv.dropout import rows_from
from d2net.config import Config
from d2net.data.dataset import Batch
from d2net.methods.d2net.losses import Losses, head_losses
from d2net.methods.d2net.network import D2Net
from d2net.training.others import others_of
from d2net.training.ranks import ALONE, Ranks
from d2net.training.state import State


def train_step(state: State, batch: Batch, config: Config, ranks: Ranks = ALONE) -> None:
    """One iteration (Eq. 1 and Adam). A total loss of 0 or a gradient that is not finite leaves the weights alone.

    Where the ranks share the batch, all of them see the same losses, and their weights stay the same.
    """
    network, optimizer = state.network, state.optimizer
    state.tick()
    network.train()
    losses = state.compute(_losses, batch, config, state, ranks)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    norm = _gradient_norm(network, config.train.gradient_clip)
    terms = losses.total, losses.classification, losses.ds, losses.dv
    # The fused optimiser reads this on the device: it leaves weights and moments alone, without a synchronisation.
    optimizer.found_inf = step_record(terms, norm, losses.skipped, losses.reference, network.reference, state.sums)
    optimizer.step()


def _losses(network: D2Net, batch: Batch, config: Config, state: State, ranks: Ranks) -> Losses:
    features = batch.ragged()
    autocast = torch.autocast(features.device.type, torch.bfloat16, enabled=config.train.precision == "bf16")
    with autocast, rows_from(batch.whole and batch.whole.first_row):
        z = network.hidden(features)
        logits = network.classifier(z).values
    return head_losses(
        z,
        logits,
        batch.labels,
        network.reference,
        config.loss,
        streams=network.streams,
        iteration=state.iteration,
        clock=state.clock,
        generator=state.generator,
        others=others_of(batch, ranks),
    )


def _gradient_norm(network: torch.nn.Module, limit: float | None) -> Tensor:
    """The norm of the whole gradient, which is scaled down to `limit` where there is one."""
    parameters = list(network.parameters())
    if limit is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

"""One training step."""

from __future__ import annotations

import torch

from d2net.config import Config
from d2net.data.dataset import Batch
from d2net.methods.d2net.losses import head_losses
from d2net.training.state import State


def train_step(state: State, batch: Batch, config: Config) -> None:
    """One iteration (Eq. 1 and Adam). A total loss of 0 or a gradient that is not finite leaves the weights alone."""
    network, optimizer = state.network, state.optimizer
    state.tick()
    network.train()
    features = batch.ragged()
    with torch.autocast(features.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
        z = network.hidden(features)
        logits = network.classifier(z).values
    losses = head_losses(
        z,
        logits,
        batch.labels,
        network.reference,
        config.loss,
        streams=network.streams,
        iteration=state.iteration,
        clock=state.clock,
        generator=state.generator,
    )
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    limit = config.train.gradient_clip or float("inf")
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), limit)
    skip = (losses.total == 0) | ~losses.total.isfinite() | ~norm.isfinite()
    # The fused optimiser reads this on the device: it leaves weights and moments alone, without a synchronisation.
    optimizer.found_inf = skip.float()
    optimizer.step()
    with torch.no_grad():
        network.reference.copy_(torch.where(losses.reference.isfinite().all(), losses.reference, network.reference))
        row = (losses.total, losses.classification, losses.ds, losses.dv, norm, skip, losses.skipped)
        state.sums += torch.nan_to_num(torch.stack([v.detach().to(torch.float32) for v in row]), 0, 0, 0)

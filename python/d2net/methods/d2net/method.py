"""D2-Net as a method of the trainer."""

from __future__ import annotations

from collections.abc import Sequence

from d2kernels.ops.condition_number.native import LARGEST
from d2kernels.ops.temporal_conv.dropout import rows_from
from d2net.config import Config
from d2net.data.batch import Batch
from d2net.methods.base import Method, Objective, Step, autocast
from d2net.methods.d2net.at_once import objective_at_once
from d2net.methods.d2net.losses import head_losses
from d2net.methods.d2net.losses.options import denoising_scale
from d2net.methods.d2net.network import D2Net


def objective(network: D2Net, batch: Batch, config: Config, step: Step) -> Objective:
    """Eq. 1 of a batch, and x_ref after it."""
    if found := objective_at_once(network, batch, config, step):
        return found
    features = batch.ragged()
    with autocast(features.device.type, config.train.precision), rows_from(batch.whole and batch.whole.first_row):
        z = network.hidden(features)
        logits = network.classifier(z).values
    losses = head_losses(
        z,
        logits,
        batch.labels,
        network.reference,
        config.loss,
        streams=network.streams,
        iteration=step.iteration,
        clock=step.clock,
        generator=step.generator,
        others=step.others,
    )
    terms = losses.classification, losses.ds, losses.dv
    return Objective(losses.total, terms, losses.reference, network.reference, losses.skipped)


def entered(config: Config, iteration: int) -> Sequence[str]:
    """L_D enters only some iterations."""
    return ("classification", "ds", "dv") if denoising_scale(config.loss, iteration) > 0 else ("classification",)


def not_graphed(config: Config, classes: int) -> str | None:
    """The losses op reads its schedule from the device; its alternatives, and a library's decompositions, do not."""
    loss = config.loss
    if loss.denoising != "none" and loss.denoising_kind != "pDMI":
        return f"loss.denoising_kind {loss.denoising_kind} keeps its schedule on the host"
    most = LARGEST["cuda"]
    if loss.denoising in ("video", "both") and min(config.train.batch_size, classes) > most:
        return f"L_DV of more than {most} videos and classes waits for a library's decomposition"
    return None


METHOD = Method(
    network=lambda width, classes, streams, config: D2Net(width, classes, streams, config.model),
    objective=objective,
    terms={"classification": "cls", "ds": "DS", "dv": "DV"},
    entered=entered,
    shared=True,
    casts=True,
    not_graphed=not_graphed,
)

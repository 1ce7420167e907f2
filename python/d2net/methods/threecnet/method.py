"""3C-Net as a method of the trainer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from d2net.config import Config
from d2net.data.batch import Batch
from d2net.methods.base import Method, Objective, Step, autocast
from d2net.methods.pooling import cross_entropy, kept, pooled
from d2net.methods.threecnet.losses import center_loss, class_features, count_loss
from d2net.methods.threecnet.network import ThreeCNet


def objective(network: ThreeCNet, batch: Batch, config: Config, step: Step) -> Objective:
    """L_cls + α L_center + β L_count, and the centers after the step."""
    features, settings = batch.ragged(), config.threecnet
    with autocast(features.device.type, config.train.precision):
        x, by_stream, final = network.maps(features)
    counted = kept(batch, config.loss)
    classification = cross_entropy(pooled(final, config.loss), batch.labels, counted)
    center = torch.zeros_like(classification)
    centers = network.centers.view(network.streams, network.classes, -1)
    moved = []
    streams = x.values.unflatten(1, (network.streams, -1)).unbind(1)
    for s, of_stream in enumerate(streams):
        logits = by_stream.with_values(by_stream.values[:, s].contiguous())
        classification = classification + cross_entropy(pooled(logits, config.loss), batch.labels, counted)
        found = class_features(x.with_values(of_stream.contiguous()), logits)
        term = center_loss(found, batch.labels, counted, centers[s], settings.center_rate)
        center = center + term.loss
        moved.append(term.centers)
    count = torch.zeros_like(classification)
    if batch.counts is not None and "count" in entered(config, step.iteration):
        count = count_loss(final, batch.counts, settings.count_absent_weight, counted)
    total = classification + settings.center_weight * center + settings.count_weight * count
    terms = tuple(term.detach() for term in (classification, center, count))
    return Objective(total, terms, torch.stack(moved).reshape(-1), network.centers)


def entered(config: Config, iteration: int) -> Sequence[str]:
    """L_count enters only some iterations."""
    always = ("classification", "center")
    return (*always, "count") if iteration % config.threecnet.count_every == 0 else always


METHOD = Method(
    network=ThreeCNet,
    objective=objective,
    terms={"classification": "cls", "center": "center", "count": "count"},
    entered=entered,
    counts=lambda config: config.threecnet.counts if config.threecnet.count_weight else "none",
)

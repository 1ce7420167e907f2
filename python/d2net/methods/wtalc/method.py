"""W-TALC as a method of the trainer."""

from __future__ import annotations

from d2net.config import Config
from d2net.data.batch import Batch
from d2net.methods.base import Method, Objective, Step, autocast
from d2net.methods.pooling import cross_entropy, kept, pooled
from d2net.methods.wtalc.losses import similarity_loss
from d2net.methods.wtalc.network import Wtalc


def objective(network: Wtalc, batch: Batch, config: Config, step: Step) -> Objective:
    """λ L_MIL + (1 - λ) L_CAS."""
    features = batch.ragged()
    with autocast(features.device.type, config.train.precision):
        x, logits = network.features_and_logits(features)
    counted, weight = kept(batch, config.loss), config.wtalc.mil_weight
    mil = cross_entropy(pooled(logits, config.loss), batch.labels, counted)
    similarity = similarity_loss(x, logits, batch.labels, counted, config.wtalc.margin)
    return Objective(weight * mil + (1 - weight) * similarity, (mil.detach(), similarity.detach()))


METHOD = Method(
    network=Wtalc,
    objective=objective,
    terms={"classification": "cls", "similarity": "CAS"},
    pairs=lambda config: config.wtalc.pairs,
)

"""BaS-Net as a method of the trainer."""

from __future__ import annotations

from d2net.config import Config
from d2net.data.batch import Batch
from d2net.methods.base import Method, Objective, Step, autocast
from d2net.methods.basnet.losses import branch_loss, norm_loss
from d2net.methods.basnet.network import BasNet
from d2net.methods.pooling import kept, pooled


def objective(network: BasNet, batch: Batch, config: Config, step: Step) -> Objective:
    """α L_base + β L_supp + γ L_norm."""
    features, settings = batch.ragged(), config.basnet
    with autocast(features.device.type, config.train.precision):
        base, suppressed, weights = network.branches(features)
    counted = kept(batch, config.loss)
    of_base = branch_loss(pooled(base, config.loss), batch.labels, True, counted)
    of_suppressed = branch_loss(pooled(suppressed, config.loss), batch.labels, False, counted)
    norm = norm_loss(features, weights, counted)
    total = settings.base_weight * of_base + settings.suppression_weight * of_suppressed + settings.norm_weight * norm
    return Objective(total, tuple(x.detach() for x in (of_base, of_suppressed, norm)))


METHOD = Method(
    network=BasNet,
    objective=objective,
    terms={"base": "base", "suppression": "supp", "norm": "norm"},
)
